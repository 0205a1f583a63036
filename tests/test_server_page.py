"""The chat page, in headless Chromium: streaming, reasoning, calls, stopping, errors."""

import json
import os
import re
import shutil

import pytest
from served import WEATHER, demo, serving

pytestmark = pytest.mark.browser
ANSWER = re.compile(r"17 \+ 25 = 42")


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is there, and CHROMIUM is not set")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def model():
    with demo() as made:
        yield made


@pytest.fixture(scope="module")
def served(model):
    with serving(model) as ready:
        yield ready


@pytest.fixture
def page(browser, served):
    opened = browser.new_page()
    opened.wrong, opened.asked = [], []
    opened.on("pageerror", lambda error: opened.wrong.append(str(error)))
    opened.on("console", lambda said: opened.wrong.append(said.text) if said.type == "error" else 0)
    opened.on("request", lambda request: opened.asked.append(request.url))
    opened.goto(served.url)
    opened.wait_for_function("document.getElementById('model').textContent === 'demo'")
    opened.locator("#settings-button").click()
    opened.locator("#temperature").fill("0")
    yield opened
    assert opened.wrong == []
    elsewhere = [url for url in opened.asked if not url.startswith((served.url, "data:"))]
    assert elsewhere == []
    opened.close()


def ask(page, text):
    page.locator("#text").fill(text)
    page.locator("#text").press("Enter")


def test_an_answer_streams_with_its_reasoning_folded_apart(page):
    ask(page, "What is 17 + 25?")
    answer = page.locator(".assistant .text")
    answer.get_by_text(ANSWER).wait_for()
    reasoning = page.locator(".reasoning")
    assert not reasoning.evaluate("node => node.open")
    reasoning.locator("summary").click()
    assert "42" in reasoning.locator("p").inner_text()
    assert "42" not in page.locator(".user").inner_text()
    page.get_by_text("tokens/s").wait_for()
    assert "of reasoning" in page.locator("#status").inner_text()
    # The conversation goes on, and a new one forgets it.
    ask(page, "What is 2 + 3?")
    page.locator(".assistant .text").get_by_text("2 + 3 = 5").wait_for()
    page.locator("#new").click()
    assert page.locator(".assistant").count() == 0
    assert page.locator("#empty").is_visible()


def test_the_effort_is_what_is_asked_for(page):
    sent = []
    page.on(
        "request", lambda request: sent.append(request.post_data_json) if request.post_data else 0
    )
    page.locator(".effort").get_by_text("high").click()
    ask(page, "What is 17 + 25?")
    page.locator(".assistant .text").get_by_text(ANSWER).wait_for()
    assert sent[0]["reasoning_effort"] == "high"


def test_the_pages_own_tool_is_run_and_shown(page):
    page.locator("#calculator").check()
    page.locator(".effort").get_by_text("low").click()
    ask(page, "What is 34*27?")
    page.locator(".call .result").get_by_text("918").wait_for()
    assert "34*27" in page.locator(".call pre").first.inner_text()
    page.locator(".assistant .text").get_by_text("918").wait_for()


def test_other_calls_are_answered_by_hand(page):
    tool = json.dumps([WEATHER])
    page.locator("#tools").fill(tool)
    ask(page, "What is the weather in Zurich?")
    page.locator(".call input").fill('{"temperature": 21, "condition": "sunny"}')
    page.locator(".call button").click()
    page.locator(".assistant .text").get_by_text("21").wait_for()
    page.locator("#tools").fill("{")
    ask(page, "Again?")
    page.locator(".error").wait_for()


def test_stop_ends_the_answer_on_the_server_too(page, served):
    # One that does not come to an end by itself: the page's request with its ends forbidden.
    tokenizer = served.app.state.engine.model.tokenizer
    ends = [tokenizer.special[f"<|{name}|>"] for name in ("return", "end", "call")]

    def endless(route):
        body = route.request.post_data_json | {"logit_bias": {str(token): -100 for token in ends}}
        route.continue_(post_data=body)

    page.route("**/v1/chat/completions", endless)
    ask(page, "What is 17 + 25?")
    page.locator(".reasoning").wait_for()
    page.locator("#stop").click()
    page.get_by_text("stopped").wait_for()
    assert page.locator("#send").is_visible()
    page.wait_for_timeout(500)
    assert not served.app.state.engine.open


def test_what_a_model_writes_is_no_html(page):
    page.evaluate(
        """async () => {
            const { show, element } = await import("./text.js");
            const node = document.body.appendChild(element("div"));
            node.id = "probe";
            show(node, "<img src=x onerror=alert(1)> **bold** `code`\\n```js\\n<b>\\n```\\nend");
        }"""
    )
    assert page.locator("#probe img, #probe b").count() == 0
    assert page.locator("#probe strong").inner_text() == "bold"
    assert page.locator("#probe pre").inner_text() == "<b>\n"


def test_a_wrong_key_is_told_and_can_be_given(browser, model):
    with serving(model, api_keys=("secret",)) as served:
        page = browser.new_page()
        page.goto(served.url)
        page.locator(".error").wait_for()
        page.locator("#key").fill("secret")
        page.locator("#key").press("Tab")
        page.wait_for_function("document.getElementById('model').textContent === 'demo'")
        ask(page, "What is 2 + 3?")
        page.locator(".assistant .text").wait_for()
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_and_used_from_the_keyboard(browser, served, scheme):
    page = browser.new_page(color_scheme=scheme, viewport={"width": 380, "height": 700})
    page.goto(served.url)
    unnamed = page.locator("button:not([aria-label]), input, textarea").evaluate_all(
        "nodes => nodes.filter(one => !(one.labels?.length || one.textContent.trim())).length"
    )
    assert unnamed == 0
    contrast = page.evaluate(
        """() => {
            const style = getComputedStyle(document.body);
            const light = (color) => {
                const parts = color.match(/\\d+/g).slice(0, 3).map((part) => {
                    const value = part / 255;
                    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
                });
                return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
            };
            const quiet = getComputedStyle(document.getElementById("empty"));
            return [style.color, quiet.color].map((color) => {
                const both = [light(color), light(style.backgroundColor)].sort().reverse();
                return (both[0] + 0.05) / (both[1] + 0.05);
            });
        }"""
    )
    assert min(contrast) >= 4.5
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    assert page.evaluate("document.activeElement.id") == "text"
    page.close()
