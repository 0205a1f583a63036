"""What the assistant may write in one turn: messages with whole headers, to declared tools alone.

A turn goes on after `<|start|>assistant`. Headers are walked as a tree of their tokens; contents
are free text, or follow a grammar: `final` that of a response format, calls those of strict tools.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

from .._core import InvalidArgument
from ..constraint import FixedMask
from ..harmony.render import special_id
from ..json_fields import shown
from ..tokenizer import Tokenizer
from .contents import Content, FreeText, Written, set_bit
from .declared import Declared, called, declared
from .formats import Format, compiled, format_of
from .headers import Message, Node, Spelling
from .text import Bits, text_tokens

# A grammar may force a text without end.
_MOST_FORCED = 256
# In a turn: a model might call for ever.
_MOST_CALLS = 64


class Envelope:
    """What a turn may be: made once for a chat's tools and formats, used by all of its turns.

    tokenizer: the model's. tools: `harmony.ToolDescription`s, called as "functions.NAME", and
    `ToolNamespace`s. tool_choice: "auto"; "none": no calls; "required": the turn ends in a call,
    not in an answer; or the name of the one tool to call. Reasoning is free in all of them; where
    there is to be a call, it follows the first preamble.
    parallel_tool_calls: several calls may follow each other, at most 64. After each the model goes
    on with another, or begins the answer of a tool, which finishes the turn and is no part of it
    (`Turn.spare`). Then <|call|> is not to be among the stop_ids; end the stream once
    `Turn.finished`.
    response_format: a Format, `harmony.ResponseFormat` or JSON schema that `final` follows.
    strict: the tools whose arguments follow their schemas: all, none, or these names.

    Messages are analysis; commentary, if functions may be called: to the user, a preamble; final,
    ended by <|return|>; calls, each a message ended by <|call|>. These two end the turn. Texts are
    UTF-8 without control tokens. `turn()` gives the constraint of one turn. Safe to share by
    threads.

    Raises InvalidArgument for an unknown tool or choice, a tokenizer without harmony's tokens, a
    schema with keys that cannot be followed, which it names; Error if a format needs llguidance and
    it is not installed (extra `structured`).
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        tools: Iterable[Any] = (),
        tool_choice: str = "auto",
        parallel_tool_calls: bool = False,
        response_format: Any = None,
        strict: bool | Iterable[str] = False,
    ) -> None:
        # The tokenizer is kept: what is known of it is forgotten with it.
        self._tokenizer = tokenizer
        self._spelling = Spelling(tokenizer)
        self._tokens = text_tokens(tokenizer)
        tools = declared(tools, strict)
        callable_ = called(tool_choice, tools)
        form = None if response_format is None else format_of(response_format)
        speaks = any(tool.is_function for tool in callable_)
        self._calls = [
            (tool, message) for tool in callable_ for message in self._call_of(tool, speaks)
        ]
        self._analysis = self._message("analysis", "end")
        self._preamble = self._message("commentary", "end") if speaks else None
        self._final = None
        if tool_choice in ("auto", "none"):
            self._final = self._message("final", "return", "response_format", form)
        self._final_types = [[], self._spelling.json_type()] if form and form.is_json else [[]]
        # What may come first and after an <|end|>, without reasoning and with it.
        self.headers = [self._header(reasoning) for reasoning in (False, True)]
        self.starts = [self._spelling.start(header) for header in self.headers]
        # After a preamble. A model that has no call in mind would speak for ever where no `final`
        # may be.
        self.spoken = self.starts
        if self._final is None and self._preamble is not None:
            self.spoken = [self._spelling.start(self._call_header())] * 2
        if not isinstance(parallel_tool_calls, bool):
            what = f"parallel_tool_calls is {shown(parallel_tool_calls)}"
            raise InvalidArgument(f"{what}, wanted True or False")
        # After a call, where it may not be the last.
        self.further = self._further_calls(callable_) if parallel_tool_calls else None
        # From between two messages to the text of the answer.
        self.to_final = self._spelling.begun("final") if self._final is not None else None
        self.words = self._tokens.words

    def turn(self, ids: Iterable[int] = (), *, reasoning: bool = True) -> "Turn":
        """Return the constraint of a turn that has these ids after `<|start|>assistant`.

        For `Session.generate(..., constraint=...)`; also for `Session.resume`, which tells it the
        ids itself. reasoning: False if no further analysis may begin. Raises InvalidArgument for
        ids that such a turn cannot have.
        """
        turn = Turn(self)
        for token_id in ids:
            turn.accept(token_id)
        if not reasoning:
            turn.end_reasoning()
        return turn

    def _message(
        self,
        channel: str,
        end: str,
        what: str = "",
        form: Format | None = None,
        recipient: str | None = None,
    ) -> Message:
        end_id = special_id(self._tokenizer, end)
        content: Content = FreeText(self._tokens, end_id)
        if form is not None:
            content = Written(self._tokens, end_id, compiled(self._tokenizer, what, form))
        return Message(channel, recipient, end_id, end == "end", content)

    def _call_of(self, tool: Declared, speaks: bool) -> list[Message]:
        """Return a tool's calls, one a channel: functions are called in commentary."""
        channels = ["commentary"] if tool.is_function else ["analysis", "commentary"][: 1 + speaks]
        what = f"parameters of {tool.recipient}"
        first = self._message(channels[0], "call", what, tool.arguments, tool.recipient)
        return [first._replace(channel=channel) for channel in channels]

    def _header(self, reasoning: bool) -> Node:
        root, spelling = self._call_header(), self._spelling
        if reasoning:
            spelling.add(root, self._analysis)
        if self._preamble is not None:
            spelling.add(root, self._preamble)
        if self._final is not None:
            spelling.add(root, self._final, self._final_types)
        return root

    def _call_header(self) -> Node:
        root, json_type = Node(), self._spelling.json_type()
        for tool, message in self._calls:
            types = [json_type] if tool.is_function else [[], [" code"], json_type]
            self._spelling.add(root, message, types)
        return root

    def _further_calls(self, tools: list[Declared]) -> tuple[Node, Node] | None:
        """Return what may come after a call, and of that the header of another one."""
        if not tools:
            return None
        header = self._call_header()
        return self._spelling.more(header, [tool.recipient for tool in tools]), header


class Turn:
    """The constraint of one turn (`gptoss_native.LookAhead`). Made by `Envelope.turn`."""

    def __init__(self, envelope: Envelope) -> None:
        self._envelope = envelope
        self._reasoning = True
        self._roots = envelope.headers
        self._walked: tuple[int, ...] = ()  # of a header, from its root
        self._node: Node | None = self._roots[True]  # None: in a content, or after the turn
        self._message: Message | None = None
        self._content: Content | None = None
        self._calls = 0
        self._between_calls = False
        # How many of the latest ids are of the turn only if another call begins with them.
        self.spare = 0
        # What mask_after has been asked last, and the turn after those ids.
        self._tried: tuple[list[int], Turn] | None = None

    @property
    def finished(self) -> bool:
        """Whether the turn has ended: nothing may come any more."""
        return self._node is None and self._content is None

    @property
    def may_finish(self) -> bool:
        """Whether the turn may be at its end: after a call, before another one has begun."""
        return self._between_calls

    @property
    def message(self) -> Message | None:
        """The open message, None in a header and after the turn."""
        return self._message

    def mask(self, out: Bits) -> None:
        """Allow what may come next; see `gptoss_native.Constraint`."""
        if out.size < self._envelope.words:
            what = f"a mask of {32 * out.size} tokens"
            raise InvalidArgument(f"{what}, wanted those of the tokenizer: is it the model's?")
        if self._node is not None:
            for token_id in self._node.children:
                set_bit(out, token_id)
        elif self._content is not None:
            self._content.mask(out[: self._envelope.words])
        else:
            raise InvalidArgument("the turn has ended, wanted its last token among the stop_ids")

    def accept(self, token_id: int) -> None:
        """Go on to the next token. Raises InvalidArgument for one that may not come."""
        self._tried = None
        if self._node is not None:
            self._walk(token_id)
        elif self._content is None or self._message is None:
            raise InvalidArgument(f"{shown(token_id)} comes after the turn's end, wanted no token")
        elif token_id == self._message.end_id and self._content.may_end():
            self._end_message(self._message)
        else:
            self._content.accept(token_id)

    def ahead(self, guess: list[int]) -> FixedMask | tuple[Sequence[int], int]:
        """Say what may come next; see `gptoss_native.LookAhead`.

        In free text its mask, in a header the ids that must come, in a grammar's text those that it
        spells out; else as much of the guess as may come. Never a content's end.
        """
        if self._node is not None:
            return self._node.ahead(guess)
        ahead = () if self._content is None else self._content.ahead(guess)
        return ahead if isinstance(ahead, FixedMask) else (ahead, 0)

    def mask_after(self, ids: list[int], out: Bits) -> None:
        """Allow what may come after ids that are not accepted yet; see `gptoss_native.LookAhead`.

        Masks of one step are asked for with one id more each time.
        """
        known, twin = self._tried or ([], self._twin())
        if ids[: len(known)] != known:
            known, twin = [], self._twin()
        self._tried = None
        for token_id in ids[len(known) :]:
            twin.accept(token_id)
        self._tried = ids, twin
        twin.mask(out)

    def forced(self) -> list[int]:
        """Return the ids that must come now, up to where there is a choice or the turn ends.

        Each is the only one that its mask allows, so that what follows is as if they had been
        drawn: a caller that writes them itself gives them to the next `generate` as its ids, and
        accepts them. A stream does by itself what of this is cheap (`ahead`). At most 256.
        """
        twin = self._twin()
        out: list[int] = []
        while len(out) < _MOST_FORCED and (token_id := twin._only()) is not None:
            out.append(token_id)
            twin.accept(token_id)
            if twin.finished:
                return out[:-1]  # as a prompt it would end no stream
        return out

    def end_reasoning(self) -> list[int]:
        """Let no further analysis begin; return the ids that lead on from here.

        In analysis or a preamble they are <|end|> and the next header: up to where a `final` has
        its text, or, where only calls may come, as far as there is no choice. They are not
        accepted yet. Elsewhere, and within a character, there are none: ask again later.
        """
        self._reasoning = False
        if self._node is not None:
            self._node = self._roots[False].after(self._walked) or self._node
            return []
        if self._content is None or self._message is None or not self._message.goes_on:
            return []
        if not self._content.may_end():
            return []
        twin = self._twin()
        twin.accept(self._message.end_id)
        return [self._message.end_id, *(self._envelope.to_final or twin.forced())]

    def _walk(self, token_id: int) -> None:
        assert self._node is not None
        node = self._node.children.get(token_id)
        if node is None:
            known = ", ".join(map(str, sorted(self._node.children)))
            raise InvalidArgument(f"a header goes on with {shown(token_id)}, wanted {known}")
        self._node, self._walked = (None if node.ends else node), (*self._walked, token_id)
        if self._between_calls and self._envelope.further is not None:
            self._between_calls = node is not self._envelope.further[1]
            self.spare = len(self._walked) if self._between_calls else 0
        if node.message is not None:
            self._node, self._message = None, node.message
            self._content = node.message.content.copied()

    def _end_message(self, message: Message) -> None:
        further, self._calls = self._envelope.further, self._calls + (not message.goes_on)
        goes_on, self._roots = message.goes_on, self._envelope.starts
        if message.channel == "commentary" and goes_on:
            self._roots = self._envelope.spoken
        if message.recipient is not None and further is not None and self._calls < _MOST_CALLS:
            goes_on, self._roots = True, [further[0]] * 2
            self._between_calls = True
        self._node, self._walked = (self._roots[self._reasoning] if goes_on else None), ()
        self._message = self._content = None

    def _twin(self) -> "Turn":
        twin = copy.copy(self)
        twin._tried = None
        if self._content is not None:
            twin._content = self._content.copied()
        return twin

    def _only(self) -> int | None:
        if self._node is not None:
            return self._node.only()
        return None if self._content is None else self._content.only()
