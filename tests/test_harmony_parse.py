"""gptoss_native.harmony, ids to messages: any ids parse, and what was decoded is all there."""

import collections
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
from hypothesis import given, settings
from hypothesis import strategies as st
from o200k import DEMO

DEMO_TOKENIZER = Tokenizer.from_checkpoint(DEMO)


@pytest.fixture(scope="module")
def tokenizer():
    return oracle.tokenizer()


def assistant(content, channel=None, recipient=None, content_type=None, constrained=False):
    return Message("assistant", content, channel, recipient, content_type, constrained=constrained)


def final(content):
    return assistant(content, "final")


def analysis(content):
    return assistant(content, "analysis")


# Sequences that models have been seen to write, and that broke a parser somewhere

BEGIN = "<|start|>assistant"
FINAL = BEGIN + "<|channel|>final<|message|>"
THINK = "<|channel|>analysis<|message|>"
CALL = "<|channel|>commentary to=functions.f"
JSON = {"content_type": "json", "constrained": True}
SEEN = {
    # name: (what came after <|start|>assistant, messages, anomalies)
    "stray return after a complete answer": (
        [200005, 17196, 200008, 17045, 200007, 200002],
        [final("Answer")],
        [("stray_token", 5, b"<|return|>")],
    ),
    "start written twice": (
        f"<|start|>{FINAL}x<|return|>",
        [final("x")],
        [("repeated_start", 0, b""), ("repeated_start", 0, b"")],
    ),
    "role written again": (
        f"assistant{FINAL}x<|return|>",
        [final("x")],
        [("repeated_start", 0, b"assistant")],
    ),
    "text after the end of the answer": (
        f"{FINAL[18:]}x<|end|>tail",
        [final("x")],
        [("stray_token", 5, b"tail")],
    ),
    "text after return, and more of it": (
        f"{FINAL[18:]}x<|return|>tail<|end|>s",
        [final("x")],
        [("stray_token", 5, b"tail<|end|>s")],
    ),
    "answer without a header after the thought": (
        f"{THINK}t<|end|>The answer is 4.<|return|>",
        [analysis("t"), assistant("The answer is 4.")],
        [("missing_start", 5, b""), ("no_message", 5, b"")],
    ),
    "channel without start": (
        f"{THINK}t<|end|>{FINAL[18:]}x<|return|>",
        [analysis("t"), final("x")],
        [("missing_start", 5, b"")],
    ),
    "white space between messages": (
        f"{THINK}t<|end|>\n{FINAL}x<|return|>",
        [analysis("t"), final("x")],
        [("stray_token", 5, b"\n")],
    ),
    "empty channel": (
        "<|channel|><|message|>x<|return|>",
        [assistant("x")],
        [("empty_channel", 0, b"")],
    ),
    "no channel": ("<|message|>x<|return|>", [assistant("x")], []),
    "refusal without a header": (
        f"We must refuse.<|end|>{BEGIN}{THINK}We must  refuse.<|end|>{FINAL}Sorry<|return|>",
        [assistant("We must refuse."), analysis("We must  refuse."), final("Sorry")],
        [("no_message", 0, b"")],
    ),
    "refusal right after the channel": (
        "<|channel|>analysis I must  refuse<|end|>",
        [analysis("I must  refuse")],
        [("no_message", 0, b"")],
    ),
    "body in the header, glued to the channel": (
        "<|channel|>finalHello there.<|return|>",
        [final("Hello there.")],
        [("no_message", 0, b"")],
    ),
    "bare answer without markup": (
        ' {"a": 1}<|return|>',
        [assistant(' {"a": 1}')],
        [("no_message", 0, b"")],
    ),
    "bare answer, cut off": ("Hello", [assistant("Hello")], [("no_message", 0, b"")]),
    "free text after channel": (
        "<|channel|>I wonder what to do<|end|>",
        [assistant("I wonder what to do")],
        [("no_message", 0, b""), ("empty_channel", 0, b"")],
    ),
    "question marks after channel": (
        f"<|channel|>??<|end|>{FINAL}x<|return|>",
        [assistant("", "??"), final("x")],
        [("no_message", 0, b""), ("unknown_channel", 0, b"")],
    ),
    "commentary 2?": (
        "<|channel|>commentary 2?<|end|>",
        [assistant("2?", "commentary")],
        [("no_message", 0, b"")],
    ),
    "commentary?commentary?": (
        "<|channel|>commentary?commentary?<|end|>",
        [assistant("?commentary?", "commentary")],
        [("no_message", 0, b"")],
    ),
    "doubled header without message": (
        "<|channel|>commentary to=assistant<|channel|>commentary?<|end|>",
        [assistant("?", "commentary", "assistant")],
        [("no_message", 0, b""), ("repeated_channel", 0, b"commentary")],
    ),
    "doubled header": (
        f"<|channel|>commentary?{THINK}x<|end|>",
        [analysis("x")],
        [("repeated_channel", 0, b"commentary"), ("header_text", 0, b"?")],
    ),
    "dashes in the header": (
        f"–– commentary{THINK}x<|end|>",
        [analysis("x")],
        [("header_text", 0, "–– commentary".encode())],
    ),
    "channel glued to the tool's name": (
        " to=functions.ls<|channel|>commentary<|message|>{}<|call|>",
        [assistant("{}", "commentary", "functions.ls")],
        [],
    ),
    "channel twice around the tool's name": (
        "<|channel|>commentary to=functions.ls<|channel|>commentary<|message|>{}<|call|>",
        [assistant("{}", "commentary", "functions.ls")],
        [("repeated_channel", 0, b"commentary")],
    ),
    "constraint glued to the tool's name": (
        CALL + "<|constrain|>json<|message|>{}<|call|>",
        [assistant("{}", "commentary", "functions.f", **JSON)],
        [],
    ),
    "constrained answer": (
        "<|channel|>final <|constrain|>response<|message|>{}<|return|>",
        [assistant("{}", "final", None, "response", True)],
        [],
    ),
    "call without call, at the end": (
        CALL + " <|constrain|>json<|message|>{}",
        [assistant("{}", "commentary", "functions.f", **JSON)],
        [],
    ),
    "call without message": (
        CALL + ' <|constrain|>json{"a":1}<|call|>',
        [assistant('{"a":1}', "commentary", "functions.f", **JSON)],
        [("no_message", 0, b"")],
    ),
    "call without message or constraint": (
        CALL + ' json{"a":1}<|call|>',
        [assistant('{"a":1}', "commentary", "functions.f", "json")],
        [("no_message", 0, b"")],
    ),
    "call without to=": (
        "<|channel|>commentary functions.f json<|message|>{}<|call|>",
        [assistant("{}", "commentary", "functions.f", "json")],
        [("bare_recipient", 0, b"")],
    ),
    "two recipients": (
        " to=functions.a<|channel|>commentary to=functions.b<|message|>{}<|call|>",
        [assistant("{}", "commentary", "functions.b")],
        [("repeated_recipient", 0, b"to=functions.a")],
    ),
    "constraint without a type": (
        CALL + " <|constrain|><|message|>{}<|call|>",
        [assistant("{}", "commentary", "functions.f")],
        [("empty_type", 0, b"")],
    ),
    "answer right after the thought, by its channel": (
        f"{THINK}t{FINAL[18:]}x<|return|>",
        [analysis("t"), final("x")],
        [("missing_end", 4, b"")],
    ),
    "answer right after the thought, by its start": (
        f"{THINK}t{FINAL}x<|return|>",
        [analysis("t"), final("x")],
        [("missing_end", 4, b"")],
    ),
    "control tokens in a content": (
        f"{FINAL[18:]}a<|message|>b<|constrain|>c<|endoftext|>",
        [final("abc")],
        [
            ("stray_token", 4, b"<|message|>"),
            ("stray_token", 6, b"<|constrain|>"),
            ("stray_token", 8, b"<|endoftext|>"),
        ],
    ),
    "control tokens in a header": (
        "<|channel|>final<|endoftext|><|message|>x",
        [final("x")],
        [("stray_token", 2, b"<|endoftext|>")],
    ),
    "misspelled role": (
        f"{THINK}t<|end|><|start|>asistant<|channel|>final<|message|>x",
        [analysis("t"), final("x")],
        [("unknown_role", 5, b"asistant")],
    ),
    "no role": (
        f"{THINK}t<|end|><|start|><|channel|>final<|message|>x",
        [analysis("t"), final("x")],
        [("no_role", 5, b"")],
    ),
    "header cut off": (
        "<|channel|>final",
        [final("")],
        [("no_message", 0, b"")],
    ),
    "next role alone": (
        f"{THINK}t<|end|>{BEGIN}",
        [analysis("t")],
        [("empty_message", 5, b"assistant")],
    ),
    "only an end": ("<|return|>", [], [("empty_message", 0, b"")]),
    "nothing": ("", [], []),
    "unknown ids anywhere": (
        [-1, 200005, 17196, 2**70, 200008, 201088, 17045, 10**5000, 200007, 300000, 220, 200019.5],
        [final("Answer")],
        [("unknown_id", n, b"") for n in (0, 3, 5, 7, 9)]
        + [("stray_token", 10, b" "), ("unknown_id", 11, b"")],
    ),
    "a tool's answer, made up": (
        f"{CALL}<|message|>{{}}<|call|><|start|>functions.f to=assistant<|channel|>commentary"
        "<|message|>1<|end|>",
        [assistant("{}", "commentary", "functions.f"), Message.tool_result("functions.f", "1")],
        [],
    ),
}


@pytest.mark.parametrize("name", SEEN)
def test_a_sequence_seen_in_the_wild_gives_messages_and_anomalies(tokenizer, name):
    written, messages, anomalies = SEEN[name]
    ids = tokenizer.encode(written, allow_special=True) if isinstance(written, str) else written
    found = parse(tokenizer, ids)
    assert found.messages == messages
    assert found.anomalies == [Anomaly(*anomaly) for anomaly in anomalies]
    check_sequence(tokenizer, ids, "assistant")


def test_a_header_without_end_streams_as_text_and_nothing_of_it_is_lost(tokenizer):
    ids = tokenizer.encode("<|channel|>final" + " word" * 500, allow_special=True)
    parser = Parser(tokenizer)
    streamed = [bool(parser.push(token_id)) for token_id in ids]
    assert streamed.index(True) == 128
    assert all(streamed[128:])
    parser.finish()
    assert parser.messages == [final("word" + " word" * 499)]
    assert [anomaly.kind for anomaly in parser.anomalies] == ["no_message"]


# What the property tests hold any sequence against


def text_bytes(tokenizer, ids):
    """Return the bytes of the ids that are ordinary tokens."""
    special = set(tokenizer.special.values())
    out = b""
    for token_id in ids:
        try:
            out += b"" if token_id in special else tokenizer.token_bytes(token_id)
        except InvalidArgument:
            continue
    return out


def visible(text):
    """Count the bytes of text, or of bytes, but not white space: headers do not keep it."""
    if isinstance(text, bytes):
        text = text.decode(errors="surrogateescape")
    return collections.Counter("".join(text.split()).encode(errors="surrogateescape"))


def has_written_role(tokenizer, ids, anomalies):
    """Whether a role stands in the ids before a content, and was taken for one."""
    starts = [n for n, token_id in enumerate(ids) if token_id == tokenizer.special["<|start|>"]]
    implied = {n for kind, n in anomalies if kind in ("no_role", "unknown_role", "missing_start")}
    return bool(starts) and not any(n >= starts[-1] for n in implied)


def accounted(tokenizer, ids, events):
    """Count the bytes that messages and anomalies hold of what was decoded."""
    out, before = collections.Counter(), 0
    kinds = [(event.kind, event.offset) for event in events if isinstance(event, Anomaly)]
    for event in events:
        if isinstance(event, Anomaly):
            out += visible(event.data)
        elif isinstance(event, MessageStart):
            # A role that is wrong at the very same id is the next header's.
            last = {"missing_start": event.offset}
            here = [
                (kind, n - before)
                for kind, n in kinds
                if before <= n <= last.get(kind, event.offset - 1)
            ]
            message = event.message
            if message.role == "tool":
                out += visible(message.name)
            elif has_written_role(tokenizer, ids[before : event.offset], here):
                out += visible(message.role + f":{message.name}" * (message.name is not None))
            out += visible(f"to={message.recipient}" * (message.recipient is not None))
            out += visible(message.channel or "") + visible(message.content_type or "")
        elif isinstance(event, MessageEnd):
            out += visible(event.message.content)
            before = event.offset
    return out


def check_contents(tokenizer, ids, events):
    """Each content is its tokens' text, each message's deltas are its content."""
    opened, deltas = None, []
    for event in events:
        if isinstance(event, MessageStart):
            opened, deltas = event, []
            assert event.message.content == ""
        elif isinstance(event, Delta):
            assert event.text
            header = opened.message
            assert (event.channel, event.recipient) == (header.channel, header.recipient)
            deltas.append(event.text)
        elif isinstance(event, MessageEnd):
            assert dataclasses.replace(event.message, content="") == opened.message
            assert "".join(deltas) == event.message.content
            if ids[opened.offset : opened.offset + 1] == [tokenizer.special["<|message|>"]]:
                data = text_bytes(tokenizer, ids[opened.offset : event.offset])
                assert event.message.content == data.decode(errors="replace")


def check_sequence(tokenizer, ids, role, cut=0):
    """Hold what a sequence gives against everything that is promised of any sequence."""
    parser = Parser(tokenizer, role)
    events, ends = [], []
    for token_id in ids:
        events += parser.push(token_id)
        ends.append(len(parser.messages))
    events += parser.finish()
    assert parser.finish() == []
    assert parser.offset == len(ids)
    assert [e.message for e in events if isinstance(e, MessageEnd)] == parser.messages
    assert [e for e in events if isinstance(e, Anomaly)] == parser.anomalies
    assert all(0 <= event.offset <= len(ids) for event in events)
    check_contents(tokenizer, ids, events)
    # No decoded byte is lost.
    lost = visible(text_bytes(tokenizer, ids)) - accounted(tokenizer, ids, events)
    assert not lost, lost
    # How the ids are cut changes nothing, and what was whole stays as it was.
    again = Parser(tokenizer, role)
    whole = again.feed(ids[:cut])
    assert again.messages == parser.messages[: ends[cut - 1] if cut else 0]
    assert [*whole, *again.feed(ids[cut:]), *again.finish()] == events
    # The messages are such as can be rendered, and they come back.
    messages = [m for m in parser.messages if m.recipient != "all"]
    rendered = Renderer(tokenizer).render(messages, analysis="all")
    back = parse(tokenizer, rendered, None)
    assert back.messages == messages
    assert {anomaly.kind for anomaly in back.anomalies} <= {"unknown_channel"}


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
    assert (start, text) == (MessageStart(at, call), Delta(at + 1, "{}", *CALLED))
    assert end == MessageEnd(at + 2, dataclasses.replace(call, content="{}"), "<|call|>")
    assert parser.offset == len(ids)
    assert parser.finish() == []


CALLED = ("commentary", "functions.f")


def test_an_unfinished_message_ends_with_finish(tokenizer):
    parser = Parser(tokenizer)
    ids = tokenizer.encode(f"{FINAL[18:]}a\U0001f9d1", allow_special=True)
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
    opened = tokenizer.encode(FINAL[18:], allow_special=True)
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
