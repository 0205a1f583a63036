"""The CUDA backend: close to the processor's numbers, its own bits whatever the device, and errors
that name the cause and leave the process, other models and the memory as they were.

What only the emulated device can do (lose itself, have so much memory) is skipped on a card.
"""

import json
import threading

import gptoss_native as gn
import numpy as np
import pytest
from conftest import EMULATED
from make_goldens import relative_l2
from random_checkpoint import COMMON, SHAPES, random_tensors, write_checkpoint, write_safetensors

pytestmark = pytest.mark.cuda

GREEDY = gn.Sampling(temperature=0.0)
# Exact: float32 sums in another order. Fast: 16 bits of an activation here, 16-bit blocks there; in
# prompts 8 bits, of which random experts, whose scores may be close, make more.
CLOSE = {"exact": 1e-5, "fast": 5e-4}
PROMPT_CLOSE = {"exact": 1e-5, "fast": 2e-2}
WITH_FLIPS = 0.1
SMALLEST = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "num_experts": 2,
    "experts_per_token": 1,
    "vocab_size": 40,
}


@pytest.fixture
def emulated(cuda_device):
    if cuda_device != EMULATED:
        pytest.skip("only the emulated device can be told to")
    return cuda_device


@pytest.fixture
def small(config):
    """A model that the emulated device takes a hundredth of a second a step for."""
    return config("tiny", **SMALLEST)


@pytest.fixture
def give_memory(emulated, monkeypatch):
    """Return a function: the device has so many bytes more than are in use now."""

    def give(more_bytes):
        monkeypatch.delenv("GPTOSS_EMULATION_MEMORY", raising=False)
        in_use = (8 << 30) - available_bytes(emulated)
        monkeypatch.setenv("GPTOSS_EMULATION_MEMORY", str(in_use + more_bytes))

    return give


def available_bytes(device):
    return gn.plan("tiny", device=device, measure=False)["available_bytes"]


def near(device):
    """Bytes that a card's free memory may be off: it is given in pieces of 2 MiB, and kernels take
    some when they are first used."""
    return 0 if device == EMULATED else 8 << 20


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


# Devices that are not there


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"DEVICES": "0"}, "no CUDA device"),
        ({"DRIVER": "old"}, "driver is too old"),
        ({"CAPABILITY": "75"}, r"7\.5.*8\.0"),
    ],
)
def test_a_device_that_cannot_be_used_says_why(emulated, small, monkeypatch, settings, text):
    for name, value in settings.items():
        monkeypatch.setenv(f"GPTOSS_EMULATION_{name}", value)
    for make in (gn.Model.random, lambda *a, **k: gn.plan(*a, measure=False, **k)):
        with pytest.raises(gn.DeviceError, match=text):
            make(small, device=emulated)
    monkeypatch.undo()
    with gn.Model.random(small, device="cpu") as model:
        assert model.session().logits([1]).shape == (1, 40)


@pytest.mark.parametrize("library", [None, "/nowhere.so", "not a library"])
def test_an_emulated_device_without_its_library_says_so(monkeypatch, tmp_path, library):
    monkeypatch.delenv("GPTOSS_CUDA_EMULATED", raising=False)
    if library == "not a library":
        library = tmp_path / "library.so"
        library.write_text("text")
    if library is not None:
        monkeypatch.setenv("GPTOSS_CUDA_EMULATED", str(library))
    with pytest.raises(gn.DeviceError, match=str(library or "GPTOSS_CUDA_EMULATED")):
        gn.Model.random(device=EMULATED)


# Memory


@pytest.mark.parametrize("missing", [1, 100_000, 10**7, "nearly all"])
def test_a_model_that_does_not_fit_is_refused_before_loading(give_memory, emulated, missing):
    plan = gn.plan("tiny", device=emulated, measure=False, max_context=1)
    needed = plan["weight_bytes"] + plan["scratch_bytes"]
    given = 1000 if missing == "nearly all" else needed - missing
    give_memory(given)
    assert not gn.plan("tiny", device=emulated, measure=False, max_context=1)["fits"]
    calls = []
    with pytest.raises(gn.OutOfMemory) as caught:
        gn.Model.random(device=emulated, progress=lambda *call: calls.append(call))
    assert calls == []
    assert str(plan["weight_bytes"]) in str(caught.value)
    assert str(given) in str(caught.value)
    assert available_bytes(emulated) == given


def test_a_model_that_a_plan_says_fits_loads_and_runs(give_memory, emulated):
    plan = gn.plan("tiny", device=emulated, measure=False, max_context=30)
    give_memory(plan["total_bytes"] + 4096)  # the table of a session's pages is no page
    assert gn.plan("tiny", device=emulated, measure=False, max_context=30)["fits"]
    with gn.Model.random(device=emulated) as model:
        session = model.session(max_context=30)
        session.prefill(range(26))
        assert len(list(session.generate(max_new_tokens=4))) == 4


def test_a_cache_that_does_not_fit_leaves_the_session_and_its_neighbours(
    give_memory, emulated, small, some_ids, monkeypatch
):
    ids = some_ids(300, 40)
    cold = gn.Limits(prefix_bytes=0)
    with (
        gn.Model.random(small, device=emulated, limits=cold) as model,
        gn.Model.random(small, seed=8) as other,
    ):
        want = model.session().logits(ids)
        beside = other.session().logits(ids[:9])
        neighbour, session = model.session(), model.session(max_context=400)
        neighbour.prefill(ids[:20])
        session.prefill(ids[:100])
        give_memory(1000)
        for use in (session.prefill, session.logits):
            with pytest.raises(gn.OutOfMemory, match="cache"):
                use(ids[100:300])
            assert session.tokens == ids[:100]
        assert np.array_equal(session.logits(ids[100:120]), want[100:120])
        assert np.array_equal(neighbour.logits(ids[20:30]), want[20:30])
        assert np.array_equal(other.session().logits(ids[:9]), beside)
        with pytest.raises(gn.OutOfMemory, match="cache"):
            model.session().prefill(ids[:1])
        monkeypatch.undo()
        assert np.array_equal(session.logits(ids[120:]), want[120:])


def test_a_cache_that_ends_under_a_stream_loses_no_token(give_memory, emulated, small, monkeypatch):
    sampling = gn.Sampling(seed=3)
    with gn.Model.random(small, device=emulated) as model:
        want = [t.id for t in model.session().generate([1], max_new_tokens=150, sampling=sampling)]
        session = model.session()
        stream = session.generate([1], max_new_tokens=150, sampling=sampling)
        said = [next(stream).id]
        give_memory(1000)
        with pytest.raises(gn.OutOfMemory):
            said += [token.id for token in stream]
        assert 100 < session.position < 130
        assert session.tokens[1:] == want[: session.position - 1]
        assert list(stream) == []
        monkeypatch.undo()
        rest = session.generate(max_new_tokens=20, sampling=sampling)
        said = [*session.tokens[1:], *(token.id for token in rest)]
        assert said == want[: len(said)]


def test_closing_and_failing_return_the_devices_memory(cuda_device, tmp_path, small):
    path = write_checkpoint(tmp_path, "tiny", 1, num_hidden_layers=1)
    gn.Model.load(path, device=cuda_device).close()
    before = available_bytes(cuda_device)

    def stop(done, total):
        raise KeyError("enough")

    for _ in range(5):
        with gn.Model.load(path, device=cuda_device) as model:
            session = model.session()
            stream = session.generate([1, 2], max_new_tokens=9, stop_ids=[])
            next(stream)
            next(stream)
            taken = before - available_bytes(cuda_device)
            assert taken >= model.info()["weight_bytes"] + session.cache_bytes
        assert available_bytes(cuda_device) == before
        with pytest.raises(KeyError, match="enough"):
            gn.Model.load(path, device=cuda_device, progress=stop)
        assert available_bytes(cuda_device) == before
    with gn.Model.random(small, device=cuda_device, limits=gn.Limits(prefix_bytes=0)) as model:
        model.session().prefill([1])
        opened = available_bytes(cuda_device)
        with model.session() as session:
            session.prefill([1] * 200)
            held = opened - available_bytes(cuda_device)
            assert held >= session.cache_bytes - near(cuda_device)
        assert abs(available_bytes(cuda_device) - opened) <= near(cuda_device)


@pytest.mark.parametrize("value", [200, 255])
@pytest.mark.parametrize("matrix", ["gate_up_proj", "down_proj"])
def test_a_scale_out_of_range_is_refused_by_tensor(cuda_device, tmp_path, matrix, value):
    shape = COMMON | SHAPES["tiny"] | {"num_hidden_layers": 2}
    tensors = random_tensors(shape, 1)
    name = f"model.layers.1.mlp.experts.{matrix}_scales"
    tensors[name].flat[-1] = value
    path = write_checkpoint(tmp_path, "tiny", 1, shards=1, index=False, num_hidden_layers=2)
    write_safetensors(path / "model.safetensors", tensors)
    before = available_bytes(cuda_device)
    with pytest.raises(gn.CheckpointError) as caught:
        gn.Model.load(path, device=cuda_device)
    for part in (name, "model.safetensors", f"{value}"):
        assert part in str(caught.value)
    assert available_bytes(cuda_device) == before


def test_a_gain_beyond_float16_is_refused_by_tensor(cuda_device, tmp_path):
    """Activations of experts are sums of float16 terms in the decode form."""
    tensors = random_tensors(COMMON | SHAPES["tiny"] | {"num_hidden_layers": 1}, 1)
    name = "model.layers.0.post_attention_layernorm.weight"
    tensors[name][3] = 0xC700  # -32768 in bfloat16
    path = write_checkpoint(tmp_path, "tiny", 1, shards=1, index=False, num_hidden_layers=1)
    write_safetensors(path / "model.safetensors", tensors)
    with pytest.raises(gn.CheckpointError, match=rf"{name} holds -32768, wanted at most \d+"):
        gn.Model.load(path, device=cuda_device)
    with gn.Model.load(path, device="cpu") as model:
        assert np.isfinite(model.session().logits([1, 2])).all()


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.0.input_layernorm.weight"])
def test_a_gain_beyond_float16_is_refused_where_int8_makes_it_float16(cuda_device, tmp_path, name):
    tensors = random_tensors(COMMON | SHAPES["tiny"] | {"num_hidden_layers": 1}, 1)
    tensors[name][3] = 0x4700  # 32768 in bfloat16
    path = write_checkpoint(tmp_path, "tiny", 1, shards=1, index=False, num_hidden_layers=1)
    write_safetensors(path / "model.safetensors", tensors)
    with pytest.raises(gn.CheckpointError, match=rf"{name} holds 32768, wanted at most \d+"):
        gn.Model.load(path, device=cuda_device, dense="int8")
    for options in ({"dense": "int8", "precision": "exact"}, {"dense": "bf16"}):
        with gn.Model.load(path, device=cuda_device, **options) as model:
            assert np.isfinite(model.session().logits([1, 2])).all()


def test_a_limit_beyond_float16_is_refused(cuda_device, config):
    with pytest.raises(gn.CheckpointError, match="swiglu_limit is 300, wanted at most 255"):
        gn.Model.random(config(swiglu_limit=300.0), device=cuda_device)


# Numbers that are none


@pytest.mark.parametrize("precision", ["exact", "fast"])
@pytest.mark.parametrize(
    ("name", "dense"),
    [
        *(
            (name, "bf16")
            for name in ("v_proj.weight", "router.weight", "down_proj_bias", "lm_head")
        ),
        *((name, "int8") for name in ("v_proj.weight", "lm_head")),
    ],
)
def test_a_weight_that_is_nan_is_never_made_into_text(
    cuda_device, tmp_path, name, dense, precision
):
    shape = COMMON | SHAPES["tiny"] | {"num_hidden_layers": 1}
    tensors = random_tensors(shape, 1)
    for key, array in tensors.items():
        if name in key:
            array[:] = 0x7FFF
    path = write_checkpoint(tmp_path, "tiny", 1, shards=1, index=False, num_hidden_layers=1)
    write_safetensors(path / "model.safetensors", tensors)
    with gn.Model.load(path, device=cuda_device, precision=precision, dense=dense) as model:
        for sampling in (GREEDY, gn.Sampling(seed=1, top_k=5, top_p=0.5, logprobs=2)):
            with pytest.raises(gn.Error, match="not finite"):
                next(model.session().generate([1, 2, 3], sampling=sampling))


def test_a_token_whose_embedding_is_nan_ends_its_own_stream_alone(cuda_device, tmp_path):
    tensors = random_tensors(COMMON | SHAPES["tiny"] | {"num_hidden_layers": 2}, 1)
    tensors["model.embed_tokens.weight"][7] = 0x7FFF
    path = write_checkpoint(tmp_path, "tiny", 1, shards=1, index=False, num_hidden_layers=2)
    write_safetensors(path / "model.safetensors", tensors)
    with gn.Model.load(path, device=cuda_device) as model:

        def text(session, count=6, **sampling):
            options = {"sampling": gn.Sampling(temperature=0.0, **sampling), "stop_ids": []}
            stream = session.generate([1, 2], max_new_tokens=count, **options)
            return [(token.id, token.logprob) for token in stream]

        want = text(model.session())
        assert all(token != 7 for token, _ in want)
        bad = model.session()
        with pytest.raises(gn.Error, match="not finite"):
            text(bad, logit_bias={7: 1e6})
        assert bad.tokens == [1, 2, 7]
        assert text(model.session()) == want


# A lost device


LOSE = """
import json, os, sys
import gptoss_native as gn
import numpy as np

device, config, when = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
processor = gn.Model.random(config, device="cpu")
want = processor.session().logits([1, 2, 3])

def fails(use):
    try:
        use()
    except gn.DeviceError as error:
        return str(error)
    return None

def until_lost(use):
    for _ in range(2000):
        text = fails(use)
        if text:
            return text
    raise AssertionError("the device was not lost")

if when == "load":
    os.environ["GPTOSS_EMULATION_LOSE"] = "2"
    text = fails(lambda: gn.Model.random(config, device=device))
    assert text
else:
    model = gn.Model.random(config, device=device)
    spare, session, other = (model.session() for _ in range(3))
    other.prefill([5])
    os.environ["GPTOSS_EMULATION_LOSE"] = "300"
    if when == "decode":
        text = until_lost(lambda: list(session.generate([1], max_new_tokens=200, stop_ids=[])))
    else:
        uses = {"prompt": lambda ids: next(session.generate(ids)), "logits": session.logits}
        text = until_lost(lambda: uses[when]([1, 2]))
    held = session.tokens
    assert session.position == len(held)
    for use in (
        lambda: session.prefill([1]),
        lambda: session.logits([1]),
        lambda: next(session.generate([1])),
        lambda: other.logits([1]),
        lambda: next(other.generate()),
        lambda: spare.prefill([1]),
        lambda: model.session().logits([1]),
    ):
        assert fails(use), "no DeviceError"
    assert session.tokens == held
    other.close()
    model.close()
    assert model.closed
    try:
        session.prefill([1])
    except gn.InvalidArgument as error:
        assert "closed" in str(error)
assert "illegal memory access" in text, text
assert fails(lambda: gn.Model.random(config, device=device))
assert np.array_equal(processor.session().logits([1, 2, 3]), want)
print("end")
"""


@pytest.mark.parametrize("when", ["load", "prompt", "logits", "decode"])
def test_a_lost_device_is_an_error_and_the_processor_goes_on(run_python, emulated, small, when):
    assert run_python(LOSE, emulated, json.dumps(small), when) == "end\n"


# A model's life


def test_closing_a_model_under_running_calls_ends_them_cleanly(cuda_device, small):
    for _ in range(2):
        model, outcomes, started = (
            gn.Model.random(small, device=cuda_device),
            [],
            threading.Barrier(4),
        )

        def work(call, session, started=started, outcomes=outcomes):
            started.wait()
            try:
                while True:
                    call(session)
            except gn.InvalidArgument as error:
                outcomes.append("closed" in str(error))

        calls = (
            lambda session: (session.prefill([1] * 9), session.logits([2])),
            lambda session: session.logits([1] * 5),
            lambda session: list(session.generate([1], max_new_tokens=1000)),
        )
        threads = [threading.Thread(target=work, args=(c, model.session())) for c in calls]
        for thread in threads:
            thread.start()
        started.wait()
        threading.Event().wait(0.1)
        model.close()
        for thread in threads:
            thread.join()
        assert outcomes == [True] * 3


def test_a_session_outlives_its_model_and_a_stream_its_session(cuda_device, small):
    before = available_bytes(cuda_device)
    session = gn.Model.random(small, seed=5, device=cuda_device).session()
    with gn.Model.random(small, seed=5, device=cuda_device) as model:
        assert np.array_equal(session.logits([1, 2]), model.session().logits([1, 2]))
        kept = model.session()
        stream = kept.generate([1], max_new_tokens=9)
        next(stream)
        next(stream)
    with pytest.raises(gn.InvalidArgument, match="closed"):
        next(stream)
    del kept, stream
    session.close()
    del session
    assert abs(available_bytes(cuda_device) - before) <= near(cuda_device)


@pytest.mark.parametrize("state", ["idle", "stream", "thread"])
def test_the_interpreter_exits_with_a_model_still_open(run_python, cuda_device, small, state):
    code = """
import json, sys, threading
import gptoss_native as gn

model = gn.Model.random(json.loads(sys.argv[2]), device=sys.argv[1])
stream = model.session().generate([1], stop_ids=[])
if sys.argv[3] != "idle":
    next(stream), next(stream), next(stream)
if sys.argv[3] == "thread":
    threading.Thread(target=lambda: list(stream), daemon=True).start()
    threading.Event().wait(0.05)
print("end")
"""
    assert run_python(code, cuda_device, json.dumps(small), state) == "end\n"


def test_a_forked_child_gets_an_error_and_leaves_the_parents_model(run_python, emulated, small):
    code = """
import json, os, signal, sys
import gptoss_native as gn

model = gn.Model.random(json.loads(sys.argv[2]), device=sys.argv[1])
session = model.session()
first = list(session.generate([1, 2], max_new_tokens=3))
pid = os.fork()
if pid == 0:
    signal.alarm(20)
    try:
        session.prefill([4])
        os._exit(1)
    except gn.Error:
        model.close()
        os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
session.prefill([4])
assert session.tokens[-1] == 4
"""
    run_python(code, emulated, json.dumps(small))
