"""Answers while they are written: turns of chats, read ahead of who shows them.

A task reads each turn, so that the device computes while what came before is sent; what is not
taken in time holds its turn up. All of it ends where the answers are closed.
"""

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from ..chat import Chat, ChatEvent, Reply, TokenEvent, Turn
from .errors import ApiError
from .wanted import Wanted, open_chat

if TYPE_CHECKING:
    from .engine import Engine

# Events of one answer that may wait to be shown.
_AHEAD = 128


class Answers:
    """The n answers to what is wanted. An asynchronous context manager, within one event loop."""

    def __init__(self, engine: "Engine", wanted: Wanted, n: int, begun: float) -> None:
        self.engine = engine
        self._wanted = wanted
        self._begun = begun
        self._readers = [_Reader(self) for _ in range(n)]
        self._tasks: list[asyncio.Task[None]] = []
        self._left = n  # answers that are not whole
        self._events: list[tuple[int, ChatEvent]] = []
        self._news = asyncio.Event()
        self._taken = asyncio.Event()
        self._failure: BaseException | None = None
        self.first_token_s: float | None = None

    async def __aenter__(self) -> "Answers":
        """Begin to write. Returns once there is a first event: what is refused is refused here."""
        self.engine.open.add(self)
        try:
            first = self._readers[0]
            await first.open(self._chat_of(0))
            self._read(0)
            await self._news.wait()
            if self._failure is not None:
                raise self._failure
            # The others find the prompt in the cache.
            for number in range(1, len(self._readers)):
                await self._readers[number].open(self._chat_of(number))
                self._read(number)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End what still goes on, and free its memory."""
        if self not in self.engine.open:
            return
        self.engine.open.discard(self)
        for reader in self._readers:
            reader.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(reader.close() for reader in self._readers))

    def stop(self) -> None:
        """Let the answers end as cut off, with an error to who reads them."""
        self._fail(ApiError(503, "the server is shutting down", code="shutting_down"))

    async def batches(self) -> AsyncIterator[list[tuple[int, ChatEvent]]]:
        """Yield what has come, as (which answer, event); raises what ends an answer badly."""
        while True:
            await self._news.wait()
            self._news.clear()
            events, self._events = self._events, []
            self._taken.set()
            if events:
                yield events
            if self._failure is not None:
                raise self._failure
            if not self._events and not self._left:
                return

    async def rest(self) -> list[tuple[int, ChatEvent]]:
        """Return all events, once the answers are whole."""
        return [event async for batch in self.batches() for event in batch]

    def reply(self, number: int) -> Reply:
        """Return what an answer came to."""
        return self._readers[number].reply

    def usage(self) -> "Usage":
        """Return what the answers have cost together: their prompt counts once."""
        usages = [reader.reply.usage for reader in self._readers]
        prompt = usages[0].rounds[0] if usages[0].rounds else None
        return Usage(
            prompt_tokens=prompt.cached_tokens + prompt.prefilled_tokens if prompt else 0,
            cached_tokens=prompt.cached_tokens if prompt else 0,
            completion_tokens=sum(one.generated_tokens + one.forced_tokens for one in usages),
            reasoning_tokens=sum(one.reasoning_tokens for one in usages),
        )

    def note(self, request: Request) -> None:
        """Add what the answers took to the request's line in the log."""
        took = time.perf_counter() - self._begun
        self.engine.metrics.duration.observe(took)
        usage = dataclasses.asdict(self.usage())
        first = None if self.first_token_s is None else round(1000 * self.first_token_s, 1)
        ends = [reader.reply.finish_reason for reader in self._readers]
        request.state.note(**usage, first_token_ms=first, ends=ends)

    # For the readers

    def _chat_of(self, number: int) -> Wanted:
        sampling = self._wanted.options.get("sampling")
        if number == 0 or sampling is None or sampling.seed is None:
            return self._wanted
        mine = dataclasses.replace(sampling, seed=(sampling.seed + number) % 2**64)
        options = self._wanted.options | {"sampling": mine}
        return dataclasses.replace(self._wanted, options=options)

    def _read(self, number: int) -> None:
        task = asyncio.create_task(self._readers[number].read(number))
        self._tasks.append(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and task.exception() is not None:
            self._fail(task.exception())
        self._left -= 1
        self._news.set()

    def _fail(self, error: BaseException | None) -> None:
        self._failure = self._failure or error
        self._news.set()

    async def put(self, number: int, event: ChatEvent) -> None:
        """Take an event of an answer; waits while many have not been shown."""
        if self.first_token_s is None:
            self.first_token_s = time.perf_counter() - self._begun
            self.engine.metrics.first_token.observe(self.first_token_s)
        self._events.append((number, event))
        self._news.set()
        while len(self._events) >= _AHEAD * len(self._readers):
            self._taken.clear()
            await self._taken.wait()


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


class _Reader:
    """One answer: its chat and its turn."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._chat: Chat | None = None
        self._turn: Turn | None = None
        self._reply: Reply | None = None

    async def open(self, wanted: Wanted) -> None:
        engine = self._answers.engine

        def begin() -> None:
            self._chat = open_chat(engine.model, engine.settings, wanted)
            self._turn = self._chat.send(list(wanted.messages), **_own_choice(wanted))

        begun = asyncio.ensure_future(asyncio.to_thread(begin))
        try:
            await asyncio.shield(begun)
        except asyncio.CancelledError:
            await asyncio.wait({begun})  # what it made is to be closed
            raise

    async def read(self, number: int) -> None:
        assert self._turn is not None
        observe, before = self._answers.engine.metrics.between.observe, None
        async for event in self._turn:
            if isinstance(event, TokenEvent):
                now = time.perf_counter()
                if before is not None:
                    observe(now - before)
                before = now
            await self._answers.put(number, event)
        reason = self.reply.finish_reason
        if reason == "timeout":
            most = self._answers.engine.settings.request_timeout_s
            raise ApiError(504, f"the answer took longer than {most:g} s", code="timeout")
        if reason in ("cancelled", "error"):
            raise ApiError(503, "the answer was ended", code="cancelled")

    def cancel(self) -> None:
        """End the engine's work before its next step."""
        if self._turn is not None:
            self._turn.cancel()

    async def close(self) -> None:
        if self._turn is not None:
            self._answers.engine.metrics.count(self.reply.usage)
        if self._chat is not None:
            # It waits for the step that is being computed.
            await asyncio.shield(asyncio.to_thread(self._chat.close))

    @property
    def reply(self) -> Reply:
        if self._reply is None:
            assert self._turn is not None
            self._reply = self._turn.reply
        return self._reply


def _own_choice(wanted: Wanted) -> dict[str, Any]:
    """Return the turn's own tool_choice: each request says it anew, after a call's result too."""
    return {"tool_choice": wanted.options.get("tool_choice", "auto")}
