"""Prompts that begin as earlier ones did: found in the cache, to the bits of computing them."""

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
    return [(token.id, token.logprob) for token in stream]


@pytest.fixture(scope="module", params=["windows", "no windows"])
def models(request, config):
    """Return a model that keeps prefixes and one that does not."""
    sizes = config("tiny", sliding_window=4096 if request.param == "no windows" else 8)
    cold = gn.Limits(prefix_bytes=0)
    with (
        gn.Model.random(sizes, seed=3, deterministic=True) as model,
        gn.Model.random(sizes, seed=3, deterministic=True, limits=cold) as other,
    ):
        yield model, other


def cold_logits(model, tokens):
    with model.session() as session:
        session.prefill(tokens)
        assert session.usage.cached_tokens == 0
        return session.logits(PROBE)


@pytest.mark.parametrize("length", [31, 32, 127, 128, 129, 1000, 1500])
def test_the_same_prompt_again_is_not_computed_again(models, length):
    model, cold = models
    prompt = some(length, length)
    options = {"max_new_tokens": 20, "sampling": gn.Sampling(seed=1), "stop_ids": []}
    want = texts(cold.session().generate(prompt, **options))
    for attempt in range(3):
        with model.session() as session:
            stream = session.generate(prompt, **options)
            assert texts(stream) == want
            stats = stream.stats
            assert stats.cached_tokens + stats.prefilled_tokens == length
            if attempt and length >= 32:
                assert stats.prefilled_tokens == 1  # for the logits after it
            assert session.usage == gn.Usage(stats.cached_tokens, stats.prefilled_tokens)


def test_a_prompt_that_begins_alike_goes_on_from_there(models):
    """The first that branches off computes what is beyond the last kept place, the next does not"""
    model, cold = models
    shared = some(1300, 70)
    for number, most in enumerate([1500, 200 + 1300 - 1024, 200, 200]):
        tokens = shared + some(200, 80 + number)
        with model.session() as session:
            usage = session.prefill(tokens)
            assert usage.cached_tokens + usage.prefilled_tokens == 1500
            assert usage.prefilled_tokens <= most
            assert np.array_equal(session.logits(PROBE), cold_logits(cold, tokens))


def test_short_prompts_share_a_beginning_that_is_long_enough(models):
    """As questions do that come with the same system message."""
    model, cold = models
    for size in (31, 60):
        shared = some(size, 300 + size)
        for number in range(4):
            tokens = shared + some(25, 400 + number)
            with model.session() as session:
                cached = session.prefill(tokens).cached_tokens
                assert cached == (size if size >= 32 and number > 1 else 0)
                assert np.array_equal(session.logits(PROBE), cold_logits(cold, tokens))


def test_a_short_beginning_that_is_kept_keeps_no_whole_prompt_away(models):
    model, _ = models
    shared = some(60, 500)
    prompts = [shared + some(90, 501 + number) for number in range(3)]
    for attempt in range(3):
        for prompt in prompts:
            with model.session() as session:
                cached = session.prefill(prompt).cached_tokens
                if attempt == 2:
                    assert cached == 150


def test_logits_are_given_for_every_token_asked(models):
    model, cold = models
    tokens = some(600, 90)
    for _ in range(2):
        with model.session() as session, cold.session() as other:
            assert np.array_equal(session.logits(tokens), other.logits(tokens))
            session.rewind(0)
            session.prefill(tokens[:500])
            assert np.array_equal(session.logits(tokens[500:]), other_part(cold, tokens))


def other_part(model, tokens):
    with model.session() as session:
        session.prefill(tokens[:500])
        return session.logits(tokens[500:])


def test_turns_that_are_sent_whole_each_time_compute_what_is_new(models):
    """As a server without sessions does it: thoughts are not sent back."""
    model, _ = models
    history = some(400, 11)
    for turn in range(10):
        history += some(50, 100 + turn)
        with model.session() as session:
            stream = session.generate(history, max_new_tokens=150, stop_ids=[])
            thoughts = [token.id for token in stream]
            new = 450 if turn == 0 else 80
            assert stream.stats.prefilled_tokens <= new + 128
        history += thoughts[-30:]


def test_kept_prefixes_stay_within_their_limit_and_the_oldest_goes(config):
    sizes = config("tiny")
    with gn.Model.random(sizes, limits=gn.Limits(prefix_bytes=0)) as model, model.session() as one:
        one.prefill(some(1000))
        each = one.cache_bytes
    with gn.Model.random(sizes, limits=gn.Limits(prefix_bytes=5 * each)) as model:
        for seed in range(20):
            with model.session() as session:
                session.prefill(some(1000, seed))
        caches = model.info()["caches"]
        assert 0 < caches["prefix_used_bytes"] <= 5 * each
        assert caches["kv_used_bytes"] == caches["prefix_used_bytes"]
        cached = []
        for seed in (19, 18, 0):
            with model.session() as session:
                cached.append(session.prefill(some(1000, seed)).cached_tokens)
        assert cached[:2] == [1000, 1000]
        assert cached[2] == 0


def test_nothing_is_kept_where_that_was_asked(config):
    with gn.Model.random(config("tiny"), limits=gn.Limits(prefix_bytes=0)) as model:
        for _ in range(2):
            with model.session() as session:
                assert session.prefill(some(500)) == gn.Usage(0, 500)
        assert model.info()["caches"]["kv_used_bytes"] == 0


def test_what_was_generated_is_found_only_where_a_prompt_gets_the_same_bits(models):
    model, cold = models
    session = model.session()
    prompt = some(300, 21)
    text = prompt + [token.id for token in session.generate(prompt, max_new_tokens=300)]
    session.prefill([1])  # remembers where the answer ended
    with model.session() as other:
        usage = other.prefill(text)
        assert usage.cached_tokens >= 299
        assert np.array_equal(other.logits(PROBE), cold_logits(cold, text))


COUNTS = st.sampled_from([1, 127, 128, 129, 600])
PIECES = st.lists(st.tuples(st.integers(0, 3), COUNTS), max_size=5)


@settings(max_examples=40, deadline=None)
@given(prompts=st.lists(PIECES, min_size=1, max_size=6), rewinds=st.lists(st.floats(0, 1)))
def test_any_prompts_get_the_bits_of_a_cold_session(models, prompts, rewinds):
    """Prompts of a few pieces, so that they begin alike; with going back in between."""
    model, cold = models
    for number, pieces in enumerate(prompts):
        tokens = [token for seed, count in pieces for token in some(count, 200 + seed)]
        with model.session() as session:
            stream = session.generate([*tokens, 3], max_new_tokens=3, stop_ids=[])
            held = [*tokens, 3, *(token.id for token in stream)]
            if number < len(rewinds):
                held = held[: int(rewinds[number] * len(held))]
                session.rewind(len(held))
            held += some(140, 201)
            session.prefill(some(140, 201))
            assert session.tokens == held
            assert np.array_equal(session.logits(PROBE), cold_logits(cold, held))


def test_many_threads_share_prefixes(models):
    model, cold = models
    prompts = [some(700, 300) + some(150, 301 + seed % 4) for seed in range(24)]
    want = [cold_logits(cold, prompt) for prompt in prompts[:4]]
    begun = threading.Barrier(8)

    def work(number):
        begun.wait()
        for prompt in range(number, 24, 8):
            with model.session() as session:
                session.prefill(prompts[prompt])
                assert np.array_equal(session.logits(PROBE), want[prompt % 4])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def test_what_is_larger_than_the_limit_is_kept_as_far_as_it_goes(config):
    with gn.Model.random(config("tiny"), limits=gn.Limits(prefix_bytes=1_000_000)) as model:
        for _ in range(2):
            with model.session() as session:
                usage = session.prefill(some(6000, 1))
        assert usage.cached_tokens >= 512
        assert 0 < model.info()["caches"]["prefix_used_bytes"] <= 1_000_000


def test_several_completions_are_of_one_prompt(models):
    model, cold = models
    options = {"max_new_tokens": 20, "stop_ids": []}
    want = []
    for seed in (7, 8, 9):
        session = cold.session()
        session.prefill(some(200, 33))
        want.append(texts(session.generate(sampling=gn.Sampling(seed=seed), **options)))
    session = model.session()
    answers = session.completions(some(200, 33), 3, sampling=gn.Sampling(seed=7), **options)
    assert [texts(stream) for _, stream in answers] == want
    assert session.tokens == some(200, 33)
    assert session.usage.prefilled_tokens + session.usage.cached_tokens == 200
    for twin, stream in answers:
        assert stream.stats.prefilled_tokens == 1
        assert twin.position == 220


@pytest.mark.parametrize("wrong", [{"n": 0}, {"n": True}, {"n": 2, "stop_ids": [-1]}])
def test_completions_that_are_refused_append_nothing(models, wrong):
    session = models[0].session()
    with pytest.raises(gn.InvalidArgument):
        session.completions(some(10), **wrong)
    assert session.position == 0
