"""Where an answer's events come from: a turn of a chat, or a session's tokens as they are."""

import asyncio
import codecs
import contextlib
import dataclasses
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol

from ..chat import Chat, ChatEvent, Entry, Reply, TextDelta, TokenEvent, ToolCall, Turn
from ..chat.watch import StopWatch
from ..harmony import Anomaly, Message, MessageStart
from ..model import Model
from ..session import Session
from ..stream import Stream
from .parts import token_bytes
from .settings import Settings
from .wanted import Wanted, is_strict, open_chat


@dataclass(frozen=True)
class Cost:
    """An answer's tokens."""

    cached_tokens: int = 0
    prefilled_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0


class Source(Protocol):
    """One answer, over by `until` on the clock of `time.perf_counter`.

    `open` and `close` take time, and may be called from any thread.
    """

    finish_reason: str | None  # once its events have ended

    def open(self, until: float) -> None: ...
    # What becomes known at a time.
    def groups(self) -> AsyncIterator[list[ChatEvent]]: ...
    def cancel(self) -> None: ...
    def close(self) -> None: ...
    def cost(self) -> Cost: ...


class ChatSource:
    """A turn of a chat that is made for it."""

    def __init__(self, model: Model, settings: Settings, wanted: Wanted) -> None:
        self._model = model
        self._settings = settings
        self._wanted = wanted
        self._chat: Chat | None = None
        self._turn: Turn | None = None
        self._reply: Reply | None = None
        self.strict: tuple[bool, ...] = ()  # of each tool, once it is open

    def open(self, until: float) -> None:
        wanted = self._wanted
        self.strict = tuple(is_strict(self._model.tokenizer, tool) for tool in wanted.tools)
        self._chat = open_chat(self._model, self._settings, wanted, self.strict, _left(until))
        # Each request says it anew, after a call's result too.
        choice = wanted.options.get("tool_choice", "auto")
        self._turn = self._chat.send(list(wanted.messages), tool_choice=choice)

    def groups(self) -> AsyncIterator[list[ChatEvent]]:
        assert self._turn is not None
        groups = self._turn.groups()
        return whole_calls(groups) if self._wanted.options["parallel_tool_calls"] else groups

    def cancel(self) -> None:
        if self._turn is not None:
            self._turn.cancel()

    def close(self) -> None:
        if self._chat is not None:
            self._chat.close()

    @property
    def reply(self) -> Reply:
        if self._reply is None:
            assert self._turn is not None
            self._reply = self._turn.reply
        return self._reply

    @property
    def finish_reason(self) -> str | None:
        return self.reply.finish_reason if self._turn is not None else None

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The conversation up to the answer's end, as the model has seen it."""
        assert self._chat is not None
        if entries := self._chat.entries:
            return entries
        # Nothing was written that is kept: what was asked stays.
        render = self._chat.renderer.render
        return tuple(
            one if isinstance(one, Entry) else Entry(one, render([one], analysis="all"))
            for one in self._wanted.messages
        )

    def cost(self) -> Cost:
        if self._turn is None:
            return Cost()
        usage = self.reply.usage
        # Where reasoning was ended, the context was read again: the prompt is the first one.
        first = usage.rounds[:1]
        return Cost(
            cached_tokens=sum(one.cached_tokens for one in first),
            prefilled_tokens=sum(one.prefilled_tokens for one in first),
            completion_tokens=usage.generated_tokens + usage.forced_tokens,
            reasoning_tokens=usage.reasoning_tokens,
        )


class RawSource:
    """Tokens after some ids. `options` are those of `Session.generate`."""

    def __init__(
        self,
        model: Model,
        settings: Settings,
        ids: Sequence[int],
        stop: Sequence[str],
        options: dict[str, Any],
    ) -> None:
        self._model = model
        self._settings = settings
        self._ids = ids
        self._stop = stop
        self._options = options
        self._session: Session | None = None
        self._stream: Stream | None = None
        self._stopped = False

    def open(self, until: float) -> None:
        self._session = self._model.session(max_context=self._settings.max_context)
        self._stream = self._session.generate(self._ids, timeout=_left(until), **self._options)

    async def groups(self) -> AsyncIterator[list[ChatEvent]]:
        assert self._stream is not None
        watch = StopWatch(self._stop, ("all",))
        watch.begin(Message("assistant", "", channel="final"))
        tokenizer = self._model.tokenizer
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        async for token in self._stream:
            group: list[ChatEvent] = [
                TokenEvent(token.id, token.logprob, token.top_logprobs, "final")
            ]
            if token.id in self._model.stop_ids:
                yield group
                break
            if text := watch.push(decoder.decode(token_bytes(tokenizer, token.id))):
                group.append(TextDelta(text, "final", None))
            yield group
            if watch.found is not None:
                self._stopped = True
                self._stream.cancel()
                return
        if text := watch.push(decoder.decode(b"", True)) + watch.end():
            yield [TextDelta(text, "final", None)]

    def cancel(self) -> None:
        if self._stream is not None:
            self._stream.cancel()

    def close(self) -> None:
        if self._session is not None:
            self._session.close()

    @property
    def finish_reason(self) -> str | None:
        if self._stopped or self._stream is None:
            return "stop" if self._stopped else None
        return self._stream.stats.finish_reason

    def cost(self) -> Cost:
        if self._stream is None:
            return Cost()
        stats = self._stream.stats
        return Cost(stats.cached_tokens, stats.prefilled_tokens, stats.generated_tokens)


async def whole_calls(
    groups: AsyncGenerator[list[ChatEvent], None],
) -> AsyncIterator[list[ChatEvent]]:
    """Hold back calls after a first one until they are whole: one that repeats another is none."""
    called, held = False, list[ChatEvent]()
    async with contextlib.aclosing(groups):
        async for group in groups:
            out: list[ChatEvent] = []
            for event in group:
                if isinstance(event, Anomaly) and event.kind == "repeated_call":
                    held = [one for one in held if isinstance(one, TokenEvent)]
                elif held and not isinstance(event, ToolCall):
                    held.append(event)
                elif called and isinstance(event, MessageStart):
                    held = [event]
                else:
                    out += [*held, event]
                    held, called = [], called or isinstance(event, ToolCall)
            if out:
                yield out
        if held:
            yield held  # what was cut off


def chat_sources(model: Model, settings: Settings, wanted: Wanted, n: int) -> list[ChatSource]:
    """Return n answers to the same; a seed is the first one's, the others count on from it."""
    sampling = wanted.options["sampling"]
    out = []
    for number in range(n):
        if number and sampling.seed is not None:
            mine = dataclasses.replace(sampling, seed=(sampling.seed + number) % 2**64)
            wanted = dataclasses.replace(wanted, options=wanted.options | {"sampling": mine})
        out.append(ChatSource(model, settings, wanted))
    return out


def _left(until: float) -> float:
    return max(0.001, until - time.perf_counter())  # seconds; none at all would be no limit


async def opened(source: Source, workers: Executor, until: float) -> None:
    """Open on another thread; where that is cancelled, what was made can still be closed."""
    opening = asyncio.get_running_loop().run_in_executor(workers, source.open, until)
    try:
        await asyncio.shield(opening)
    except asyncio.CancelledError:
        await asyncio.wait({opening})
        raise
