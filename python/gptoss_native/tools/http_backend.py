"""Pages of the web by plain HTTP, for a browser whose user is a model.

A page is what one of its links or a stranger's text made the model ask for, so that everything is
bounded, and addresses of the own network are refused where the connection is made: a name that
resolves to another address the second time changes nothing.
"""

import codecs
import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from .._core import InvalidArgument
from ..json_fields import shown
from .html_text import html_page
from .pages import Page, SearchResult, plain
from .tool import ToolError

_HTML = ("text/html", "application/xhtml+xml")
_TYPES = (*_HTML, "text/plain")
_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_URL = 4_000
_CHUNK = 1 << 16
# Decoders that take linear time; "punycode" is one that does not.
_CHARSETS = re.compile(r"utf|ascii|iso8859|cp\d|koi8|gb|big5|euc|shift|iso2022|mac|tis|latin")
_META_CHARSET = re.compile(rb"""<meta[^>]{1,200}?charset=["']?([\w-]{1,40})""", re.IGNORECASE)
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")  # IPv6 that leads to the IPv4 in its last bits
_FAILURES = (OSError, http.client.HTTPException, ValueError)  # an SSL socket shut down: ValueError


@dataclass(frozen=True)
class _Reply:
    """What one request brought: a redirect's target, or a body."""

    location: str | None
    headers: Message
    body: bytes
    cut: bool


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _TRANSLATED:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(str(inner))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


class HttpBackend:
    """Fetches text/html and text/plain pages by http and https, without cookies or proxies.

    search: a function (query, topn) that returns SearchResults, as over a search engine's API;
    None: the model is told of open and find alone.
    allow_private: let the model reach addresses that are not public: this machine, its network.
    timeout_s: for a page with its redirects (a name's look-up keeps the system's own limit).
    max_bytes: read of a page; what is longer is cut, and says so.

    Raises InvalidArgument for limits that are no positive numbers.
    """

    source = "web"

    def __init__(
        self,
        *,
        search: Callable[[str, int], Sequence[SearchResult]] | None = None,
        allow_private: bool = False,
        timeout_s: float = 20.0,
        max_bytes: int = 2 << 20,
        max_redirects: int = 5,
        user_agent: str = "gptoss-native",
    ) -> None:
        limits = {"timeout_s": timeout_s, "max_bytes": max_bytes, "max_redirects": max_redirects}
        for name, value in limits.items():
            if type(value) not in (int, float) or not 0 <= value < 2**62 or value == 0:
                raise InvalidArgument(f"{name} is {shown(value)}, wanted a number above 0")
        self.search = search
        self._allow_private = allow_private
        self._timeout_s = timeout_s
        self._max_bytes = int(max_bytes)
        self._max_redirects = int(max_redirects)
        self._headers = {
            "User-Agent": user_agent,
            "Accept": ", ".join(_TYPES),
            "Accept-Encoding": "identity",  # nothing is unpacked, so no bomb is
            "Connection": "close",
        }

    def fetch(self, url: str) -> Page:
        """Return the page at an http or https URL; raises ToolError."""
        deadline = time.monotonic() + self._timeout_s
        for _ in range(self._max_redirects + 1):
            parts = _checked_url(url)
            try:
                reply = self._get(parts, deadline)
                if time.monotonic() >= deadline:  # shut down, which reads like a body's end
                    raise TimeoutError
            except _FAILURES as error:
                late = time.monotonic() >= deadline
                why = f"it took longer than {self._timeout_s:g} s" if late else str(error)
                raise ToolError(f"{shown(url)} cannot be fetched: {why}") from error
            if reply.location is None:
                return self._page(parts.geturl(), reply)
            url = _joined(parts.geturl(), reply.location)
        raise ToolError(f"more than {self._max_redirects} redirects, the last to {shown(url)}")

    def _connect(self, host: str, port: int, deadline: float) -> socket.socket:
        error: Exception = OSError(f"{host} has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        ):
            if not self._allow_private and not _is_public(address[0]):
                error = OSError(f"{host} is at {address[0]}, which is not public")
                continue
            link = socket.socket(family, kind, protocol)
            try:
                link.settimeout(max(0.001, deadline - time.monotonic()))
                link.connect(address)
                return link
            except OSError as failure:
                link.close()
                error = failure
        raise error

    def _get(self, parts: SplitResult, deadline: float) -> _Reply:
        host = parts.hostname or ""
        is_tls = parts.scheme == "https"
        port = parts.port or (443 if is_tls else 80)
        with _ended_by(self._connect(host, port, deadline), deadline) as link:
            if is_tls:
                link = ssl.create_default_context().wrap_socket(link, server_hostname=host)
            connection = http.client.HTTPConnection(host, port)
            connection.default_port = 443 if is_tls else 80
            connection.sock = link
            try:
                target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                connection.request("GET", target, headers=self._headers)
                with connection.getresponse() as response:
                    return self._reply(response)
            finally:
                connection.close()

    def _reply(self, response: http.client.HTTPResponse) -> _Reply:
        location = response.headers.get("Location")
        if response.status in _REDIRECTS and location:
            return _Reply(location, response.headers, b"", False)
        if not 200 <= response.status < 300:
            raise OSError(f"the server answered {response.status} {response.reason}")
        kind = response.headers.get_content_type()
        if kind not in _TYPES:
            raise OSError(f"it is {kind}; only {', '.join(_TYPES)} can be shown")
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise OSError("it is compressed, which was not asked for")
        body = bytearray()
        while len(body) <= self._max_bytes and (data := response.read1(_CHUNK)):
            body += data
        cut = len(body) > self._max_bytes
        return _Reply(None, response.headers, bytes(body[: self._max_bytes]), cut)

    def _page(self, url: str, reply: _Reply) -> Page:
        text = _decoded(reply)
        if reply.cut:
            text += f"\n[cut here: the page is longer than {self._max_bytes} bytes]"
        if reply.headers.get_content_type() in _HTML:
            return html_page(url, text)
        return Page(url, url, plain(text))


@contextmanager
def _ended_by(link: socket.socket, deadline: float) -> Iterator[socket.socket]:
    """Shut a connection down at a time, whatever its peer does byte by byte until then."""
    watched = link.dup()  # stays when TLS takes the socket over

    def shut() -> None:
        try:
            watched.shutdown(socket.SHUT_RDWR)
        except OSError:  # closed by the peer already
            return

    timer = threading.Timer(max(0.0, deadline - time.monotonic()), shut)
    timer.daemon = True
    timer.start()
    try:
        yield link
    finally:
        timer.cancel()
        timer.join()
        watched.close()
        link.close()


def _checked_url(url: str) -> SplitResult:
    """Return a URL's parts in ASCII; ToolError unless it is one of http or https with a host."""
    try:
        if len(url) > _MAX_URL:
            raise ValueError(f"it is longer than {_MAX_URL} characters")
        parts = urlsplit(url.strip())
        if parts.scheme not in ("http", "https"):
            raise ValueError("only http and https can be opened")
        if not parts.hostname or parts.username is not None:
            raise ValueError("it needs a host, and no user")
        host = parts.hostname
        host = f"[{host}]" if ":" in host else host.encode("idna").decode("ascii")
        if parts.port is not None:
            host = f"{host}:{parts.port}"
        path, query = (quote(part, safe="/%:=&?~+!$,;'@()*[]") for part in parts[2:4])
    except (ValueError, UnicodeError) as error:
        raise ToolError(f"{shown(url)} cannot be opened: {error}") from error
    return SplitResult(parts.scheme, host, path, query, "")


def _joined(base: str, location: str) -> str:
    try:
        return urljoin(base, location)
    except ValueError as error:
        raise ToolError(f"{shown(base)} leads to {shown(location)}, which is no URL") from error


def _decoded(reply: _Reply) -> str:
    name = reply.headers.get_content_charset()
    if name is None and (found := _META_CHARSET.search(reply.body[:2048])):
        name = found[1].decode("ascii", "replace")
    try:
        charset = codecs.lookup(name or "utf-8").name
    except (LookupError, ValueError):
        charset = "utf-8"
    if not _CHARSETS.match(charset):
        charset = "utf-8"
    return reply.body.decode(charset, "replace")
