"""The server's process: uvicorn, and an end in good order."""

import asyncio
import signal
from types import FrameType

import uvicorn
from fastapi import FastAPI

from .engine import Engine
from .log import logger

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
            for socket in server.sockets:
                host, port = socket.getsockname()[:2]
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
    _Server(config, engine).run()
