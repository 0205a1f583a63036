"""Each stage alone, on fresh random input, against the float64 reference.

Outputs, and cache entries that nobody wrote, start as NaN. Tolerances: a float32 sum of n products
loses at most about sqrt(n) * 2**-24 of its terms' norm; 16-bit blocks round each activation to
2**-15 of its block's largest; two bf16 terms leave at most 2**-17 of an activation, one 2**-8;
float16 cache entries round to 2**-11, those of fp8 to 2**-4. Roundings one after the other add up
like their squares: two under 2**-8 leave less than 2**-7 of a sum, and so do the four of an
attention in bf16 (query, key, weight, value), whose root mean square is 2**-9.
"""

import gptoss_native as gn
import numpy as np
import pytest
import reference
from conftest import INSTRUCTION_SETS
from gptoss_native import _core
from make_goldens import relative_l2
from random_checkpoint import write_checkpoint
from reference import Reference

EXACT = 3e-6
TWO_TERMS = 2.0**-17
ONE_TERM = 2.0**-8
TOLERANCE = {"exact": EXACT, "fast": 2e-4}
CACHE_TOLERANCE = {"exact": EXACT, "fast": 4e-4}
FP8 = 2.0**-4


@pytest.fixture(scope="module", params=["tiny", "odd", "wide"])
def checkpoint(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param) / "checkpoint"
    return write_checkpoint(path, request.param, seed=11)


@pytest.fixture(params=["exact", "fast"])
def precision(request):
    return request.param


class Bench:
    """One model's stages beside the reference of the same checkpoint."""

    def __init__(self, path, precision, device, decode=False, dense="bf16", kv="f16"):
        options = {"precision": precision, "device": device, "dense": dense, "kv": kv}
        self.model = gn.Model.load(path, **options)
        self.reference = Reference(path, dense)
        self.stages = _core.Stages(self.model._core, sequences=3, max_context=1300, decode=decode)
        # The processor takes float32 rows to bf16 weights in both precisions. Matrix units round
        # each addition to zero: a sum of 80 tiles loses up to 80 * 2**-24.
        terms = device != "cpu" and precision == "fast"
        self.dense_tolerance = self.logits_tolerance = TWO_TERMS if terms else EXACT
        self.attention_tolerance, self.softmax_tolerance = self.dense_tolerance, 1e-6
        self.cache_tolerance = CACHE_TOLERANCE[precision]
        self.h_tolerance = self.experts_tolerance = TOLERANCE[precision]
        self.weight_tolerance = self.dense_tolerance
        if not decode and self.model.info()["backend"]["moe_up"].startswith("prompts: amx"):
            self.dense_tolerance = self.h_tolerance = self.cache_tolerance = ONE_TERM
            self.attention_tolerance = self.experts_tolerance = 2 * ONE_TERM
            self.softmax_tolerance = ONE_TERM
        if terms and not decode:
            self.dense_tolerance = self.h_tolerance = self.cache_tolerance = ONE_TERM
            self.experts_tolerance = 2 * ONE_TERM
            if dense == "int8":  # a weight times its scale is rounded as well
                self.dense_tolerance = self.cache_tolerance = 2 * ONE_TERM
        if kv == "fp8":
            self.cache_tolerance = FP8
        self.most_rows = 32 if decode and device != "cpu" else 256
        self.hidden = self.reference.config["hidden_size"]
        self.heads = self.reference.config["num_attention_heads"]
        self.kv_heads = self.reference.kv_heads
        self.head_dim = self.reference.config["head_dim"]
        self.window = self.reference.config["sliding_window"]
        self.rng = np.random.default_rng(len(str(path)))

    def random(self, *shape):
        return self.rng.standard_normal(shape).astype(np.float32)

    def fill_cache(self, layer, sequence, positions):
        """Write random keys and values; return them as the cache's type holds them."""
        shape = (2, self.kv_heads, self.head_dim)
        for p in positions:
            values = self.random(*shape).reshape(2, -1)
            self.stages.set_cached(layer, (sequence, int(p)), values)
        held = [self.stages.cached(layer, (sequence, int(p))) for p in positions]
        return np.array(held, np.float64).reshape(len(positions), *shape)


CUDA_FORMS = [
    pytest.param(f"cuda {form}", marks=pytest.mark.cuda) for form in ("prefill", "decode")
]


CUDA_INT8 = [
    pytest.param(f"cuda {form} int8", marks=pytest.mark.cuda) for form in ("prefill", "decode")
]
CUDA_FP8 = [
    pytest.param(f"cuda {form} fp8", marks=pytest.mark.cuda) for form in ("prefill", "decode")
]
CPU_FP8 = [f"{name} fp8" for name in INSTRUCTION_SETS]


def make_bench(request):
    name, *rest = request.param.split()
    checkpoint, precision = map(request.getfixturevalue, ("checkpoint", "precision"))
    options = {"decode": "decode" in rest}
    if "int8" in rest:
        options["dense"] = "int8"
    if "fp8" in rest:
        options["kv"] = "fp8"
        if precision == "exact":
            pytest.skip("an fp8 cache is of fast precision")
    if name == "cuda":
        return Bench(checkpoint, precision, request.getfixturevalue("cuda_device"), **options)
    request.getfixturevalue("take_instruction_set")(name)
    return Bench(checkpoint, precision, "cpu", **options)


@pytest.fixture(params=[*INSTRUCTION_SETS, *CUDA_FORMS])
def bench(request, checkpoint, precision):
    return make_bench(request)


@pytest.fixture(params=[*INSTRUCTION_SETS, *CUDA_FORMS, *CUDA_INT8])
def dense_bench(request, checkpoint, precision):
    """Of the stages that have dense weights, which may be int8."""
    return make_bench(request)


@pytest.fixture(params=[*INSTRUCTION_SETS, *CPU_FP8, *CUDA_FORMS, *CUDA_FP8])
def kv_bench(request, checkpoint, precision):
    """Of the stage that reads keys and values, which may be fp8."""
    return make_bench(request)


def need_rows(bench, count):
    if count > bench.most_rows:
        pytest.skip(f"a decode step takes {bench.most_rows} rows")


def at(positions, sequence=0):
    return [(sequence, int(p)) for p in positions]


@pytest.mark.parametrize("tokens", [1, 2, 9, 256])
def test_embed_looks_rows_up(bench, tokens):
    need_rows(bench, tokens)
    ids = bench.rng.integers(0, bench.reference.config["vocab_size"], tokens)
    want = reference.embed(ids, bench.reference.embedding)
    assert np.array_equal(bench.stages.embed(ids.tolist()), want)


@pytest.mark.parametrize("tokens", [1, 3, 8, 19])
@pytest.mark.parametrize("layer", [0, 1])
def test_qkv_rotates_and_keeps_keys_and_values(dense_bench, tokens, layer):
    bench = dense_bench
    need_rows(bench, tokens)
    x = bench.random(tokens, bench.hidden) * 3
    positions = np.arange(tokens) + 1000
    w = bench.reference.layers[layer]
    q, k, v = reference.qkv(
        x,
        w.attn_norm,
        w.qkv_weight,
        w.qkv_bias,
        positions,
        bench.kv_heads,
        bench.reference.rotation,
    )
    got = bench.stages.qkv(layer, x, at(positions))
    assert relative_l2(got, q.reshape(tokens, -1)) < bench.dense_tolerance
    for t in range(tokens):
        held = bench.stages.cached(layer, (0, int(positions[t])))
        want = np.stack([k[t], v[t]]).reshape(2, -1)
        assert relative_l2(held, want) < bench.cache_tolerance


@pytest.mark.parametrize("last", [0, 1, 15, 16, 127, 128, 300, 1023, 1024, 1299])
@pytest.mark.parametrize("layer", [0, 1])
def test_attention_is_the_softmax_over_keys_and_sink(kv_bench, last, layer):
    bench = kv_bench
    window = bench.window if layer == 0 else None
    first = 0 if window is None else max(0, last + 1 - window)
    kv = bench.fill_cache(layer, 1, range(first, last + 1))
    q = bench.random(1, bench.heads * bench.head_dim)
    want = reference.attention(
        q.reshape(1, bench.heads, -1).astype(np.float64),
        kv[:, 0],
        kv[:, 1],
        bench.reference.layers[layer].sinks,
        window,
        positions=np.array([last - first]),
    )
    got = bench.stages.attention(layer, q, at([last], sequence=1))
    assert relative_l2(got, want.reshape(1, -1)) < bench.attention_tolerance


def test_attention_rows_of_other_sequences_do_not_matter(kv_bench):
    bench = kv_bench
    for sequence in range(3):
        bench.fill_cache(1, sequence, range(40))
    q = bench.random(6, bench.heads * bench.head_dim)
    rows = [(0, 39), (1, 3), (2, 17), (1, 4), (0, 0), (2, 39)]
    together = bench.stages.attention(1, q, rows)
    alone = [bench.stages.attention(1, q[i : i + 1], rows[i : i + 1])[0] for i in range(6)]
    assert np.array_equal(together, np.stack(alone))


def test_attention_ignores_keys_before_the_window(kv_bench):
    bench = kv_bench
    last = bench.window + 30
    bench.fill_cache(0, 0, range(last + 1))
    q = bench.random(1, bench.heads * bench.head_dim)
    before = bench.stages.attention(0, q, at([last]))
    nothing = np.full((2, bench.kv_heads * bench.head_dim), np.nan, np.float32)
    for position in range(last + 1 - bench.window):
        bench.stages.set_cached(0, (0, position), nothing)
    assert np.array_equal(bench.stages.attention(0, q, at([last])), before)


def test_attention_of_equal_scores_is_n_over_n_plus_e_to_the_sink(kv_bench):
    bench = kv_bench
    n = 7
    shape = (bench.kv_heads, bench.head_dim)
    for position in range(n):
        ones = np.stack([np.zeros(shape), np.ones(shape)]).reshape(2, -1)
        bench.stages.set_cached(1, (0, position), ones)
    q = bench.random(1, bench.heads * bench.head_dim)
    got = bench.stages.attention(1, q, at([n - 1])).reshape(bench.heads, -1)
    sinks = bench.reference.layers[1].sinks
    want = np.repeat(n / (n + np.exp(sinks)), shape[1]).reshape(got.shape)
    assert got == pytest.approx(want, rel=bench.softmax_tolerance)


@pytest.mark.parametrize("tokens", [1, 3, 8, 19])
def test_attn_out_adds_to_the_residual(dense_bench, tokens):
    bench = dense_bench
    need_rows(bench, tokens)
    mixed = bench.random(tokens, bench.heads, bench.head_dim)
    x = bench.random(tokens, bench.hidden)
    w = bench.reference.layers[2]
    want = reference.attn_out(x, mixed, w.out_weight, w.out_bias)
    got = bench.stages.attn_out(2, mixed.reshape(tokens, -1), x)
    assert relative_l2(got, want) < bench.dense_tolerance


@pytest.mark.parametrize("tokens", [1, 2, 9, 32, 70])
def test_experts_agree_stage_by_stage(bench, tokens):
    need_rows(bench, tokens)
    x = bench.random(tokens, bench.hidden) * 2
    w = bench.reference.layers[1]
    got = bench.stages.experts(1, x)
    h, expert, weight = reference.router(x, w.mlp_norm, w.gate_weight, w.gate_bias)
    assert np.array_equal(got["expert"], expert)
    assert np.allclose(got["weight"], weight, rtol=0, atol=bench.weight_tolerance)
    assert relative_l2(got["h"], h) < bench.h_tolerance
    act = reference.moe_up(h, expert, w.up, w.up_bias, bench.reference.limit)
    assert relative_l2(got["act"], act.reshape(got["act"].shape)) < bench.experts_tolerance
    out = reference.moe_down(np.float64(x), act, expert, weight, w.down, w.down_bias)
    assert relative_l2(got["x"], out) < bench.experts_tolerance


@pytest.mark.parametrize("tokens", [1, 70])
def test_experts_wider_than_what_is_unpacked_at_once(tmp_path, instruction_set, precision, tokens):
    """Of columns of 13 and 12 blocks a processor unpacks 10 at once (`wide_product.inl`), or 6."""
    path = write_checkpoint(tmp_path, "odd", 5, hidden_size=416, intermediate_size=384)
    test_experts_agree_stage_by_stage(Bench(path, precision, "cpu"), tokens)


def test_experts_of_a_row_do_not_depend_on_the_rows_beside_it(bench):
    count = min(33, bench.most_rows)
    x = bench.random(count, bench.hidden)
    together = bench.stages.experts(0, x)
    alike = np.where(np.arange(count)[:, None] % 3, x[:1], x)  # most choose the same experts
    crowded = bench.stages.experts(0, alike)
    for row in (0, 3, count // 2, count // 3 * 3 - 3, count - 1):
        for rows, many in ((x, together), (alike, crowded)):
            alone = bench.stages.experts(0, rows[row : row + 1])
            assert np.array_equal(alone["x"][0], many["x"][row])


@pytest.mark.parametrize("which", [[0], [4, 0, 2], list(range(8)), list(range(18, -1, -1))])
def test_logits_are_those_of_the_rows_asked_for(dense_bench, which):
    bench = dense_bench
    x = bench.random(19, bench.hidden)
    want = reference.logits(x[which], bench.reference.norm, bench.reference.unembedding)
    assert relative_l2(bench.stages.logits(x, which), want) < bench.logits_tolerance


@pytest.mark.parametrize("tokens", [1, 5, 19])
def test_int8_products_lose_only_the_requantising(checkpoint, instruction_set, precision, tokens):
    bench = Bench(checkpoint, precision, "cpu", dense="int8")
    mixed = bench.random(tokens, bench.heads, bench.head_dim)
    x = np.zeros((tokens, bench.hidden), np.float32)
    w = Reference(checkpoint).layers[0]
    want = reference.attn_out(x, mixed, w.out_weight, w.out_bias)
    got = bench.stages.attn_out(0, mixed.reshape(tokens, -1), x)
    # Blocks of 32 normal values: a largest of 2 deviations in 127 steps is 0.0052 of one.
    assert 1e-4 < relative_l2(got, want) < 1e-2


@pytest.mark.cuda
@pytest.mark.parametrize("decode", [False, True])
def test_int8_rows_on_cuda_get_the_bits_that_each_gets_alone(
    checkpoint, cuda_device, precision, decode
):
    """One row, up to four and more are different kernels of the decode form."""
    bench = Bench(checkpoint, precision, cuda_device, decode=decode, dense="int8")
    tokens = 32 if decode else 40
    x = bench.random(tokens, bench.hidden)
    mixed = bench.random(tokens, bench.heads * bench.head_dim)

    def computed(rows):
        which = list(range(tokens))[rows]
        return [
            bench.stages.qkv(0, x[rows], at(which)),
            bench.stages.attn_out(0, mixed[rows], x[rows]),
            bench.stages.logits(x, which[:32]),
        ]

    together = computed(slice(0, tokens))
    for first, count in ((0, 1), (tokens - 1, 1), (2, 2), (1, 5), (5, 19)):
        for alone, many in zip(computed(slice(first, first + count)), together, strict=True):
            if first + count <= len(many):  # logits are asked for 32 rows at most
                assert np.array_equal(alone, many[first : first + count])


@pytest.mark.parametrize("kv", ["f16", "fp8"])
@pytest.mark.parametrize("tokens", [17, 80])
def test_a_prompt_cut_anywhere_is_attended_to_the_same_bits(
    checkpoint, instruction_set, tokens, kv
):
    bench = Bench(checkpoint, "fast", "cpu", kv=kv)
    positions = range(1000, 1000 + tokens)
    q = bench.random(tokens, bench.heads * bench.head_dim)
    for layer in (0, 1):
        bench.fill_cache(layer, 0, range(1000 + tokens))
        whole = bench.stages.attention(layer, q, at(positions))
        for cut in (1, tokens // 2, tokens - 1):
            parts = [
                bench.stages.attention(layer, q[part], at(positions[part]))
                for part in (slice(cut), slice(cut, None))
            ]
            assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("dense", ["bf16", "int8"])
@pytest.mark.parametrize("decode", [False, True])
def test_many_rows_get_the_bits_that_each_gets_alone(
    checkpoint, instruction_set, precision, dense, decode
):
    """Many rows are multiplied by weights unpacked apart, few by what is unpacked as it is read."""
    bench = Bench(checkpoint, precision, "cpu", decode=decode, dense=dense)
    tokens = 40
    x = bench.random(tokens, bench.hidden)
    mixed = bench.random(tokens, bench.heads * bench.head_dim)

    def computed(rows):
        part = x[rows]
        experts = bench.stages.experts(1, part)
        return [
            bench.stages.qkv(0, part, at(range(tokens)[rows])),
            bench.stages.attn_out(0, mixed[rows], part),
            *(experts[name] for name in ("expert", "weight", "h", "act", "x")),
            bench.stages.logits(part, list(range(len(part)))),
        ]

    together = computed(slice(0, tokens))
    for first, count in ((0, 1), (7, 1), (39, 1), (3, 2), (10, 9), (20, 20)):
        for alone, many in zip(computed(slice(first, first + count)), together, strict=True):
            each = len(many) // tokens
            assert np.array_equal(alone, many[each * first : each * (first + count)])


@pytest.mark.parametrize("kv", ["f16", "fp8"])
def test_the_decode_form_beside_amx_is_that_of_avx512(checkpoint, take_instruction_set, kv):
    got = {}
    for name in ("amx", "avx512"):
        take_instruction_set(name)
        bench = Bench(checkpoint, "fast", "cpu", decode=True, kv=kv)
        x = bench.random(9, bench.hidden)
        q = bench.stages.qkv(1, x, at(range(9)))
        mixed = bench.stages.attention(1, q, at(range(9)))
        out = bench.stages.experts(1, bench.stages.attn_out(1, mixed, x))["x"]
        got[name] = [values.tobytes() for values in (q, mixed, out)]
    assert got["amx"] == got["avx512"]
