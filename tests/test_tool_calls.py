"""Tool loops: calls run, their results go back, every loop ends, whatever the model writes."""

import asyncio
import threading

import gptoss_native as gn
import pytest
from gptoss_native.chat import ToolCall, ToolResult
from gptoss_native.chat.history import shared_prefix
from gptoss_native.harmony import (
    Message,
    MessageStart,
    ToolDescription,
    ToolNamespace,
    parse,
)
from scripted import BEGIN, FINAL, answer, call, scripted, thought

GREEDY = gn.Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def demo():
    with gn.Model.demo(threads=1) as made:
        yield made


def calculator(expression: str) -> dict:
    """Evaluate an arithmetic expression.

    Args:
        expression: The expression to evaluate.
    """
    left, _, right = expression.partition("*")
    return {"result": int(left) * int(right)}


def get_weather(city: str) -> dict:
    """Get the current weather of a city.

    Args:
        city: The name of the city.
    """
    return {"temperature": 21, "condition": "sunny"}


def well_formed(chat):
    parsed = parse(chat.tokenizer, chat.context[:-2], None)
    return parsed.anomalies == []


# With the trained model


def test_a_function_is_called_and_its_result_is_the_answer(demo):
    chat = gn.Chat(demo, tools=[calculator, get_weather], sampling=GREEDY)
    turn = chat.send("What is 34*27?")
    events = [event for event in turn if isinstance(event, ToolCall | ToolResult)]
    reply = turn.reply
    assert reply.text == "34 * 27 = 918"
    [called] = reply.tool_calls
    assert called == ToolCall(
        "call_1", "functions.calculator", '{"expression":"34*27"}', "commentary", "json"
    )
    assert reply.tool_results == (ToolResult(called, '{"result": 918}'),)
    assert events == [called, *reply.tool_results]
    assert reply.usage.tool_rounds == 1
    assert [message.role for message in reply.messages] == [
        "assistant",
        "assistant",
        "tool",
        "assistant",
        "assistant",
    ]
    assert (
        chat.ask("What is the weather in Zurich?").text == "It is 21 degrees and sunny in Zurich."
    )
    assert well_formed(chat)


def test_ten_turns_of_an_agent_compute_only_what_is_new(demo):
    def look(place: str) -> str:
        return f"at {place} there is nothing, " * 10

    scripts = []
    for turn in range(10):
        for place in range(3):
            scripts.append(
                thought("where to? " * 20) + call("functions.look", f'{{"place": "{place}"}}')
            )
        scripts.append(thought("that is all. " * 10) + answer(f"nothing, for the {turn}th time"))
    chat = scripted(demo, *scripts, tools=[look])
    result = len(chat.renderer.render([Message.tool_result("functions.look", look("1"))]))
    for turn in range(10):
        held = chat.session.tokens
        reply = chat.ask(f"And {turn}?")
        first, *others = reply.usage.rounds
        assert len(others) == 3
        # Within a turn a result goes after what the model wrote: nothing is computed again.
        assert max(one.prefilled_tokens for one in others) <= result + 8
        # From one turn to the next, what follows the dropped reasoning is in another place.
        wanted = first.cached_tokens + first.prefilled_tokens
        assert (
            first.prefilled_tokens
            <= wanted - shared_prefix(held, chat.session.tokens[:wanted]) + 128
        )
        assert turn == 0 or first.cached_tokens > wanted - 4 * (result + 60) - 128


def test_an_event_loop_runs_tools_on_itself(demo):
    async def main():
        loop = asyncio.get_running_loop()

        async def calculator(expression: str) -> dict:
            """Evaluate an arithmetic expression.

            Args:
                expression: The expression to evaluate.
            """
            assert asyncio.get_running_loop() is loop
            await asyncio.sleep(0)
            return {"result": 918}

        return await gn.Chat(demo, tools=[calculator], sampling=GREEDY).asend("What is 34*27?")

    assert asyncio.run(main()).text == "34 * 27 = 918"


# Loops


@pytest.mark.parametrize("length", [12, 40])
def test_long_chains_keep_their_reasoning_and_compute_only_results(demo, length):
    def step(number: int) -> str:
        return f"the result of step {number}, " + "which is long, " * 8

    steps = [
        thought(f"step {n} it is, " + "as I think, " * 5)
        + call("functions.step", f'{{"number": {n}}}')
        for n in range(length)
    ]
    chat = scripted(demo, *steps, answer("done"), answer("next"), tools=[step])
    reply = chat.ask("go", max_tool_rounds=length)
    assert (reply.text, reply.finish_reason) == ("done", "stop")
    assert len(reply.tool_results) == reply.usage.tool_rounds == length
    results = chat.renderer.render([m for m in chat.messages if m.role == "tool"][-1:])
    assert max(one.prefilled_tokens for one in reply.usage.rounds[1:]) <= len(results) + 8
    assert [m.channel for m in chat.messages].count("analysis") == length
    # Then the reasoning is dropped; what follows the first of it stands in another place.
    second = chat.ask("more")
    opening = len(chat._history.context([])) - 2
    assert second.usage.cached_tokens >= opening
    assert second.usage.prefilled_tokens <= len(chat.context) + 128 - opening
    assert well_formed(chat)


def test_loops_are_bounded_and_say_so(demo):
    calls = [call("functions.f")] * 10

    def f():
        return "again"

    chat = scripted(demo, *calls, answer("x"), tools=[f])
    reply = chat.ask("go", max_tool_rounds=3)
    assert (reply.finish_reason, reply.usage.tool_rounds) == ("tool_rounds", 3)
    assert (len(reply.tool_calls), len(reply.tool_results)) == (4, 3)
    assert reply.pending_calls == reply.tool_calls[-1:]
    # The caller may answer it, and the turn goes on.
    reply = chat.ask([reply.pending_calls[0].answer("mine")], max_tool_rounds=0)
    assert (reply.finish_reason, len(reply.pending_calls)) == ("tool_rounds", 1)
    # Or say something else.
    chat = scripted(demo, call("functions.f"), answer("x"), tools=[f])
    chat.ask("go", max_tool_rounds=0)
    assert chat.ask("never mind").text == "x"
    assert [m.content for m in chat.messages if m.role == "tool"] == [
        "Error: the call was not run."
    ]
    assert well_formed(chat)


def test_two_calls_of_a_turn_run_together(demo):
    both = threading.Barrier(2)

    def one():
        return f"one {both.wait(30) >= 0}"

    def two():
        return f"two {both.wait(30) >= 0}"

    script = call("functions.one", end="<|end|>") + BEGIN + call("functions.two")
    chat = scripted(demo, script, answer("x"), tools=[one, two])
    reply = chat.ask("go")
    assert [result.text for result in reply.tool_results] == ["one True", "two True"]
    assert reply.text == "x"
    assert well_formed(chat)


def test_an_answer_that_does_not_wait_for_the_result_is_not_taken(demo):
    script = call("functions.f", end="<|end|>") + f"{BEGIN}{FINAL}It is 7, I guess<|return|>"
    chat = scripted(demo, script, answer("It is 8"), tools=[ToolDescription("f", "")])
    reply = chat.ask("go")
    assert (reply.finish_reason, reply.text) == ("tool_calls", "")
    reply = chat.ask([reply.tool_calls[0].answer("8")])
    assert reply.text == "It is 8"
    assert "guess" not in str(chat.messages)


def test_a_call_that_was_cut_off_is_not_run(demo):
    ran = []

    def f(a: str):
        ran.append(a)

    cut = call("functions.f", '{"a": "x"}', end="")
    chat = scripted(demo, cut, answer("y"), tools=[f])
    reply = chat.ask("go")
    assert (ran, reply.tool_calls) == ([], ())
    assert reply.messages[-1].content == '{"a": "x"}'
    assert chat.messages == []
    assert chat.ask("go").text == "y"


def test_too_many_calls_at_a_time_are_told(demo):
    ran = []

    def f():
        ran.append(1)
        return ""

    script = BEGIN.join([call("functions.f", end="<|end|>")] * 70)
    reply = scripted(demo, script, answer("x"), tools=[f]).ask("go")
    assert len(ran) == 64
    assert [result.error for result in reply.tool_results[64:]] == ["too_many"] * 6


# Whoever is called


@pytest.mark.parametrize(
    ("name", "answers_as"),
    [
        ("functions.other", "functions.other"),
        ("f", "f"),
        ("functions", "functions"),
        ("python", "python"),
        ("system", "functions.system"),
        ("user:x", "functions.user:x"),
        ("<|call|>x", None),
    ],
)
def test_a_tool_that_was_not_declared_is_answered_with_an_error(demo, name, answers_as):
    def f():
        return ""

    script = call("functions.f").replace("functions.f", "NAME")
    ids = []
    for part in script.split("NAME"):
        ids += [
            *demo.tokenizer.encode(part, allow_special=True),
            *demo.tokenizer.encode_ordinary(name),
        ]
    ids = ids[: len(ids) - len(demo.tokenizer.encode_ordinary(name))]
    chat = scripted(demo, ids, answer("x"), tools=[f])
    reply = chat.ask("go")
    [result] = reply.tool_results
    assert result.error == "undeclared"
    assert result.text == f"Error: there is no tool {name}. The tools are: functions.f."
    assert [one.kind for one in reply.anomalies] == ["undeclared_tool"]
    assert reply.text == "x"
    [said] = [m for m in chat.messages if m.role == "tool"]
    assert said.name == (answers_as or name)
    assert well_formed(chat)


def test_without_tools_a_call_is_answered_too(demo):
    reply = scripted(demo, call("functions.f"), answer("x")).ask("go")
    assert reply.tool_results[0].text == "Error: there is no tool functions.f. The tools are: none."
    everlasting = scripted(demo, *[call("functions.f")] * 40).ask("go")
    assert (everlasting.finish_reason, everlasting.usage.tool_rounds) == ("tool_rounds", 32)


def test_namespaces_are_told_and_called_by_their_names(demo):
    class Notes:
        namespace = ToolNamespace(
            "my.notes",
            "Keeps notes.",
            (ToolDescription("add", "Adds."), ToolDescription("all", "")),
        )

        def call(self, name, arguments):
            return f"{name}({arguments})"

    class Shell:
        namespace = ToolNamespace("shell", "Runs what it is sent.")

        async def call(self, name, arguments):
            return f"<{name}>{arguments}"

    scripts = [
        call("my.notes.add", "a"),
        call("shell", "ls"),
        call("shell.run"),
        call("my.notes.x"),
    ]
    chat = scripted(demo, *scripts, answer("x"), tools=[Notes(), Shell(), get_weather])
    told = chat.tokenizer.decode(chat.context)
    assert "## my.notes\n\n// Keeps notes.\nnamespace my.notes {" in told
    assert "Calls to these tools must go to the commentary channel: 'functions'." in told
    reply = chat.ask("go")
    texts = [result.text for result in reply.tool_results]
    assert texts[:3] == ["add(a)", "<>ls", "<run>{}"]
    assert texts[3].endswith(
        "The tools are: functions.get_weather, my.notes.add, my.notes.all, shell."
    )


def test_names_that_are_taken_are_refused(demo):
    space = ToolNamespace("n")
    for tools, said in (([get_weather] * 2, "the name get_weather"), ([space] * 2, "namespace n")):
        with pytest.raises(gn.InvalidArgument, match=said):
            gn.Chat(demo, tools=tools)


# Calls that the caller runs


def test_the_caller_may_run_the_calls(demo):
    declared = gn.function_tool(calculator).namespace.tools[0]
    for options in ({"tools": [declared]}, {"tools": [calculator], "run_tools": False}):
        chat = gn.Chat(demo, sampling=GREEDY, **options)
        reply = chat.ask("What is 34*27?")
        assert (reply.finish_reason, reply.text) == ("tool_calls", "")
        [called] = reply.pending_calls
        reply = chat.ask([called.answer('{"result": 918}')])
        assert reply.text == "34 * 27 = 918"
        assert reply.usage.rounds[0].prefilled_tokens < 40


def test_calls_of_both_kinds_are_run_as_far_as_they_are_ours(demo):
    def ours():
        return "ours"

    script = call("functions.theirs", end="<|end|>") + BEGIN + call("functions.ours")
    chat = scripted(demo, script, answer("x"), tools=[ours, ToolDescription("theirs", "")])
    reply = chat.ask("go")
    assert reply.finish_reason == "tool_calls"
    assert [result.text for result in reply.tool_results] == ["ours"]
    assert [one.recipient for one in reply.pending_calls] == ["functions.theirs"]
    assert chat.ask([one.answer("theirs") for one in reply.pending_calls]).text == "x"


# Tools that go wrong


def test_whatever_a_tool_does_the_model_is_told(demo):
    def hang():
        threading.Event().wait(60)

    def megabytes():
        return "x" * 3_000_000

    def fail():
        raise ValueError("no")

    def white():
        return " " * 600_000

    names = ["hang", "megabytes", "fail", "white"]
    script = BEGIN.join(call(f"functions.{n}", end="<|end|>") for n in names)
    limits = gn.ToolLimits(timeout=0.3, output_bytes=10**6)
    chat = scripted(
        demo, script, answer("x"), tools=[hang, megabytes, fail, white], tool_limits=limits
    )
    reply = chat.ask("go")
    assert reply.finish_reason == "length"  # a megabyte is more than the context
    got = {result.call.recipient[10:]: result for result in reply.tool_results}
    assert got["hang"].error == "timeout"
    assert got["megabytes"].cut
    assert got["fail"].text == "Error: ValueError: no"
    assert "cannot be shown" in got["white"].text


def test_a_turn_that_is_ended_while_a_tool_runs_says_what_is_not_known(demo):
    begun = threading.Event()

    def hang():
        begun.set()
        threading.Event().wait(60)

    chat = scripted(demo, call("functions.hang"), answer("x"), tools=[hang])
    turn = chat.send("go")
    threading.Thread(target=lambda: (begun.wait(30), turn.cancel())).start()
    reply = turn.reply
    assert (reply.finish_reason, reply.tool_results[0].error) == ("cancelled", "cancelled")
    assert "what it did is not known" in chat.messages[-1].content
    assert chat.ask("and?").text == "x"
    assert well_formed(chat)

    chat = scripted(demo, call("functions.hang"), answer("x"), tools=[hang])
    reply = chat.ask("go", timeout=0.3)
    assert (reply.finish_reason, reply.tool_results[0].error) == ("timeout", "timeout")

    async def main():
        chat = scripted(demo, call("functions.hang"), answer("x"), tools=[hang])
        begun.clear()
        task = asyncio.ensure_future(chat.asend("go")._drained())
        while not begun.is_set() and not task.done():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return chat

    chat = asyncio.run(main())
    assert "what it did is not known" in chat.messages[-1].content
    assert chat.ask("and?").text == "x"


def test_leaving_at_a_call_leaves_it_unanswered_until_the_next_turn(demo):
    chat = scripted(demo, call("functions.f"), answer("x"), tools=[lambda_named("f")])
    for event in chat.send("go"):
        if isinstance(event, ToolCall):
            break
    assert [m.recipient for m in chat.messages] == [None, "functions.f"]
    assert chat.ask("and?").text == "x"
    assert chat.messages[2] == Message.tool_result("functions.f", "Error: the call was not run.")


def lambda_named(name):
    def function():
        return ""

    function.__name__ = name
    return function


def test_a_thought_before_a_call_is_told_as_it_comes(demo):
    chat = scripted(
        demo, thought("hm") + call("functions.f"), answer("x"), tools=[lambda_named("f")]
    )
    starts = [e.message for e in chat.send("go") if isinstance(e, MessageStart)]
    assert [(m.channel, m.recipient) for m in starts] == [
        ("analysis", None),
        ("commentary", "functions.f"),
        ("final", None),
    ]
