"""One conversation on a model, and the stream of tokens it generates."""

import functools
import operator
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, SupportsIndex

if TYPE_CHECKING:
    import concurrent.futures

import numpy as np
import numpy.typing as npt

from . import _core
from .closing import Closing
from .constraint import Constraint, checked_constraint
from .sampling import Sampling


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
    ttft_s: float  # from asking for the first token to having it
    decode_s: float  # for the tokens after the first
    tokens_per_s: float  # of the tokens after the first
    finish_reason: str | None  # "stop", "length", "cancelled", or None while it runs
    seed: int  # that gives the same text again


def _checked(name: str, ids: Iterable[SupportsIndex]) -> list[int]:
    out = []
    try:
        for token in ids:
            out.append(operator.index(token))
    except TypeError:
        what = f"index {len(out)} holds no integer" if np.iterable(ids) else "they cannot be listed"
        raise _core.InvalidArgument(f"{name}: {what}; wanted integer token ids") from None
    for index, token in enumerate(out):
        if not -(2**63) <= token < 2**63:
            raise _core.InvalidArgument(f"{name}: index {index} is {token}, too large for an id")
    return out


def checked_path(path: str | os.PathLike[str]) -> str:
    """Return the path as a string that a system call takes. Raises InvalidArgument."""
    name = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(name, str) or not name or "\0" in name or not name.isprintable():
        raise _core.InvalidArgument(f"path is {path!r}, wanted the name of a file")
    return name


@functools.cache
def _threads_of(_process: int) -> "concurrent.futures.ThreadPoolExecutor":
    from concurrent.futures import ThreadPoolExecutor

    # One for each stream that waits for its token at a time; asyncio's own pool has six on two
    # processors, and tokens of streams that wait for a thread are not computed together.
    return ThreadPoolExecutor(max_workers=256, thread_name_prefix="gptoss-native")


def _threads() -> "concurrent.futures.ThreadPoolExecutor":
    return _threads_of(os.getpid())  # a forked child has none of its parent's threads


class Stream:
    """Tokens as they are generated: use `for`, or `async for`.

    Work happens while the next token is waited for. Leaving the loop leaves the session as it is
    then, and the stream may be gone on with until the session is used for something else.
    """

    def __init__(self, core: _core.Generation, constraint: Constraint | None) -> None:
        self._core = core
        self._constraint = constraint

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> Token:
        token = self._next()
        if token is None:
            raise StopIteration
        return Token(*token)

    def _next(self) -> tuple[int, float, tuple[tuple[int, float], ...]] | None:
        try:
            return self._core.next(self._constraint)
        except (StopIteration, StopAsyncIteration) as error:
            # It would pass for the end of the stream.
            raise RuntimeError(f"the constraint raised {type(error).__name__}") from error

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> Token:
        import asyncio  # here, since it is a third of what importing this package would take

        # The step runs on another thread, without the GIL: the event loop stays free.
        try:
            token = await asyncio.get_running_loop().run_in_executor(_threads(), self._next)
        except asyncio.CancelledError:
            self.cancel()
            raise
        if token is None:
            raise StopAsyncIteration
        return Token(*token)

    def cancel(self) -> None:
        """End the stream before its next step; from any thread."""
        self._core.cancel()

    @property
    def stats(self) -> Stats:
        return Stats(**self._core.stats())


class Session(Closing):
    """A conversation: the tokens so far and their keys and values. Made by `Model.session`.

    Calls may come from any thread and wait for each other. After a call that fails or is
    interrupted the session goes on from `position`. A context manager.
    """

    def __init__(self, core: _core.Session, stop_ids: tuple[int, ...]) -> None:
        self._core = core
        self._stop_ids = stop_ids

    def generate(
        self,
        ids: Iterable[SupportsIndex] = (),
        *,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        stop_ids: Iterable[SupportsIndex] | None = None,
        constraint: Constraint | None = None,
    ) -> Stream:
        """Append the ids and generate after them, until a stop id, which is the last token given.

        max_new_tokens: as many as the context holds. sampling: the model's distribution
        unchanged. stop_ids: the checkpoint's own; [] for none. constraint: any token may come.
        Generated tokens belong to the session. Work begins when the first token is asked for: ids
        of a stream that nobody reads are not appended. Everything is checked here, before any work.

        Raises InvalidArgument, also when ids and max_new_tokens do not fit the context. What the
        constraint raises ends the stream.
        """
        if max_new_tokens is not None:
            max_new_tokens = _checked("max_new_tokens", [max_new_tokens])[0]
        if sampling is None:
            sampling = Sampling()
        elif not isinstance(sampling, Sampling):
            raise _core.InvalidArgument(f"sampling is {sampling!r}, wanted a Sampling")
        constraint = checked_constraint(constraint)
        core = self._core.generate(
            _checked("ids", ids),
            max_new_tokens=max_new_tokens,
            sampling=sampling.native(),
            stop_ids=_checked("stop_ids", self._stop_ids if stop_ids is None else stop_ids),
        )
        return Stream(core, constraint)

    def prefill(self, ids: Iterable[SupportsIndex]) -> None:
        """Append the ids and compute their keys and values. Raises InvalidArgument."""
        self._core.prefill(_checked("ids", ids))

    def logits(self, ids: Iterable[SupportsIndex]) -> npt.NDArray[np.float32]:
        """Append the ids and return the logits after each: float32 [len(ids), vocab_size].

        Raises InvalidArgument.
        """
        return self._core.logits(_checked("ids", ids))

    def fork(self) -> "Session":
        """Return another session that holds the same tokens and goes on by itself.

        Nothing is computed again; keys and values of full layers are shared until one of the two
        writes to them. Raises OutOfMemory, InvalidArgument once closed.
        """
        return Session(self._core.fork(), self._stop_ids)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the session to a file, to go on from with `Model.load_session`.

        The file appears when it is whole; one that was there before stays until then. It holds the
        tokens, their keys and values (in full layers about 2 KB a token and layer for the published
        models), and what binds it to this model, its options and kind of device. Options of a
        stream are not part of it: go on with the `seed` that its stats name. Raises Error if it
        cannot be written, InvalidArgument.
        """
        self._core.save(checked_path(path))

    def rewind(self, position: SupportsIndex) -> None:
        """Drop the tokens from `position` on, to go on differently from there.

        Keys and values before it are kept. Where the sliding windows have moved too far past it,
        a few tokens before it (fewer than 128 where a call of `generate`, `prefill` or `logits`
        ended there) are computed again by the next call, which counts them. Streams of this session
        end. Raises InvalidArgument if position is not in 0 to `self.position`.
        """
        self._core.rewind(position)

    @property
    def tokens(self) -> list[int]:
        """All tokens of the conversation, prompt and generated."""
        return self._core.tokens()

    @property
    def position(self) -> int:
        """How many tokens that is."""
        return self._core.position()

    @property
    def max_context(self) -> int:
        return self._core.max_context

    @property
    def cache_bytes(self) -> int:
        """Bytes the keys and values take now."""
        return self._core.cache_bytes()

    def close(self) -> None:
        """Free the cache now; later calls raise InvalidArgument."""
        self._core.close()

    @property
    def closed(self) -> bool:
        return self._core.closed()
