"""Token ids -> messages, one id at a time. Total: any integers parse, none raises.

What is not as the format has it is told as anomalies, beside the messages; no decoded byte is lost:
each stands in a message's content, in a field of its header, or in an anomaly's data. Control
tokens are known by id alone, so that none ever shows as text. The kinds of anomalies:

- `unknown_id`: an id that is no token. Left out.
- `stray_token`: a control token that means nothing there, or text after the turn's end. In data.
- `missing_start`: text, <|channel|> or <|message|> between messages. A header of the assistant.
- `missing_end`: <|start|> or <|channel|> in a content. The message ends, the next one begins.
- `repeated_start`: <|start|> after no more than a role. What was there is left out, in data.
- `no_message`: a header that ends before <|message|>. What follows its fields is the content.
- `empty_message`: a header of no more than a role, and an end. Left out, in data.
- `bad_utf8`: bytes that are no text. U+FFFD in the text, the bytes of all of it in data.
- `no_role`: a header without one; `unknown_role`: another word instead, in data. The assistant's.
- `repeated_role`, `repeated_channel`, `repeated_recipient`, `repeated_type`: the last one counts.
- `unknown_channel`: none of analysis, commentary and final. Taken as it is.
- `empty_channel`, `empty_type`: <|channel|> or <|constrain|> without a word. No channel, no type.
- `bare_recipient`: a tool's name without `to=`. The recipient.
- `header_text`: other words of a header. Left out, in data.

Where openai-harmony parses a sequence as the format has it, the messages are the same. It raises at
most of the above; it also shows control tokens within a content as text, drops what follows an id
beyond its vocabulary, and takes a lone word for a recipient (here it is a content type, as the
renderers write it). Its non-strict mode folds white space of a body without <|message|>; here it
stays.
"""

import codecs
import dataclasses
from collections.abc import Iterable
from typing import NamedTuple, SupportsIndex

from .._core import InvalidArgument
from ..json_fields import shown
from ..tokenizer import Tokenizer
from .header import CHANNEL, CONSTRAIN, read_header
from .messages import ROLES, Message
from .render import special_id

_START, _MESSAGE = "<|start|>", "<|message|>"
_ENDS = ("<|end|>", "<|return|>", "<|call|>")
# The longest headers, of a tool's name spelled in bytes, stay under it; past it, text streams.
_MAX_HEADER_TOKENS = 128


class Anomaly(NamedTuple):
    """Something the format does not have; `offset` counts tokens, `data` is what no message has."""

    kind: str
    offset: int
    data: bytes


class MessageStart(NamedTuple):
    """A header is known: `message` has all but the content."""

    offset: int
    message: Message


class Delta(NamedTuple):
    """More text of the open message; never part of a character."""

    offset: int
    text: str
    channel: str | None
    recipient: str | None


class MessageEnd(NamedTuple):
    """A message is whole; `ended_by` names the control token, None if there was none."""

    offset: int
    message: Message
    ended_by: str | None


class Parsed(NamedTuple):
    """All messages and anomalies of a sequence."""

    messages: list[Message]
    anomalies: list[Anomaly]


Event = MessageStart | Delta | MessageEnd | Anomaly


class Parser:
    """Parses the ids of one turn, or of a whole conversation, as they come.

    role: who writes, where <|start|> and the role stand in the prompt already; None: the ids begin
    with <|start|>. What one id means does not depend on how many come at once.
    `messages` and `anomalies` hold what is whole so far, `offset` counts the ids.
    Raises InvalidArgument for an unknown role or a tokenizer that lacks a token of the format.
    """

    def __init__(self, tokenizer: Tokenizer, role: str | None = "assistant") -> None:
        if role is not None and (role not in ROLES or role == "tool"):
            known = ", ".join(ROLES[:-1])
            raise InvalidArgument(f"role is {shown(role)}, wanted None or one of {known}")
        for name in (_START, _MESSAGE, CHANNEL, *_ENDS):
            special_id(tokenizer, name[2:-2])
        known = (_START, _MESSAGE, CHANNEL, CONSTRAIN, *_ENDS)
        # Of two names of one id the one that means something counts.
        ordered = sorted(tokenizer.special.items(), key=lambda item: item[0] in known)
        self._special = {token_id: name for name, token_id in ordered}
        self._token_bytes = tokenizer.token_bytes
        self.messages: list[Message] = []
        self.anomalies: list[Anomaly] = []
        self.offset = 0
        self._events: list[Event] = []
        self._transcript = role is None
        self._state = "between"
        self._turn_over = False
        self._stray, self._stray_offset = bytearray(), 0
        self._begin_content(None)
        if role is not None:
            self._begin_header(role)

    @property
    def state(self) -> str:
        """Where the next id will stand: "between" messages, in a "header" or in a "content"."""
        return self._state

    @property
    def current(self) -> Message | None:
        """The open message with the text it has so far; None outside a content."""
        if self._state != "content":
            return None
        return dataclasses.replace(self._message, content="".join(self._texts))

    @property
    def within_character(self) -> bool:
        """Whether the open message's text ends within a character."""
        return self._state == "content" and bool(self._decoder.getstate()[0])

    def push(self, token_id: SupportsIndex) -> list[Event]:
        """Take one id; return what it made known, in order."""
        self._events = []
        name = self._special.get(token_id)
        if name is not None:
            self._take_special(name)
        else:
            try:
                data = self._token_bytes(token_id)
            except InvalidArgument:
                self._flush_stray()
                self._note("unknown_id")
            else:
                self._take_text(data)
        self.offset += 1
        return self._events

    def feed(self, ids: Iterable[SupportsIndex]) -> list[Event]:
        """Take many ids; return what they made known, in order."""
        return [event for token_id in ids for event in self.push(token_id)]

    def finish(self) -> list[Event]:
        """End what is open, as where generation stopped; return what that made known."""
        self._events = []
        if self._state == "content":
            self._end_message(None)
        elif self._state == "header":
            self._end_header(None, "empty_message")
        self._flush_stray()
        return self._events

    # What an id does

    def _take_text(self, data: bytes) -> None:
        if self._state == "content":
            self._add_text(data)
        elif self._state == "header":
            self._pieces[-1][1].extend(data)
            self._count_header_token()
        elif self._turn_over or data.isspace():
            self._add_stray(data)
        else:
            self._begin_header("assistant", "missing_start")
            self._take_text(data)

    def _take_special(self, name: str) -> None:
        if self._state == "content":
            self._take_special_in_content(name)
        elif self._state == "header":
            self._take_special_in_header(name)
        elif name == _START:
            self._begin_header(None)
        elif name in (CHANNEL, _MESSAGE):
            self._begin_header("assistant", "missing_start")
            self._take_special_in_header(name)
        else:
            self._add_stray(name.encode())

    def _take_special_in_header(self, name: str) -> None:
        if name == _MESSAGE:
            self._open_message(has_body=False)
        elif name in (CHANNEL, CONSTRAIN):
            self._pieces.append((name, bytearray()))
            self._count_header_token()
        elif name in _ENDS:
            self._end_header(name, "empty_message")
        elif name == _START:
            self._end_header(None, "repeated_start")
            self._begin_header(None)
        else:
            self._note("stray_token", name.encode())

    def _take_special_in_content(self, name: str) -> None:
        if name in _ENDS:
            self._end_message(name)
        elif name in (_START, CHANNEL):
            self._note("missing_end")
            role = self._message.role
            self._end_message(None)
            self._begin_header(None if name == _START else role if role != "tool" else "assistant")
            if name == CHANNEL:
                self._take_special_in_header(name)
        else:
            self._note("stray_token", name.encode())

    # Anomalies

    def _note(self, kind: str, data: bytes = b"", offset: int | None = None) -> None:
        anomaly = Anomaly(kind, self.offset if offset is None else offset, bytes(data))
        self.anomalies.append(anomaly)
        self._events.append(anomaly)

    def _add_stray(self, data: bytes) -> None:
        if not self._stray:
            self._stray_offset = self.offset
        self._stray += data

    def _flush_stray(self) -> None:
        if self._stray:
            self._note("stray_token", self._stray, self._stray_offset)
            self._stray.clear()

    # Headers

    def _begin_header(self, role: str | None, why: str | None = None) -> None:
        self._flush_stray()
        if why is not None:
            self._note(why)
        self._state = "header"
        self._role = role
        self._pieces: list[tuple[str | None, bytearray]] = [(None, bytearray())]
        self._header_offset, self._header_tokens = self.offset, 0

    def _count_header_token(self) -> None:
        self._header_tokens += 1
        if self._header_tokens > _MAX_HEADER_TOKENS:
            self._open_message(has_body=True)

    def _open_message(self, *, has_body: bool) -> bool:
        """Read the header and begin the content; return False if there is no message in it."""
        header = read_header(
            self._pieces, role=self._role, transcript=self._transcript, has_body=has_body
        )
        if has_body and header.is_empty():
            return False
        if has_body:
            self._note("no_message", offset=self._header_offset)
        for kind, data in header.odd:
            self._note(kind, data, self._header_offset)
        self._begin_content(header.message)
        self._events.append(MessageStart(self.offset, header.message))
        self._add_text(header.body)
        return True

    def _end_header(self, ended_by: str | None, kind_if_empty: str) -> None:
        if self._open_message(has_body=True):
            self._end_message(ended_by)
            return
        # Where generation stopped before it began, nothing is odd.
        if self.offset > self._header_offset or ended_by or kind_if_empty == "repeated_start":
            said = b"".join(data for _, data in self._pieces)
            self._note(kind_if_empty, said, self._header_offset)
        self._end_turn(ended_by in _ENDS[1:])

    # Contents

    def _begin_content(self, message: Message | None) -> None:
        self._message = message
        self._chunks: list[bytes] = []
        self._texts: list[str] = []
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        if message is not None:
            self._state = "content"
            self._channel, self._recipient = message.channel, message.recipient

    def _add_text(self, data: bytes, final: bool = False) -> None:
        self._chunks.append(data)
        text = self._decoder.decode(data, final)
        if text:
            self._texts.append(text)
            self._events.append(Delta(self.offset, text, self._channel, self._recipient))

    def _end_message(self, ended_by: str | None) -> None:
        self._add_text(b"", final=True)
        text = "".join(self._texts)
        raw = b"".join(self._chunks)
        if "\ufffd" in text and raw != text.encode():
            self._note("bad_utf8", raw)
        message = dataclasses.replace(self._message, content=text)
        self.messages.append(message)
        self._events.append(MessageEnd(self.offset, message, ended_by))
        self._begin_content(None)
        self._end_turn(ended_by in _ENDS[1:] or (ended_by and message.channel == "final"))

    def _end_turn(self, turn_over: object) -> None:
        self._state = "between"
        self._turn_over = bool(turn_over)


def parse(
    tokenizer: Tokenizer, ids: Iterable[SupportsIndex], role: str | None = "assistant"
) -> Parsed:
    """Return the messages and anomalies of a whole sequence; `role` and errors as in Parser."""
    parser = Parser(tokenizer, role)
    parser.feed(ids)
    parser.finish()
    return Parsed(parser.messages, parser.anomalies)
