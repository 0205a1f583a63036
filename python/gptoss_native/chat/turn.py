"""A turn as something to iterate: `for`, `async for`, or just its reply."""

import threading
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import Any

from .._core import InvalidArgument
from .events import ChatEvent
from .play import Play
from .reply import Reply
from .requests import Request


class Turn:
    """What the model says to what was sent, as events; `for`, `async for`, or the reply alone.

    Work happens while the next event is waited for. Leaving a loop over it ends the turn, as
    `cancel` and `close` do: what was written so far stays in the history, the last message closed
    where it was cut; a call that was cut is dropped. A turn that is ended, however it is, before
    the model wrote anything that is kept leaves the chat as it was before. `next(turn)` and
    `await anext(turn)` give one event, and the turn goes on with the next of them.

    `turn.reply` and `await turn` read what is left and return the Reply. An exception, of the
    engine or an interrupt, is raised where events are asked for; the reply then has the rest.
    """

    def __init__(self, play: Play) -> None:
        self._play = play
        self._steps: Generator[ChatEvent | Request, Any, None] = play.steps()
        self._asked: Request | None = None  # by `groups`, and not answered yet
        self._reading = threading.Lock()

    def _step(self, answer: Any, error: BaseException | None) -> ChatEvent | Request | None:
        """Go on to the next event or request; None where the turn ends."""
        try:
            return self._steps.send(answer) if error is None else self._steps.throw(error)
        except StopIteration:
            return None

    def _go_on(self) -> ChatEvent | Request | None:
        asked, self._asked = self._asked, None
        return self._step(None, None) if asked is None else asked

    def _enter(self) -> None:
        if not self._reading.acquire(blocking=False):
            what = "this turn is being read elsewhere"
            raise InvalidArgument(f"{what}; wanted one reader at a time: cancel() ends it")

    def __next__(self) -> ChatEvent:
        self._enter()
        try:
            step = self._go_on()
            while isinstance(step, Request):
                try:
                    answer, error = step.now(), None
                except BaseException as raised:
                    answer, error = None, raised
                step = self._step(answer, error)
        finally:
            self._reading.release()
        if step is None:
            raise StopIteration
        return step

    async def __anext__(self) -> ChatEvent:
        self._enter()
        try:
            step = self._go_on()
            while isinstance(step, Request):
                try:
                    answer, error = await step.soon(), None
                except BaseException as raised:
                    answer, error = None, raised
                step = self._step(answer, error)
        finally:
            self._reading.release()
        if step is None:
            raise StopAsyncIteration
        return step

    def __iter__(self) -> Iterator[ChatEvent]:
        try:
            while (event := next(self, None)) is not None:
                yield event
        finally:
            self.close()

    async def __aiter__(self) -> AsyncIterator[ChatEvent]:
        try:
            while True:
                try:
                    event = await self.__anext__()
                except StopAsyncIteration:
                    return
                yield event
        finally:
            self.close()

    async def groups(self) -> AsyncGenerator[list[ChatEvent], None]:
        """Yield what `async for` yields, in lists of what is known at a time, as of one token.

        For who reads many turns: a list takes an event loop as long as an event does.
        """
        try:
            step: ChatEvent | Request | None = None
            while True:
                self._enter()
                group, failure = list[ChatEvent](), None
                try:
                    step = self._go_on()
                    while step is not None:
                        if not isinstance(step, Request):
                            group.append(step)
                            step = self._step(None, None)
                            continue
                        if group:
                            self._asked = step
                            break
                        try:
                            answer, error = await step.soon(), None
                        except BaseException as raised:
                            answer, error = None, raised
                        step = self._step(answer, error)
                except BaseException as raised:
                    if not group:
                        raise
                    failure = raised
                finally:
                    self._reading.release()
                if group:
                    yield group
                if failure is not None:
                    raise failure
                if step is None:
                    return
        finally:
            self.close()

    @property
    def reply(self) -> Reply:
        """The reply, once the turn has been read to its end, which this does."""
        while next(self, None) is not None:
            pass
        return self._play.reply()

    async def _drained(self) -> Reply:
        async for _ in self:
            pass
        return self._play.reply()

    def __await__(self) -> Generator[Any, None, Reply]:
        return self._drained().__await__()

    def cancel(self) -> None:
        """End the turn before its next step, from any thread; its reader finds the end."""
        self._play.cancel()

    def close(self) -> None:
        """End the turn now, if nobody reads it at this moment; else as `cancel`."""
        self.cancel()
        if self._reading.acquire(blocking=False):
            try:
                self._steps.close()
            finally:
                self._reading.release()

    def plays(self, play: Play) -> bool:
        return self._play is play

    @property
    def is_read(self) -> bool:
        """Whether somebody waits for an event of it right now."""
        return self._reading.locked()
