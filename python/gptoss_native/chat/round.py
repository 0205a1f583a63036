"""One time that the model writes: its ids as they come -> messages, and what the history keeps.

A message without anomalies keeps its ids, so that it is found in the cache. One with them is
rendered anew, so that the model does not see its own slips again and repeat them. Messages in the
name of others, calls that were cut off and empty beginnings are not kept.
"""

import dataclasses
from collections.abc import Sequence

from ..harmony import Anomaly, Message, MessageEnd, MessageStart, Parser, Renderer
from ..harmony.parse import Event
from ..harmony.render import special_id
from ..tokenizer import Tokenizer
from .history import Entry, is_call


class Round:
    """What one generation has written so far. `base` counts the turn's ids before it."""

    def __init__(self, tokenizer: Tokenizer, renderer: Renderer, base: int) -> None:
        self._parser = Parser(tokenizer)
        self._renderer = renderer
        self._base = base
        self._begun = renderer.render_for_completion([])
        self._end = special_id(tokenizer, "end")
        self._call = special_id(tokenizer, "call")
        self._special = set(tokenizer.special.values())
        self.ids: list[int] = []
        self.kept: list[Entry] = []
        self.open: Message | None = None  # the header of the message whose content comes
        self._from = 0  # where the open message's ids begin
        self._odd = False

    @property
    def within_character(self) -> bool:
        return self._parser.within_character

    def counted_as(self, token_id: int) -> str:
        """Return how the next id is counted: by the open message's channel, "other" or "header"."""
        if self.open is None or token_id in self._special:
            return "header"
        channel = self.open.channel
        return channel if channel in ("analysis", "commentary", "final") else "other"

    def push(self, token_id: int) -> list[Event]:
        """Take one id; return what it made known, with offsets in the turn."""
        events = self._parser.push(token_id)
        self.ids.append(token_id)
        return [self._taken(event) for event in events]

    def finish(self, content: str | None = None) -> list[Event]:
        """End what is open, with `content` instead of its own; a second time does nothing."""
        if content is not None:
            self._odd = True
        out = []
        for event in self._parser.finish():
            if isinstance(event, MessageEnd) and content is not None:
                event = event._replace(message=dataclasses.replace(event.message, content=content))
            out.append(self._taken(event, cut=True))
        return out

    def _taken(self, event: Event, cut: bool = False) -> Event:
        if isinstance(event, Anomaly):
            self._odd = True
        elif isinstance(event, MessageStart):
            self.open = event.message
        elif isinstance(event, MessageEnd):
            self.open = None
            self._keep(event, cut)
        return event._replace(offset=event.offset + self._base)

    def _keep(self, event: MessageEnd, cut: bool) -> None:
        message = event.message
        whole = event.offset + (event.ended_by is not None)
        before = self._begun if self._from == 0 else []  # the prompt's end is its beginning
        ids = [*before, *self.ids[self._from : whole]]
        self._from = whole
        odd, self._odd = self._odd, False
        if message.role != "assistant" or (cut and (is_call(message) or not message.content)):
            return
        if not odd and ids[: len(self._begun)] == self._begun:
            self.kept.append(Entry(message, self._closed(ids, message, cut)))
        else:
            rendered = self._renderer.render([message], analysis="all")
            self.kept.append(Entry(message, rendered))

    def _closed(self, ids: Sequence[int], message: Message, cut: bool) -> list[int]:
        """Return the ids with the end that the format has for such a message."""
        ids = list(ids) if cut else list(ids[:-1])
        return [*ids, self._end if message.recipient is None else self._call]
