"""What every request passes: its id, its key, its size, its line in the log, its last resort."""

import asyncio
import hashlib
import hmac
import re
import time
import uuid
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..json_fields import shown
from .errors import ApiError, as_api_error
from .log import log_request, logger
from .metrics import Metrics
from .pages import FILES
from .responding import JsonAnswer
from .settings import Settings

# Nothing of a conversation is there, and who watches a server or opens its page has no key yet.
_OPEN = ("/health", "/ready", *FILES)
_PORT = re.compile(r":\d*$")
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.A)


class Keys:
    """The keys that are accepted; comparing takes the same time whatever is given."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._digests = [_digest(key) for key in keys]

    def owner(self, authorization: str | None) -> str | None:
        """Return whose key it is, "" where none is wanted; None for a wrong one, or none."""
        if not self._digests:
            return ""
        scheme, _, key = (authorization or "").partition(" ")
        given, found = _digest(key.strip()), None
        for digest in self._digests:
            if hmac.compare_digest(given, digest) and scheme.lower() == "bearer":
                found = digest.hex()
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class Gateway:
    """ASGI middleware around all endpoints."""

    def __init__(self, app: ASGIApp, *, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._keys = Keys(settings.api_keys)
        self._hosts = {name.lower() for name in settings.allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        visit = _Visit(scope, request_id, send)
        try:
            self._admit(scope, headers)
            body = _Body(receive, self._settings)
            await self._app(scope, body.receive, visit.send)
        except asyncio.CancelledError:
            visit.note(cancelled=True)
            raise
        except Exception as error:
            await visit.answer(error, self._settings)
        finally:
            self._log(visit)
            visit.let_go()

    def _admit(self, scope: Scope, headers: Headers) -> None:
        host = headers.get("host", "").lower().rsplit("@", 1)[-1]
        name = host if host.endswith("]") else _PORT.sub("", host)
        if self._hosts and name not in self._hosts:
            what = f"the host is {shown(name)}, wanted one that this server is called by"
            raise ApiError(403, what, code="host_not_allowed")
        owner = self._keys.owner(headers.get("authorization"))
        # Browsers ask what they may ask before they send a key.
        free = scope["path"] in _OPEN or scope["method"] == "OPTIONS"
        if owner is None and not free:
            wanted = "wanted the header Authorization: Bearer KEY with one of this server's keys"
            challenge = {"www-authenticate": "Bearer"}
            raise ApiError(401, wanted, code="invalid_api_key", headers=challenge)
        scope["state"]["owner"] = owner or ""
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit():
            raise ApiError(400, "content-length is no number")
        if len(length) > 15 or int(length) > self._settings.max_body_bytes:
            raise _too_large(self._settings)
        # Other types may be sent by any page that a browser shows, without asking here first.
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if (int(length) or "transfer-encoding" in headers) and kind != "application/json":
            wanted = "wanted application/json"
            raise ApiError(415, f"the body's content-type is {shown(kind)}, {wanted}")

    def _log(self, visit: "_Visit") -> None:
        route = visit.scope.get("route")
        # Paths that do not exist would be labels without end.
        path = getattr(route, "path", "other")
        self._metrics.requests.labels(path, str(visit.status)).inc()
        fields = visit.fields()
        if fields.get("gone"):
            self._metrics.cancelled.inc()
        log_request(fields)


class _Visit:
    """One request on its way: what is sent back, and what is logged of it."""

    def __init__(self, scope: Scope, request_id: str, send: Send) -> None:
        self.scope = scope
        self.status = 0  # of nothing sent
        self._send = send
        self._id = request_id
        self._begun = time.perf_counter()
        self._notes: dict[str, Any] = {}
        state = scope.setdefault("state", {})
        state["request_id"], state["note"], state["begun"] = request_id, self.note, self._begun

    def let_go(self) -> None:
        """Be nobody's any more: what a request held goes at once, not with the next collection."""
        del self.scope["state"]["note"]

    def note(self, **fields: Any) -> None:
        """Add to the request's line in the log."""
        self._notes |= fields

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self._id
            headers["x-content-type-options"] = "nosniff"
        await self._send(message)

    async def answer(self, error: Exception, settings: Settings) -> None:
        told = as_api_error(error, retry_after_s=settings.retry_after_s)
        if told.status_code >= 500:
            fields = {"request_id": self._id}
            logger.error("failure", exc_info=error, extra={"fields": fields})
        if self.status == 0:
            await JsonAnswer.of(told)(self.scope, _nothing, self.send)

    def fields(self) -> dict[str, Any]:
        client = self.scope.get("client")
        took = time.perf_counter() - self._begun
        return {
            "request_id": self._id,
            "client": client[0] if client else None,
            "method": self.scope["method"],
            "path": self.scope["path"][:200],
            "status": self.status,
            "ms": round(1000 * took, 1),
            **self._notes,
        }


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


def _too_large(settings: Settings) -> ApiError:
    most = settings.max_body_bytes
    return ApiError(413, f"the body is too large, wanted at most {most} bytes", code="too_large")


class _Body:
    """A request's body as it arrives: within its size, and its time."""

    def __init__(self, receive: Receive, settings: Settings) -> None:
        self._receive = receive
        self._settings = settings
        self._bytes = 0
        self._whole = False
        self._until = time.monotonic() + settings.body_timeout_s

    async def receive(self) -> Message:
        if self._whole:
            return await self._receive()
        left = max(0.0, self._until - time.monotonic())
        try:
            message = await asyncio.wait_for(self._receive(), left)
        except asyncio.TimeoutError:
            within = f"{self._settings.body_timeout_s:g} seconds"
            raise ApiError(408, f"the body did not arrive within {within}") from None
        if message["type"] != "http.request":
            self._whole = True
            return message
        self._bytes += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._bytes > self._settings.max_body_bytes:
            raise _too_large(self._settings)
        return message
