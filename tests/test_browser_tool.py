"""The browser tool's functions, over a folder and over a corpus of one's own."""

import json
import re

import gptoss_native as gn
import pytest
from gptoss_native.harmony import BROWSER
from gptoss_native.tools.browser import BrowserTool
from gptoss_native.tools.files_backend import FilesBackend
from gptoss_native.tools.http_backend import HttpBackend
from gptoss_native.tools.pages import (
    Page,
    SearchResult,
    link_mark,
)
from gptoss_native.tools.tool import ToolError

LONG = "\n".join(f"line number {n}" for n in range(500))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "sinks.md").write_text(
        "# Sinks\nA sink takes what attention\nleaves over. See [the rings](../rings.html#top).\n"
        "[Elsewhere](https://example.com/x) ![no link](a.png)\n"
    )
    (tmp_path / "rings.html").write_text(
        "<title>The Rings</title><p>Windowed layers own a <b>ring</b>; see "
        "<a href='notes/sinks.md'>the sinks</a> or <a href='long.txt'>a long text</a>."
    )
    (tmp_path / "long.txt").write_text(LONG)
    (tmp_path / "other.bin").write_text("sink ring")
    return tmp_path


@pytest.fixture
def tool(folder):
    return BrowserTool(FilesBackend(folder))


def ask(tool, function, **arguments):
    return tool.call(function, json.dumps(arguments))


def refusal(tool, function, **arguments):
    with pytest.raises(ToolError) as raised:
        ask(tool, function, **arguments)
    return str(raised.value)


def test_the_model_is_told_of_the_published_functions(tool, folder):
    assert tool.namespace.name == BROWSER.name
    assert tool.namespace.tools == BROWSER.tools
    assert tool.namespace.description.endswith("sources=files (default: files)")
    web = BrowserTool(HttpBackend())
    assert [function.name for function in web.namespace.tools] == ["open", "find"]
    assert web.namespace.description == BROWSER.description
    assert "it has open, find" in refusal(web, "search", query="x")
    found = BrowserTool(HttpBackend(search=lambda query, topn: [SearchResult("http://a/", query)]))
    assert found.namespace == BROWSER
    assert "* 【0†what†a】" in ask(found, "search", query="what")


def test_search_open_and_find_by_cursors_and_links(tool):
    results = ask(tool, "search", query="ring windowed")
    assert results.split("\n") == [
        "[0] Search results for `ring windowed`",
        "**viewing lines [0 - 0] of 0**",
        "",
        "L0: * 【0†The Rings】 Windowed layers own a ring; see the sinks or a long text.",
    ]
    page = ask(tool, "open", id=0)
    assert page.startswith("[1] The Rings (file:///rings.html)\n**viewing lines [0 - 0] of 0**\n\n")
    assert page.endswith("ring; see 【0†the sinks】 or 【1†a long\ntext】.".replace("\n", " "))
    sinks = ask(tool, "open", id=0, cursor=1)
    assert sinks.startswith("[2] notes/sinks.md (file:///notes/sinks.md)\n")
    assert "See 【0†the rings】." in sinks
    assert "【1†Elsewhere†example.com】 ![no link](a.png)" in sinks
    assert ask(tool, "open", id=0).startswith("[3] The Rings")
    assert ask(tool, "open", cursor=2).startswith("[4] notes/sinks.md")
    found = ask(tool, "find", pattern="ATTENTION leaves")  # over a line's end
    assert found.startswith("[5] Find results for `ATTENTION leaves` in `notes/sinks.md` (file:")
    assert "L0: 【0†match at L1】\nL1: A sink takes what attention\nL2: leaves over." in found
    assert ask(tool, "find", pattern="absent", cursor=1).endswith("L0: There is no match.")


def test_a_link_of_a_match_opens_the_page_there(tool):
    ask(tool, "open", id="file:///long.txt")
    found = ask(tool, "find", pattern="number 300")
    assert "match at L300" in found
    assert "**viewing lines [296 - " in ask(tool, "open", id=0)
    found = ask(tool, "search", query="499")
    assert "**viewing lines [495 - 499] of 499**" in ask(tool, "open", id=0)


def test_a_page_is_scrolled_by_lines(tool):
    shown = ask(tool, "open", id="file:///long.txt")
    end = int(re.search(r"viewing lines \[0 - (\d+)\] of 499", shown)[1])
    assert 100 < end < 499
    assert shown.endswith(f"L{end}: line number {end}")
    part = ask(tool, "open", loc=end + 1, num_lines=3)
    assert part.count("line number") == 3
    assert f"L{end + 1}: line number {end + 1}" in part
    assert ask(tool, "open", loc=499.0).endswith("L499: line number 499")
    assert ask(tool, "open", num_lines=10**9).count("line number") < 1000
    small = BrowserTool(tool._backend, view_chars=1, max_view_chars=1)
    assert ask(small, "open", id="file:///long.txt", num_lines=50).endswith("L0: line number 0")


def test_wrong_numbers_are_told(tool):
    assert refusal(tool, "open") == "no page is open yet"
    assert refusal(tool, "find", pattern="x") == "no page is open yet"
    ask(tool, "open", id="file:///long.txt")
    assert "last line is 499" in refusal(tool, "open", loc=500)
    assert "numbered from 0" in refusal(tool, "open", loc=-2)
    assert "has no link 5; it has no links" in refusal(tool, "open", id=5)
    assert "has no link -3" in refusal(tool, "open", id="-3")
    for cursor in (1, -2, 10**30):
        assert "there are 0 to 0" in refusal(tool, "open", cursor=cursor)
    for wrong in (1.5, True, [], {}, "first"):
        assert "must be an integer" in refusal(tool, "open", loc=wrong)
        assert "must be an integer" in refusal(tool, "open", cursor=wrong)
    assert "has no link" in refusal(tool, "open", id=7.0)
    assert "must be an integer" in refusal(tool, "open", id=[])
    assert ask(tool, "open", id=None, cursor=None, loc=None).startswith("[1] long.txt")


def test_wrong_arguments_are_told(tool):
    for text in (
        "{",
        "[]",
        "3",
        '"x"',
        "[" * 100_000,
        '{"loc": ' + "9" * 5000 + "}",
        "\ud800",
        '{"loc": NaN}',
    ):
        with pytest.raises(ToolError, match="arguments"):
            tool.call("open", text)
    assert "it has" in refusal(tool, "close")
    assert "it has" in refusal(tool, "")
    for query in ("", "  ", None, 3):
        assert "`query` must be a text" in refusal(tool, "search", query=query)
    for topn in (0, -5):
        assert "it must be 1 or more" in refusal(tool, "search", query="x", topn=topn)
    assert "must be an integer" in refusal(tool, "search", query="x", topn="all")
    assert "【0†" in ask(tool, "search", query="sinks ring", topn=10**12, unknown=1)
    assert ask(tool, "search", query="§").endswith("L0: There are no results.")
    with pytest.raises(gn.InvalidArgument, match="view_chars is 0"):
        BrowserTool(tool._backend, view_chars=0)


def test_old_views_are_given_up(tool):
    for _ in range(201):
        ask(tool, "open", id="file:///rings.html")
    assert "there are 1 to 200" in refusal(tool, "open", cursor=0)


def test_the_source_is_shown_on_request(tool):
    shown = ask(tool, "open", id="file:///rings.html", view_source=True)
    assert "(view-source:file:///rings.html)" in shown
    assert "href='notes/sinks.md'>the sinks</a>" in shown
    assert "no other source" in refusal(tool, "open", id="file:///long.txt", view_source=True)


def test_nothing_outside_the_folder_is_read(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "secret.txt"
    outside.write_text("secret")
    (folder / "link.txt").symlink_to(outside)
    (folder / "loop.txt").symlink_to(folder / "loop.txt")
    (folder / "large.txt").write_text("secret " * 1000)
    backend = FilesBackend(folder, max_file_bytes=5000)
    names = {file.name for file in backend.skipped}
    assert {"link.txt", "loop.txt", "large.txt"} <= names
    tool = BrowserTool(backend)
    assert ask(tool, "search", query="secret").endswith("There are no results.")
    for url in (str(outside), f"file://{outside}", "file:///../secret.txt", "file:///link.txt"):
        assert "there is no" in refusal(tool, "open", id=url)
    for url in ("https://example.com/", "other.bin", "file:///%", "\0", "file:///" + "a/" * 5000):
        assert "there is no" in refusal(tool, "open", id=url)
    (folder / "rings.html").unlink()
    (folder / "rings.html").symlink_to(outside)
    assert "there is no" in refusal(tool, "open", id="file:///rings.html")
    with pytest.raises(gn.InvalidArgument, match="is no folder"):
        FilesBackend(outside)


def test_files_of_any_name_and_bytes_are_pages(folder):
    names = ["a b%20c.txt", "q?x#y.txt", "日本.txt", "new\nline.txt", "a:b.txt"]
    for name in names:
        (folder / name).write_bytes(b"needle \xff\xfe\0 text")
    tool = BrowserTool(FilesBackend(folder))
    shown = ask(tool, "search", query="needle")
    for number, _ in enumerate(names):
        assert "needle" in ask(tool, "open", id=number, cursor=0).split("\n", 3)[3]
    assert shown.count("\nL") == len(names)


def test_documents_are_ranked(tmp_path):
    for name, text in {
        "often": "ring ring ring of words",
        "once": "one ring of words",
        "long": "ring " + "of words " * 500,
        "rare": "sink of words",
        "none": "words",
    }.items():
        (tmp_path / f"{name}.txt").write_text(text)
    results = FilesBackend(tmp_path).search("RING", 10)
    assert [result.title for result in results] == ["often.txt", "once.txt", "long.txt"]
    results = FilesBackend(tmp_path).search("ring sink", 1)
    assert [result.title for result in results] == ["rare.txt"]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert FilesBackend(empty).search("ring", 10) == []


def test_a_corpus_can_be_plugged_in():
    class Corpus:
        source = "corpus"

        def search(self, query, topn):
            return [
                SearchResult(f"doc:{n}", f"Document {n} 【1†x】", query) for n in range(topn + 5)
            ]

        def fetch(self, url):
            return Page(url, url, f"text of {url}\n{link_mark(0, 'next')}", ("doc:next",))

    tool = BrowserTool(Corpus())
    shown = ask(tool, "search", query="q", topn=2)
    assert shown.count("【") == 2
    assert "L0: text of doc:1" in ask(tool, "open", id="1")
    assert "L0: text of doc:next" in ask(tool, "open", id=0)
