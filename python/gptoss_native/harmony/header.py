"""A message's header -> who speaks, to whom, where. Total: any text is read, what is odd is told.

A header is pieces of text, the first after <|start|>, each other one after a <|channel|> or a
<|constrain|>. Text that nothing can be made of goes into the odd findings, so that no word is lost.
Where <|message|> never came the last piece may hold the body: models write it right after the
channel, or with no header at all.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from .messages import CHANNELS, ROLES, Message

CHANNEL, CONSTRAIN = "<|channel|>", "<|constrain|>"
_TYPE = re.compile(r"[\w.+/-]+")
_CALLABLE = re.compile(r"functions\.\S+|browser\.\S+|python")
_AFTER_CHANNEL = re.compile(rf"({'|'.join(CHANNELS)})((?:to=|[^\w]).*)", re.S)
# What may stand before a body, by the piece's mark; a role that is given may be repeated.
_TO = r"(?:\s*to=\S+(?:\s+(?:json|code)(?!\w))?)?"
_NAMED = rf"(?:{'|'.join(ROLES)})(?::\S+)?(?!\S)|(?:{_CALLABLE.pattern})(?!\S)"
_LEADING = {
    None: re.compile(rf"\s*(?:{_NAMED})?{_TO}"),
    CHANNEL: re.compile(rf"\s*(?:(?:{'|'.join(CHANNELS)})|\S+(?=\s*$|\s+to=)|(?=to=)){_TO}"),
    CONSTRAIN: re.compile(r"\s*[A-Za-z][\w.+/-]*"),
} | {role: re.compile(rf"(?:\s*{role}(?!\S))?{_TO}") for role in ROLES}

Odd = tuple[str, bytes]


class Header(NamedTuple):
    """What a header says: a message without its content, the body it held, and what is odd."""

    message: Message
    body: bytes
    odd: list[Odd]

    def is_empty(self) -> bool:
        """Whether nothing but a role was said."""
        said = self.message
        fields = (said.channel, said.recipient, said.content_type)
        return fields == (None, None, None) and not self.body.strip()


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _clean(word: str | None) -> str | None:
    return None if word is None else _raw(word).decode("utf-8", "replace")


class _Fields:
    """A header's fields as its pieces are read, one after the other."""

    def __init__(self) -> None:
        self.role = self.name = self.channel = self.recipient = self.content_type = None
        self.constrained = False
        self.spare: list[str] = []  # words that are not yet a field
        self.odd: list[Odd] = []

    def note(self, kind: str, text: str = "") -> None:
        self.odd.append((kind, _raw(text)))

    def read_role(self, words: list[str], given: str | None, others: bool) -> None:
        self.role = given
        if given is None and (not words or words[0].startswith("to=")):
            self.note("no_role")
            self.role = "assistant"
        elif given is None:
            word, *words = words
            role, colon, name = word.partition(":")
            if role in ROLES and role != "tool" and bool(colon) == bool(name):
                self.role, self.name = role, name or None
            elif others or word == "tool" or _CALLABLE.fullmatch(word):
                self.role, self.name = "tool", word
            else:
                self.note("unknown_role", word)
                self.role = "assistant"
        while words and words[0] == self.role:
            self.note("repeated_role", words.pop(0))
        self.spare += words

    def read_channel(self, words: list[str]) -> None:
        if not words or words[0].startswith("to="):
            self.note("empty_channel")
            self.spare += words
            return
        if self.channel is not None:
            self.note("repeated_channel", self.channel)
        self.channel, *words = words
        if glued := _AFTER_CHANNEL.fullmatch(self.channel):
            self.channel, after = glued.groups()
            self.spare.append(after)
        if self.channel not in CHANNELS:
            self.note("unknown_channel")
        self.spare += words

    def read_constraint(self, words: list[str]) -> None:
        if not words or not _TYPE.fullmatch(words[0]):
            self.note("empty_type")
            self.spare += words
            return
        if self.content_type is not None:
            self.note("repeated_type", self.content_type)
        self.content_type, *words = words
        self.constrained = True
        self.spare += words

    def read_spare(self) -> None:
        left = []
        for word in self.spare:
            if not word.startswith("to=") or word == "to=":
                left.append(word)
                continue
            if self.recipient is not None:
                self.note("repeated_recipient", f"to={self.recipient}")
            self.recipient = word[3:]
        if self.recipient is None and left and _CALLABLE.fullmatch(left[0]):
            self.note("bare_recipient")
            self.recipient = left.pop(0)
        if self.content_type is None and len(left) == 1 and _TYPE.fullmatch(left[0]):
            self.content_type = left.pop()
        if left:
            self.note("header_text", " ".join(left))


def read_header(
    pieces: Sequence[tuple[str | None, bytes]],
    *,
    role: str | None,
    transcript: bool,
    has_body: bool,
) -> Header:
    """Return what the pieces say; the first has the mark None, the others theirs.

    role: the one that wrote <|start|> and the role already; None: the header names it.
    transcript: a role that is not known is a tool's name, even if nothing else says so.
    has_body: there was no <|message|>, so that the last piece may run on into the body.
    """
    texts = [data.decode("utf-8", "surrogateescape") for _, data in pieces]
    body = ""
    if has_body:
        mark = pieces[-1][0] or role
        cut = _LEADING[mark].match(texts[-1])
        end = cut.end() if cut else 0
        body = texts[-1][end:]
        body = body.lstrip() if end else body
        texts[-1] = texts[-1][:end]
    fields = _Fields()
    whole = "".join(texts)
    if not whole.isascii() and _raw(whole) != whole.encode("utf-8", "replace"):
        fields.note("bad_utf8", whole)
    first, *others = texts
    answers = any("to=assistant" in text.split() for text in texts)
    fields.read_role(first.split(), role, transcript or answers)
    for (mark, _), text in zip(pieces[1:], others, strict=True):
        read = fields.read_channel if mark == CHANNEL else fields.read_constraint
        read(text.split())
    fields.read_spare()
    words = (fields.channel, fields.recipient, fields.content_type, fields.name)
    message = Message(fields.role, "", *map(_clean, words), fields.constrained)
    return Header(message, _raw(body), fields.odd)
