"""Guessed tokens: the same tokens and bits as without, from fewer steps where text repeats."""

import threading
from concurrent.futures import ThreadPoolExecutor

import gptoss_native as gn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

PROBE = [5, 6, 7]


def some(count, seed=0):
    return np.random.default_rng(seed).integers(0, 512, count).tolist()


def texts(stream):
    return [(token.id, token.logprob, token.top_logprobs) for token in stream]


@pytest.fixture(scope="module", params=["fast", "exact"])
def model(request, config):
    # Few tokens, so that three of them often stand somewhere before; a window of 8 wraps soon.
    sizes = config("tiny", vocab_size=12)
    limits = gn.Limits(prefix_bytes=0)
    options = {"precision": request.param, "deterministic": True, "limits": limits}
    with gn.Model.random(sizes, seed=3, **options) as made:
        yield made


SAMPLINGS = [
    gn.Sampling(temperature=0),
    gn.Sampling(seed=5, temperature=0.3, logprobs=2),
    gn.Sampling(seed=6, top_p=0.5, logit_bias={3: 1.0}),
]


def prompt(count):
    return [token % 12 for token in some(count)]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=range(3))
@pytest.mark.parametrize("length", [1, 3, 127, 128, 129, 1000])
def test_guesses_change_no_token_and_no_bit(model, length, sampling):
    options = {"max_new_tokens": 300, "sampling": sampling, "stop_ids": []}
    plain, guessed = model.session(), model.session()
    without = plain.generate(prompt(length), lookup=False, **options)
    stream = guessed.generate(prompt(length), **options)
    assert texts(stream) == texts(without)
    assert without.stats.drafted_tokens == 0
    assert guessed.tokens == plain.tokens
    assert np.array_equal(guessed.logits(PROBE), plain.logits(PROBE))


def test_text_that_repeats_is_guessed(config):
    """How many guesses are tried depends on what they cost; a new model tries at least one."""
    with gn.Model.random(config("tiny", vocab_size=12), seed=3) as model:
        # Nothing else comes, and each guess comes true.
        sampling = gn.Sampling(temperature=0, logit_bias={4: 100.0})
        stream = model.session().generate(
            prompt(9), max_new_tokens=200, sampling=sampling, stop_ids=[]
        )
        assert {token.id for token in stream} == {4}
        assert 0 < stream.stats.accepted_tokens == stream.stats.drafted_tokens


def test_a_stream_left_among_right_guesses_has_what_it_gave(model):
    """The keys and values of the tokens that were not given are there, and must not be used."""
    sampling = gn.Sampling(temperature=0, logit_bias={4: 100.0})
    options = {"sampling": sampling, "stop_ids": [], "max_new_tokens": 100}
    for count in range(20, 60):
        session = model.session()
        stream = session.generate(prompt(9), **options)
        held = prompt(9) + [next(stream).id for _ in range(count)]
        assert session.tokens == held
        twin = session.fork()
        if count % 2:
            session.rewind(count)
            del held[count:]
        for one, tokens in ((session, held), (twin, twin.tokens)):
            with model.session() as cold:
                cold.prefill(tokens)
                assert np.array_equal(one.logits(PROBE), cold.logits(PROBE))


def test_a_fork_between_right_guesses_leaves_the_stream_as_it_was(model):
    sampling = gn.Sampling(temperature=0.4, seed=3)
    options = {"sampling": sampling, "stop_ids": [], "max_new_tokens": 200}
    want = texts(model.session().generate(prompt(100), lookup=False, **options))
    session = model.session()
    stream = session.generate(prompt(100), **options)
    got = []
    for number in range(200):
        got.append(next(stream))
        if number % 7 == 0:
            with session.fork() as twin:
                twin.prefill(prompt(20))
    assert [(t.id, t.logprob, t.top_logprobs) for t in got] == want


def test_stop_ids_and_lengths_end_among_guesses(model):
    sampling = gn.Sampling(temperature=0, logit_bias={4: 100.0})
    for most in range(30, 50):
        session = model.session()
        stream = session.generate(prompt(9), max_new_tokens=most, sampling=sampling, stop_ids=[])
        assert len(texts(stream)) == most
        assert session.position == 9 + most
        assert stream.stats.finish_reason == "length"
    session = model.session(max_context=64)
    assert len(texts(session.generate(prompt(9), sampling=sampling, stop_ids=[]))) == 55


def test_sessions_with_and_without_guesses_are_computed_together(model):
    def answer(number):
        with model.session() as session:
            sampling = SAMPLINGS[number % 3]
            options = {"max_new_tokens": 60 + number, "sampling": sampling, "stop_ids": []}
            return texts(session.generate(prompt(5 + number), lookup=number % 4 > 0, **options))

    alone = [answer(number) for number in range(16)]
    begun = threading.Barrier(16)

    def together(number):
        begun.wait()
        return answer(number)

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(together, range(16))) == alone


@settings(max_examples=30, deadline=None)
@given(
    start=st.lists(st.integers(0, 11), min_size=1, max_size=40),
    bias=st.dictionaries(st.integers(0, 11), st.floats(-3, 6), max_size=4),
    temperature=st.sampled_from([0, 0.2, 1.0]),
    seed=st.integers(0, 9),
)
def test_any_text_is_the_same(model, start, bias, temperature, seed):
    sampling = gn.Sampling(temperature=temperature, logit_bias=bias, seed=seed)
    options = {"max_new_tokens": 80, "sampling": sampling, "stop_ids": []}
    with model.session() as plain, model.session() as guessed:
        without = texts(plain.generate(start, lookup=False, **options))
        assert texts(guessed.generate(start, **options)) == without


@pytest.mark.parametrize("lookup", [1, None, "yes"])
def test_lookup_is_true_or_false(model, lookup):
    with pytest.raises(gn.InvalidArgument, match="lookup"):
        model.session().generate([1], lookup=lookup)
