"""The bundled model: what it was taught comes out of the runtime, token for token."""

import asyncio
import json
import pathlib

import gptoss_native as gn
import numpy as np
import pytest
from gptoss_native.harmony import parse, render_user

HELD_OUT = pathlib.Path(__file__).parent / "goldens" / "demo_held_out.npz"
GREEDY = gn.Sampling(temperature=0.0)


def held_out():
    """Prompts of 200 held-out conversations, and what transformers continues in float32."""
    with np.load(HELD_OUT) as arrays:
        split = [
            [part.tolist() for part in np.split(arrays[f"{name}s"], arrays[f"{name}_ends"][:-1])]
            for name in ("prompt", "answer")
        ]
    return list(zip(*split, strict=True))


def continued(model, prompts):
    async def one(gate, prompt):
        async with gate:
            session = model.session(max_context=1536)
            stream = session.generate(prompt, max_new_tokens=400, sampling=GREEDY)
            ids = [token.id async for token in stream]
            session.close()
            return ids

    async def main():
        gate = asyncio.Semaphore(16)
        return await asyncio.gather(*(one(gate, prompt) for prompt in prompts))

    return asyncio.run(main())


def said(model, ids):
    """What a user or a function gets of a turn: the last message and to whom it goes."""
    last = parse(model.tokenizer, ids, "assistant").messages[-1]
    return last.channel, last.recipient, last.content


def test_200_held_out_conversations_go_on_as_in_transformers():
    cases = held_out()
    assert len(cases) == 200
    with gn.Model.demo(precision="exact") as model:
        got = continued(model, [prompt for prompt, _ in cases])
    different = [n for n, (_, want) in enumerate(cases) if got[n] != want]
    assert different == []


@pytest.mark.parametrize(
    ("options", "most"), [({"precision": "fast"}, 1), ({"dense": "int8"}, 1), ({"kv": "fp8"}, 6)]
)
def test_rounding_changes_few_answers(options, most):
    """So small a model feels the four bits of fp8: 3 of the 200, as measured."""
    cases = held_out()
    with gn.Model.demo(**options) as model:
        got = continued(model, [prompt for prompt, _ in cases])
        different = [
            n for n, (_, want) in enumerate(cases) if said(model, got[n]) != said(model, want)
        ]
    assert len(different) <= most, different


@pytest.fixture(scope="module")
def demo():
    with gn.Model.demo() as made:
        yield made


def test_more_effort_is_more_reasoning_and_a_check(demo):
    thoughts = {}
    for effort in ("low", "medium", "high"):
        reply = gn.Chat(demo, sampling=GREEDY, reasoning_effort=effort).ask("What is 4321 + 1234?")
        assert reply.text == "4321 + 1234 = 5555"
        thoughts[effort] = reply.reasoning
    assert len(thoughts["low"]) < len(thoughts["medium"]) < len(thoughts["high"])
    assert "Check: " in thoughts["high"]


def test_what_is_told_is_asked_for_later(demo):
    chat = gn.Chat(demo, sampling=GREEDY)
    chat.ask("My name is Rosa.")
    assert chat.ask("What is 17 + 25?").text == "17 + 25 = 42"
    assert chat.ask("And plus 8?").text == "42 + 8 = 50"
    assert "Rosa" in chat.ask("What is my name?").text


def test_what_it_was_not_taught_it_does_not_know(demo):
    reply = gn.Chat(demo, sampling=GREEDY).ask("Who invented the telescope?")
    assert reply.text == "I am a demo model and do not know that."


def test_instructions_change_the_form_of_an_answer(demo):
    chat = gn.Chat(demo, sampling=GREEDY, instructions="Answer with the result only.")
    assert chat.ask("What is 17 + 25?").text == "42"


def get_location(name: str) -> dict:
    """Find the city where a person is.

    Args:
        name: The name of the person.
    """
    return {"city": "Lima"}


def get_weather(city: str) -> dict:
    """Get the current weather of a city.

    Args:
        city: The name of the city.
    """
    return {"temperature": 21, "condition": "sunny"}


def send_message(to: str, text: str) -> dict:
    """Send a message to a person.

    Args:
        to: The name of the person.
        text: The text to send.
    """
    return {"status": "sent"}


def test_a_chain_of_calls_uses_each_result_and_ends(demo):
    tools = [send_message, get_weather, get_location]
    reply = gn.Chat(demo, sampling=GREEDY, tools=tools).ask("Send Bob the weather where Mia is.")
    called = [(c.recipient, json.loads(c.arguments)) for c in reply.tool_calls]
    assert called == [
        ("functions.get_location", {"name": "Mia"}),
        ("functions.get_weather", {"city": "Lima"}),
        ("functions.send_message", {"to": "Bob", "text": "21 degrees, sunny"}),
    ]
    assert reply.text == "I sent Bob: 21 degrees, sunny."


def test_without_tools_it_says_so(demo):
    reply = gn.Chat(demo, sampling=GREEDY).ask("What is the weather in Oslo?")
    assert (reply.text, reply.tool_calls) == ("I have no tool for that.", ())


def test_a_failed_call_is_told(demo):
    def get_weather(city: str) -> dict:
        """Get the current weather of a city.

        Args:
            city: The name of the city.
        """
        return {"error": "timeout"}

    reply = gn.Chat(demo, sampling=GREEDY, tools=[get_weather]).ask("Weather in Oslo?")
    assert reply.text == "get_weather failed: timeout."


def test_a_document_holds_what_the_text_says(demo):
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "age": {"type": "integer"},
            "pet": {
                "type": "object",
                "properties": {
                    "kind": {"type": "string", "enum": ["cat", "dog", "horse"]},
                    "name": {"type": "string"},
                },
                "required": ["kind", "name"],
            },
        },
        "required": ["name", "age", "pet"],
        "additionalProperties": False,
    }
    text = "Extract: Ida is 34 years old. Ida has a dog called Noah."
    reply = gn.Chat(demo, sampling=GREEDY, response_format=schema).ask(text)
    assert reply.parsed == {"name": "Ida", "age": 34, "pet": {"kind": "dog", "name": "Noah"}}


def test_guessed_tokens_are_accepted_and_change_nothing(demo):
    words = "tea bread car lamp blue red cat horse Rome Lima tea bread cup boat green"
    prompt = render_user(demo.tokenizer, f"Repeat: {words}", effort="low")
    told = []
    for lookup in (True, False):
        stream = demo.session().generate(prompt, max_new_tokens=200, sampling=GREEDY, lookup=lookup)
        told.append([token.id for token in stream])
        assert (stream.stats.accepted_tokens > 0) is lookup
    assert told[0] == told[1]
    assert said(demo, told[0]) == ("final", None, words)
