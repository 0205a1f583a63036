"""The chat page: files of the package, and nothing from elsewhere."""

from collections.abc import Awaitable, Callable
from importlib import resources

from fastapi import APIRouter, FastAPI
from starlette.responses import Response

FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/client.js": ("client.js", "text/javascript"),
    "/text.js": ("text.js", "text/javascript"),
    "/calculator.js": ("calculator.js", "text/javascript"),
}
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "cache-control": "no-cache",
    "referrer-policy": "no-referrer",
}


def add_page(app: FastAPI) -> None:
    """Serve the page's files, which are read once."""
    router = APIRouter(include_in_schema=False)
    folder = resources.files("gptoss_native.server") / "page"
    for path, (name, kind) in FILES.items():
        content, headers = (folder / name).read_bytes(), _HEADERS | {"content-type": kind}
        router.add_api_route(path, _serving(content, headers), response_class=Response)
    app.include_router(router)


def _serving(content: bytes, headers: dict[str, str]) -> Callable[[], Awaitable[Response]]:
    async def serve() -> Response:
        return Response(content, headers=headers)

    return serve
