"""What a browser shows and where it gets it from: pages, links in them, and the backend's face."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

WIDTH = 80  # of a line of a page, the unit of locations and citations
_LINK = re.compile(r"【\d+†([^】†]*)[^】]*】")
_PIECE = re.compile(r"【[^】]*】|[^\s【]+|\s+|【")
_BRACKETS = str.maketrans("【】†", "〖〗‡")
MAX_LINK_TEXT = 100


@dataclass(frozen=True)
class Page:
    """A text to read.

    text: its links stand as `link_mark(n, ...)`, everything else has gone through `plain()`.
    links: where link n leads, as `Backend.fetch` takes it. source: the text before conversion,
    where there was one.
    """

    url: str
    title: str
    text: str
    links: tuple[str, ...] = ()
    source: str | None = None


@dataclass(frozen=True)
class SearchResult:
    """One answer of a search; line: of the page, where its most relevant passage is."""

    url: str
    title: str
    snippet: str = ""
    line: int = 0


class Backend(Protocol):
    """Where pages come from: a website, a folder, a retrieval corpus.

    source: its name as the model is told it, one word. search: None where there is no search, and
    then the model is not told of one. Both methods may be called from several threads; they raise
    ToolError with a text for the model.
    """

    source: str
    search: Callable[[str, int], Sequence[SearchResult]] | None  # (query, topn), best first

    def fetch(self, url: str) -> Page:
        """Return the page at a URL: one of a result, of a link, or one the model thought of."""
        ...


def plain(text: str) -> str:
    """Return text in which nothing reads as a link or a citation."""
    return text.translate(_BRACKETS)


def link_mark(number: int, text: str, domain: str = "") -> str:
    """Return link `number` of a page as it stands in the page's text."""
    words = " ".join(plain(text).split())
    if len(words) > MAX_LINK_TEXT:
        words = f"{words[: MAX_LINK_TEXT - 1]}…"
    return f"【{number}†{words}{f'†{plain(domain)}' if domain else ''}】"


def without_links(text: str) -> str:
    """Return text with the words of its links alone."""
    return _LINK.sub(r"\1", text)


def domain_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _pieces(line: str) -> Iterator[str]:
    for piece in _PIECE.findall(line):
        if piece[0] == "【" or len(piece) <= WIDTH:
            yield piece
        else:
            yield from (piece[at : at + WIDTH] for at in range(0, len(piece), WIDTH))


def wrapped(text: str) -> list[str]:
    """Return a text's lines, broken between words where they are too long, never inside a link.

    They keep the white space at their ends: joined they are the text again.
    """
    out = []
    for line in text.splitlines(keepends=True):
        row: list[str] = []
        length = 0
        for piece in _pieces(line):
            fits = length + len(piece) <= WIDTH or (piece.isspace() and length <= WIDTH)
            if row and not fits:
                out.append("".join(row))
                row, length = [], 0
            row.append(piece)
            length += len(piece)
        out.append("".join(row))
    return out or [""]
