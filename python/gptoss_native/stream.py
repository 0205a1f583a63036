"""Tokens as they are generated."""

import functools
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import concurrent.futures

from . import _core
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class Token:
    """A generated token. Log-probabilities are natural, of the model's own distribution."""

    id: int
    logprob: float
    top_logprobs: tuple[tuple[int, float], ...]  # (id, logprob), most likely first


@dataclass(frozen=True)
class Stats:
    """What a stream has cost so far. Times are in seconds."""

    cached_tokens: int  # of the context, found in the cache
    prefilled_tokens: int  # computed before the first token
    generated_tokens: int
    drafted_tokens: int  # guessed, and computed in another's step (`lookup`)
    accepted_tokens: int  # of those, the ones that were right
    ttft_s: float  # from asking for the first token to having it
    decode_s: float  # for the tokens after the first
    tokens_per_s: float  # of the tokens after the first
    finish_reason: str | None  # "stop", "length", "timeout", "cancelled"; None while it runs
    seed: int  # that gives the same text again
    stop_string: str | None  # that ended it


@functools.cache
def _threads_of(_process: int) -> "concurrent.futures.ThreadPoolExecutor":
    from concurrent.futures import ThreadPoolExecutor

    # One for each stream that waits at a time, for its token or its turn (`Limits`); asyncio's own
    # pool has six on two processors, and tokens of streams that wait for a thread are not computed
    # together.
    return ThreadPoolExecutor(max_workers=512, thread_name_prefix="gptoss-native")


def _threads() -> "concurrent.futures.ThreadPoolExecutor":
    return _threads_of(os.getpid())  # a forked child has none of its parent's threads


class StopStrings:
    """Watches the text of a stream for the first of some strings."""

    def __init__(self, tokenizer: Tokenizer, strings: Sequence[str]) -> None:
        self._decoder = tokenizer.stream()
        self._strings = strings
        self._kept = max(map(len, strings)) - 1  # characters that may begin one
        self._tail = ""
        self.found: str | None = None

    @classmethod
    def of(
        cls, stop: str | Sequence[str], tokenizer: Callable[[], Tokenizer]
    ) -> "StopStrings | None":
        """Return one for these strings; None for none. Raises InvalidArgument, CheckpointError."""
        strings = [stop] if isinstance(stop, str) else list(stop)
        for string in strings:
            if not isinstance(string, str) or not string:
                raise _core.InvalidArgument(f"stop holds {string!r}, wanted strings, not empty")
        return cls(tokenizer(), strings) if strings else None

    def push(self, token_id: int) -> bool:
        """Take a token's text; return whether one of the strings has come."""
        try:
            text = self._tail + self._decoder.push(token_id)
        except _core.InvalidArgument:  # published vocabularies are padded with ids without text
            text = self._tail + self._decoder.flush()
        ends = [(text.find(s) + len(s), s) for s in self._strings if s in text]
        if ends:
            self.found = min(ends)[1]
        self._tail = text[len(text) - self._kept :] if self._kept else ""
        return bool(ends)


class Stream:
    """Tokens as they are generated: use `for`, or `async for`; leaving the loop ends the stream.

    Work happens while the next token is waited for. `next(stream)` and `await anext(stream)` give
    one token, and the stream may be gone on with until the session is used for something else.
    A stream that ends, however it does, leaves its session with the tokens that it gave.
    """

    def __init__(self, core: _core.Generation, stops: StopStrings | None = None) -> None:
        self._core = core
        self._stops = stops

    def _seen(self, token: tuple[int, float, Any]) -> Token:
        if self._stops and self._stops.push(token[0]):
            self._core.stop()
        return Token(*token)

    def __iter__(self) -> Iterator[Token]:
        try:
            while (token := next(self, None)) is not None:
                yield token
        finally:
            self.cancel()

    def __next__(self) -> Token:
        token = self._core.next()
        if token is None:
            raise StopIteration
        return self._seen(token)

    async def __aiter__(self) -> AsyncIterator[Token]:
        try:
            while True:
                try:
                    token = await self.__anext__()
                except StopAsyncIteration:
                    return
                yield token
        finally:
            self.cancel()

    async def __anext__(self) -> Token:
        import asyncio  # here, since it is a third of what importing this package would take

        # The step runs on another thread, without the GIL: the event loop stays free.
        try:
            token = await asyncio.get_running_loop().run_in_executor(_threads(), self._core.next)
        except asyncio.CancelledError:
            self.cancel()
            raise
        if token is None:
            raise StopAsyncIteration
        return self._seen(token)

    def cancel(self) -> None:
        """End the stream before its next step; from any thread."""
        self._core.cancel()

    @property
    def stats(self) -> Stats:
        return Stats(**self._core.stats(), stop_string=self._stops.found if self._stops else None)
