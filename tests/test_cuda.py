"""The CUDA backend's numbers: close to the processor's, and its own bits whatever the device."""

import gptoss_native as gn
import numpy as np
import pytest
from conftest import SMALLEST
from make_goldens import relative_l2
from random_checkpoint import COMMON, SHAPES, random_tensors, write_checkpoint, write_safetensors

pytestmark = pytest.mark.cuda

GREEDY = gn.Sampling(temperature=0.0)
# Exact: float32 sums in another order. Fast: 16 bits of an activation here, 16-bit blocks there; in
# prompts 8 bits, of which random experts, whose scores may be close, make more.
CLOSE = {"exact": 1e-5, "fast": 5e-4}
PROMPT_CLOSE = {"exact": 1e-5, "fast": 2e-2}
WITH_FLIPS = 0.1


def converse(session, ids, count=4):
    """Everything that comes out of a prompt, some tokens, another prompt and some more."""
    out = []
    half = len(ids) // 2
    for part, sampling in ((ids[:half], GREEDY), (ids[half:], gn.Sampling(seed=5, logprobs=3))):
        out.append(session.logits(part).tobytes())
        stream = session.generate(max_new_tokens=count, sampling=sampling, stop_ids=[])
        out += [(token.id, token.logprob, token.top_logprobs) for token in stream]
    return out


# Close to the processor


def logits_and_tokens(model, ids, count):
    with model, model.session() as session:
        rows = session.logits(ids)
        sampling = gn.Sampling(temperature=0.0, logprobs=min(8, rows.shape[1]))
        stream = session.generate(max_new_tokens=count, sampling=sampling, stop_ids=[])
        return rows, [(token.id, dict(token.top_logprobs)) for token in stream]


def assert_devices_agree(make, precision, ids, count):
    """Prompt rows by their logits, generated ones by the log-probabilities of the best.

    make(device=..., deterministic=...) -> the model. A deterministic one computes all of it in the
    decode form, as the processor does here: its prefill form may have bfloat16 activations.
    """
    want = logits_and_tokens(make(device="cpu", deterministic=True), ids, count)
    decoded = logits_and_tokens(make(deterministic=True), ids, count)
    assert_close(decoded, want, CLOSE[precision], ties=False)
    assert_close(logits_and_tokens(make(), ids, count), want, PROMPT_CLOSE[precision], ties=True)


def assert_close(got, want, tolerance, ties):
    """Ties: a token may be another that is as good as it within the tolerance."""
    (got_rows, got_tokens), (want_rows, want_tokens) = got, want
    assert relative_l2(got_rows, want_rows) < tolerance
    close = 4 * tolerance * float(np.abs(want_rows).max())
    for (token, here), (want_token, there) in zip(got_tokens, want_tokens, strict=True):
        if ties and token != want_token:  # from here on texts differ
            assert there[want_token] - there[token] < close
            break
        assert token == want_token
        common = here.keys() & there.keys()
        assert len(common) >= len(there) - 1  # the last of them may be close to the next
        for other in common:
            assert here[other] == pytest.approx(there[other], abs=close)


@pytest.mark.parametrize("precision", ["exact", "fast"])
@pytest.mark.parametrize(
    ("shape", "overrides"),
    [
        ("tiny", {}),
        ("odd", {}),
        ("wide", {"num_hidden_layers": 2}),
        ("tiny", {"num_experts": 128, "num_hidden_layers": 1}),
        ("odd", SMALLEST | {"hidden_size": 2880, "num_hidden_layers": 1}),
        ("tiny", SMALLEST | {"vocab_size": 1}),
        ("tiny", {"dense": "int8"}),
        ("odd", {"dense": "int8"}),
        ("odd", SMALLEST | {"hidden_size": 2880, "num_hidden_layers": 1, "dense": "int8"}),
    ],
    ids=[
        *("tiny", "odd", "wide", "128 experts", "2880", "one token"),
        *("tiny int8", "odd int8", "2880 int8"),
    ],
)
def test_a_random_model_is_close_to_the_processors(
    cuda_device, config, some_ids, shape, overrides, precision
):
    fixed = {"seed": 3, "precision": precision, "dense": overrides.get("dense", "bf16")}
    sizes = config(shape, **{k: v for k, v in overrides.items() if k != "dense"})

    def make(device=cuda_device, **options):
        return gn.Model.random(sizes, device=device, **fixed, **options)

    assert_devices_agree(make, precision, some_ids(9, sizes["vocab_size"]), 3)


@pytest.mark.parametrize(
    ("precision", "dense"), [("exact", "bf16"), ("fast", "bf16"), ("fast", "int8")]
)
def test_the_trained_model_is_close_to_the_processors(cuda_device, some_ids, precision, dense):
    def make(device=cuda_device, **options):
        return gn.Model.demo(device=device, precision=precision, dense=dense, **options)

    assert_devices_agree(make, precision, some_ids(20, 600), 4)


def test_windows_and_rings_that_come_round_are_close_to_the_processors(
    cuda_device, config, some_ids
):
    """A ring holds the window and a step of 1024 rows; pages hold 128 positions."""
    sizes = config("tiny", **SMALLEST | {"sliding_window": 37})
    ids, rows, answers = some_ids(1100, 40), [], []
    for device, deterministic, cuts in (
        ("cpu", True, [1100]),
        (cuda_device, False, [1100]),
        (cuda_device, False, [7, 500, 1097, 1100]),
        (cuda_device, True, [1100]),
    ):
        model = gn.Model.random(sizes, seed=2, device=device, deterministic=deterministic)
        with model, model.session() as session:
            got = [session.logits(ids[a:b]) for a, b in zip([0, *cuts], cuts, strict=False)]
            stream = session.generate(max_new_tokens=5, sampling=GREEDY)
            answers.append([(token.id, token.logprob) for token in stream])
        rows.append(np.concatenate(got))
    assert np.array_equal(rows[1], rows[2])
    assert answers[1] == answers[2]
    assert relative_l2(rows[1], rows[0]) < WITH_FLIPS
    assert relative_l2(rows[3], rows[0]) < CLOSE["fast"]
    for got in (answers[1], answers[3]):
        for here, there in zip(got, answers[0], strict=True):
            assert here == pytest.approx(there, abs=5e-3)


@pytest.mark.parametrize("shape", ["tiny", "odd"])
def test_int8_loses_on_cuda_what_it_loses_on_the_processor(cuda_device, tmp_path, shape):
    """Tensors by name; one has a block of zeros, which has no scale."""
    tensors = random_tensors(COMMON | SHAPES[shape], 1)
    tensors["lm_head.weight"][:3, 32:64] = 0
    path = write_checkpoint(tmp_path, shape, 1, shards=1, index=False)
    write_safetensors(path / "model.safetensors", tensors)
    infos = []
    for device in ("cpu", cuda_device):
        with gn.Model.load(path, device=device, dense="int8", threads=2) as model:
            assert np.isfinite(model.session().logits([1, 2])).all()
            infos.append(model.info())
    want, got = (info["dense_errors"] for info in infos)
    assert len(got) == 4 * SHAPES[shape]["num_hidden_layers"] + 1
    assert got == pytest.approx(want, rel=1e-6)
    assert infos[1]["worst_dense_error"] == max(got.values())
    assert "int8" in infos[1]["backend"]["qkv"]


# The same bits on any device


@pytest.mark.parametrize(
    ("precision", "dense"),
    [("exact", "bf16"), ("fast", "bf16"), ("exact", "int8"), ("fast", "int8")],
)
def test_multiprocessors_and_the_order_of_threads_do_not_change_a_bit(
    emulated, config, some_ids, monkeypatch, precision, dense
):
    sizes = config("odd", num_hidden_layers=2)
    ids = some_ids(12, 331)
    got = []
    for multiprocessors, seed, threads in ((3, 0, 1), (1, 1, 2), (132, 2, 1)):
        monkeypatch.setenv("GPTOSS_EMULATION_SMS", str(multiprocessors))
        monkeypatch.setenv("GPTOSS_EMULATION_SEED", str(seed))
        options = {"device": emulated, "precision": precision, "dense": dense}
        with gn.Model.random(sizes, seed=4, threads=threads, **options) as model:
            got.append(converse(model.session(), ids, 2))
    assert got[1:] == got[:1] * 2


@pytest.mark.parametrize(("capability", "dense"), [(80, "bf16"), (120, "bf16"), (120, "int8")])
def test_other_architectures_give_the_same_bits(
    emulated, config, some_ids, monkeypatch, capability, dense
):
    """sm_120 has 99 KiB of shared memory for a block."""
    sizes = config("tiny", **SMALLEST | {"hidden_size": 2880, "num_hidden_layers": 1})
    got = []
    for architecture in (90, capability):
        monkeypatch.setenv("GPTOSS_EMULATION_CAPABILITY", str(architecture))
        if architecture == 120:
            monkeypatch.setenv("GPTOSS_EMULATION_SHARED", "101376")
        with gn.Model.random(sizes, device=emulated, dense=dense) as model:
            assert model.info()["backend"]["architecture"] == f"sm_{architecture}"
            got.append(converse(model.session(), some_ids(4, 40), 1))
    assert got[0] == got[1]
