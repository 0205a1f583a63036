"""Answers while they are written, read ahead of who shows them.

A task reads each of them, so that the device computes while what came before is sent; what is not
taken in time holds its answer up. All of it ends where the answers are closed.
"""

import asyncio
import dataclasses
import math
import time
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from starlette.requests import Request

from ..chat import ChatEvent, TextDelta, TokenEvent
from .errors import ApiError
from .sources import Source, opened

if TYPE_CHECKING:
    from .engine import Engine

# Texts that follow within this time are one: 100 tokens a second are not later for it. And as long
# for each answer that is open: sending a text costs more than a small model's token.
_TOGETHER_S = 0.01
_TOGETHER_EACH_S = 0.0005
# Events of one answer that may wait to be shown.
_AHEAD = 128


@dataclasses.dataclass(frozen=True)
class Usage:
    """Tokens of a request's answers."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


def merged(events: Sequence[tuple[int, ChatEvent]]) -> list[tuple[int, ChatEvent]]:
    """Return the events with neighbouring texts of one message as one; tokens come before it."""
    out: list[tuple[int, ChatEvent]] = []
    texts: dict[int, list[TextDelta]] = {}

    def tell(number: int) -> None:
        if parts := texts.pop(number, None):
            text = "".join(part.text for part in parts)
            out.append((number, TextDelta(text, parts[0].channel, parts[0].recipient)))

    for number, event in events:
        if isinstance(event, TextDelta):
            texts.setdefault(number, []).append(event)
            continue
        if not isinstance(event, TokenEvent):
            tell(number)
        out.append((number, event))
    for number in list(texts):
        tell(number)
    return out


class Answers:
    """The answers to one request; each `per_prompt` of them share a prompt.

    tokens: whether `batches` has TokenEvents, too. Within one event loop. `close` must follow
    `begin`, however that ends.
    """

    def __init__(
        self,
        engine: "Engine",
        sources: Sequence[Source],
        begun: float,
        per_prompt: int = 1,
        *,
        tokens: bool = True,
    ) -> None:
        self.engine = engine
        self._sources = sources
        self._per_prompt = per_prompt
        self._begun = begun
        self._with_tokens = tokens
        self._tasks: list[asyncio.Task[None]] = []
        self._left = len(sources)  # answers that are not whole
        self._events: list[tuple[int, ChatEvent]] = []
        self._news = asyncio.Event()
        self._taken = asyncio.Event()
        self._gathering: asyncio.Future[None] | None = None
        self._failure: BaseException | None = None
        self._closing: asyncio.Task[None] | None = None
        self.first_token_s: float | None = None

    async def begin(self) -> None:
        """Begin to write. Returns once there is a first event: what is refused is refused here."""
        self.engine.take(self)
        try:
            await self._begin()
        except BaseException:
            await self.close()
            raise

    async def _begin(self) -> None:
        until = self._begun + self.engine.settings.request_timeout_s
        await opened(self._sources[0], self.engine.workers, until)
        self._read(0)
        await self._news.wait()
        # The others find the prompt in the cache.
        for number in range(1, len(self._sources)):
            if self._failure is not None:
                break
            await opened(self._sources[number], self.engine.workers, until)
            self._read(number)
        if self._failure is not None:
            raise self._failure

    async def close(self) -> None:
        """End what still goes on, and free its memory."""
        # Who waits for it may be cancelled: the memory is freed even so.
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self.engine.open.discard(self)
        for source in self._sources:
            source.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for source in self._sources:
            self.engine.metrics.count(source.cost())
        # It waits for the step that is being computed.
        await asyncio.gather(*(asyncio.to_thread(source.close) for source in self._sources))

    def stop(self) -> None:
        """Let the answers end as cut off, with an error to who reads them."""
        self._fail(ApiError(503, "the server is shutting down", code="shutting_down"))

    async def batches(self) -> AsyncIterator[list[tuple[int, ChatEvent]]]:
        """Yield what has come, as (which answer, event); raises what ends an answer badly."""
        before = -math.inf
        while True:
            await self._news.wait()
            # What comes faster than anybody reads is sent together: each sending has its price.
            together = max(_TOGETHER_S, _TOGETHER_EACH_S * len(self.engine.open))
            soon = before + together - time.perf_counter()
            if soon > 0 and self._left and self._failure is None:
                await self._gather(soon)
            self._news.clear()
            events, self._events = self._events, []
            self._taken.set()
            before = time.perf_counter()
            if events:
                yield merged(events)
            if self._events:  # while those before were shown
                continue
            if self._failure is not None:
                raise self._failure
            if not self._left:
                return

    async def _gather(self, seconds: float) -> None:
        """Let more come for so long, or until there is no more."""
        loop = asyncio.get_running_loop()
        self._gathering = waiter = loop.create_future()
        timer = loop.call_later(seconds, self._end_gathering)
        try:
            await waiter
        finally:
            timer.cancel()
            self._gathering = None

    def _end_gathering(self) -> None:
        if self._gathering is not None and not self._gathering.done():
            self._gathering.set_result(None)

    async def rest(self) -> list[tuple[int, ChatEvent]]:
        """Return all events, once the answers are whole."""
        return [event async for batch in self.batches() for event in batch]

    def finish_reason(self, number: int) -> str | None:
        return self._sources[number].finish_reason

    def usage(self) -> Usage:
        """Return what the answers have cost together: a prompt counts once."""
        costs = [source.cost() for source in self._sources]
        prompts = costs[:: self._per_prompt]
        return Usage(
            prompt_tokens=sum(one.cached_tokens + one.prefilled_tokens for one in prompts),
            cached_tokens=sum(one.cached_tokens for one in prompts),
            completion_tokens=sum(one.completion_tokens for one in costs),
            reasoning_tokens=sum(one.reasoning_tokens for one in costs),
        )

    def note(self, request: Request) -> None:
        """Add what the answers took to the request's line in the log."""
        self.engine.metrics.duration.observe(time.perf_counter() - self._begun)
        first = None if self.first_token_s is None else round(1000 * self.first_token_s, 1)
        ends = [source.finish_reason for source in self._sources]
        usage = dataclasses.asdict(self.usage())
        request.state.note(**usage, first_token_ms=first, ends=ends)

    # The tasks that read

    def _read(self, number: int) -> None:
        task = asyncio.create_task(self._read_one(number))
        self._tasks.append(task)
        task.add_done_callback(self._ended)

    async def _read_one(self, number: int) -> None:
        source, before = self._sources[number], None
        observe = self.engine.metrics.between.observe
        async for group in source.groups():
            tokens = [event for event in group if isinstance(event, TokenEvent)]
            if tokens:
                now = time.perf_counter()
                if before is not None:
                    observe((now - before) / len(tokens), len(tokens))
                before = now
            if not self._with_tokens:
                group = [event for event in group if not isinstance(event, TokenEvent)]
            await self._put(number, group)
        reason = source.finish_reason
        if reason == "timeout":
            most = self.engine.settings.request_timeout_s
            raise ApiError(504, f"the answer took longer than {most:g} s", code="timeout")
        if reason in ("cancelled", "error"):
            raise ApiError(503, "the answer was ended", code="cancelled")

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and task.exception() is not None:
            self._fail(task.exception())
        self._left -= 1
        self._news.set()
        if not self._left:
            self._end_gathering()

    def _fail(self, error: BaseException | None) -> None:
        self._failure = self._failure or error
        self._news.set()
        self._end_gathering()

    async def _put(self, number: int, group: Sequence[ChatEvent]) -> None:
        """Take events of an answer; waits while many have not been shown."""
        if self._failure is not None:
            return  # what comes after it would put the end off
        if self.first_token_s is None:
            self.first_token_s = time.perf_counter() - self._begun
            self.engine.metrics.first_token.observe(self.first_token_s)
        self._events += [(number, event) for event in group]
        self._news.set()
        while len(self._events) >= _AHEAD * len(self._sources):
            self._taken.clear()
            await self._taken.wait()
