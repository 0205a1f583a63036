"""The specification itself: it agrees with an independent implementation, and says what it means.

Every other test leans on `reference.py` and on the bytes of `random_checkpoint.py`.
"""

import hashlib
import math

import numpy as np
import pytest
from make_goldens import CASES, read_golden, relative_l2
from random_checkpoint import COMMON, SHAPES, random_tensors
from reference import (
    Mxfp4,
    Reference,
    attention,
    dequantise,
    moe_down,
    moe_up,
    rmsnorm,
    rope,
    router,
    sample,
    yarn,
)

EXACT = 1e-12  # float64 sums of a few hundred terms, taken in another order


@pytest.fixture(scope="module", params=CASES)
def golden_and_reference(request, tmp_path_factory):
    golden = read_golden(request.param)
    return golden, Reference(golden.write(tmp_path_factory.mktemp(request.param)))


def float32_tolerance(config):
    """Bound float32's error through the network: its relative error grows like a random walk.

    A sum of n products rounded to float32 is off by about sqrt(n) 2**-24 of its size. Six products
    follow one another in a layer (qkv, scores, values, out, up, down), then the unembedding, and
    the residual carries each error on: they add at worst.
    """
    longest = max(config["hidden_size"], config["intermediate_size"])
    return (6 * config["num_hidden_layers"] + 1) * math.sqrt(longest) * 2**-24


def test_logits_agree_with_transformers_in_float32(golden_and_reference):
    golden, reference = golden_and_reference
    got = reference.logits(golden.tokens)[golden.rows]
    assert relative_l2(got, golden.logits) < float32_tolerance(reference.config)


def test_greedy_ids_are_those_of_transformers(golden_and_reference):
    golden, reference = golden_and_reference
    count = len(golden.greedy)
    assert reference.generate(golden.tokens, count).tolist() == golden.greedy.tolist()


def test_both_published_forms_are_the_same_model(tmp_path):
    golden = read_golden("tiny-1")
    fused = golden.write(tmp_path / "openai", "openai", shards=1, index=False)
    split = golden.write(tmp_path / "huggingface", shards=3)
    fused, split = Reference(fused), Reference(split)
    assert np.array_equal(fused.logits(golden.tokens), split.logits(golden.tokens))


def test_random_checkpoints_never_change():
    """The goldens belong to these bytes: a change of the generator must make them again."""
    digest = hashlib.sha256()
    for name, array in sorted(random_tensors(COMMON | SHAPES["tiny"], 1).items()):
        digest.update(name.encode() + str(array.shape).encode() + array.tobytes())
    assert digest.hexdigest()[:16] == "2773465196a6505e"


def test_ids_fed_in_pieces_give_the_residual_of_one_run(tmp_path):
    golden = read_golden("odd-3")
    reference = Reference(golden.write(tmp_path))
    whole, experts = reference.run(golden.tokens)
    cache = []
    pieces = [reference.run(ids, cache) for ids in np.split(golden.tokens, [1, 7, 30])]
    assert np.array_equal(np.concatenate([piece[1] for piece in pieces], axis=1), experts)
    assert relative_l2(np.concatenate([piece[0] for piece in pieces]), whole) < EXACT


@pytest.mark.parametrize("window", [None, 3])
def test_attention_counts_the_sink_once_in_the_denominator(window):
    """With every score 0 and every value 1, n keys give n / (n + exp(sink))."""
    tokens, heads, kv_heads, head_dim = 9, 6, 3, 32
    sinks = np.linspace(-20, 20, heads)
    zeros, ones = np.zeros((tokens, kv_heads, head_dim)), np.ones((tokens, kv_heads, head_dim))
    got = attention(np.zeros((tokens, heads, head_dim)), zeros, ones, sinks, window)
    n = np.minimum(np.arange(1, tokens + 1), window or tokens)[:, None]
    want = np.repeat((n / (n + np.exp(sinks)))[..., None], head_dim, axis=-1)
    assert got == pytest.approx(want, rel=EXACT)


def random_qkv(tokens, heads=4, kv_heads=2, head_dim=32):
    rng = np.random.default_rng(tokens)
    q = rng.standard_normal((tokens, heads, head_dim))
    k, v = rng.standard_normal((2, tokens, kv_heads, head_dim))
    return q, k, v, rng.standard_normal(heads)


def test_attention_ignores_keys_before_the_window():
    q, k, v, sinks = random_qkv(300)
    window, before = 128, 100
    changed_k, changed_v = k.copy(), v.copy()
    changed_k[before] += 1e6
    changed_v[before] -= 1e6
    got = attention(q, k, v, sinks, window)
    changed = attention(q, changed_k, changed_v, sinks, window)
    sees = np.array([np.any(a != b) for a, b in zip(got, changed, strict=True)])
    assert np.flatnonzero(sees).tolist() == list(range(before, before + window))


def test_attention_of_a_query_is_that_of_its_position_alone():
    q, k, v, sinks = random_qkv(300)
    positions = np.array([299, 0, 130])
    for window in (None, 128):
        whole = attention(q, k, v, sinks, window)
        got = attention(q[positions], k, v, sinks, window, positions)
        assert relative_l2(got, whole[positions]) < EXACT


def test_attention_reads_one_kv_head_for_each_group_of_query_heads():
    q, k, v, _ = random_qkv(5, heads=6, kv_heads=3)
    v[:] = np.arange(3)[None, :, None]
    got = attention(q, k, v, np.full(6, -1e9))
    assert got == pytest.approx(np.broadcast_to([[[0], [0], [1], [1], [2], [2]]], got.shape))


def test_router_gives_ties_to_the_lower_id_and_weights_the_chosen_alone():
    x, norm, bias = np.ones((1, 4)), np.ones(4), np.array([0.0, 3, 1, 3, 1, 1, -5, 3])
    _, expert, weight = router(x, norm, np.zeros((8, 4)), bias, top_k=4)
    assert expert.tolist() == [[1, 3, 7, 2]]
    want = np.exp([3, 3, 3, 1]) / np.exp([3, 3, 3, 1]).sum()
    assert weight[0] == pytest.approx(want, rel=EXACT)


@pytest.mark.parametrize("limit", [7.0, 0.5])
def test_moe_up_clamps_g_from_above_before_the_sigmoid_and_u_both_ways(limit):
    g, u = np.array([100.0, -1000.0, -2.0, 0.25]), np.array([100.0, 3.0, -100.0, 0.125])
    bias = np.stack([g, u], axis=1).reshape(1, -1)  # rows g0, u0, g1, u1, ...
    got = moe_up(np.ones((1, 32)), np.array([[0]]), np.zeros((1, 8, 32)), bias, limit)
    g, u = np.minimum(g, limit), np.clip(u, -limit, limit)
    want = g * (0.5 + 0.5 * np.tanh(1.702 * g / 2)) * (u + 1)
    assert got[0, 0] == pytest.approx(want, rel=EXACT, abs=EXACT)


def test_moe_down_adds_the_weighted_experts_to_the_residual():
    rng = np.random.default_rng(0)
    x, activation = rng.standard_normal((5, 64)), rng.standard_normal((5, 2, 32))
    down, bias = rng.standard_normal((3, 64, 32)), rng.standard_normal((3, 64))
    expert = np.array([[0, 2], [2, 0], [1, 0], [1, 2], [0, 1]])
    weight = rng.random((5, 2))
    want = x + sum(
        weight[:, slot, None]
        * (
            np.einsum("ti,thi->th", activation[:, slot], down[expert[:, slot]])
            + bias[expert[:, slot]]
        )
        for slot in range(2)
    )
    assert relative_l2(moe_down(x, activation, expert, weight, down, bias), want) < EXACT


def test_rmsnorm_adds_eps_to_the_mean_square_before_the_root():
    x = np.full((1, 4), 0.001)
    assert rmsnorm(x, np.full(4, 2.0), 3e-6)[0] == pytest.approx(np.ones(4), rel=EXACT)


def test_mxfp4_takes_the_low_nibble_first_and_scales_by_a_power_of_two():
    blocks = np.zeros((1, 1, 2, 16), np.uint8)
    blocks[0, 0, 1, :2] = 0x7 | 0xF << 4, 0x1 | 0x2 << 4
    values = dequantise(blocks, np.array([[[127, 125]]], np.uint8))
    assert values.shape == (1, 1, 64)
    assert values[0, 0, 32:36].tolist() == [1.5, -1.5, 0.125, 0.25]
    assert not values[0, 0, :32].any()
    assert np.array_equal(Mxfp4(blocks, np.array([[[127, 125]]]))[0], values[0])


@pytest.mark.parametrize("head_dim", [32, 64])
def test_yarn_keeps_high_frequencies_and_stretches_low_ones(head_dim):
    inv_freq, concentration = yarn(head_dim)
    plain = 150000.0 ** (-np.arange(0, head_dim, 2) / head_dim)
    stretch = plain / inv_freq
    assert stretch[: head_dim // 8] == pytest.approx(1, rel=2**-22)
    assert stretch[-head_dim // 8 :] == pytest.approx(32, rel=2**-22)
    assert np.all(np.diff(stretch) > -(2**-18))
    assert concentration == pytest.approx(1.3465735902799727, rel=EXACT)


def test_rope_rotates_halves_by_the_float32_angle():
    inv_freq, concentration = yarn(64)
    position = 100003
    x = np.zeros((1, 1, 64))
    x[..., :32] = 1  # the first half turns to (cos, sin) of its angle
    got = rope(x, np.array([position]), (inv_freq, concentration))[0, 0] / concentration
    angle = [float(np.float32(position) * f) for f in inv_freq]
    assert got[:32] == pytest.approx(np.cos(angle), abs=EXACT)
    assert got[32:] == pytest.approx(np.sin(angle), abs=EXACT)


LOG_P = np.log([0.4, 0.3, 0.2, 0.1])


def test_sample_at_temperature_zero_takes_the_best_id_the_lower_of_a_tie():
    ids, p = sample([0.0, 2.0, 1.0, 2.0], temperature=0)
    assert (ids.tolist(), p.tolist()) == ([1], [1.0])


def test_sample_divides_logits_by_the_temperature():
    ids, p = sample(LOG_P, temperature=0.5)
    assert ids.tolist() == [0, 1, 2, 3]
    assert p == pytest.approx(np.array([16, 9, 4, 1]) / 30, rel=EXACT)


def test_sample_keeps_the_lower_ids_of_a_tie_at_the_edge_of_top_k():
    ids, p = sample([1.0, 0.0, 1.0, 1.0, 5.0], top_k=3)
    assert ids.tolist() == [4, 0, 2]
    assert p[1] == p[2]


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [(0, 0.0, 1), (0, 0.39, 1), (0, 0.5, 2), (0, 0.95, 4), (0, 1.0, 4), (2, 0.5, 1), (2, 0.6, 2)],
)
def test_sample_keeps_the_fewest_ids_that_reach_top_p_of_what_top_k_left(top_k, top_p, kept):
    ids, p = sample(LOG_P, top_k=top_k, top_p=top_p)
    assert ids.tolist() == list(range(kept))
    assert p == pytest.approx(np.exp(LOG_P[:kept]) / np.exp(LOG_P[:kept]).sum(), rel=EXACT)


@pytest.mark.parametrize(("min_p", "kept"), [(0.0, 4), (0.3, 3), (0.6, 2), (1.0, 1)])
def test_sample_drops_ids_under_min_p_of_the_best(min_p, kept):
    assert sample(LOG_P, min_p=min_p)[0].tolist() == list(range(kept))


def logits_after(logits, *ids, **options):
    """Return the logits that sample() drew from, up to a constant, in order of id."""
    chosen, p = sample(logits, *ids, **options)
    return np.log(p)[np.argsort(chosen)]


def test_sample_divides_positive_and_multiplies_negative_logits_of_seen_ids():
    got = logits_after([2.0, -2.0, 2.0, -2.0, 0.0], [0, 0], [1], repetition_penalty=2.0)
    assert got - got[4] == pytest.approx([1, -4, 2, -2, 0], abs=EXACT)


def test_sample_counts_presence_and_frequency_in_the_generated_text_alone():
    options = {"presence_penalty": 0.5, "frequency_penalty": 0.25}
    got = logits_after(np.zeros(4), [0, 0, 1], [1, 2, 2, 2], **options)
    assert got - got[0] == pytest.approx([0, -0.75, -1.25, 0], abs=EXACT)


def test_sample_adds_the_bias_before_the_penalties_and_the_mask_forbids():
    got = logits_after([-1.0, 0.0], [0], logit_bias={0: 3.0}, repetition_penalty=2.0)
    assert got[0] - got[1] == pytest.approx(1, abs=EXACT)
    ids, _ = sample([9.0, 1.0, 2.0], mask=[False, True, True], logit_bias={0: 100.0})
    assert ids.tolist() == [2, 1]
    with pytest.raises(ValueError, match="no id"):
        sample([1.0, 2.0], mask=[False, False])


def test_sample_narrows_and_renormalises_whatever_the_settings():
    rng = np.random.default_rng(0)
    for _ in range(200):
        logits = rng.integers(-8, 9, rng.integers(1, 40)) / 2  # with many ties
        top_k, top_p, min_p = int(rng.integers(0, 9)), rng.random(), rng.random() / 4
        all_ids, all_p = sample(logits)
        ids, p = sample(logits, top_k=top_k, top_p=top_p, min_p=min_p)
        assert ids.tolist() == all_ids[: len(ids)].tolist()
        assert p == pytest.approx(all_p[: len(ids)] / all_p[: len(ids)].sum(), rel=EXACT)
        ties = np.diff(logits[all_ids]) == 0
        assert np.all(np.diff(all_ids)[ties] > 0)
        assert np.all(np.diff(all_p) <= 0)
