"""One conversation on a model."""

import dataclasses
import operator
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from . import _core
from .closing import Closing
from .constraint import Constraint, checked_constraint
from .sampling import Sampling
from .stream import StopStrings, Stream
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class Usage:
    """What the latest call of a session has cost."""

    cached_tokens: int  # of the context, found in the cache
    prefilled_tokens: int  # computed: of a stream, before its first token


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


class Session(Closing):
    """A conversation: the tokens so far and their keys and values. Made by `Model.session`.

    Calls may come from any thread and wait for each other. After a call that fails or is
    interrupted the session goes on from `position`. A context manager.
    """

    def __init__(
        self,
        core: _core.Session,
        stop_ids: tuple[int, ...],
        tokenizer: Callable[[], Tokenizer],
    ) -> None:
        self._core = core
        self._stop_ids = stop_ids
        self._tokenizer = tokenizer  # for stop strings alone

    def generate(
        self,
        ids: Iterable[SupportsIndex] = (),
        *,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        stop_ids: Iterable[SupportsIndex] | None = None,
        stop: str | Sequence[str] = (),
        constraint: Constraint | None = None,
        priority: int = 0,
        timeout: float | None = None,
        lookup: bool = True,
    ) -> Stream:
        """Append the ids and generate after them, until a stop id, which is the last token given.

        max_new_tokens: as many as the context holds. sampling: the model's distribution
        unchanged. stop_ids: the checkpoint's own; [] for none. stop: strings; the token whose text
        completes one is the last. constraint: any token may come. priority: -1000 to 1000; more
        goes first where not all can go on at a time. timeout: seconds from asking for the first
        token, after which the stream ends. lookup: guess tokens by what followed the last three
        before, and check several in one step where that pays; the tokens are the same either way.
        Not with penalties, nor with a constraint that says nothing `ahead`.
        Generated tokens belong to the session. Work begins when the first token is asked for: ids
        of a stream that nobody reads are not appended. What can be checked is checked here, before
        any work.

        Raises InvalidArgument, also when ids and max_new_tokens do not fit the context;
        OutOfMemory when its cache could never fit `Limits.kv_bytes`. Asking for a token raises
        EngineBusy when more streams wait than `Limits.max_waiting`, and what the constraint raises,
        which ends the stream.
        """
        if max_new_tokens is not None:
            max_new_tokens = _checked("max_new_tokens", [max_new_tokens])[0]
        if sampling is None:
            sampling = Sampling()
        elif not isinstance(sampling, Sampling):
            raise _core.InvalidArgument(f"sampling is {sampling!r}, wanted a Sampling")
        stops = StopStrings.of(stop, self._tokenizer)
        constraint = checked_constraint(constraint)
        core = self._core.generate(
            _checked("ids", ids),
            max_new_tokens=max_new_tokens,
            sampling=sampling.native(),
            stop_ids=_checked("stop_ids", self._stop_ids if stop_ids is None else stop_ids),
            priority=priority,
            timeout=timeout,
            lookup=lookup,
        )
        return Stream(core, stops, constraint)

    def resume(
        self,
        *,
        max_new_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        constraint: Constraint | None = None,
        priority: int = 0,
        timeout: float | None = None,
        lookup: bool = True,
    ) -> Stream:
        """Go on with the stream that this session was left in, as if it had not been.

        That is one that was cancelled, timed out, or was not read on; also one of the session that
        this one was forked from, or saved from. Its sampling, seed, penalties' counts and stop ids
        go on; max_new_tokens is what was left of it. A constraint is to be as it was before the
        stream: it is told the tokens given so far. Other arguments are those of `generate`.
        Raises InvalidArgument if there is no such stream, or the session has been used since.
        """
        if max_new_tokens is not None:
            max_new_tokens = _checked("max_new_tokens", [max_new_tokens])[0]
        stops = StopStrings.of(stop, self._tokenizer)
        options = {"priority": priority, "timeout": timeout, "lookup": lookup}
        constraint = checked_constraint(constraint)
        given = self._core.streamed() if constraint else []
        core = self._core.resume(max_new_tokens=max_new_tokens, **options)
        for token in given:
            constraint.accept(token)
        return Stream(core, stops, constraint)

    def completions(
        self,
        ids: Iterable[SupportsIndex] = (),
        n: int = 1,
        *,
        sampling: Sampling | None = None,
        **options: object,
    ) -> list[tuple["Session", Stream]]:
        """Append the ids, once, and return n forks, each with a stream that goes on after them.

        A seed in `sampling` is the first fork's; the others count on from it. Other options are
        those of `generate`. This session stays where the ids end. Raises what `generate` and
        `fork` raise; then no fork is left.
        """
        if type(n) is not int or not 1 <= n <= 1024:
            raise _core.InvalidArgument(f"n is {n!r}, wanted 1 to 1024")
        sampling = Sampling() if sampling is None else sampling
        if not isinstance(sampling, Sampling):
            raise _core.InvalidArgument(f"sampling is {sampling!r}, wanted a Sampling")
        given = list(ids)
        self.generate(given, sampling=sampling, **options)  # type: ignore[arg-type]  # checks all
        self.prefill(given)
        out: list[tuple[Session, Stream]] = []
        try:
            for number in range(n):
                mine = sampling
                if sampling.seed is not None:
                    mine = dataclasses.replace(sampling, seed=(sampling.seed + number) % 2**64)
                twin = self.fork()
                out.append((twin, twin.generate(sampling=mine, **options)))  # type: ignore[arg-type]
        except BaseException:
            for twin, _ in out:
                twin.close()
            raise
        return out

    def prefill(self, ids: Iterable[SupportsIndex]) -> Usage:
        """Append the ids and compute their keys and values, or find them in the cache.

        Raises InvalidArgument, OutOfMemory, EngineBusy.
        """
        return Usage(*self._core.prefill(_checked("ids", ids)))

    def logits(self, ids: Iterable[SupportsIndex]) -> npt.NDArray[np.float32]:
        """Append the ids and return the logits after each: float32 [len(ids), vocab_size].

        Raises InvalidArgument.
        """
        return self._core.logits(_checked("ids", ids))

    def fork(self) -> "Session":
        """Return another session that holds the same tokens and goes on by itself.

        Nothing is computed again; keys and values of full layers are shared until one of the two
        writes to them. Raises OutOfMemory, EngineBusy when others' caches take all there is,
        InvalidArgument once closed.
        """
        return Session(self._core.fork(), self._stop_ids, self._tokenizer)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the session to a file, to go on from with `Model.load_session`.

        The file appears when it is whole; one that was there before stays until then. It holds the
        tokens, their keys and values (in full layers about 2 KB a token and layer for the published
        models), the stream it was left in (`resume`), and what binds it to this model, its options
        and kind of device. Raises Error if it cannot be written, EngineBusy, InvalidArgument.
        """
        self._core.save(checked_path(path))

    def rewind(self, position: SupportsIndex) -> None:
        """Drop the tokens from `position` on, to go on differently from there.

        Keys and values before it are kept. Where the sliding windows have moved too far past it,
        a few tokens before it (fewer than 128 where a call of `generate`, `prefill` or `logits`
        ended there) are computed again by the next call, which counts them. Streams of this session
        end. Raises InvalidArgument if position is not in 0 to `self.position`, EngineBusy where the
        session has left the device and others' caches take all there is: nothing has changed then.
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
    def usage(self) -> Usage:
        """What the latest call of `prefill`, `logits` or `generate` has cost."""
        return Usage(*self._core.usage())

    @property
    def max_context(self) -> int:
        return self._core.max_context

    @property
    def cache_bytes(self) -> int:
        """Bytes the keys and values take now, with those shared with other sessions."""
        return self._core.cache_bytes()

    def close(self) -> None:
        """Free the cache now; later calls raise InvalidArgument."""
        self._core.close()

    @property
    def closed(self) -> bool:
        return self._core.closed()
