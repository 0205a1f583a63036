"""A folder of text, Markdown and HTML files as a browser's backend, with a ranked search.

BM25 over words: a document's score for a word grows with how often it is there, less and less,
weighs more the fewer documents have it, and is divided by the document's length.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes, urljoin

from .._core import InvalidArgument
from ..json_fields import shown
from .html_text import html_page
from .pages import Page, SearchResult, domain_of, link_mark, plain, without_links, wrapped
from .tool import ToolError

_ENDINGS = (".txt", ".md", ".html", ".htm")
_WORD = re.compile(r"\w+")
_MARKDOWN_LINK = re.compile(r"(?<!!)\[([^\[\]\n]{1,200})\]\(([^()\s]{1,2000})\)")
_SATURATION, _LENGTH_WEIGHT = 1.5, 0.75  # BM25's k1 and b, as they are usually taken
_SNIPPET_LINES = 3


def _url(path: bytes) -> str:
    return "file:///" + quote(path)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


class FilesBackend:
    """Serves the .txt, .md and .html files under a folder, by URLs as file:///notes/a.md.

    The folder is indexed once; files are read again when they are opened. Those larger than
    max_file_bytes, and links that lead out of the folder, are left out: `skipped` has them.
    Raises InvalidArgument where the folder is none.
    """

    source = "files"

    def __init__(self, folder: str | os.PathLike[str], *, max_file_bytes: int = 4 << 20) -> None:
        self._folder = Path(folder).resolve()
        if not self._folder.is_dir():
            raise InvalidArgument(f"{folder} is no folder")
        self._max_bytes = max_file_bytes
        self._files: dict[str, Path] = {}
        self.skipped: list[Path] = []
        self._counts: dict[str, dict[str, int]] = {}  # of a word in each document
        self._lengths: dict[str, int] = {}
        for file in self._listed():
            self._add(file)

    def _listed(self) -> Iterator[Path]:
        for folder, folders, names in os.walk(self._folder):
            folders.sort()
            for name in sorted(names):
                if name.lower().endswith(_ENDINGS):
                    yield Path(folder, name)

    def _add(self, file: Path) -> None:
        url = _url(os.fsencode(file.relative_to(self._folder)))
        self._files[url] = file
        try:
            page = self.fetch(url)
        except ToolError:
            del self._files[url]
            self.skipped.append(file)
            return
        words = _words(f"{page.title} {without_links(page.text)}")
        self._lengths[url] = len(words)
        for word, count in Counter(words).items():
            self._counts.setdefault(word, {})[url] = count

    def fetch(self, url: str) -> Page:
        """Return a file as a page; ToolError for what is not in the folder."""
        file = self._files.get(_url(unquote_to_bytes(url.removeprefix("file:///"))))
        if file is None or not file.is_file() or not self._is_inside(file):
            raise ToolError(f"there is no {shown(url)} here; open what a search or a page links to")
        try:
            with open(file, "rb") as stream:
                data = stream.read(self._max_bytes + 1)
        except OSError as error:
            raise ToolError(f"{url} cannot be read: {error.strerror}") from error
        if len(data) > self._max_bytes:
            raise ToolError(f"{url} is larger than {self._max_bytes} bytes")
        text = data.decode("utf-8-sig", "replace")
        if file.suffix.lower() in (".html", ".htm"):
            return html_page(url, text)
        name = plain(os.fsencode(file.relative_to(self._folder)).decode("utf-8", "replace"))
        if file.suffix.lower() == ".md":
            return _markdown_page(url, name, text)
        return Page(url, name, plain(text))

    def _is_inside(self, file: Path) -> bool:
        # Looked at again at each reading: a link may lead elsewhere by then.
        return file.resolve().is_relative_to(self._folder)

    def search(self, query: str, topn: int) -> list[SearchResult]:
        """Return the documents that fit a query best, each with its best passage."""
        words = set(_words(query))
        scores = self._scores(words)
        best = sorted(scores, key=lambda url: (-scores[url], url))
        results: list[SearchResult] = []
        for url in best:
            if len(results) == topn:
                break
            try:
                page = self.fetch(url)
            except ToolError:  # gone since it was indexed
                continue
            line, snippet = _passage(page, words)
            results.append(SearchResult(url, page.title, snippet, line))
        return results

    def _scores(self, words: Iterable[str]) -> dict[str, float]:
        documents = len(self._lengths)
        mean = sum(self._lengths.values()) / max(1, documents) or 1.0
        scores: dict[str, float] = {}
        for word in words:
            having = self._counts.get(word, {})
            weight = math.log1p((documents - len(having) + 0.5) / (len(having) + 0.5))
            for url, count in having.items():
                relative = 1 - _LENGTH_WEIGHT + _LENGTH_WEIGHT * self._lengths[url] / mean
                gain = count * (_SATURATION + 1) / (count + _SATURATION * relative)
                scores[url] = scores.get(url, 0.0) + weight * gain
        return scores


def _passage(page: Page, words: set[str]) -> tuple[int, str]:
    """Return where the most different words of a query stand together, and the lines there."""
    lines = [without_links(line) for line in wrapped(page.text)]
    found = [words.intersection(_words(line)) for line in lines]
    near = range(len(lines))
    best = max(
        near, key=lambda n: (len(set().union(*found[n : n + _SNIPPET_LINES])), bool(found[n]))
    )
    return best, " ".join("".join(lines[best : best + _SNIPPET_LINES]).split())


def _markdown_page(url: str, title: str, text: str) -> Page:
    links: list[str] = []

    def mark(found: "re.Match[str]") -> str:
        try:
            target = urljoin(url, found[2]).partition("#")[0]
        except ValueError:
            return found[0]
        links.append(target)
        return link_mark(len(links) - 1, found[1], domain_of(target))

    marked = _MARKDOWN_LINK.sub(mark, plain(text))
    return Page(url, title, marked, tuple(links), text)
