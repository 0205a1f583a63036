"""Reasoning that goes on too long is ended, and the answer begun, in the form of the format."""

import gptoss_native as gn
import pytest
from gptoss_native.chat import TokenEvent
from gptoss_native.harmony import Message, parse
from scripted import BEGIN, FINAL, THINK, answer, call, scripted, thought

GREEDY = gn.Sampling(temperature=0.0)
SUM = "What is 17 + 25?"


@pytest.mark.parametrize("limit", [0, 1, 10, 27])
def test_at_the_limit_the_turn_goes_on_with_an_answer(demo, limit):
    chat = gn.Chat(demo, sampling=GREEDY)
    turn = chat.send(SUM, max_reasoning_tokens=limit)
    forced = [event.id for event in turn if isinstance(event, TokenEvent) and event.forced]
    reply = turn.reply
    switch = f"<|end|>{BEGIN}{FINAL}"
    assert forced == demo.tokenizer.encode(switch, allow_special=True)
    assert reply.text.startswith("17")
    assert (reply.finish_reason, reply.finish_detail) == ("stop", "reasoning_limit")
    assert reply.usage.reasoning_tokens == limit
    assert reply.usage.forced_tokens == len(forced)
    assert reply.anomalies == ()
    assert demo.tokenizer.decode(reply.ids).startswith(f"{THINK}{reply.reasoning}{switch}17")
    # It stands in the history, and the chat goes on after it.
    assert [message.channel for message in chat.messages] == [None, "analysis", "final"]
    assert chat.session.tokens[-len(reply.ids) :] == list(reply.ids)
    assert chat.ask("What is 2 + 3?").finish_reason == "stop"


def test_reasoning_under_the_limit_is_left_alone(demo):
    free = gn.Chat(demo, sampling=GREEDY).ask(SUM)
    bound = gn.Chat(demo, sampling=GREEDY).ask(SUM, max_reasoning_tokens=500, cycle_tokens=16)
    assert bound.ids == free.ids
    assert bound.finish_detail is None


def test_what_comes_after_the_switch_is_what_would_come_after_those_ids(demo):
    chat = gn.Chat(demo, sampling=GREEDY)
    prompt = chat.renderer.render_for_completion([*chat.opening, Message("user", SUM)])
    reply = chat.ask(SUM, max_reasoning_tokens=12)
    first = next(n for n, token in enumerate(reply.ids) if token == chat.to_answer[0])
    begun = first + len(chat.to_answer)
    with demo.session() as session:
        stream = session.generate([*prompt, *reply.ids[:begun]], sampling=GREEDY)
        assert [token.id for token in stream] == list(reply.ids[begun:])


def test_a_cycle_is_ended_and_told(demo):
    going = "let me see. " * 50
    chat = scripted(demo, THINK + going, "done<|return|>")
    reply = chat.ask("x", cycle_tokens=64)
    assert (reply.text, reply.finish_reason, reply.finish_detail) == ("done", "stop", "cycle")
    assert 64 <= reply.usage.reasoning_tokens < 90
    assert chat.messages[1].content == reply.reasoning
    # Three times is none, and a table's rules are none that are shorter.
    few = "wait, what about this one? " * 3
    assert scripted(demo, thought(few) + answer("y")).ask("x", cycle_tokens=32).text == "y"
    rule = "-" * 20
    assert scripted(demo, thought(rule) + answer("y")).ask("x", cycle_tokens=32).text == "y"


def test_the_limit_holds_for_the_turn_and_not_for_calls(demo):
    def f():
        return "result"

    chat = scripted(
        demo,
        thought("a a a a") + call("functions.f", '{ "long": "' + "x" * 40 + '"}'),
        THINK + "b b b b b b b b",
        "done<|return|>",
        tools=[f],
    )
    reply = chat.ask("x", max_reasoning_tokens=10)
    assert (reply.text, reply.finish_detail, len(reply.tool_calls)) == (
        "done",
        "reasoning_limit",
        1,
    )
    assert reply.usage.reasoning_tokens == 10
    assert reply.reasoning.replace("\n", "").startswith("a a a a")


def test_a_character_is_finished_first(demo):
    byte_by_byte = demo.tokenizer.encode("\U0001f642")
    assert len(byte_by_byte) > 1  # else the test is of nothing
    script = demo.tokenizer.encode(THINK, allow_special=True) + byte_by_byte * 3
    chat = scripted(demo, script, "done<|return|>")
    reply = chat.ask("x", max_reasoning_tokens=1)
    assert (reply.reasoning, reply.text, reply.anomalies) == ("\U0001f642", "done", ())
    # One that is never finished does not hold it up.
    lone = demo.tokenizer.encode("\U0001f642")[:1]
    script = demo.tokenizer.encode(THINK, allow_special=True) + lone * 40
    reply = scripted(demo, script, "done<|return|>").ask("x", max_reasoning_tokens=1)
    assert reply.text == "done"
    assert reply.usage.reasoning_tokens == 9


def test_without_room_for_an_answer_nothing_is_forced(demo):
    chat = gn.Chat(demo, sampling=GREEDY)
    reply = chat.ask(SUM, max_reasoning_tokens=10, max_new_tokens=16)
    assert (reply.finish_reason, reply.finish_detail) == ("length", "max_new_tokens")
    assert reply.usage.forced_tokens == 0
    assert reply.usage.generated_tokens == 16


def test_reasoning_that_begins_again_in_the_answer_is_ended_again(demo):
    chat = scripted(demo, THINK + "hm", f"so{THINK}hm", "done<|return|>")
    reply = chat.ask("x", max_reasoning_tokens=1)
    assert reply.text == "sodone"
    parsed = parse(demo.tokenizer, chat.context[:-2], None)
    assert parsed.anomalies == []
