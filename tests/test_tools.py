"""Python functions as tools, and calls within limits."""

import asyncio
import contextvars
import dataclasses
import enum
import functools
import json
import threading
import time
import typing

import gptoss_native as gn
import pytest
from gptoss_native.harmony import ToolNamespace
from gptoss_native.tools import StopSignal, Tool, ToolLimits, run_calls, run_calls_async

Unit = enum.Enum("Unit", {"CELSIUS": "celsius", "FAHRENHEIT": "fahrenheit"})


@dataclasses.dataclass
class Place:
    city: str
    country: str = "CH"


class Span(typing.TypedDict, total=False):
    days: typing.Required[int] if hasattr(typing, "Required") else int
    hours: int


def forecast(
    place: Place,
    unit: Unit = Unit.CELSIUS,
    days: typing.Annotated[int, "how many"] = 1,
    tags: list[str] | None = None,
    how: typing.Literal["short", "long"] = "short",
    share: float = 0.5,
    exact: bool = False,
    more: dict[str, int | str] | None = None,
):
    """Tell the weather
    of a place.

    Args:
        place: where it is,
            in short
        unit (Unit): of the temperature

    Returns:
        what it was given
    """
    return [place, unit, days, tags, how, share, exact, more]


def called(function, **arguments):
    tool = gn.function_tool(function)
    return tool.call(tool.name, json.dumps(arguments))


def refusal(function, arguments):
    tool = gn.function_tool(function)
    with pytest.raises(gn.ToolError) as caught:
        tool.call(tool.name, arguments)
    return str(caught.value)


def test_a_function_is_described_by_its_signature_hints_and_docstring():
    tool = gn.function_tool(forecast)
    assert isinstance(tool, Tool)
    assert tool.namespace.name == "functions"
    [described] = tool.namespace.tools
    assert (described.name, described.description) == ("forecast", "Tell the weather\nof a place.")
    schema = described.parameters
    assert schema["required"] == ["place"]
    properties = schema["properties"]
    assert properties["place"]["description"] == "where it is, in short"
    assert properties["place"]["properties"]["country"] == {"type": "string", "default": "CH"}
    assert properties["place"]["required"] == ["city"]
    assert properties["unit"] == {
        "type": "string",
        "enum": ["celsius", "fahrenheit"],
        "description": "of the temperature",
        "default": "celsius",
    }
    assert properties["days"] == {"type": "integer", "description": "how many", "default": 1}
    assert properties["tags"] == {
        "type": "array",
        "items": {"type": "string"},
        "nullable": True,
    }
    assert properties["how"] == {"type": "string", "enum": ["short", "long"], "default": "short"}
    assert properties["share"] == {"type": "number", "default": 0.5}
    assert properties["exact"] == {"type": "boolean", "default": False}
    values = properties["more"]["additionalProperties"]
    assert values == {"oneOf": [{"type": "integer"}, {"type": "string"}]}


def test_sphinx_docstrings_and_functions_without_any_are_read_too():
    def old(a: int, b=3):
        """Do.

        :param a: the first
        :type a: int
        :param int b: the second
        """

    def bare():
        pass

    first = gn.function_tool(old).namespace.tools[0]
    assert first.description == "Do."
    assert first.parameters["properties"]["a"]["description"] == "the first"
    assert first.parameters["properties"]["b"] == {"description": "the second", "default": 3}
    second = gn.function_tool(bare, name="other", description="Says.").namespace.tools[0]
    assert (second.name, second.description, second.parameters) == ("other", "Says.", None)


def test_arguments_become_what_the_hints_promise():
    seen = []

    def take(place: Place, unit: Unit, span: Span, n: int, x: float, any_of: int | str, free=None):
        seen.append((place, unit, span, n, x, any_of, free))

    given = {"place": {"city": "Bern"}, "unit": "celsius", "span": {"days": 2}, "n": 3.0, "x": 1}
    assert called(take, **given, any_of="a", free=[None]) == "null"
    assert seen == [(Place("Bern"), Unit.CELSIUS, {"days": 2}, 3, 1.0, "a", [None])]
    assert type(seen[0][3]) is int
    assert type(seen[0][4]) is float


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "arguments lacks 'place'"),
        ("[]", r"arguments is \[\], wanted an object"),
        ('{"place": "Bern"}', "arguments.place is 'Bern', wanted an object"),
        ('{"place": {"city": 3}}', "arguments.place.city is 3, wanted a string"),
        ('{"place": {"city": "x"}, "town": 1}', "arguments has 'town'.* place, unit, days"),
        ('{"place": {"city": "x"}, "unit": "kelvin"}', "wanted one of 'celsius', 'fahrenheit'"),
        ('{"place": {"city": "x"}, "days": true}', "days is True, wanted an integer"),
        ('{"place": {"city": "x"}, "days": 1.5}', "days is 1.5, wanted an integer"),
        ('{"place": {"city": "x"}, "days": null}', "days is None, wanted an integer"),
        ('{"place": {"city": "x"}, "tags": ["a", 1]}', r"tags\[1\] is 1, wanted a string"),
        ('{"place": {"city": "x"}, "share": NaN}', "NaN is no number of JSON"),
        ('{"place": {"city": "x"}, "share": 1e999}', "share is inf, wanted a number"),
        ('{"place": {"city": "x"}, "exact": 1}', "exact is 1, wanted true or false"),
        ('{"place": {"city": "x"}, "more": {"a": []}}', "one of the 2 types"),
        ('{"place": ', "the arguments are no JSON"),
        ("[" * 100_000, "the arguments are no JSON"),
        ('{"a": ' + "9" * 5000 + "}", "the arguments are no JSON|arguments has 'a'"),
    ],
)
def test_arguments_that_do_not_fit_are_told_and_nothing_is_called(arguments, said):
    with pytest.raises(gn.ToolError, match=said):
        gn.function_tool(forecast).call("forecast", arguments)


def test_results_become_text_or_json():
    assert called(lambda_named("f", "plain")) == "plain"
    assert called(lambda_named("f", {"ä": [Place("x"), Unit.CELSIUS, {1}, (2,)]})) == (
        '{"ä": [{"city": "x", "country": "CH"}, "celsius", [1], [2]]}'
    )
    loop = []
    loop.append(loop)
    for value in (b"bytes", object(), loop):
        assert "neither text nor JSON" in refusal(lambda_named("f", value), "{}")


def lambda_named(name, value):
    def function():
        return value

    function.__name__ = name
    return function


def test_what_cannot_be_a_tool_is_refused():
    def any_number(*args):
        pass

    def by_place(a, /):
        pass

    def unknown(a: "Nowhere"):  # noqa: F821
        pass

    def odd(a: bytes):
        pass

    @dataclasses.dataclass
    class Node:
        next: "Node | None" = None

    Node.__init__.__globals__["Node"] = Node

    def endless(a: Node):
        pass

    for function, said in (
        (any_number, r"any_number\(args\) is \*args, wanted one that is given by its name"),
        (by_place, "given by its name"),
        (unknown, "the type hints of the function unknown cannot be read"),
        (odd, r"odd\(a\) has the type <class 'bytes'>, wanted one made of str"),
        (lambda: 1, "'<lambda>', wanted letters"),
        (3, "a tool is 3, wanted a function"),
        (endless, "nested deeper|cannot be read"),
    ):
        with pytest.raises(gn.InvalidArgument, match=said):
            gn.function_tool(function)


def test_methods_and_partial_functions_are_tools_too():
    class Counter:
        def __init__(self):
            self.count = 0

        def add(self, by: int) -> int:
            self.count += by
            return self.count

    counter = Counter()
    assert called(counter.add, by=2) == "2"
    assert called(counter.add, by=3) == "5"
    tool = gn.function_tool(functools.partial(counter.add, by=1), name="one_more")
    assert tool.call("one_more", "") == "6"


# Calls


def outcomes(*jobs, **limits):
    return run_calls(jobs, ToolLimits(**limits))


def raise_error(error):
    raise error


class Unsayable(Exception):
    def __str__(self):
        raise ValueError


async def coroutine(result, wait=0.0):
    await asyncio.sleep(wait)
    return raise_error(result) if isinstance(result, BaseException) else result


JOBS = {
    "text": (lambda: "text", ("text", None)),
    "a coroutine": (lambda: coroutine("text"), ("text", None)),
    "an exception": (lambda: raise_error(ValueError("no")), ("Error: ValueError: no", "raised")),
    "an exception of a coroutine": (
        lambda: coroutine(ValueError("no")),
        ("Error: ValueError: no", "raised"),
    ),
    "a tool's own error": (lambda: raise_error(gn.ToolError("say this")), ("say this", "raised")),
    "an exit": (lambda: raise_error(SystemExit(3)), ("Error: SystemExit: 3", "raised")),
    "an error without words": (lambda: raise_error(Unsayable()), ("Error: Unsayable", "raised")),
    "no text": (
        lambda: 3,
        ("Error: the tool gave back a value of type int, not text.", "not_text"),
    ),
    "a lone surrogate": (lambda: "a\ud800b", ("a?b", None)),
}


@pytest.mark.parametrize("name", JOBS)
def test_whatever_a_tool_does_its_call_has_an_outcome(name):
    job, wanted = JOBS[name]
    [there] = outcomes(job)
    assert there == (*wanted, False)
    [here] = asyncio.run(run_calls_async([job], ToolLimits()))
    assert here == there


def test_calls_that_hang_are_given_up_and_the_others_have_their_results():
    ended = threading.Event()

    async def hang():
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    blocked = threading.Event()
    jobs = [lambda: "a", lambda: str(blocked.wait()), hang, lambda: "b"]
    got = run_calls(jobs, ToolLimits(timeout=0.2))
    assert [one.error for one in got] == [None, "timeout", "timeout", None]
    assert got[1].text == "Error: no answer within 0.2 s; the call was given up."
    assert ended.wait(30)  # a coroutine is cancelled
    ended.clear()
    got = asyncio.run(run_calls_async(jobs, ToolLimits(timeout=0.2)))
    assert [one.error for one in got] == [None, "timeout", "timeout", None]
    blocked.set()


def test_long_results_are_cut_between_characters_and_say_so():
    [short, long, wide] = outcomes(
        lambda: "a" * 10, lambda: "a" * 11, lambda: "ä" * 10**6, output_bytes=10
    )
    assert short == ("a" * 10, None, False)
    assert long == ("a" * 10 + "\n[cut after 10 bytes; the whole has 11 characters]", None, True)
    assert wide.text.startswith("äääää\n[cut")
    assert wide.cut
    [raised] = outcomes(lambda: raise_error(ValueError("x" * 10**6)), output_bytes=30)
    assert raised.cut
    assert len(raised.text) < 100


def test_calls_run_together_up_to_the_limit():
    together = threading.Barrier(3)
    jobs = [lambda: str(together.wait(30) >= 0)] * 3
    assert outcomes(*jobs) == [("True", None, False)] * 3
    running, most, lock = 0, 0, threading.Lock()

    def count():
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1
        return ""

    outcomes(*[count] * 8, parallel=2)
    assert most <= 2


def test_a_signal_or_a_deadline_ends_the_waiting():
    stop, begun = StopSignal(), threading.Event()

    def hang():
        begun.set()
        threading.Event().wait(60)

    threading.Thread(target=lambda: (begun.wait(30), stop.set())).start()
    got = run_calls([hang, lambda: "late"], ToolLimits(parallel=1), stop=stop)
    assert [one.error for one in got] == ["cancelled", "cancelled"]
    assert "what it did is not known" in got[0].text
    assert got[1].text == "Error: the call was not run."
    assert run_calls([lambda: "x"], ToolLimits(), stop=stop)[0].error == "cancelled"
    [late] = run_calls([hang], ToolLimits(), deadline=time.monotonic())
    assert late.error == "timeout"


def test_a_tool_finds_its_callers_context_and_event_loop():
    who = contextvars.ContextVar("who", default="nobody")

    async def main():
        who.set("me")
        loop = asyncio.get_running_loop()

        async def same_loop():
            return f"{asyncio.get_running_loop() is loop}"

        return await run_calls_async([who.get, same_loop], ToolLimits())

    assert [one.text for one in asyncio.run(main())] == ["me", "True"]


def test_limits_are_checked():
    for wrong in (
        {"timeout": 0},
        {"timeout": float("nan")},
        {"output_bytes": 1.5},
        {"parallel": True},
    ):
        with pytest.raises(gn.InvalidArgument, match=next(iter(wrong))):
            ToolLimits(**wrong)


def test_a_class_with_a_namespace_and_a_call_is_a_tool():
    class Echo:
        namespace = ToolNamespace("echo", "Says it again.")

        def call(self, name, arguments):
            return arguments

    assert isinstance(Echo(), Tool)
