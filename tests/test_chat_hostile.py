"""Chats with models that write anything: nothing is lost, nothing raises, and the chat goes on."""

import itertools

import gptoss_native as gn
import pytest
from gptoss_native.chat import TextDelta, ToolCall, ToolResult
from gptoss_native.harmony import Anomaly, Message, MessageEnd, MessageStart, parse
from gptoss_native.json_fields import read_object
from gptoss_native.model import demo_path
from harmony_checks import accounted, text_bytes, visible
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted import scripted


@pytest.fixture(scope="module")
def tokenizer():
    return gn.Tokenizer.from_checkpoint(demo_path())


@pytest.fixture(scope="module")
def model():
    """A model with the bundled one's shape and random weights."""
    config = read_object(demo_path() / "config.json").values
    with gn.Model.random(config, seed=3, threads=1) as made:
        yield made


many = settings(
    database=None,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def f(a: int = 1):
    return f"got {a}"


def check_turn(chat, turn):
    """What the turn tells is all that was decoded, in events and in its reply."""
    events = list(turn)
    reply = turn.reply
    assert reply.finish_reason in ("stop", "length", "tool_rounds")
    assert reply.anomalies == tuple(event for event in events if isinstance(event, Anomaly))
    written = [event.message for event in events if isinstance(event, MessageEnd)]
    told = [e for e in events if isinstance(e, Anomaly | MessageStart | MessageEnd)]
    lost = visible(text_bytes(chat.tokenizer, reply.ids)) - accounted(
        chat.tokenizer, list(reply.ids), told
    )
    assert not lost, lost
    for message in written:
        assert message in reply.messages
    deltas = "".join(event.text for event in events if isinstance(event, TextDelta))
    own = "".join(message.content for message in written if message.role == "assistant")
    assert deltas == own
    said = [m for m in written if m.role == "assistant" and m.channel == "final"]
    assert all(m.content in reply.text for m in said if m.recipient is None)
    assert sum(reply.usage.by_channel.values()) == reply.usage.generated_tokens
    assert [e for e in events if isinstance(e, ToolCall)] == list(reply.tool_calls)
    assert [e for e in events if isinstance(e, ToolResult)] == list(reply.tool_results)
    # Nothing malformed comes back to the model, nor what it wrote in another's name.
    parsed = parse(chat.tokenizer, chat.context[:-2], None)
    assert {one.kind for one in parsed.anomalies} <= {"unknown_channel"}
    roles = [message.role for message in parsed.messages[len(chat.opening) :]]
    assert set(roles) <= {"user", "assistant", "tool"}
    return reply


@pytest.mark.parametrize("seed", range(12))
def test_a_random_model_can_be_talked_with(model, tokenizer, seed):
    chat = gn.Chat(model, tokenizer=tokenizer, tools=[f], max_new_tokens=80, envelope=False)
    for turn in range(4):
        sampling = gn.Sampling(temperature=1.5, seed=100 * seed + turn)
        # Control tokens more often than one in a hundred.
        if turn % 2:
            bias = dict.fromkeys(tokenizer.special.values(), 3.0)
            sampling = gn.Sampling(temperature=1.0, seed=seed, logit_bias=bias)
        options = {"max_reasoning_tokens": 10 * turn} if seed % 2 else {"cycle_tokens": 8}
        check_turn(chat, chat.send(f"turn {turn}", sampling=sampling, **options))


WORDS = ["analysis", "final", "commentary", " to=functions.f", " to=x", "assistant", "user", "json"]
NAMES = ["start", "channel", "message", "end", "call", "return", "constrain"]


def piece(tokenizer):
    special = st.sampled_from(NAMES).map(lambda name: [tokenizer.special[f"<|{name}|>"]])
    words = st.sampled_from([*WORDS, "{}", '{"a": 2}', "text "]).map(tokenizer.encode)
    whole = st.sampled_from(
        [
            "<|channel|>final<|message|>",
            "<|channel|>analysis<|message|>",
            "<|channel|>commentary to=functions.f<|message|>{}",
            "<|end|><|start|>assistant",
            "<|start|>user<|message|>",
        ]
    ).map(lambda text: tokenizer.encode(text, allow_special=True))
    return special | words | whole | st.integers(0, tokenizer.vocab_size - 1).map(lambda n: [n])


def script(tokenizer):
    parts = st.lists(piece(tokenizer), max_size=25)
    return parts.map(lambda parts: list(itertools.chain.from_iterable(parts)))


@settings(many, max_examples=150)
@given(data=st.data())
def test_whatever_is_written_nothing_is_lost_and_the_chat_goes_on(demo, tokenizer, data):
    scripts = data.draw(st.lists(script(tokenizer), min_size=1, max_size=12)) + [[]] * 200
    limits = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "max_reasoning_tokens": st.integers(0, 20),
                "cycle_tokens": st.integers(4, 12),
                "max_new_tokens": st.integers(1, 60),
            },
        )
    )
    chat = scripted(demo, *scripts, tools=[f], max_tool_rounds=3)
    for text in ("one", "two", "three"):
        check_turn(chat, chat.send(text, **limits))


@settings(many, max_examples=60)
@given(data=st.data())
def test_a_turn_may_be_left_at_any_event(demo, tokenizer, data):
    scripts = data.draw(st.lists(script(tokenizer), min_size=1, max_size=12)) + [[]] * 200
    chat = scripted(demo, *scripts, tools=[f], max_tool_rounds=3)
    for text in ("one", "two"):
        turn, leave_at = chat.send(text), data.draw(st.integers(0, 60))
        for number, _ in enumerate(turn):
            if number == leave_at:
                break
        reply = turn.reply
        told = text_bytes(tokenizer, reply.ids)
        held = "".join(message.content for message in reply.messages)
        assert len(held.encode()) <= 3 * len(told) + 400 * len(reply.tool_results)
        assert chat.messages == [] or chat.messages[0].role == "user"
    parsed = parse(tokenizer, chat.context[:-2], None)
    assert {one.kind for one in parsed.anomalies} <= {"unknown_channel"}
    kept = [message for message in chat.messages if isinstance(message, Message)]
    assert {message.role for message in kept} <= {"user", "assistant", "tool"}
