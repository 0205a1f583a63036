"""Answers as they go over the wire: one JSON document, or a stream of events."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .errors import ApiError

Result = TypeVar("Result")

_EVENTS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # proxies would hold events back
]


class ClientGone(ApiError):
    """Nobody waits for the answer any more."""

    def __init__(self) -> None:
        super().__init__(499, "the client has gone")


def encoded(value: Any) -> bytes:
    """Return JSON, with lone surrogates of what a client sent as escapes."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


class JsonAnswer(Response):
    """One JSON document."""

    media_type = "application/json"

    @classmethod
    def of(cls, error: ApiError) -> "JsonAnswer":
        return cls(error.body(), error.status_code, error.headers)

    def render(self, content: Any) -> bytes:
        return encoded(content)


async def unless_gone(request: Request, work: Awaitable[Result]) -> Result:
    """Return what the work gives; where the client goes first, cancel it and raise ClientGone."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        pending = [one for one in (task, gone) if not one.done()]
        for one in pending:
            one.cancel()
        # Their cancellation ends here; one of this task itself goes on.
        await asyncio.gather(*pending, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events. `chunks` yields whole events; `close` is awaited however they end."""

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        *,
        write_timeout_s: float,
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self.status_code = 200
        self.raw_headers = list(_EVENTS)
        self.background = None
        self._chunks = chunks
        self._close = close
        self._write_timeout_s = write_timeout_s
        self._writing_since: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writing = asyncio.create_task(self._write(send))
        gone = asyncio.create_task(_gone(receive))
        stuck = asyncio.create_task(self._stuck())
        try:
            await asyncio.wait({writing, gone, stuck}, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                await writing
            else:
                scope["state"]["note"](gone=True)
        finally:
            for task in (writing, gone, stuck):
                task.cancel()
            await asyncio.gather(writing, gone, stuck, return_exceptions=True)
            await self._close()

    async def _write(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async for chunk in self._chunks:
            self._writing_since = time.monotonic()
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            self._writing_since = None
        await send({"type": "http.response.body", "body": b""})

    async def _stuck(self) -> None:
        """Return where a client has not taken what was sent for too long."""
        limit = self._write_timeout_s
        while True:
            await asyncio.sleep(min(limit / 4, 1.0))
            since = self._writing_since
            if since is not None and time.monotonic() - since > limit:
                return
