"""Chats hold what any model writes to the format: whole turns, declared tools, documents."""

import asyncio
import datetime
import json
import pathlib
from concurrent.futures import ThreadPoolExecutor

import gptoss_native as gn
import pytest
from gptoss_native.chat import TokenEvent, ToolCall
from gptoss_native.harmony import (
    BROWSER,
    CHANNELS,
    Message,
    ResponseFormat,
    SystemContent,
    ToolDescription,
    ToolNamespace,
    parse,
)
from gptoss_native.structured import choice, json_schema, lark, regex
from jsonschema import Draft202012Validator
from schemas import schema
from scripted import scripted, thought
from test_tool_calls import calculator, get_weather
from turns import CLOCK, SEARCH, TEXT, WEATHER, ends, random_model, sampling, small_tokenizer

CASES = pathlib.Path(__file__).parent / "goldens" / "tiny_trained_cases.jsonl"
TOKENIZER = small_tokenizer()
GREEDY = gn.Sampling(temperature=0.0)
THOUGHTS = dict.fromkeys(TOKENIZER.encode("<|channel|>analysis", allow_special=True), 9.0)
SUM = "What is 17 + 25?"
PERSON = {
    "type": "object",
    "properties": {"name": TEXT, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


FEW = {"type": "object", "minProperties": 7}  # which llguidance does not hold to


@pytest.fixture(scope="module")
def models(config):
    made = [random_model(config, TOKENIZER, seed=seed, threads=1) for seed in range(3)]
    yield made
    for model in made:
        model.close()


@pytest.fixture(scope="module")
def model(models):
    return models[0]


def add(a: int, b: int = 0) -> int:
    return a + b


def greet(name: str) -> str:
    return f"Hello, {name}!"


class Notes:
    namespace = ToolNamespace("notes", "Keeps notes.")

    def call(self, name, arguments):
        return f"{name}({arguments})"


TOOLS = [add, greet, Notes()]
NAMES = {"functions.add", "functions.greet", "notes"}


def talk(model, **options):
    """Return a chat with a random model, whose texts end by and by."""
    return gn.Chat(model, tokenizer=TOKENIZER, **{"max_new_tokens": 500} | options)


def some(seed, likely=("analysis", "final"), bias=5.0):
    return sampling(TOKENIZER, seed, likely, bias)


def check(chat, reply, names=NAMES):
    """The turn is of whole messages to declared tools, or was cut off in the last of them."""
    cut = reply.finish_reason == "length"
    assert cut or reply.finish_reason in ("stop", "tool_calls", "tool_rounds")
    assert len(reply.anomalies) <= cut
    written = [message for message in reply.messages if message.role == "assistant"]
    whole = written[: len(written) - cut]
    assert {message.recipient for message in whole} <= {None, *names}
    assert {message.channel for message in whole} <= set(CHANNELS)
    for message in written[len(whole) :]:  # its header, too, may be cut off
        beginning = message.recipient or ""
        assert not beginning or any(name.startswith(beginning) for name in names)
    assert not any(result.error == "undeclared" for result in reply.tool_results)
    assert parse(TOKENIZER, chat.context[:-2], None).anomalies == []


# Random models


@pytest.mark.parametrize("tool_choice", ["auto", "required", "greet", "notes", "none"])
def test_turns_of_any_model_are_whole_and_call_what_is_declared(models, tool_choice):
    ended = called = reasoned = 0
    for number, model in enumerate(models):
        chat = talk(model, tools=TOOLS, tool_choice=tool_choice, max_tool_rounds=3)
        for turn in range(5):
            reply = chat.ask(f"turn {turn}", sampling=some(10 * number + turn))
            check(chat, reply)
            reasoned += bool(reply.reasoning)
            called += bool(reply.tool_calls)
            if reply.finish_reason != "length":
                ended += 1
                first = reply.tool_calls[0].recipient if reply.tool_calls else None
                wanted = {"greet": {"functions.greet"}, "notes": {"notes"}, "none": {None}}
                if tool_choice != "auto":
                    assert first in wanted.get(tool_choice, NAMES)
            else:
                chat.rewind(0)
    assert ended > 4
    assert reasoned > 1
    assert tool_choice in ("auto", "none") or called >= ended
    assert tool_choice != "none" or called == 0


@pytest.mark.parametrize("switch", [{"max_reasoning_tokens": 0}, {"max_reasoning_tokens": 6}])
@pytest.mark.parametrize("tool_choice", ["auto", "required", "add"])
def test_reasoning_that_is_ended_leads_on_as_the_choice_has_it(models, switch, tool_choice):
    ended = 0
    for number, model in enumerate(models):
        # Calls of others than functions may stand in analysis too, and count as it.
        chat = talk(model, tools=[add, greet], tool_choice=tool_choice, max_tool_rounds=2, **switch)
        for turn in range(4):
            bias = dict.fromkeys(ends(TOKENIZER), 3.0) | THOUGHTS
            how = gn.Sampling(logit_bias=bias, seed=10 * number + turn)
            turn = chat.send("think", sampling=how)
            events = list(turn)
            calls = [n for n, event in enumerate(events) if isinstance(event, ToolCall)]
            first = events[: calls[0]] if calls else events
            forced = [e.id for e in first if isinstance(e, TokenEvent) and e.forced]
            reply = turn.reply
            check(chat, reply)
            assert reply.usage.reasoning_tokens <= switch["max_reasoning_tokens"] + 4
            if forced:
                ended += 1
                assert reply.finish_detail == "reasoning_limit" or reply.finish_reason == "length"
                said = TOKENIZER.decode(forced)
                last = "<|message|>" if tool_choice == "auto" else "assistant"
                assert said.startswith("<|end|><|start|>assistant")
                assert said.endswith(last)
            if tool_choice != "auto" and reply.finish_reason != "length":
                assert reply.tool_calls
            chat.rewind(0)
    assert ended > 3


def test_documents_are_of_the_schema_or_cut_off(models):
    whole = 0
    for number in range(24):
        wanted = schema(number)
        likely = some(number, ("final", '"', "}", "]"), 3.0)
        chat = talk(models[number % 3], response_format=wanted)
        reply = chat.ask("x", sampling=likely, max_reasoning_tokens=20)
        check(chat, reply, ())
        if reply.finish_reason == "length":
            assert reply.parsed is None
        else:
            whole += 1
            assert reply.parsed == json.loads(reply.text)
            Draft202012Validator(wanted).validate(reply.parsed)
    assert whole > 12


def test_arguments_of_strict_tools_are_of_their_schemas(models):
    called = 0
    for number, model in enumerate(models):
        chat = talk(model, tools=[WEATHER, CLOCK, SEARCH], tool_choice="required", strict=True)
        for seed in range(4):
            reply = chat.ask("x", sampling=some(10 * number + seed, ('"', "}"), 3.0))
            check(chat, reply, {"functions.get_weather", "functions.clock", "search.web"})
            for call in reply.tool_calls:
                called += 1
                arguments = json.loads(call.arguments)
                if call.recipient == "functions.get_weather":
                    Draft202012Validator(WEATHER.parameters).validate(arguments)
                else:
                    assert arguments == {}
            chat.rewind(0)
    assert called > 5


def test_a_tool_of_the_system_message_is_the_callers(model):
    system = SystemContent(tools=[BROWSER])
    chat = talk(model, system=system, tool_choice="required")
    reply = chat.ask("x", sampling=some(1))
    check(chat, reply, {f"browser.{one.name}" for one in BROWSER.tools})
    assert reply.finish_reason in ("length", "tool_calls")
    with pytest.raises(gn.InvalidArgument, match="browser"):
        talk(model, system=system, tools=[BROWSER])


# The bundled model, which knows what it writes


def test_what_the_trained_model_writes_by_itself_stays(demo):
    tools = {"calculator": calculator, "get_weather": get_weather}
    for line in CASES.read_text().splitlines():
        case = json.loads(line)
        system = SystemContent(date=datetime.date(2025, 6, 28), channels=CHANNELS)
        given = [tools[name] for name in case["tools"]]
        options = {"reasoning_effort": case["effort"], "system": system, "tools": given}
        held, free = (
            gn.Chat(demo, sampling=GREEDY, envelope=on, **options).ask(case["user"])
            for on in (True, False)
        )
        assert held.ids == free.ids
        assert list(held.ids[: len(case["greedy_ids"])]) == case["greedy_ids"]
        assert [call.recipient for call in held.tool_calls] == [
            f"functions.{name}" for name in tools if f"to=functions.{name}" in case["greedy"]
        ]


def test_a_choice_of_tools_holds_for_the_call_and_then_the_model_answers(demo):
    tools = [calculator, get_weather]
    chat = gn.Chat(demo, tools=tools, sampling=GREEDY, max_new_tokens=300)
    reply = chat.ask("What is 34*27?", tool_choice="required")
    assert reply.text == "34 * 27 = 918"
    assert [call.recipient for call in reply.tool_calls] == ["functions.calculator"]
    assert reply.reasoning
    for name in ("get_weather", "functions.get_weather"):
        chat.rewind(0)
        reply = chat.ask("What is the weather in Rome?", tool_choice=name)
        assert reply.tool_calls[0].recipient == "functions.get_weather"
        assert reply.text
    chat.rewind(0)
    reply = chat.ask("What is 34*27?", tool_choice="none")
    assert (reply.tool_calls, reply.finish_reason) == ((), "stop")
    assert reply.text


def test_calls_that_the_caller_runs_are_asked_for_once(demo):
    described = gn.function_tool(calculator).namespace.tools[0]
    # Asked to call again after a result it has none to make, and thinks for long.
    chat = gn.Chat(
        demo, tools=[described], tool_choice="required", sampling=GREEDY, max_new_tokens=600
    )
    [call] = chat.ask("What is 34*27?").pending_calls
    assert chat.ask([call.answer('{"result": 918}')]).text == "34 * 27 = 918"
    chat.rewind(3)
    again = chat.ask([call.answer('{"result": 918}')], tool_choice="required")
    assert again.finish_reason == "tool_calls"
    # A new question is asked under the chat's choice again.
    answered = [again.pending_calls[0].answer("918"), Message("user", "What is 5*7?")]
    reply = chat.ask(answered)
    assert (reply.text, [m.channel for m in reply.messages if m.channel == "final"]) == ("", [])


def test_answers_are_parsed_and_the_reasoning_stays_free(demo):
    sums = {"type": "string", "pattern": "^17 \\+ 25 = [0-9]{2}$"}
    chat = gn.Chat(demo, sampling=GREEDY, response_format=choice(["17 + 25 = 41", "17 + 25 = 42"]))
    reply = chat.ask(SUM)
    assert (reply.text, reply.parsed) == ("17 + 25 = 42", None)
    assert reply.reasoning == "17+25: 7+5=12 [2], 1+2+1=4 [42]."
    assert reply.text == chat.ask(SUM, response_format=regex("17 [+] 25 = [0-9]+")).text
    assert reply.text == chat.ask(SUM, response_format=lark('start: "17 + 25 = " /4[0-9]/')).text
    assert chat.ask(SUM, response_format=None).text == "17 + 25 = 42"
    reply = chat.ask(SUM, response_format=sums)
    assert reply.parsed.startswith("17 + 25 = ")
    cut = chat.ask(SUM, response_format=PERSON, max_reasoning_tokens=0, max_new_tokens=14)
    assert (cut.finish_reason, cut.parsed) == ("length", None)
    assert chat.ask(SUM).text == "17 + 25 = 42"


def test_a_number_that_was_cut_is_not_taken_for_a_shorter_one(demo):
    number = {"type": "integer", "minimum": 100000}
    chat = gn.Chat(demo, sampling=GREEDY, response_format=number, max_reasoning_tokens=0)
    replies = [chat.fork().ask(SUM, max_new_tokens=count) for count in range(9, 20)]
    assert any(reply.text for reply in replies)
    for reply in replies:
        whole = reply.finish_reason == "stop"
        assert (reply.parsed is not None) == whole
    stopped = chat.ask(SUM, stop=["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"])
    assert (stopped.finish_reason, stopped.parsed) == ("stop", None)


def test_the_model_is_told_the_format_of_a_turn(demo):
    chat = gn.Chat(demo, sampling=GREEDY, instructions="Be brief.")
    plain = chat.context

    def told(form, text="x"):
        before = len(chat.messages)
        chat.ask(text, response_format=form, max_new_tokens=1)
        shown = TOKENIZER.decode(chat.session.tokens)
        chat.rewind(before)
        return shown

    head = "# Instructions\n\nBe brief.\n\n# Response Formats\n\n"
    assert head + '## answer\n\n{"type":"integer"}' in told({"type": "integer"})
    assert head + "## mine" in told(ResponseFormat("mine", {"type": "integer"}))
    held = json_schema({"type": "integer"})
    for form in (held, regex("x"), lark('start: "x"'), choice(["x"]), None):
        assert "Response Formats" not in told(form)
    assert chat.context == plain


# Free models, scripts


def test_without_an_envelope_a_schema_is_only_told(demo):
    chat = scripted(demo, thought("hm") + "<|channel|>final<|message|>[1, 2<|return|>", "x")
    reply = chat.ask("x", response_format={"type": "array"})
    assert (reply.text, reply.parsed) == ("[1, 2", None)
    for text, parsed in (("[1]", [1]), ("NaN?", None), ("9" * 4500, None), ("[" * 2000, None)):
        chat = scripted(demo, f"<|channel|>final<|message|>{text}<|return|>")
        assert chat.ask("x", response_format={"type": "array"}).parsed == parsed


# Many at a time


def test_an_event_loop_and_forks_have_the_same_turns(model):
    options = {"tools": TOOLS, "tool_choice": "required", "max_tool_rounds": 2}
    alone = [talk(model, **options).ask("x", sampling=some(seed)).ids for seed in range(6)]

    async def main():
        turns = [talk(model, **options).asend("x", sampling=some(seed)) for seed in range(6)]
        return [reply.ids for reply in await asyncio.gather(*turns)]

    assert asyncio.run(main()) == alone
    chat = talk(model, **options)
    forks = [chat.fork() for _ in range(6)]
    assert [fork.ask("x", sampling=some(s)).ids for s, fork in enumerate(forks)] == alone


def test_chats_in_threads_are_as_each_alone(model):
    def one(number):
        options = [
            {"tools": TOOLS, "tool_choice": "required"},
            {"response_format": PERSON},
            {"tools": TOOLS, "strict": ["add"]},
            {},
        ][number % 4]
        chat = talk(model, max_tool_rounds=2, max_new_tokens=150, **options)
        return [chat.ask("x", sampling=some(number)).ids for _ in range(2)]

    alone = [one(number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(8))) == alone


def test_forks_ask_for_different_formats_at_once(model):
    chat = talk(model, tools=TOOLS)
    wanted = [{"type": "object", "properties": {}, "maxProperties": n} for n in range(1, 13)]

    def one(number):
        form = wanted[number]
        how = some(number, ("final", "}"), 4.0)
        reply = chat.fork().ask("x", response_format=form, tool_choice="none", sampling=how)
        if reply.finish_reason == "stop":
            Draft202012Validator(form).validate(reply.parsed)
        return reply.ids

    alone = list(map(one, range(12)))
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(one, range(12))) == alone


# What is refused


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tool_choice": "required"}, "there are none"),
        ({"tool_choice": "weather", "tools": TOOLS}, "'weather'.*functions.add"),
        ({"tool_choice": None}, "tool_choice is None, wanted auto"),
        ({"tool_choice": ["add"]}, "tool_choice is"),
        ({"response_format": "json"}, "response_format is 'json', wanted"),
        ({"response_format": {"type": "object", "minProperties": 7}}, "minProperties"),
        ({"response_format": regex("(")}, "response_format: the regular expression"),
        ({"strict": ["nobody"], "tools": TOOLS}, "'nobody'"),
        ({"strict": 3}, "strict is 3"),
        ({"envelope": 1}, "envelope is 1"),
        ({"envelope": False, "strict": True}, "strict is True, wanted envelope=True"),
        ({"envelope": False, "tool_choice": "none"}, "'none', wanted envelope=True"),
        ({"envelope": False, "response_format": regex("x")}, "wanted envelope=True"),
    ],
    ids=str,
)
def test_what_cannot_be_followed_is_refused_before_any_work(demo, options, says):
    with pytest.raises(gn.InvalidArgument, match=says):
        gn.Chat(demo, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"tool_choice": "nobody"},
        {"response_format": FEW},
        {"tool_choice": "add", "response_format": FEW},  # which only a later round would need
    ],
    ids=str,
)
def test_a_turns_own_choices_are_refused_before_any_work(demo, options):
    chat = gn.Chat(demo, tools=TOOLS)
    with pytest.raises(gn.InvalidArgument):
        chat.send("x", **options)
    assert (chat.messages, chat.session.position) == ([], 0)


def test_a_strict_tool_is_refused_once_it_may_be_called(demo):
    broken = ToolDescription("f", "", FEW)
    chat = gn.Chat(demo, tools=[broken], strict=True, tool_choice="none")
    with pytest.raises(gn.InvalidArgument, match=r"parameters of functions\.f: .*minProperties"):
        chat.send("x", tool_choice="auto")


def test_the_envelope_needs_no_llguidance_and_what_does_names_the_extra(run_python):
    code = """
import sys
sys.modules["llguidance"] = None
import gptoss_native as gn
def f(a: int): pass
with gn.Model.demo(threads=1) as model:
    chat = gn.Chat(model, tools=[f])
    print(chat.ask("Hello!", max_new_tokens=3).finish_reason)
    for options in ({"response_format": {"type": "object"}}, {"tools": [f], "strict": True}):
        try:
            gn.Chat(model, **options)
        except gn.Error as error:
            print(error)
    try:
        chat.send("x", response_format={"type": "object"})
    except gn.Error as error:
        print(error)
"""
    said = run_python(code)
    assert "length" in said
    assert said.count("gptoss-native[structured]") == 3


def test_calls_are_events_of_turns_that_are_held(demo):
    chat = gn.Chat(demo, tools=[calculator], tool_choice="calculator", sampling=GREEDY)
    calls = [event for event in chat.send("What is 34*27?") if isinstance(event, ToolCall)]
    assert [call.arguments for call in calls] == ['{"expression":"34*27"}']
