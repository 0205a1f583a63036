"""The browser tool: search, open and find, over whatever backend has the pages.

Each display is a view with a number, its cursor, and lines that are numbered from 0; the model
refers to both when it scrolls, follows a link or cites.
"""

import bisect
import itertools
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .._core import InvalidArgument
from ..harmony import BROWSER, ToolNamespace
from ..json_fields import shown
from .arguments import parse_arguments
from .pages import Backend, Page, domain_of, link_mark, plain, without_links, wrapped
from .tool import ToolError

_MAX_RESULTS = 50  # of a search, and of a find
_MAX_VIEWS = 200  # kept; a conversation that needs older ones searches again
_FOUND_LINES = 4  # shown of each match
_LINES_BEFORE = 4  # a passage that a link leads to
_NUMBER = re.compile(r"-?\d{1,9}")  # an id that the model wrote as text; a URL is none
_SPACE = re.compile(r"\s+")
_DEFAULT_SOURCE = "sources=web (default: web)"


@dataclass(frozen=True)
class _View:
    """A page as it was laid out; line_of: where on its page a link's passage is."""

    page: Page
    lines: list[str]
    line_of: tuple[int, ...] = ()


def _view(page: Page, line_of: tuple[int, ...] = ()) -> _View:
    return _View(page, wrapped(page.text), line_of)


def _integer(values: dict[str, Any], name: str, default: int) -> int:
    value = values.get(name, default)
    if value is None:
        return default
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int:
        raise ToolError(f"`{name}` must be an integer, not {shown(value)}")
    return value


def _text(values: dict[str, Any], name: str) -> str:
    value = values.get(name)
    if type(value) is not str or not value.strip():
        raise ToolError(f"`{name}` must be a text that is not empty")
    return value


class BrowserTool:
    """Lets a model search and read pages; holds what one conversation has seen.

    backend: `FilesBackend`, `HttpBackend`, or anything with the methods of `Backend`.
    view_chars: about how much a display shows unless the model asks for lines by number;
    max_view_chars: the most that it shows then.

    Raises InvalidArgument for limits that are no positive integers.
    """

    def __init__(
        self, backend: Backend, *, view_chars: int = 4_000, max_view_chars: int = 20_000
    ) -> None:
        for name, value in (("view_chars", view_chars), ("max_view_chars", max_view_chars)):
            if type(value) is not int or value < 1:
                raise InvalidArgument(f"{name} is {shown(value)}, wanted an integer of 1 or more")
        self._backend = backend
        self._view_chars = view_chars
        self._max_view_chars = max_view_chars
        self._lock = threading.Lock()
        self._views: dict[int, _View] = {}
        self._next = 0
        self._functions: dict[str, Callable[[dict[str, Any]], str]] = {
            "open": self._open,
            "find": self._find,
        }
        if backend.search is not None:
            self._functions["search"] = self._search
        self.namespace = self._described()

    def _described(self) -> ToolNamespace:
        source = self._backend.source
        description = BROWSER.description.replace(
            _DEFAULT_SOURCE, f"sources={source} (default: {source})"
        )
        tools = tuple(tool for tool in BROWSER.tools if tool.name in self._functions)
        return ToolNamespace(BROWSER.name, description, tools)

    def call(self, name: str, arguments: str) -> str:
        """Answer search, open or find, whose arguments are a JSON object; raises ToolError."""
        if name not in self._functions:
            raise ToolError(
                f"browser has no function {shown(name)}; it has {', '.join(self._functions)}"
            )
        return self._functions[name](parse_arguments(arguments))

    def _search(self, values: dict[str, Any]) -> str:
        query = _text(values, "query")
        topn = _integer(values, "topn", 10)
        if topn < 1:
            raise ToolError(f"`topn` is {topn}; it must be 1 or more")
        topn = min(topn, _MAX_RESULTS)
        results = list(self._backend.search(query, topn))[:topn]
        rows = [
            f"* {link_mark(number, result.title or result.url, domain_of(result.url))} "
            f"{plain(' '.join(result.snippet.split()))}".rstrip()
            for number, result in enumerate(results)
        ]
        page = Page(
            url="",
            title=f"Search results for `{plain(query)}`",
            text="\n".join(rows) or "There are no results.",
            links=tuple(result.url for result in results),
        )
        return self._show(_view(page, tuple(result.line for result in results)), 0, -1)

    def _open(self, values: dict[str, Any]) -> str:
        loc = _integer(values, "loc", -1)
        num_lines = _integer(values, "num_lines", -1)
        if loc < -1:
            raise ToolError(f"`loc` is {loc}; lines are numbered from 0")
        url, passage = self._target(values)
        view = self._known(values) if url is None else _view(self._backend.fetch(url))
        if values.get("view_source") is True:
            source = view.page.source
            if source is None:
                raise ToolError("this page has no other source than its text")
            page = Page(f"view-source:{view.page.url}", view.page.title, plain(source))
            view, passage = _view(page), 0
        if loc == -1:
            # Past a page's end where it has changed since it was searched.
            loc = max(0, min(passage - _LINES_BEFORE, len(view.lines) - 1))
        return self._show(view, loc, num_lines)

    def _target(self, values: dict[str, Any]) -> tuple[str | None, int]:
        """Return the URL to open, None for a page that is open, and the line of its passage."""
        target = values.get("id", -1)
        if type(target) is str:
            if not _NUMBER.fullmatch(target.strip()):
                return _text(values, "id").strip(), 0
            target = int(target)
        number = _integer({"id": target}, "id", -1)
        if number == -1:
            return None, 0
        view = self._known(values)
        if not 0 <= number < len(view.page.links):
            count = len(view.page.links)
            there = f"its links are 0 to {count - 1}" if count else "it has no links"
            raise ToolError(f"the page has no link {number}; {there}")
        passage = view.line_of[number] if view.line_of else 0
        return view.page.links[number], passage

    def _find(self, values: dict[str, Any]) -> str:
        pattern = _text(values, "pattern")
        view = self._known(values)
        lines = [without_links(line) for line in view.lines]
        matches = _matches(lines, plain(pattern))
        rows = []
        for number, line in enumerate(matches):
            rows.append(link_mark(number, f"match at L{line}"))
            rows += [*map(str.rstrip, lines[line : line + _FOUND_LINES]), ""]
        title = f"Find results for `{plain(pattern)}` in `{view.page.title}`"
        text = "\n".join(rows).strip("\n") or "There is no match."
        page = Page(view.page.url, title, text, (view.page.url,) * len(matches))
        return self._show(_view(page, tuple(matches)), 0, -1)

    def _known(self, values: dict[str, Any]) -> _View:
        cursor = _integer(values, "cursor", -1)
        with self._lock:
            if not self._views:
                raise ToolError("no page is open yet")
            last = self._next - 1
            view = self._views.get(last if cursor == -1 else cursor)
            first = min(self._views)
        if view is None:
            raise ToolError(f"there is no cursor {cursor}; there are {first} to {last}")
        return view

    def _show(self, view: _View, loc: int, num_lines: int) -> str:
        if loc >= len(view.lines):
            raise ToolError(f"`loc` is {loc}, but the page's last line is {len(view.lines) - 1}")
        most_chars = self._view_chars if num_lines < 1 else self._max_view_chars
        end = len(view.lines) if num_lines < 1 else min(loc + num_lines, len(view.lines))
        rows: list[str] = []
        for number in range(loc, end):
            row = f"L{number}: {view.lines[number].rstrip()}"
            most_chars -= len(row) + 1
            if most_chars < 0 and rows:
                break
            rows.append(row)
        with self._lock:
            cursor = self._next
            self._next += 1
            self._views[cursor] = view
            self._views.pop(cursor - _MAX_VIEWS, None)
        where = f" ({view.page.url})" if view.page.url else ""
        seen = f"**viewing lines [{loc} - {loc + len(rows) - 1}] of {len(view.lines) - 1}**"
        title = " ".join(view.page.title.split())
        return "\n".join((f"[{cursor}] {title}{where}", seen, "", *rows))


def _matches(lines: list[str], pattern: str) -> list[int]:
    """Return the lines where a text begins, also one that goes over a line's end.

    Case does not count, nor how much white space there is, but an empty line does.
    """
    wanted = _SPACE.sub(" ", pattern.strip().lower())
    texts = [_SPACE.sub(" ", line.lower()) for line in lines]
    starts = list(itertools.accumulate(map(len, texts), initial=0))
    text = "".join(texts)
    found = []
    at = text.find(wanted)
    while at >= 0 and len(found) < _MAX_RESULTS:
        line = bisect.bisect_right(starts, at) - 1
        found.append(line)
        at = text.find(wanted, starts[min(line + _FOUND_LINES, len(lines))])
    return found
