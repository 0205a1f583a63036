"""HTML and a real web server that mean harm, and what the browser tool makes of them."""

import http.server
import json
import re
import threading
import time

import gptoss_native as gn
import pytest
from gptoss_native.tools.browser import BrowserTool
from gptoss_native.tools.html_text import html_page
from gptoss_native.tools.http_backend import HttpBackend, _is_public
from gptoss_native.tools.pages import WIDTH, link_mark, plain, without_links, wrapped
from gptoss_native.tools.tool import ToolError
from hypothesis import given
from hypothesis import strategies as st


def ask(tool, function, **arguments):
    return tool.call(function, json.dumps(arguments))


def test_html_is_laid_out():
    page = html_page(
        "http://h/d/p",
        "<!DOCTYPE html><head><title> A &amp;\n B </title><style>p{}</style></head><body>"
        "<h2>Head<script>x = '<p>'</script></h2>one\n two<b>three</b><br>four<!-- <p> -->"
        "<ul><li>1<li><a href='../q?a=1&amp;b=2#f'>  in   <i>side</i> </a>next</ul>"
        "<table><tr><td>a<td>b</table><pre>x  y\n  <a href=//o.org/>z</a></pre>"
        "<a href='javascript:x'>script</a> <a href='#here'>anchor</a> <a>bare</a>"
        "<a href=z><img alt='picture' title='a>b'></a>5 < 6 &lt;&#x41;&bogus; 【1†x】",
    )
    assert page.title == "A & B"
    assert page.text.split("\n") == [
        "## Head",
        "",
        "one twothree",
        "four",
        "",
        "* 1",
        "* 【0†in side】 next",
        "",
        "| a | b",
        "",
        "x  y",
        "  【1†z†o.org】",
        "",
        "script anchor bare 【2†picture】 5 < 6 <A&bogus; 〖1‡x〗",
    ]
    assert page.links == ("http://h/q?a=1&b=2", "http://o.org/", "http://h/d/z")


ENDLESS = ["<a ", "<a b='", '<a b="', "<a = ", "<a b=\"'", "<a>", "<a href=x>y", "<li>", "<pre>"]
ENDLESS += [
    "<!--",
    "<!--x>",
    "<![CDATA[",
    "<script>",
    "<title>",
    "<svg",
    "</",
    "<",
    "&",
    "&#",
    "【1",
]


@pytest.mark.parametrize("part", ENDLESS)
def test_html_that_never_ends_is_read_once(part):
    page = html_page("http://h/", "<p>begin</p>" + part * 200_000)
    assert page.text.startswith("begin")
    assert wrapped(page.text)


def test_a_link_that_is_never_closed_keeps_the_text():
    words = "word " * 1000
    page = html_page("http://h/", f"<a href=x>{words}<p>{words}")
    assert page.links == ("http://h/x",)
    assert without_links(page.text).split() == ["word"] * 2000


@given(st.text() | st.lists(st.sampled_from("<>!-/='\"a b&;#\n")).map("".join))
def test_any_html_is_a_page(text):
    page = html_page("http://h/", text)
    assert "【" not in without_links(page.text)
    assert len(re.findall("【", page.text)) == len(page.links)


@given(st.text(alphabet="ab 【】†\n\t", max_size=400))
def test_wrapping_loses_nothing(text):
    assert "".join(wrapped(text)) == text
    assert "【" not in plain(text)


def test_lines_are_short_and_links_whole():
    mark = link_mark(3, "long " * 30, "example.com")
    lines = wrapped("word " * 50 + mark + "x" * 1000 + " " * 5000 + "end")
    assert sum(mark in line for line in lines) == 1
    assert all(len(line) <= 2 * WIDTH for line in lines if mark not in line)


class Site(http.server.BaseHTTPRequestHandler):
    """Answers each path in another bad way."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, body, content_type="text/html", status=200, **headers):
        self.send_response(status)
        if content_type:
            self.send_header("Content-Type", content_type)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if body is not None:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body or b"")

    def do_GET(self):
        try:
            getattr(self, self.path.strip("/").partition("?")[0].replace("-", "_"))()
        except OSError:
            self.close_connection = True

    def page(self):
        words = f"<title>T</title>agent {self.headers['User-Agent']} <a href='plain'>more</a>"
        self.answer(words.encode())

    def plain(self):
        self.answer("café".encode("latin-1"), "text/plain; charset=latin-1")

    def bad_charset(self):
        self.answer("café".encode(), "text/plain; charset=punycode")

    def meta_charset(self):
        self.answer(b'<meta charset="windows-1251"><p>' + "мир".encode("cp1251"))

    def image(self):
        self.answer(b"x", "image/png")

    def packed(self):
        self.answer(b"x", Content_Encoding="gzip")

    def missing(self):
        self.answer(b"x", status=404)

    def loop(self):
        self.answer(b"", status=302, Location="/loop")

    def hop(self):
        self.answer(b"", status=301, Location="page?x=ä b")

    def to_file(self):
        self.answer(b"", status=302, Location="file:///etc/passwd")

    def to_nonsense(self):
        self.answer(b"", status=302, Location="http://[")

    def endless(self):
        self.answer(None, Connection="close")
        while True:
            self.wfile.write(b"<p>more " * 1000)

    def slow(self):
        self.answer(None, Connection="close")
        while True:
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.01)

    def slow_headers(self):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        while True:
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.01)

    def silent(self):
        while self.rfile.read(1):
            pass

    def rubbish(self):
        self.wfile.write(b"\0\xff rubbish\n" * 10)
        self.close_connection = True

    def empty(self):
        self.answer(b"", None)


@pytest.fixture(scope="module")
def site():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def web():
    return HttpBackend(allow_private=True, max_bytes=100_000, timeout_s=60)


def test_pages_of_the_web_are_read(site, web):
    tool = BrowserTool(web)
    shown = ask(tool, "open", id=f"{site}/page")
    assert shown.startswith(f"[0] T ({site}/page)\n")
    assert shown.endswith("L0: agent gptoss-native 【0†more】")
    assert ask(tool, "open", id=0).endswith("L0: café")
    assert web.fetch(f"{site}/bad-charset").text == "café"
    assert web.fetch(f"{site}/meta-charset").text == "мир"
    assert web.fetch(f"{site}/empty").text == ""
    assert web.fetch(f" {site}/hop ").url == f"{site}/page?x=%C3%A4%20b"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("image", "it is image/png"),
        ("packed", "compressed"),
        ("missing", "answered 404"),
        ("loop", "more than 5 redirects"),
        ("to-file", "only http and https"),
        ("to-nonsense", "no URL"),
        ("rubbish", "cannot be fetched"),
    ],
)
def test_what_is_no_page_is_told(site, web, path, why):
    with pytest.raises(ToolError, match=why):
        web.fetch(f"{site}/{path}")


def test_a_page_without_end_is_cut(site, web):
    page = web.fetch(f"{site}/endless")
    assert page.text.endswith("[cut here: the page is longer than 100000 bytes]")


@pytest.mark.parametrize("path", ["slow", "slow-headers", "silent"])
def test_a_page_that_takes_too_long_is_given_up(site, path):
    backend = HttpBackend(allow_private=True, timeout_s=1)
    with pytest.raises(ToolError, match="it took longer than 1 s"):
        backend.fetch(f"{site}/{path}")


def test_private_addresses_are_refused(site):
    backend = HttpBackend()
    port = site.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433"):
        with pytest.raises(ToolError, match=r"not public|cannot be fetched"):
            backend.fetch(f"http://{host}:{port}/page")
    private = ["10.0.0.1", "169.254.169.254", "192.168.1.1", "100.64.0.1", "224.0.0.1", "::1"]
    private += ["fe80::1%eth0", "fd00::1", "64:ff9b::7f00:1", "2002:7f00:1::", "::ffff:10.0.0.1"]
    assert not any(map(_is_public, [*private, "::", "::7f00:1", "ff02::1", "240.0.0.1"]))
    assert all(map(_is_public, ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"]))


NO_URLS = ["file:///etc/passwd", "ftp://h/", "javascript:1", "//h/", "h", "http://", "http://["]
NO_URLS += ["http:a", "http://h:99999/", "http://u:p@h/", "http://\ud800/", "http://a..b/"]


@pytest.mark.parametrize("url", [*NO_URLS, "http://" + "a" * 5000])
def test_what_is_no_url_of_the_web_is_told(url):
    with pytest.raises(ToolError, match=r"cannot be opened"):
        HttpBackend().fetch(url)


def test_headers_cannot_be_added_by_a_url(site, web):
    page = web.fetch(f"{site}/page?x\r\nUser-Agent: other")
    assert "gptoss-native" in page.text


@pytest.mark.parametrize(
    ("name", "value"), [("timeout_s", 0), ("max_bytes", -1), ("max_redirects", "5")]
)
def test_wrong_limits_are_refused(name, value):
    with pytest.raises(gn.InvalidArgument, match=f"{name} is "):
        HttpBackend(**{name: value})
