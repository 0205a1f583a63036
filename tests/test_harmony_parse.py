"""gptoss_native.harmony, ids to messages: any ids parse, and what was decoded is all there."""

import dataclasses
import random

import harmony_oracle as oracle
import numpy as np
import pytest
from gptoss_native import InvalidArgument
from gptoss_native.harmony import (
    Anomaly,
    Delta,
    DeveloperContent,
    Message,
    MessageEnd,
    MessageStart,
    Parser,
    Renderer,
    SystemContent,
    parse,
)
from gptoss_native.tokenizer import Tokenizer
from harmony_cases import random_conversation, random_turn
from harmony_checks import (
    ANSWER,
    BEGIN,
    CALL,
    FINAL,
    THINK,
    analysis,
    assistant,
    check_sequence,
    final,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from o200k import DEMO

DEMO_TOKENIZER = Tokenizer.from_checkpoint(DEMO)


@pytest.fixture(scope="module")
def tokenizer():
    return oracle.tokenizer()


# 10,000 sequences, random and mutated

CONTROL = sorted(DEMO_TOKENIZER.special.values())
PIECES = ["assistant", "user", "tool", "functions.f", " to=functions.f", "to=", " json", "python"]
PIECES += ["analysis", "commentary", "final", "finals", ":", "??", " ", "\n", "\u00a0", "\u2028"]
PIECES += ["<|end|>", "text", " to=assistant", "\U0001f600", "all", "user:bob", "\ufffd"]
piece = st.sampled_from([DEMO_TOKENIZER.encode_ordinary(text) for text in PIECES])
control = st.sampled_from(CONTROL).map(lambda token_id: [token_id])
token = st.integers(-2, 720).map(lambda token_id: [token_id])
sequences = st.lists(control | control | piece | piece | token, max_size=24).map(
    lambda parts: [token_id for part in parts for token_id in part]
)
roles = st.sampled_from(["assistant", "assistant", None, "user"])
many = settings(database=None, derandomize=True, deadline=None)


@settings(many, max_examples=4000)
@given(sequences, roles, st.integers(0, 24))
def test_any_sequence_parses_and_loses_nothing(ids, role, cut):
    check_sequence(DEMO_TOKENIZER, ids, role, min(cut, len(ids)))


@settings(many, max_examples=2000)
@given(st.lists(st.integers(-(2**70), 2**70) | st.integers(0, 201100), max_size=40), roles)
def test_any_integers_parse(ids, role):
    check_sequence(oracle.tokenizer(), ids, role, len(ids) // 2)


def rendered_pool(tokenizer):
    draw = random.Random(3)
    renderer = Renderer(tokenizer)
    out = []
    for _ in range(40):
        turn = random_turn(draw)
        opening = [Message("system", SystemContent()), Message("developer", DeveloperContent())]
        out.append(renderer.render([*opening, *turn] if draw.random() < 0.1 else turn))
    return out


POOL = rendered_pool(DEMO_TOKENIZER)


def mutated(draw):
    """Return a rendered conversation with some damage."""
    ids = list(draw.choice(POOL))
    for _ in range(draw.randint(1, 6)):
        at = draw.randint(0, len(ids))
        span = slice(at, at + draw.choice([0, 1, 1, 2, 8]))
        action = draw.randrange(6)
        if action == 0:
            del ids[span]
        elif action == 1:
            ids[at:at] = ids[span]
        elif action == 2:
            ids[span] = reversed(ids[span])
        elif action == 3:
            ids[span] = [draw.choice(CONTROL)]
        elif action == 4:
            ids[at:at] = [draw.randint(-1, 720) for _ in range(draw.randint(1, 3))]
        elif len(ids) > 8:
            del ids[draw.choice([slice(at, None), slice(0, at)])]
    return ids


@settings(many, max_examples=4000)
@given(st.integers(0, 2**32), roles)
def test_any_mutated_conversation_parses_and_loses_nothing(seed, role):
    draw = random.Random(seed)
    ids = mutated(draw)
    check_sequence(DEMO_TOKENIZER, ids, role, draw.randint(0, len(ids)))


# Well-formed sequences: as rendered, and as openai-harmony parses them


@pytest.mark.parametrize("seed", range(20))
def test_what_was_rendered_comes_back_without_anomalies(seed):
    draw = random.Random(seed)
    for _ in range(5):
        messages = random_conversation(draw)
        ids = Renderer(DEMO_TOKENIZER).render(messages, analysis="all")
        found = parse(DEMO_TOKENIZER, ids, None)
        for message, back in zip(messages, found.messages, strict=True):
            text = message.content if isinstance(message.content, str) else back.content
            assert back == dataclasses.replace(message, content=text)
        assert found.anomalies == []


def well_formed(message):
    """Return the message with what openai-harmony's parser raises at, or mistakes, taken out."""
    if message.role == "tool":
        return dataclasses.replace(message, recipient="assistant", name=message.name.strip("<|>"))
    if message.recipient is None:
        return dataclasses.replace(message, name=None, content_type=None, constrained=False)
    return dataclasses.replace(message, recipient=message.recipient.replace("<|", ""))


@pytest.mark.parametrize("seed", range(20))
def test_well_formed_sequences_parse_as_by_openai_harmony(tokenizer, seed):
    draw = random.Random(seed)
    for _ in range(5):
        messages = [*map(well_formed, random_turn(draw)), *map(well_formed, random_turn(draw))]
        ids = Renderer(tokenizer).render(messages, analysis="all")
        found = parse(tokenizer, ids, None)
        assert found.messages == oracle.parse(ids, None) == messages
        assert found.anomalies == []


def test_text_streams_as_by_openai_harmony(tokenizer):
    text = "Müller, Привет, नमस्ते, 안녕하세요, \U0001f60a\U0001f44b\U0001f3fe x."
    ids = tokenizer.encode(
        THINK + text + "<|end|>" + BEGIN + CALL + "<|message|>", allow_special=True
    )
    ids += [9552, 9552, *tokenizer.encode(text), 9552, 200012]
    theirs = oracle.oh.StreamableParser(oracle.encoding(), oracle.oh.Role.ASSISTANT)
    parser = Parser(tokenizer)
    for token_id in ids:
        theirs.process(token_id)
        parser.push(token_id)
        current = parser.current
        found, expected = current.content if current else "", theirs.current_content
        # After a bad byte openai-harmony holds back whole characters until the next token.
        assert found.startswith(expected)
        assert found == expected or "\ufffd" in expected
        assert (current and current.channel) == theirs.current_channel
        assert (current and current.recipient) == theirs.current_recipient
        assert (
            parser.state
            == {"ExpectStart": "between", "Header": "header", "Content": "content"}[
                theirs.state.value
            ]
        )
    assert parser.messages == [oracle.from_message(message) for message in theirs.messages]
    assert parser.messages[1].content == f" \ufffd \ufffd{text} \ufffd"
    (anomaly,) = parser.anomalies
    assert anomaly.kind == "bad_utf8"
    assert anomaly.data == tokenizer.decode_bytes(ids[-len(tokenizer.encode(text)) - 4 : -1])


# Events and state


def test_events_tell_channel_text_call_and_end_as_they_come(tokenizer):
    ids = tokenizer.encode(
        THINK + "Look it up<|end|>" + BEGIN + CALL + "<|message|>{}<|call|>", allow_special=True
    )
    parser = Parser(tokenizer)
    assert parser.state == "header"
    assert parser.current is None
    thought, call = analysis(""), assistant("", "commentary", "functions.f")
    whole = dataclasses.replace(thought, content="Look it up")
    assert parser.feed(ids[:5]) == [
        MessageStart(2, thought),
        Delta(3, "Look", "analysis", None),
        Delta(4, " it", "analysis", None),
    ]
    assert parser.current == dataclasses.replace(thought, content="Look it")
    assert parser.feed(ids[5:7]) == [
        Delta(5, " up", "analysis", None),
        MessageEnd(6, whole, "<|end|>"),
    ]
    assert (parser.state, parser.current, parser.messages) == ("between", None, [whole])
    *header, start, text, end = parser.feed(ids[7:])
    assert header == []
    at = len(ids) - 3
    assert (start, text) == (
        MessageStart(at, call),
        Delta(at + 1, "{}", "commentary", "functions.f"),
    )
    assert end == MessageEnd(at + 2, dataclasses.replace(call, content="{}"), "<|call|>")
    assert parser.offset == len(ids)
    assert parser.finish() == []


def test_an_unfinished_message_ends_with_finish(tokenizer):
    parser = Parser(tokenizer)
    ids = tokenizer.encode(f"{ANSWER}a\U0001f9d1", allow_special=True)
    parser.feed(ids[:-1])
    assert parser.current == final("a")
    events = parser.finish()
    assert events[0] == Delta(len(ids) - 1, "\ufffd", "final", None)
    assert events[-1] == MessageEnd(len(ids) - 1, final("a\ufffd"), None)
    data = tokenizer.decode_bytes(ids[3:-1])
    assert parser.anomalies == [Anomaly("bad_utf8", len(ids) - 1, data)]


def test_a_character_cut_by_a_control_token_is_whole(tokenizer):
    ids = tokenizer.encode("\U0001f9d1")
    assert len(ids) > 1
    opened = tokenizer.encode(ANSWER, allow_special=True)
    ids = [*opened, ids[0], tokenizer.special["<|message|>"], -5, *ids[1:]]
    found = parse(tokenizer, ids)
    assert found.messages == [final("\U0001f9d1")]
    assert [anomaly.kind for anomaly in found.anomalies] == ["stray_token", "unknown_id"]


def test_numpy_integers_parse(tokenizer):
    ids = tokenizer.encode(FINAL + "x<|return|>", allow_special=True)
    assert parse(tokenizer, np.array(ids, np.int32), None) == ([final("x")], [])


def test_a_parser_refuses_by_name(tokenizer, tmp_path):
    for role in ("tool", "robot", 3):
        with pytest.raises(InvalidArgument, match=f"role is {role!r}, wanted None or one of"):
            Parser(tokenizer, role)
    bare = (DEMO / "tokenizer.json").read_text().replace("<|channel|>", "<|channels|>")
    (tmp_path / "tokenizer.json").write_text(bare)
    with pytest.raises(InvalidArgument, match=r"no <\|channel\|>"):
        Parser(Tokenizer.from_checkpoint(tmp_path))
