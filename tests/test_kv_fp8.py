"""kv="fp8": what a cache of E4M3 keeps, that nothing else of the guarantees changes, what it costs.

tests/test_stages.py has its attention against the float64 reference.
"""

from itertools import pairwise

import gptoss_native as gn
import numpy as np
import pytest
from gptoss_native import _core
from make_goldens import relative_l2
from random_checkpoint import (
    COMMON,
    SHAPES,
    random_tensors,
    to_bf16,
    write_checkpoint,
    write_safetensors,
)
from reference import e4m3_codes, rounded_to_e4m3

GREEDY = gn.Sampling(temperature=0.0)
WINDOWED = {"num_hidden_layers": 3, "sliding_window": 37}


@pytest.fixture
def options(any_device):
    return {"device": any_device, "kv": "fp8"}


def stages_of(model, **options):
    return _core.Stages(model._core, sequences=1, max_context=1300, **options)


def between(low, high):
    """Return the value half way, and its neighbours of float32."""
    half = np.float32((np.float64(low) + np.float64(high)) / 2)
    return [np.nextafter(half, np.float32(low)), half, np.nextafter(half, np.float32(high))]


def test_storing_rounds_to_the_nearest_code_and_keeps_finite_what_is(config):
    codes = e4m3_codes().astype(np.float32)
    finite = codes[:127]
    values = [*finite, *np.concatenate([between(*two) for two in pairwise(finite)])]
    values += [2.0**-11, 2.0**-149, 448.1, 464, 465, 1e9, np.finfo(np.float32).max, np.inf, np.nan]
    values = np.array([*values, *np.negative(values)], np.float32)
    with gn.Model.random(config("tiny"), kv="fp8") as model:
        stages, width = stages_of(model), 2 * 2 * 32
        values = np.pad(values, (0, -len(values) % width)).reshape(-1, 2, width // 2)
        for position, row in enumerate(values):
            stages.set_cached(1, (0, position), row)
        got = np.array([stages.cached(1, (0, p)) for p in range(len(values))]).reshape(-1)
    want = rounded_to_e4m3(values.reshape(-1))
    assert np.array_equal(got, want, equal_nan=True)
    assert np.array_equal(np.signbit(got), np.signbit(want) | np.isnan(got) & np.signbit(got))
    assert set(got[np.isfinite(got)]) == set(codes[np.isfinite(codes)])


@pytest.mark.parametrize("decode", [False, True])
def test_every_code_is_read_as_its_value(options, config, decode):
    """As the value of a row's only key, beside the sink; keys are widened by the same code."""
    with gn.Model.random(config("odd", num_hidden_layers=2), **options) as model:
        stages = stages_of(model, decode=decode)

        def attended(row):
            held = np.stack([np.zeros((3, 64)), np.tile(row, (3, 1))]).reshape(2, -1)
            stages.set_cached(1, (0, 0), held.astype(np.float32))
            return stages.attention(1, np.ones((1, 6 * 64), np.float32), [(0, 0)]).reshape(6, 64)

        share = attended(np.ones(64))
        for row in e4m3_codes().reshape(4, 64):
            assert np.allclose(attended(row), share * row, rtol=1e-5, atol=0, equal_nan=True)


def test_a_key_that_is_nan_makes_what_sees_it_nan(options, config):
    with gn.Model.random(config("odd", num_hidden_layers=2), **options) as model:
        stages = stages_of(model)
        for position in range(20):
            stages.set_cached(1, (0, position), np.full((2, 192), 0.5, np.float32))
        broken = np.full((2, 192), 0.5, np.float32)
        broken[0, 70] = np.inf  # of the second KV head
        stages.set_cached(1, (0, 7), broken)
        q = np.ones((20, 6 * 64), np.float32)
        got = stages.attention(1, q, [(0, p) for p in range(20)]).reshape(20, 3, 2 * 64)
    assert np.isfinite(got[:7]).all()
    assert np.isnan(got[7:, 1]).all()
    assert np.isfinite(got[:, [0, 2]]).all()


@pytest.mark.parametrize("decode", [False, True])
def test_the_step_that_keeps_values_saturates_them(options, tmp_path, decode):
    tensors = random_tensors(COMMON | SHAPES["tiny"], 1)
    given = np.array([1000, -1000, 449, 3e38, np.inf, -np.inf, np.nan], np.float32)
    name = "model.layers.1.self_attn.v_proj"
    tensors[f"{name}.weight"][: len(given)] = 0
    tensors[f"{name}.bias"][: len(given)] = to_bf16(given)
    path = write_checkpoint(tmp_path, "tiny", 1, shards=1, index=False)
    write_safetensors(path / "model.safetensors", tensors)
    with gn.Model.load(path, **options) as model:
        stages = stages_of(model, decode=decode)
        stages.qkv(1, np.ones((1, 96), np.float32), [(0, 3)])
        got = stages.cached(1, (0, 3))[1, : len(given)]
    assert np.array_equal(got, rounded_to_e4m3(given), equal_nan=True)


def test_what_the_step_keeps_is_the_exact_key_and_value_rounded(instruction_set, config):
    """Where both precisions take float32 activations to the weights."""
    kept = []
    for choice in ({"precision": "exact"}, {"kv": "fp8"}):
        with gn.Model.random(config("odd"), seed=5, **choice) as model:
            stages = stages_of(model, decode=True)
            x = np.random.default_rng(1).standard_normal((9, 160)).astype(np.float32)
            stages.qkv(1, x, [(0, p) for p in range(9)])
            kept.append(np.array([stages.cached(1, (0, p)) for p in range(9)]))
    assert np.array_equal(kept[1], rounded_to_e4m3(kept[0]))


# Of whole models


def conversation(model, ids, step):
    """Logits of a prompt in pieces, tokens, then the same again from a fork and after a rewind."""
    session = model.session()
    rows = [session.logits(ids[at : at + step]) for at in range(0, len(ids), step)]
    fork = session.fork()
    out = [np.concatenate(rows).tobytes()]
    for other in (session, fork):
        stream = other.generate(max_new_tokens=5, sampling=gn.Sampling(seed=3), stop_ids=[])
        out.append([(token.id, token.logprob) for token in stream])
    assert out[1] == out[2]
    session.rewind(len(ids) - 20)
    again = session.logits(ids[-20:])
    assert again.tobytes() == np.concatenate(rows)[-20:].tobytes()
    return out


@pytest.mark.parametrize("deterministic", [False, True])
def test_threads_pieces_and_prefixes_do_not_change_a_bit(
    options, config, some_ids, deterministic, monkeypatch
):
    monkeypatch.setenv("GPTOSS_POISON_CACHE", "1")
    small = {"intermediate_size": 32, "num_experts": 4, "experts_per_token": 2, "vocab_size": 61}
    # Of pages of 128 positions; the emulated device takes a hundredth of a second a token.
    ids = some_ids(150 if options["device"] == "cpu" else 60, 61)
    sizes, got = config("tiny", **WINDOWED, **small), []
    for threads, step in ((1, len(ids)), (2, 33)):
        fixed = {"seed": 7, "threads": threads, "deterministic": deterministic}
        with gn.Model.random(sizes, **options, **fixed) as model:
            # The second time the prompt is a cached prefix.
            got += [conversation(model, ids, step) for _ in range(2 if threads > 1 else 1)]
            if deterministic:
                session = model.session()
                list(session.generate(ids[:60], max_new_tokens=9, sampling=GREEDY, stop_ids=[]))
                more = session.logits(ids[:3])
                with model.session() as fed:
                    assert np.array_equal(fed.logits(session.tokens)[-3:], more)
    assert got[1:] == got[:1] * 2


def test_a_session_is_saved_and_goes_on_to_the_same_bits(options, config, some_ids, tmp_path):
    sizes, ids = config("tiny", **WINDOWED), some_ids(60, 512)
    with gn.Model.random(sizes, seed=7, **options) as model:
        assert model.info()["kv"] == "fp8"
        session = model.session()
        session.prefill(ids)
        taken = session.cache_bytes
        session.save(tmp_path / "session")
        want = session.logits(ids[:3])
        assert np.array_equal(model.load_session(tmp_path / "session").logits(ids[:3]), want)
    with gn.Model.random(sizes, seed=7, device=options["device"]) as model:
        assert model.info()["kv"] == "f16"
        with pytest.raises(gn.CheckpointError, match='saved with kv "fp8", this model has "f16"'):
            model.load_session(tmp_path / "session")
        other = model.session()
        other.prefill(ids)
        assert other.cache_bytes == 2 * taken


@pytest.mark.parametrize("deterministic", [False, True])
def test_logits_are_near_those_of_a_float16_cache(options, tmp_path, some_ids, deterministic):
    path, rows = write_checkpoint(tmp_path / "checkpoint", "tiny", seed=11), []
    for kv in ("f16", "fp8"):
        with gn.Model.load(path, **options | {"kv": kv}, deterministic=deterministic) as model:
            rows.append(model.session().logits(some_ids(40, 517)))
    # A rounding of 2**-4 at most of each key and value, and random experts whose scores are close.
    assert 1e-4 < relative_l2(rows[1], rows[0]) < 0.2


def test_the_bundled_model_still_adds(any_device):
    with gn.Model.demo(device=any_device, kv="fp8") as model:
        reply = gn.Chat(model, sampling=GREEDY).ask("What is 17 + 25?")
    assert reply.text == "17 + 25 = 42"


@pytest.mark.parametrize("make", [gn.Model.random, gn.Model.demo, lambda **k: gn.plan("tiny", **k)])
def test_exact_precision_refuses_it(make):
    wanted = 'kv is "fp8" and precision "exact".*wanted precision "fast" or kv "f16"'
    with pytest.raises(gn.InvalidArgument, match=wanted):
        make(kv="fp8", precision="exact")


def test_exact_precision_keeps_float32():
    with gn.Model.random("tiny", precision="exact") as model:
        assert model.info()["kv"] == "f32"
