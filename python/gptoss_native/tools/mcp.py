"""MCP servers as tools, over stdio and HTTP.

The client lives in an event loop of its own, in a thread, so that a conversation without a loop can
call tools, and one with a loop is not held up by what a server does.
"""

import asyncio
import concurrent.futures
import contextlib
import os
import re
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import IO, Any

from .._core import Error, InvalidArgument
from ..harmony import ToolDescription, ToolNamespace
from ..json_fields import shown
from .arguments import parse_arguments
from .mcp_content import text_of
from .tool import ToolError

_MAX_PAGES = 100  # of a list of tools, which a server could go on with for ever
_GRACE_S = 10
_NO_WORD = re.compile(r"[^A-Za-z0-9_]+")
# In 3.10 those of asyncio and concurrent.futures are not yet the built-in one.
_TIMEOUTS = (TimeoutError, asyncio.TimeoutError, concurrent.futures.TimeoutError)


def _mcp() -> Any:
    """Import mcp; an Error that names the extra where it is absent."""
    try:
        import mcp
    except ImportError as error:
        raise Error(
            "MCP servers need the package mcp: pip install 'gptoss-native[tools]'"
        ) from error
    return mcp


class McpTools:
    """The tools of one MCP server, while its `with` or `async with` block is open.

    `McpTools.stdio(...)` starts a server, `McpTools.http(...)` connects to one; entering raises
    Error where that fails, or takes longer than start_timeout_s. `namespace` is what the model is
    told, under `name` or the server's own. A call that takes longer than timeout_s and one that a
    dead server would have to answer are ToolErrors; a server that ended stays so.
    """

    namespace: ToolNamespace

    def __init__(
        self,
        connect: "Callable[[AsyncExitStack], Awaitable[Any]]",
        what: str,
        name: str | None,
        timeout_s: float,
        start_timeout_s: float,
    ) -> None:
        for key, value in (("timeout_s", timeout_s), ("start_timeout_s", start_timeout_s)):
            if type(value) not in (int, float) or not 0 < value < threading.TIMEOUT_MAX:
                raise InvalidArgument(f"{key} is {shown(value)}, wanted seconds above 0")
        self._connect = connect
        self._what = what
        self._name = name
        self._timeout_s = timeout_s
        self._start_timeout_s = start_timeout_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._end: asyncio.Event | None = None
        self._running = threading.Event()
        self._client: Any = None

    @classmethod
    def stdio(
        cls,
        command: str,
        args: Sequence[str] = (),
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stderr: IO[str] | None = None,
        name: str | None = None,
        timeout_s: float = 60.0,
        start_timeout_s: float = 30.0,
    ) -> "McpTools":
        """Return the tools of a server that is started, and ended with the block.

        env: added to the few variables that mcp passes on. stderr: an open file, of the system's,
        for what the server writes there; None: nowhere. Raises Error without the extra `tools`.
        """
        mcp = _mcp()
        server = mcp.StdioServerParameters(
            command=command, args=list(args), env=dict(env or {}), cwd=cwd
        )

        async def connect(stack: AsyncExitStack) -> Any:
            log = stack.enter_context(_log(stderr))
            return await stack.enter_async_context(mcp.Client(mcp.stdio_client(server, errlog=log)))

        return cls(connect, command, name, timeout_s, start_timeout_s)

    @classmethod
    def http(
        cls,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        name: str | None = None,
        timeout_s: float = 60.0,
        start_timeout_s: float = 30.0,
    ) -> "McpTools":
        """Return the tools of a server at a URL (Streamable HTTP).

        headers: sent with each request, as Authorization. Raises Error without the extra `tools`.
        """
        mcp = _mcp()
        import httpx2
        from mcp.client.streamable_http import streamable_http_client

        async def connect(stack: AsyncExitStack) -> Any:
            limits = httpx2.Timeout(start_timeout_s, read=None)  # calls have their own
            web = httpx2.AsyncClient(headers=dict(headers or {}), timeout=limits)
            web = await stack.enter_async_context(web)
            transport = streamable_http_client(url, http_client=web)
            return await stack.enter_async_context(mcp.Client(transport))

        return cls(connect, url, name, timeout_s, start_timeout_s)

    def open(self) -> "McpTools":
        """Connect and read which tools there are; as entering a `with` block."""
        ready = self._start()
        try:
            ready.result()
        except BaseException:  # an interrupt, too, must not leave a server behind
            self.close()
            raise
        return self

    def close(self) -> None:
        """End the connection, and a server that was started; a second time does nothing."""
        if self._thread is None:
            return
        self._running.wait()
        with contextlib.suppress(RuntimeError):  # ended by itself, as a start that failed
            self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        self._thread = None
        self._running.clear()

    def __enter__(self) -> "McpTools":
        return self.open()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> "McpTools":
        ready = self._start()
        try:
            await asyncio.wrap_future(ready)
        except BaseException:
            await asyncio.to_thread(self.close)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)

    def call(self, name: str, arguments: str) -> str | Awaitable[str]:
        """Answer by the server's tool; in an event loop's thread return an awaitable.

        Raises ToolError for arguments that are no JSON object, a tool's error, and a server that
        hangs or has ended.
        """
        values = parse_arguments(arguments)
        if self._client is None:
            raise ToolError(f"the MCP server {self._what} is not connected")
        answer = self._submit(self._answer(name, values))
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return self._wait(answer, name)
        return asyncio.wrap_future(answer)

    def _wait(self, answer: "concurrent.futures.Future[str]", name: str) -> str:
        try:
            # Longer than the call's own limit: only for a loop that ended before it began.
            return answer.result(self._timeout_s + _GRACE_S)
        except _TIMEOUTS as error:
            raise ToolError(f"{name} did not answer: its server was disconnected") from error
        finally:
            answer.cancel()  # after an interrupt; of a call that has ended nothing

    def _submit(self, work: Coroutine[Any, Any, str]) -> "concurrent.futures.Future[str]":
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError as error:  # closed in between
            work.close()
            raise ToolError(f"the MCP server {self._what} is not connected") from error

    async def _answer(self, name: str, values: dict[str, Any]) -> str:
        try:
            result = await asyncio.wait_for(self._client.call_tool(name, values), self._timeout_s)
        except _TIMEOUTS as error:
            raise ToolError(f"{name} did not answer within {self._timeout_s:g} s") from error
        except asyncio.CancelledError as error:
            if self._client is not None:
                raise
            raise ToolError(f"the MCP server {self._what} was disconnected") from error
        except Exception as error:  # mcp, httpx2, pydantic and anyio have no common one
            raise ToolError(f"{name} failed: {_said(error)}") from error
        text = text_of(result)
        if result.is_error:
            raise ToolError(text or f"{name} failed without a reason")
        return text or "[it answered nothing]"

    def _start(self) -> "concurrent.futures.Future[None]":
        if self._thread is not None:
            raise InvalidArgument(f"the tools of {self._what} are open already")
        ready: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._live(ready)), name="gptoss-mcp", daemon=True
        )
        self._thread.start()
        return ready

    async def _live(self, ready: "concurrent.futures.Future[None]") -> None:
        """Hold the connection, which must be left by the task that made it."""
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self._running.set()
        try:
            async with AsyncExitStack() as stack:
                client = await self._connected(stack)
                self._client = client
                _settle(ready, None)
                await self._end.wait()
                self._client = None
        except Exception as error:
            # After the start, what a dead connection leaves to say; the calls have said it.
            _settle(ready, error if isinstance(error, Error) else self._failure(error))
        finally:
            self._client = None
            _settle(ready, Error(f"the MCP server {self._what} ended at once"))

    async def _connected(self, stack: AsyncExitStack) -> Any:
        """Connect and read the list of tools; TimeoutError where that takes too long.

        What is connected belongs to this task, so that the task itself is what a timer cancels.
        """
        task = asyncio.current_task()
        late = False

        def give_up() -> None:
            nonlocal late
            late = True
            task.cancel()

        timer = self._loop.call_later(self._start_timeout_s, give_up)
        try:
            client = await self._connect(stack)
            self.namespace = await self._described(client)
        except asyncio.CancelledError as error:
            if not late:  # by the connection's own tasks, which say why when they are left
                raise
            if hasattr(task, "uncancel"):  # from 3.11 on; else what is left would cancel itself
                task.uncancel()
            raise TimeoutError(f"no answer within {self._start_timeout_s:g} s") from error
        finally:
            timer.cancel()
        return client

    def _failure(self, error: Exception) -> Error:
        failure = Error(f"the MCP server {self._what} cannot be used: {_said(error)}")
        failure.__cause__ = error
        return failure

    async def _described(self, client: Any) -> ToolNamespace:
        tools = []
        page = await client.list_tools()
        for _ in range(_MAX_PAGES):
            tools += page.tools
            if page.next_cursor is None:
                break
            page = await client.list_tools(cursor=page.next_cursor)
        name = self._name
        if name is None:
            info = client.server_info
            name = _NO_WORD.sub("_", info.name if info else "").strip("_") or "mcp"
        described = (
            ToolDescription(tool.name, tool.description or "", tool.input_schema) for tool in tools
        )
        return ToolNamespace(name, client.instructions, tuple(described))


@contextlib.contextmanager
def _log(stderr: IO[str] | None) -> Iterator[IO[str]]:
    """Give the file for a server's messages; one of the caller's stays open."""
    if stderr is not None:
        yield stderr
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        yield nowhere


def _settle(ready: "concurrent.futures.Future[None]", error: Exception | None) -> None:
    # Cancelled by an `async with` that was itself cancelled.
    if not ready.done() and ready.set_running_or_notify_cancel():
        if error is None:
            ready.set_result(None)
        else:
            ready.set_exception(error)


def _said(error: BaseException) -> str:
    """Return an error's text; of a group, which task groups raise, those of its members."""
    if members := getattr(error, "exceptions", ()):
        return "; ".join(map(_said, members))
    return str(error) or type(error).__name__
