"""Envelope: whatever a model would write, its turns are whole messages to declared tools."""

import itertools
import json
from concurrent.futures import ThreadPoolExecutor

import gptoss_native as gn
import numpy as np
import pytest
from gptoss_native.harmony import BROWSER, PYTHON, Message, Renderer, ToolDescription, parse
from gptoss_native.structured import Envelope
from gptoss_native.structured.text import text_tokens
from hypothesis import given
from hypothesis import strategies as st
from o200k import O200K_SPECIAL, as_tokenizer_json, o200k_ranks
from turns import (
    CLOCK,
    PROMPT,
    SEARCH,
    WEATHER,
    ids_of,
    random_model,
    read,
    small_tokenizer,
    stream_of,
)

TOKENIZER = small_tokenizer()
FUNCTIONS = {"functions.get_weather", "functions.clock"}
TOOLS = [WEATHER, CLOCK, SEARCH, PYTHON]
RECIPIENTS = {*FUNCTIONS, "search.web", "python"}


@pytest.fixture(scope="module")
def model(config):
    with random_model(config, TOKENIZER, seed=1, deterministic=True) as made:
        yield made


def turns(model, seeds=range(12), likely=("analysis", "final"), **options):
    """Yield the messages of greedy and sampled turns, and how each ended."""
    envelope = Envelope(TOKENIZER, **options)
    for seed in (None, *seeds):
        turn = envelope.turn()
        stream = stream_of(model.session(), TOKENIZER, turn, seed, likely=likely)
        _, messages = read(TOKENIZER, turn, stream)
        yield messages, stream.stats.finish_reason


def allowed(turn, size=TOKENIZER.vocab_size):
    out = np.zeros(-(-size // 32), np.int32)
    turn.mask(out)
    return set(np.flatnonzero(np.unpackbits(out.view(np.uint8), bitorder="little")).tolist())


def encode(text, tokenizer=TOKENIZER):
    return tokenizer.encode(text, allow_special=True)


def written(text, **options):
    """Return a turn in which a text has been written."""
    return Envelope(TOKENIZER, **options).turn(encode(text))


def names(ids):
    return TOKENIZER.decode(ids)


# What a turn has


def test_a_turn_without_tools_is_analysis_and_an_answer(model):
    channels = set()
    for messages, why in turns(model):
        assert {message.recipient for message in messages} == {None}
        said = [message.channel for message in messages]
        channels |= set(said)
        assert "final" not in said[:-1]
        assert why == "length" or said[-1] == "final"
    assert channels == {"analysis", "final"}


def test_auto_ends_in_an_answer_or_in_a_call_of_a_declared_tool(model):
    last = set()
    for messages, why in turns(model, range(40), tools=TOOLS):
        *before, end = messages
        assert all(m.channel in ("analysis", "commentary") for m in before)
        assert not any(m.recipient for m in before)
        if why == "stop":
            assert end.recipient in RECIPIENTS or end.channel == "final"
            last.add(end.recipient)
    assert None in last
    assert len(last) > 2


@pytest.mark.parametrize("tools", [TOOLS, [CLOCK], [PYTHON, BROWSER]], ids=["all", "one", "own"])
def test_required_ends_in_a_call_of_a_declared_tool(model, tools):
    reasoned = ended = 0
    for messages, why in turns(model, range(60), tools=tools, tool_choice="required"):
        assert "final" not in {message.channel for message in messages}
        reasoned += any(m.channel == "analysis" and not m.recipient for m in messages)
        ended += why == "stop"
        if why == "stop":
            called = messages[-1].recipient
            assert called in RECIPIENTS or called.startswith("browser.")
            assert (messages[-1].channel == "commentary") or not called.startswith("functions.")
            assert messages[-1].content_type == "json" or not called.startswith("functions.")
    assert ended > 40
    assert reasoned > 3


@pytest.mark.parametrize("name", ["get_weather", "functions.clock", "search.web", "python"])
def test_a_named_tool_is_the_one_that_is_called(model, name):
    reasoned = 0
    for messages, why in turns(model, tools=TOOLS, tool_choice=name):
        called = {message.recipient for message in messages} - {None}
        assert why == "length" or {name.removeprefix("functions.")} == {
            recipient.removeprefix("functions.") for recipient in called
        }
        assert "final" not in {message.channel for message in messages}
        reasoned += messages[0].channel == "analysis" and not messages[0].recipient
    assert reasoned


def test_none_calls_nobody(model):
    for messages, _ in turns(model, tools=TOOLS, tool_choice="none"):
        assert {message.recipient for message in messages} <= {None}
        assert {message.channel for message in messages} <= {"analysis", "final"}


# What may be said


WHOLE_TURNS = [
    [("analysis", "Hm. 12 <|end|> 3"), ("final", "Grüße 🙂!")],
    [("final", "")],
    [("analysis", "a"), ("commentary", "Let me look."), ("analysis", "b"), ("final", "c")],
    [("analysis", "a"), ("functions.get_weather", '{"city": "Rome"}')],
    [("functions.clock", "{}")],
]
WRITTEN = [
    "<|channel|>commentary to=functions.clock <|constrain|>json<|message|>{}<|call|>",
    " to=functions.clock<|channel|>commentary <|constrain|>json<|message|>{}<|call|>",
    "<|channel|>analysis to=python code<|message|>print(1)<|call|>",
    "<|channel|>analysis to=python<|message|>print(1)<|call|>",
    "<|channel|>analysis to=search.web code<|message|>{}<|call|>",
    " to=search.web<|channel|>commentary <|constrain|>json<|message|>{}<|call|>",
    "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>",
]


@pytest.fixture(scope="module")
def o200k(tmp_path_factory):
    special = O200K_SPECIAL | {"<|constrain|>": 200003}
    path = tmp_path_factory.mktemp("o200k") / "tokenizer.json"
    path.write_text(json.dumps(as_tokenizer_json(o200k_ranks(), special)))
    return gn.Tokenizer.from_file(path)


@pytest.fixture(scope="module", params=["demo", "o200k"])
def tokenizer(request):
    return TOKENIZER if request.param == "demo" else request.getfixturevalue("o200k")


@pytest.mark.parametrize("said", WHOLE_TURNS, ids=str)
def test_what_the_renderer_writes_may_be_said(tokenizer, said):
    messages = [
        Message.tool_call(where, text) if "." in where else Message("assistant", text, where)
        for where, text in said
    ]
    renderer = Renderer(tokenizer)
    ids = renderer.render_for_training(messages, analysis="all")
    begun = renderer.render_for_completion([])
    assert ids[: len(begun)] == begun
    turn = Envelope(tokenizer, tools=TOOLS).turn(ids[len(begun) :])
    assert turn.finished


@pytest.mark.parametrize("text", WRITTEN)
def test_what_models_write_may_be_said(tokenizer, text):
    turn = Envelope(tokenizer, tools=TOOLS).turn()
    for token_id in encode(text, tokenizer):
        assert token_id in allowed(turn, tokenizer.vocab_size)
        turn.accept(token_id)
    assert turn.finished


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "<|channel|>;  to"),
        ("<|channel|>", "analysis; commentary; final"),
        ("<|channel|>final", "<|message|>"),
        ("<|channel|>final<|message|>x<|return|>", None),
        ("<|channel|>analysis<|message|>x<|end|>", "<|start|>"),
        ("<|channel|>analysis<|message|>x<|end|><|start|>", "assistant"),
        ("<|channel|>commentary to=functions.clock <|constrain|>", "json"),
    ],
)
def test_headers_go_on_only_as_the_format_has_them(text, wanted):
    turn = written(text, tools=TOOLS)
    if wanted is None:
        assert turn.finished
    else:
        assert {TOKENIZER.decode([token]) for token in allowed(turn)} == set(wanted.split("; "))


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("<|channel|>analysis<|message|>x", "<|end|>"),
        ("<|channel|>commentary<|message|>x", "<|end|>"),
        ("<|channel|>final<|message|>x", "<|return|>"),
        ("<|channel|>commentary to=functions.clock <|constrain|>json<|message|>x", "<|call|>"),
    ],
)
def test_free_text_is_every_token_of_text_and_the_end_of_its_channel(text, end):
    special = set(TOKENIZER.special.values())
    texts = {i for i in range(TOKENIZER.vocab_size) if i not in special}
    data = {i: TOKENIZER.token_bytes(i) for i in texts}
    broken = {i for i in texts if "\ufffd" in data[i].decode(errors="replace")}
    begins = {i for i in broken if 0xC2 <= data[i][0] <= 0xF4}
    want = texts - broken | begins | {TOKENIZER.special[end]}
    assert allowed(written(text, tools=TOOLS)) == want


STATES = [
    "",
    "<|channel|>",
    "<|channel|>commentary to=",
    "<|channel|>analysis<|message|>",
    "<|channel|>final<|message|>x",
    "<|channel|>analysis<|message|><|end|>",
]


@pytest.mark.parametrize("text", STATES)
def test_a_token_is_accepted_exactly_if_its_mask_allows_it(text):
    envelope = Envelope(TOKENIZER, tools=TOOLS)
    may = allowed(envelope.turn(encode(text)))
    for token_id in [*range(TOKENIZER.vocab_size + 3), -1]:
        turn = envelope.turn(encode(text))
        if token_id in may:
            turn.accept(token_id)
        else:
            with pytest.raises(gn.InvalidArgument, match=str(token_id)):
                turn.accept(token_id)


def begins_text(data):
    """Return whether some text begins with the bytes."""
    tails = [b"", b"\x80", b"\x80\x80", b"\x80\x80\x80", b"\xa0\x80", b"\x90\x80\x80"]
    return any("\ufffd" not in (data + tail).decode(errors="replace") for tail in tails)


@given(st.binary(max_size=6))
def test_text_goes_on_exactly_where_it_is_utf8(data):
    tokens, state = text_tokens(TOKENIZER), 0
    single = {TOKENIZER.token_bytes(i): i for i in range(TOKENIZER.vocab_size)}
    data = data.replace("\ufffd".encode(), b"")
    for at in range(len(data)):
        token_id = single[data[at : at + 1]]
        may = bool(tokens.masks[state][token_id // 32] >> (token_id % 32) & 1)
        assert may == begins_text(data[: at + 1])
        state = tokens.after(state, token_id)
        if not may:
            assert state is None
            return
    assert (state == 0) == ("\ufffd" not in data.decode(errors="replace"))


# Reasoning that is ended, tokens that are forced


def test_reasoning_is_ended_by_the_header_of_the_answer():
    for options in ({}, {"tools": TOOLS}):
        turn = written("<|channel|>analysis<|message|>Hm", **options)
        ids = turn.end_reasoning()
        assert names(ids) == "<|end|><|start|>assistant<|channel|>final<|message|>"
        for token_id in ids:
            turn.accept(token_id)
        assert turn.message.channel == "final"


def test_reasoning_is_not_ended_within_a_character_nor_in_an_answer():
    turn = written("<|channel|>analysis<|message|>")
    first, second = TOKENIZER.encode("ȧ")
    turn.accept(first)
    assert turn.end_reasoning() == []
    turn.accept(second)
    assert turn.end_reasoning()[0] == TOKENIZER.special["<|end|>"]
    assert written("<|channel|>final<|message|>Hm").end_reasoning() == []


def test_reasoning_that_is_ended_leads_to_a_call_where_one_is_required(model):
    envelope = Envelope(TOKENIZER, tools=[SEARCH], tool_choice="required")
    begun = encode("<|channel|>analysis<|message|>Hm")
    ids = envelope.turn(begun).end_reasoning()
    assert names(ids) == "<|end|><|start|>assistant"
    for seed in range(8):
        turn = envelope.turn(begun + ids, reasoning=False)
        prompt = PROMPT + begun + ids
        stream = stream_of(model.session(), TOKENIZER, turn, seed, prompt=prompt)
        said = begun + ids + ids_of(stream)
        thought, *others = parse(TOKENIZER, said).messages
        assert thought.channel == "analysis"
        assert [message.recipient for message in others] == ["search.web"]


def test_no_analysis_begins_in_a_header_once_reasoning_is_ended():
    for text in ("", "<|channel|>", "<|channel|>analysis<|message|>x<|end|><|start|>"):
        turn = written(text)
        turn.end_reasoning()
        assert names(turn.forced()).endswith("final<|message|>")


def test_forced_tokens_are_what_would_have_come(model):
    envelope = Envelope(TOKENIZER, tools=[CLOCK], tool_choice="required")
    for seed in range(6):
        turn = envelope.turn()
        alone = ids_of(stream_of(model.session(), TOKENIZER, turn, seed))
        session, turn, said, saved = model.session(), envelope.turn(), [], 0
        feed = [*PROMPT]
        while not turn.finished and len(said) < len(alone):
            forced = turn.forced()
            for token_id in forced:
                turn.accept(token_id)
            said, saved = said + forced, saved + len(forced)
            feed += forced
            said += ids_of(stream_of(session, TOKENIZER, turn, seed, 1, prompt=feed))
            feed = []
        assert said == alone
        assert saved


def test_the_end_of_the_turn_is_never_forced():
    turn = written("<|channel|>commentary to=functions.clock <|constrain|>", tools=[CLOCK])
    assert names(turn.forced()) == "json<|message|>"


# Many at a time, streams that are left


def test_turns_of_sixteen_threads_are_those_of_each_alone(model):
    kinds = [
        Envelope(TOKENIZER, tools=TOOLS),
        Envelope(TOKENIZER),
        Envelope(TOKENIZER, tools=TOOLS, tool_choice="required"),
        Envelope(TOKENIZER, tools=TOOLS, tool_choice="clock"),
    ]

    def one(number):
        turn = kinds[number % 4].turn()
        return read(TOKENIZER, turn, stream_of(model.session(), TOKENIZER, turn, number, 150))[0]

    alone = [one(number) for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(one, range(16))) == alone


def test_a_turn_that_was_left_is_gone_on_with(model):
    envelope = Envelope(TOKENIZER, tools=TOOLS)
    for seed in range(4):
        whole = ids_of(stream_of(model.session(), TOKENIZER, envelope.turn(), seed))
        for cut in (1, 5, len(whole) // 2):
            session = model.session()
            stream = stream_of(session, TOKENIZER, envelope.turn(), seed)
            begun = [token.id for token in itertools.islice(stream, cut)]
            stream.cancel()
            twin = session.fork()
            for left in (session, twin):
                rest = ids_of(left.resume(constraint=envelope.turn()))
                assert begun + rest == whole


# What is refused


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tool_choice": "required"}, "there are none"),
        ({"tool_choice": "weather", "tools": TOOLS}, "'weather'.*functions.get_weather"),
        ({"tool_choice": None, "tools": TOOLS}, "None"),
        ({"tools": [WEATHER, WEATHER]}, "functions.get_weather"),
        ({"tools": "python"}, "'python'"),
        ({"tools": [1]}, "1"),
        ({"strict": ["nobody"], "tools": TOOLS}, "'nobody'"),
        ({"strict": "clock", "tools": TOOLS}, "'clock'"),
        ({"strict": 3, "tools": TOOLS}, "3"),
        ({"response_format": 5}, "5"),
        ({"response_format": "json"}, "'json'"),
        ({"tools": [ToolDescription("x" * 999, "")]}, "tokens in a header"),
    ],
    ids=str,
)
def test_what_no_turn_can_be_is_refused_by_name(options, says):
    with pytest.raises(gn.InvalidArgument, match=says):
        Envelope(TOKENIZER, **options)


def test_a_stream_that_does_not_stop_at_the_turns_end_is_told(model):
    envelope = Envelope(TOKENIZER)
    begun = encode("<|channel|>final<|message|>x<|return|>")
    stream = model.session().generate(PROMPT, stop_ids=[], constraint=envelope.turn(begun))
    with pytest.raises(gn.InvalidArgument, match="stop_ids"):
        next(stream)


def test_a_model_of_another_vocabulary_is_told(config):
    with random_model(config, TOKENIZER) as model, gn.Model.random(config()) as other:
        turn = Envelope(TOKENIZER).turn()
        assert ids_of(stream_of(model.session(), TOKENIZER, turn, 1))
        with pytest.raises(gn.InvalidArgument, match="is it the model's"):
            next(other.session().generate(PROMPT, constraint=Envelope(TOKENIZER).turn()))


def test_an_envelope_needs_no_llguidance_and_a_format_names_the_extra(run_python):
    code = """
import sys
sys.modules["llguidance"] = None
import gptoss_native as gn
from gptoss_native.harmony import PYTHON
from gptoss_native.model import demo_path
from gptoss_native.structured import Envelope
tokenizer = gn.Tokenizer.from_checkpoint(demo_path())
Envelope(tokenizer, tools=[PYTHON]).turn()
try:
    Envelope(tokenizer, response_format={"type": "object"})
except gn.Error as error:
    print(error)
"""
    assert "gptoss-native[structured]" in run_python(code)
