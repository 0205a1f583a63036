"""What a turn waits for: asked for once, answered by a thread or by an event loop."""

import functools
from collections.abc import Generator, Sequence
from typing import Any

from ..stream import Stream, Token
from ..tools.run import Job, run_calls, run_calls_async
from .events import ChatEvent


class Request:
    """Something that takes time."""

    def now(self) -> Any:
        """Do it on this thread."""
        raise NotImplementedError

    async def soon(self) -> Any:
        """Do it while the event loop goes on."""
        raise NotImplementedError


class NextToken(Request):
    """The next token of a stream; None at its end."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def now(self) -> Token | None:
        return next(self._stream, None)

    async def soon(self) -> Token | None:
        return await self._stream.upcoming()


class RunCalls(Request):
    """The outcomes of calls; options are those of `run_calls`."""

    def __init__(self, jobs: Sequence[Job], **options: Any) -> None:
        self._now = functools.partial(run_calls, jobs, **options)
        self._soon = functools.partial(run_calls_async, jobs, **options)

    def now(self) -> Any:
        return self._now()

    async def soon(self) -> Any:
        return await self._soon()


# Yields events to whoever listens, and requests, whose results are sent back.
Steps = Generator[ChatEvent | Request, Any, Any]
