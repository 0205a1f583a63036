"""The engine behind a port: OpenAI's HTTP interface, for the clients that are there already.

Needs the extra `server`. `create_app(model, settings)` is an ASGI application, `serve` runs it.
"""

from .._core import Error

try:
    from .app import create_app
    from .run import favour_event_loop, serve
    from .settings import Settings
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] not in ("fastapi", "uvicorn", "prometheus_client"):
        raise
    lacking = f"the server needs {error.name}: pip install 'gptoss-native[server]'"
    raise Error(lacking) from error

__all__ = ["Settings", "create_app", "favour_event_loop", "serve"]
