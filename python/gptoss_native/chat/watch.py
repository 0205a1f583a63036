"""What ends reasoning, or a turn, by what has been written: limits, cycles, stop strings."""

from collections.abc import Iterable, Sequence

from ..harmony import Message

_REPEATS = 4


class ReasoningWatch:
    """Says when reasoning has gone on long enough."""

    def __init__(self, limit: int | None, cycle_tokens: int | None) -> None:
        self._limit = limit
        self._cycle_tokens = cycle_tokens
        self._ids: list[int] = []
        self.tokens = 0

    def begin(self) -> None:
        """A message begins: a cycle lies within one."""
        self._ids.clear()

    def push(self, token_id: int) -> None:
        self.tokens += 1
        if self._cycle_tokens is not None:
            self._ids.append(token_id)

    def fired(self) -> str | None:
        """Return "reasoning_limit" or "cycle" if the reasoning should end here."""
        if self._limit is not None and self.tokens >= self._limit:
            return "reasoning_limit"
        return "cycle" if self._cycle_tokens is not None and self._in_cycle() else None

    def _in_cycle(self) -> bool:
        size = self._cycle_tokens or 0
        ids = self._ids[-size:]
        if len(ids) < size:
            return False
        last = ids[-1]
        for period in range(1, size // _REPEATS + 1):
            if ids[-1 - period] == last and ids[period:] == ids[:-period]:
                return True
        return False


class StopWatch:
    """Watches the text of some channels for the first of some strings.

    What may be the beginning of one is held back until more text tells.
    """

    def __init__(self, strings: Sequence[str], scope: Iterable[str]) -> None:
        self._strings = strings
        self._scope = tuple(scope)
        self._on = False
        self._held = ""
        self.shown = ""  # of the open message, if it is watched
        self.found: str | None = None

    def begin(self, message: Message) -> None:
        """A message begins; what has no channel of the format's is watched as an answer."""
        channel = message.channel if message.channel in ("analysis", "commentary") else "final"
        called = message.recipient is not None
        watched = "all" in self._scope or (channel in self._scope and not called)
        self._on = bool(self._strings) and watched
        self._held = self.shown = ""

    def push(self, text: str) -> str:
        """Take more text and return what can be shown; `found` tells of a string's end in it."""
        if not self._on or self.found is not None:
            return "" if self.found is not None else text
        text = self._held + text
        ends = [(text.find(s) + len(s), -len(s), s) for s in self._strings if s in text]
        if ends:
            end, _, self.found = min(ends)
            shown, self._held = text[: end - len(self.found)], ""
        else:
            kept = max(_beginning(text, string) for string in self._strings)
            shown, self._held = text[: len(text) - kept], text[len(text) - kept :]
        self.shown += shown
        return shown

    def end(self) -> str:
        """The message ends: return what was held back."""
        held, self._held = self._held, ""
        self.shown += held
        return held


def _beginning(text: str, string: str) -> int:
    """Return how many characters at the text's end begin the string."""
    most = min(len(text), len(string) - 1)
    return next((n for n in range(most, 0, -1) if string.startswith(text[-n:])), 0)
