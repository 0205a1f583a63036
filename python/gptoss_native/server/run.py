"""The server's process: uvicorn, and an end in good order."""

import asyncio
import ctypes
import errno
import gc
import signal
import socket
import sys
from types import FrameType

import uvicorn
from fastapi import FastAPI

from .engine import Engine
from .log import logger

_SWITCH_S = 0.001
_COLLECT_AFTER = (5000, 2, 2)  # objects; collections of younger ones, and of those
_M_ARENA_MAX, _HEAPS = -8, 2
# What is left for the last events to reach their clients.
_GRACE_S = 2.0


class _Server(uvicorn.Server):
    """Ends answers that are not whole within the limit, each with an error that says so."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self._engine = engine
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        for server in self.servers:
            for one in server.sockets:
                host, port = one.getsockname()[:2]
                where = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
                logger.info("listening", extra={"fields": {"url": where}})

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._leave, signal.Signals(sig).name)

    def _leave(self, why: str) -> None:
        engine = self._engine
        if engine.leaving:
            return
        engine.leaving = True
        fields = {"signal": why, "answers": len(engine.open)}
        logger.info("shutting down", extra={"fields": fields})
        asyncio.get_running_loop().call_later(engine.settings.shutdown_s, engine.stop)


def favour_event_loop() -> None:
    """Let an event loop be less late and take less, in a process that only serves."""
    # A heap for each thread that reads a stream would keep what was freed in it.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _HEAPS)
    # It shares the interpreter with the threads that prepare answers.
    sys.setswitchinterval(_SWITCH_S)
    # To look through all that was imported takes the collector 50 ms and more, each time. What
    # requests leave behind goes by itself, but for little, which is not to gather.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)


def serve(app: FastAPI, *, host: str = "127.0.0.1", port: int = 8000, **options: object) -> None:
    """Serve until SIGINT or SIGTERM, then let answers end within `Settings.shutdown_s`.

    options: those of `uvicorn.Config`. Raises OSError where the address cannot be had.
    """
    engine: Engine = app.state.engine
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(engine.settings.shutdown_s + _GRACE_S + 1),
        timeout_keep_alive=75,
        **options,  # type: ignore[arg-type]
    )
    # uvicorn would end the process where it cannot bind.
    elsewhere = config.uds is not None or config.fd is not None
    _Server(config, engine).run(None if elsewhere else bound(host, port))


def bound(host: str, port: int) -> list[socket.socket]:
    """Return a socket for each address of a host, at one port. Raises OSError."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    out: list[socket.socket] = []
    try:
        for family, kind, number, _, address in dict.fromkeys(found):
            if out and port == 0:  # the first one's is free: others take the same
                address = (address[0], out[0].getsockname()[1], *address[2:])
            if one := _bound(family, kind, number, address, needed=len(found) == 1):
                out.append(one)
        if not out:
            what = f"no address of {host} can be had"
            raise OSError(errno.EADDRNOTAVAIL, what)
    except BaseException:
        for one in out:
            one.close()
        raise
    return out


def _bound(
    family: int, kind: int, number: int, address: tuple, *, needed: bool
) -> socket.socket | None:
    """Return a socket; None for an address that this machine has not, unless it is needed."""
    absent = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
    try:
        one = socket.socket(family, kind, number)
    except OSError as error:
        if not needed and error.errno in absent:
            return None
        raise
    try:
        if sys.platform != "win32":  # there it would let two servers have one port
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # 0.0.0.0 has a socket of its own
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
    except OSError as error:
        one.close()
        if not needed and error.errno in absent:
            return None
        raise
    return one
