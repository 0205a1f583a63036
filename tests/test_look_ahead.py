"""Constraints that say what comes next: several tokens in one step, and not a bit is changed."""

import asyncio
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import gptoss_native as gn
import numpy as np
import pytest
from constraint_kinds import GREEDY, PROMPT, SMALL, VOCAB, Stretches, generate
from gptoss_native.structured import Envelope
from hypothesis import given, settings
from hypothesis import strategies as st
from turns import CLOCK, WEATHER, random_model, small_tokenizer, stream_of

TOKENIZER = small_tokenizer()
PROBE = [7, 1, 7]


class Blind:
    """The same constraint, that says nothing ahead."""

    def __init__(self, constraint):
        self.mask, self.accept = constraint.mask, constraint.accept


def outcome(model, stream, session):
    """Return all of a stream that could differ, and the state it left."""
    tokens = list(stream)
    return tokens, session.tokens, session.logits(PROBE).tobytes(), stream.stats.finish_reason


@pytest.fixture(scope="module")
def model(small_model):
    return small_model


@pytest.fixture(scope="module")
def random_cpu(config):
    with gn.Model.random(config(**SMALL), seed=1) as made:
        yield made


@pytest.fixture(scope="module")
def worded(config):
    with random_model(config, TOKENIZER, seed=1) as made:
        yield made


SAMPLINGS = [
    GREEDY,
    gn.Sampling(seed=1, logprobs=3),
    gn.Sampling(seed=2, top_p=0.6, temperature=0.4),
    gn.Sampling(temperature=0.0, logit_bias=dict.fromkeys(range(0, VOCAB, 8), 3.0), logprobs=2),
    gn.Sampling(seed=4, presence_penalty=1.0, repetition_penalty=1.3),
]


# On both sides of a window, and each sampling.
@pytest.mark.parametrize(
    ("length", "which"), [(1, 0), (5, 1), (127, 2), (129, 3), (5, 4), (127, 1)]
)
def test_what_is_known_ahead_changes_no_token_and_no_bit(model, length, which, some_ids):
    sampling = SAMPLINGS[which]
    prompt, forced = some_ids(length, VOCAB, length), 0
    for leaves in (2, 8, 40):
        got = []
        for wrap in (Blind, lambda constraint: constraint):
            session = model.session()
            constraint = wrap(Stretches(3, leaves=leaves))
            stream = generate(session, constraint, 90, prompt, sampling=sampling)
            got.append(outcome(model, stream, session))
        assert got[0] == got[1]
        stats = stream.stats
        assert stats.forced_tokens <= stats.accepted_tokens <= stats.drafted_tokens
        forced += stats.forced_tokens
    assert (forced > 0) == (sampling.presence_penalty == 0)


def test_forced_tokens_need_no_step_of_their_own(model):
    """Of each stretch of three the first is the step's own, and three come with it."""
    constraint = Stretches(leaves=1)
    stream = generate(model.session(), constraint, 41, sampling=GREEDY)
    tokens = [token.id for token in stream]
    assert constraint.accepted == tokens
    # One token leaves free text, three are forced, one is chosen: then free text again.
    assert stream.stats.forced_tokens == 3 * (len(tokens) // 5)


def test_text_under_a_fixed_mask_is_guessed(small_cpu):
    """How many guesses are tried depends on what they cost; a new model tries at least one."""
    # Nothing else comes, and each guess comes true.
    sampling = gn.Sampling(temperature=0, logit_bias={4: 100.0})
    stream = generate(small_cpu.session(), Stretches(), 200, sampling=sampling)
    assert {token.id for token in stream} == {4}
    assert 0 < stream.stats.accepted_tokens == stream.stats.drafted_tokens
    stream = generate(small_cpu.session(), Stretches(), 50, sampling=sampling, lookup=False)
    assert {token.id for token in stream} == {4}
    assert stream.stats.drafted_tokens == 0


def test_many_streams_get_together_what_each_gets_alone_without_it(model, request):
    emulated = "cuda" in request.node.callspec.id
    count = 6 if emulated else 16

    def job(number, wrap):
        sampling = gn.Sampling(seed=number, temperature=[1.0, 0.0][number % 2], logprobs=number % 3)
        constraint = wrap(Stretches(number, leaves=2 + number)) if number % 4 else None
        return generate(session := model.session(), constraint, 60, sampling=sampling), session

    def answer(number, wrap=lambda constraint: constraint):
        stream, session = job(number, wrap)
        return outcome(model, stream, session)

    alone = [answer(number, Blind) for number in range(count)]
    begun = threading.Barrier(count)

    def together(number):
        begun.wait()
        return answer(number)

    with ThreadPoolExecutor(count) as pool:
        assert list(pool.map(together, range(count))) == alone

    async def one(number):
        stream, _ = job(number, lambda constraint: constraint)
        return [token async for token in stream]

    async def all_of_them():
        return await asyncio.gather(*(one(number) for number in range(count)))

    assert asyncio.run(all_of_them()) == [tokens for tokens, *_ in alone]


def test_streams_that_are_left_within_a_stretch_go_on_as_they_would_have(model):
    sampling = gn.Sampling(seed=5)
    want = list(generate(model.session(), Blind(Stretches()), 40, sampling=sampling))
    for cut in range(1, 12):
        session = model.session()
        stream = generate(session, Stretches(), 40, sampling=sampling)
        begun = list(itertools.islice(stream, cut))
        assert session.tokens == PROMPT + [token.id for token in begun]
        twin = session.fork()
        for one in (session, twin):
            assert begun + list(one.resume(constraint=Stretches())) == want


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 99),
    leaves=st.integers(1, 20),
    temperature=st.sampled_from([0, 0.3, 1.0]),
    likely=st.integers(0, VOCAB - 1),
)
def test_any_text_is_the_same(random_cpu, seed, leaves, temperature, likely):
    sampling = gn.Sampling(seed=seed, temperature=temperature, logit_bias={likely: 6.0})
    got = []
    for wrap in (Blind, lambda constraint: constraint):
        with random_cpu.session() as session:
            constraint = wrap(Stretches(seed, leaves=leaves))
            got.append(
                outcome(random_cpu, generate(session, constraint, 60, sampling=sampling), session)
            )
    assert got[0] == got[1]


# Turns


@pytest.mark.parametrize("seed", [None, *range(6)])
@pytest.mark.parametrize("strict", [False, True])
def test_turns_are_those_of_single_steps(worded, seed, strict):
    schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 9}}}
    schema |= {"required": ["city"], "additionalProperties": False}
    form = schema if strict else None
    envelope = Envelope(TOKENIZER, tools=[WEATHER, CLOCK], strict=strict, response_format=form)
    got = []
    for wrap in (Blind, lambda turn: turn):
        session = worded.session()
        stream = stream_of(session, TOKENIZER, wrap(envelope.turn()), seed)
        got.append(outcome(worded, stream, session))
    assert got[0] == got[1]


def test_free_texts_that_end_alike_have_one_mask():
    """A device that was given a mask is not given the same again."""
    masks = []
    for _ in range(2):
        turn = Envelope(TOKENIZER, tools=[WEATHER]).turn()
        for token in TOKENIZER.encode("<|channel|>analysis<|message|>", allow_special=True):
            turn.accept(token)
        masks.append(turn.ahead([]))
    assert isinstance(masks[0], gn.FixedMask)
    assert masks[0] is masks[1]


def test_headers_take_few_steps(worded):
    envelope = Envelope(TOKENIZER, tools=[CLOCK], tool_choice="required")
    forced = 0
    for seed in range(6):
        stream = stream_of(worded.session(), TOKENIZER, envelope.turn(), seed)
        assert list(stream)
        forced += stream.stats.forced_tokens
    assert forced


def test_what_a_grammar_spells_out_is_tried():
    schema = {"type": "object", "properties": {"temperature": {"type": "integer"}}}
    schema |= {"required": ["temperature"], "additionalProperties": False}
    turn = Envelope(TOKENIZER, response_format=schema).turn()
    for token_id in TOKENIZER.encode('<|channel|>final<|message|>{"', allow_special=True):
        turn.accept(token_id)
    ids, forced = turn.ahead([])
    assert TOKENIZER.decode(ids).startswith("t")
    assert "temperature".startswith(TOKENIZER.decode(ids))
    assert forced == 0
    for count in range(len(ids)):
        one, other = np.zeros((2, -(-TOKENIZER.vocab_size // 32)), np.int32)
        turn.mask_after(ids[: count + 1], one)
        twin = turn._twin()
        for token_id in ids[: count + 1]:
            twin.accept(token_id)
        twin.mask(other)
        assert np.array_equal(one, other)


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_a_chat_says_the_same_with_guesses_and_without(seed):
    sampling = gn.Sampling(temperature=0) if seed is None else gn.Sampling(seed=seed, logprobs=2)
    with gn.Model.demo() as demo:
        said = []
        for lookup in (True, False):
            chat = gn.Chat(demo, lookup=lookup, sampling=sampling, max_new_tokens=150)
            told = []
            for text in ("What is 17 + 25?", "And 18 + 25?", "What is 17 + 25?"):
                told += chat.send(text)
            said.append((told, chat.messages, chat.session.tokens))
        assert said[0] == said[1]
