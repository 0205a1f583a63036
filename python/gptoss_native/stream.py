"""Tokens as they are generated."""

import itertools
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

from . import _core
from .constraint import Constraint
from .tokenizer import Tokenizer

# Streams of an event loop whose tokens it gets before it looks at all else.
_AT_ONCE = 16

_Read = tuple[int, float, tuple[tuple[int, float], ...]] | None


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
    drafted_tokens: int  # guessed (`lookup`) or forced, and computed in another's step
    accepted_tokens: int  # of those, the ones that were right
    forced_tokens: int  # of those, the ones that a constraint left no choice
    ttft_s: float  # from asking for the first token to having it
    decode_s: float  # for the tokens after the first
    tokens_per_s: float  # of the tokens after the first
    finish_reason: str | None  # "stop", "length", "timeout", "cancelled"; None while it runs
    seed: int  # that gives the same text again
    stop_string: str | None  # that ended it


def _no_end(failure: BaseException) -> BaseException:
    """Return what a constraint raised; not what would pass for the end of the stream."""
    if not isinstance(failure, StopIteration | StopAsyncIteration):
        return failure
    error = RuntimeError(f"the constraint raised {type(failure).__name__}")
    error.__cause__ = failure
    return error


class _LoopReader:
    """Reads streams for one event loop; what comes in its turn comes to all who wait at once."""

    def __init__(self) -> None:
        self._core = _core.StreamReader()
        self._keys = itertools.count()
        self._taken: deque[tuple[int, _Read, BaseException | None]] = deque()  # and not told yet
        self._waiting: dict[int, tuple[asyncio.Future[_Read] | None, _core.Generation]] = {}

    @classmethod
    def of(cls, loop: "asyncio.AbstractEventLoop") -> "_LoopReader":
        reader = _readers.get(loop)
        if reader is None:
            reader = _readers[loop] = cls()
            loop.add_reader(reader._core.fileno(), reader._deliver)
        return reader

    def next(
        self,
        stream: _core.Generation,
        constraint: Constraint | None,
        future: "asyncio.Future[_Read]",
    ) -> int:
        """Make the future the stream's next token; return what `forget` takes. Raises Error."""
        key = next(self._keys)
        self._waiting[key] = future, stream
        try:
            self._core.begin(stream, key, constraint)
        except BaseException:
            del self._waiting[key]
            raise
        return key

    def forget(self, key: int) -> None:
        """Let go of a future that nobody waits for any more, and so of its loop."""
        if key in self._waiting:
            self._waiting[key] = None, self._waiting[key][1]

    def _deliver(self) -> None:
        waits = not self._taken
        self._taken.extend(self._core.take())
        if waits:
            self._tell()

    def _tell(self) -> None:
        """Wake those whose tokens have come: a few, since the loop has others to look after."""
        for _ in range(min(_AT_ONCE, len(self._taken))):
            key, token, failure = self._taken.popleft()
            future, stream = self._waiting.pop(key)
            if future is None or future.done():  # its task was cancelled
                if token is not None:
                    stream.take_back()
            elif failure is None:
                future.set_result(token)
            else:
                future.set_exception(_no_end(failure))
        if self._taken:
            import asyncio

            asyncio.get_running_loop().call_soon(self._tell)


# A loop that is gone takes its reader with it.
_readers: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopReader]"
_readers = weakref.WeakKeyDictionary()


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
        if not isinstance(stop, str | Sequence):
            raise _core.InvalidArgument(f"stop is {stop!r}, wanted strings")
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
        self._tail = text[max(0, len(text) - self._kept) :]
        return bool(ends)


class Stream:
    """Tokens as they are generated: use `for`, or `async for`; leaving the loop ends the stream.

    Work happens while the next token is waited for. `next(stream)` and `await anext(stream)` give
    one token, and the stream may be gone on with until the session is used for something else.
    A stream that ends, however it does, leaves its session with the tokens that it gave.
    """

    def __init__(
        self, core: _core.Generation, stops: StopStrings | None, constraint: Constraint | None
    ) -> None:
        self._core = core
        self._stops = stops
        self._constraint = constraint

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
        try:
            token = self._core.next(self._constraint)
        except (StopIteration, StopAsyncIteration) as failure:
            raise _no_end(failure) from failure
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
        token = await self.upcoming()
        if token is None:
            raise StopAsyncIteration
        return token

    async def upcoming(self) -> Token | None:
        """Return what `anext` would, None at the end."""
        import asyncio  # here, since it is a third of what importing this package would take

        # The step runs on another thread, without the GIL: the event loop stays free.
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_Read] = loop.create_future()
        reader = _LoopReader.of(loop)
        key = reader.next(self._core, self._constraint, future)
        try:
            token = await future
        except asyncio.CancelledError:
            reader.forget(key)
            self.cancel()
            raise
        return None if token is None else self._seen(token)

    def cancel(self) -> None:
        """End the stream before its next step; from any thread."""
        self._core.cancel()

    @property
    def stats(self) -> Stats:
        return Stats(**self._core.stats(), stop_string=self._stops.found if self._stops else None)
