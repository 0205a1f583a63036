"""HTML to text with numbered links, in one pass and linear time.

Not by html.parser: on the Pythons supported it takes a time quadratic in what is left unclosed
(minutes for 60 kB of "<a "). As in the HTML standard, what is not closed ends with the document.
"""

import re
import textwrap
from html import unescape
from urllib.parse import urldefrag, urljoin, urlsplit

from .pages import MAX_LINK_TEXT, Page, domain_of, link_mark, plain

_TAG = re.compile(r"<(?:!--|([a-zA-Z][^\s/>]{0,30})|/([a-zA-Z][^\s/>]{0,30})|[!?/])")
_TAG_STOP = re.compile(r""">|=\s*(["'])""")
_ATTRIBUTE = re.compile(r"""([^\s=>"'/]{1,40})\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s>"']+))""")
# Their content is no text to read.
_SKIPPED = frozenset(("script", "style", "noscript", "template", "svg", "iframe", "object"))
_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
_APART = frozenset((*_HEADINGS, "p", "pre", "ul", "ol", "table"))
_SECTIONS = ("address", "article", "aside", "body", "footer", "header", "main", "nav", "section")
_PARTS = ("blockquote", "dd", "div", "dl", "dt", "figcaption", "figure", "hr", "li", "tr")
_BLOCKS = frozenset((*_APART, *_SECTIONS, *_PARTS, "details", "fieldset", "form", "summary"))
_MAX_HREF = 2_000
_MAX_ATTRIBUTES = 20_000  # characters of a tag that are looked at
_MAX_LINK = 2_000  # characters inside a link that may never be closed


class _Text:
    """Text as it is laid out: white space collapsed, blocks on lines of their own."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._breaks = 2  # line breaks at the end so far
        self._space = False

    def words(self, text: str) -> None:
        words = text.split()
        if not words:
            self._space = self._space or bool(text)
            return
        if not self._breaks and (self._space or text[0].isspace()):
            self._parts.append(" ")
        self._parts.append(" ".join(words))
        self._breaks, self._space = 0, text[-1].isspace()

    def as_it_is(self, text: str) -> None:
        if text:
            self._parts.append(text)
            self._breaks = len(text) - len(text.rstrip("\n"))

    def line(self, breaks: int = 1) -> None:
        missing = max(0, breaks - self._breaks)
        self._parts.append("\n" * missing)
        self._breaks += missing
        self._space = False

    def text(self) -> str:
        return "".join(self._parts).strip("\n")


class _Document:
    """Takes a document's tags and texts in order."""

    def __init__(self, url: str) -> None:
        self._base = url
        self._domain = domain_of(url)
        self._href: str | None = None
        self._link_words: list[str] = []
        self._link_chars = 0
        self._preformatted = 0
        self.title = ""
        self.links: list[str] = []
        self.out = _Text()

    def data(self, text: str) -> None:
        text = plain(unescape(text))
        if self._href is not None:
            self._link_words.append(text)
            self._link_chars += len(text)
            if self._link_chars > _MAX_LINK:
                self._end_link()
        elif self._preformatted:
            self.out.as_it_is(text.expandtabs().replace("\r", ""))
        else:
            self.out.words(text)

    def start(self, name: str, attributes: str) -> None:
        if name == "a":
            self._end_link()
            self._href = self._target(attributes)
        elif name == "img":
            if words := _attribute(attributes, "alt").strip():
                self.data(f" {words} ")
        elif self._href is not None:
            if name in _BLOCKS or name == "br":
                self.data(" ")
        elif name == "br":
            self.out.line()
        elif name in ("td", "th"):
            self.data(" | ")
        elif name in _BLOCKS:
            self._begin_block(name)

    def _begin_block(self, name: str) -> None:
        self.out.line(2 if name in _APART else 1)
        self._preformatted += name == "pre"
        if name == "li":
            self.data("* ")
        elif name in _HEADINGS:
            self.data("#" * int(name[1]) + " ")

    def end(self, name: str) -> None:
        if name == "a":
            self._end_link()
        elif name in _BLOCKS and self._href is not None:
            self.data(" ")
        elif name in _BLOCKS:
            self.out.line(2 if name in _APART else 1)
        if name == "pre" and self._preformatted:
            self._preformatted -= 1

    def finish(self) -> None:
        self._end_link()

    def _target(self, attributes: str) -> str | None:
        href = _attribute(attributes, "href").strip()
        if not href or href[0] == "#" or len(href) > _MAX_HREF:
            return None
        try:
            target = urldefrag(urljoin(self._base, href)).url
            return target if urlsplit(target).scheme in ("http", "https", "file") else None
        except ValueError:
            return None

    def _end_link(self) -> None:
        if self._href is None:
            return
        target, words = self._href, "".join(self._link_words)
        self._href, self._link_words, self._link_chars = None, [], 0
        if not words.strip():
            return
        domain = domain_of(target)
        before, after = " " * words[0].isspace(), " " * words[-1].isspace()
        # What does not fit into the mark is text after it.
        shown, *more = textwrap.wrap(words, MAX_LINK_TEXT, break_on_hyphens=False)
        mark = link_mark(len(self.links), shown, "" if domain == self._domain else domain)
        self.links.append(target)
        self.out.words(f"{before}{' '.join((mark, *more))}{after}")


def _attribute(attributes: str, wanted: str) -> str:
    for found in _ATTRIBUTE.finditer(attributes):
        if found[1].lower() == wanted:
            return unescape(found[2] or found[3] or found[4] or "")
    return ""


def _tag_end(html: str, start: int) -> int:
    """Return where a tag's ">" is, len(html) if it has none; a quoted one is none."""
    at = start
    while (found := _TAG_STOP.search(html, at)) is not None:
        if found[1] is None:
            return found.start()
        closing = html.find(found[1], found.end())
        if closing < 0:
            break
        at = closing + 1
    return len(html)


def _closing_tag(html: str, name: str, start: int) -> int:
    """Return where </name begins, len(html) if nowhere."""
    found = re.compile(f"</{name}(?![a-z])", re.IGNORECASE).search(html, start)
    return found.start() if found else len(html)


def html_page(url: str, html: str) -> Page:
    """Return an HTML document as a page; links that are not http, https or file are text."""
    document = _Document(url)
    at = 0
    while (tag := _TAG.search(html, at)) is not None:
        document.data(html[at : tag.start()])
        if tag[0] == "<!--":
            end = html.find("-->", tag.end() - 2)
            at = len(html) if end < 0 else end + 3
            continue
        end = _tag_end(html, tag.end())
        at = end + 1
        if end == len(html):
            break
        if tag[1]:
            at = _start(document, html, tag[1].lower(), tag.end(), end)
        elif tag[2]:
            document.end(tag[2].lower())
    document.data(html[at:])
    document.finish()
    return Page(url, document.title or url, document.out.text(), tuple(document.links), html)


def _start(document: _Document, html: str, name: str, begin: int, end: int) -> int:
    """Take a start tag, of some elements the whole; return where to go on."""
    at = end + 1
    if name == "title":
        closing = _closing_tag(html, name, at)
        words = unescape(html[at:closing]).split()
        document.title = document.title or plain(" ".join(words))[:200]
        return closing
    if name in _SKIPPED:
        return _closing_tag(html, name, at)
    document.start(name, html[begin : min(end, begin + _MAX_ATTRIBUTES)])
    return at
