"""What sessions share, on a device whose prompts and generated tokens differ in their last bits."""

import gptoss_native as gn
import numpy as np
import pytest

pytestmark = pytest.mark.cuda
SIZES = {"num_hidden_layers": 2, "vocab_size": 40, "sliding_window": 8}


def some(count, seed=0):
    return np.random.default_rng(seed).integers(0, 40, count).tolist()


def texts(stream):
    return [(token.id, token.logprob) for token in stream]


@pytest.fixture
def make(config, cuda_device, monkeypatch):
    monkeypatch.setenv("GPTOSS_POISON_CACHE", "1")
    made = []

    def model(**limits):
        sizes = config("tiny", **SIZES)
        limits = gn.Limits(**{"prefix_bytes": 0} | limits)
        made.append(gn.Model.random(sizes, seed=3, device=cuda_device, limits=limits))
        return made[-1]

    yield model
    for one in made:
        one.close()


def test_guesses_change_no_token_and_no_bit(make):
    model = make()
    for number, bias in enumerate([{4: 100.0}, {4: 8.0}, {}]):
        sampling = gn.Sampling(seed=1, logit_bias=bias)
        options = {"max_new_tokens": 40, "sampling": sampling, "stop_ids": []}
        stream = model.session().generate(some(20), **options)
        got = texts(stream)
        assert got == texts(model.session().generate(some(20), lookup=False, **options))
        # Later, what guesses have cost may speak against more.
        if number == 0:
            assert 0 < stream.stats.accepted_tokens == stream.stats.drafted_tokens


def test_a_cached_prompt_gets_the_bits_of_a_cold_one_but_for_what_was_generated(make):
    model, cold = make(prefix_bytes=1 << 30), make()
    prompt = some(150)
    options = {"max_new_tokens": 40, "sampling": gn.Sampling(seed=1), "stop_ids": []}
    want = texts(cold.session().generate(prompt, **options))
    for attempt in range(2):
        session = model.session()
        stream = session.generate(prompt, **options)
        assert texts(stream) == want
        assert stream.stats.prefilled_tokens == (1 if attempt else 150)
    held = session.tokens
    session.prefill([1])
    # As a prompt the answer's tokens are computed in another form.
    other = model.session()
    assert other.prefill(held).cached_tokens == 150
    reader = cold.session()
    reader.prefill(held)
    assert np.array_equal(other.logits([5]), reader.logits([5]))


def test_sessions_leave_the_device_and_come_back_exactly(make):
    plenty = make()
    options = {"max_new_tokens": 12, "sampling": gn.Sampling(seed=1), "stop_ids": []}
    want = [texts(plenty.session().generate(some(140, n), **options)) for n in range(4)]
    with plenty.session() as session:
        session.prefill(some(200))
        each = session.cache_bytes
    model = make(kv_bytes=int(1.5 * each))
    sessions = [model.session() for _ in range(4)]
    got = [[], [], [], []]
    for part in (5, 7):
        for n, session in enumerate(sessions):
            ids = some(140, n) if part == 5 else []
            got[n] += texts(session.generate(ids, **options | {"max_new_tokens": part}))
    assert got == want
    caches = model.info()["caches"]
    assert caches["kv_used_bytes"] <= caches["kv_bytes"]
    assert caches["kv_spilled_bytes"] > 0
