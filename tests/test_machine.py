"""gptoss_native.plan and info: what a model would take and what this machine has, with no model."""

import gptoss_native as gn
import pytest
from conftest import EMULATED
from gptoss_native._core import available_memory

STAGES = ["embed", "qkv", "attention", "attn_out", "router"]
STAGES += ["moe_up", "moe_down", "logits", "sample"]
BYTES = ("weight_bytes", "scratch_bytes", "cache_bytes", "total_bytes", "decode_bytes")


def test_info_names_the_kernel_of_each_stage():
    cpu = gn.info()["cpu"]
    assert "scalar" in cpu["instruction_sets"]
    assert cpu["instruction_set"] in cpu["instruction_sets"]
    assert cpu["threads"] >= 1
    for precision in ("fast", "exact"):
        assert list(cpu["stages"][precision]) == STAGES
        assert all(cpu["stages"][precision].values())


def test_a_model_names_the_kernel_of_each_stage(any_device):
    for precision in ("fast", "exact"):
        with gn.Model.random(device=any_device, precision=precision) as model:
            backend = model.info()["backend"]
        assert [name for name in backend if name in STAGES] == STAGES
        assert all(backend[stage] for stage in STAGES)


def test_info_lists_the_cuda_devices_or_says_why_there_are_none():
    cuda = gn.info()["cuda"]
    if isinstance(cuda, str):
        assert cuda
        with pytest.raises(gn.DeviceError):
            gn.plan("tiny", device="cuda", measure=False)
    else:
        assert all(entry.keys() == {"name", "architecture", "memory_bytes"} for entry in cuda)


def test_a_cuda_device_that_is_not_there_is_an_error_and_never_the_processor():
    cuda = gn.info()["cuda"]
    names = [f"cuda:{n}" for n in (0, 7, 999) if isinstance(cuda, str) or n >= len(cuda)]
    for name in names:
        for make in (gn.Model.random, lambda **options: gn.plan("tiny", **options)):
            with pytest.raises(gn.DeviceError) as caught:
                make(device=name)
            assert name in str(caught.value) or str(caught.value) == cuda


def test_info_follows_the_forced_instruction_set(instruction_set):
    cpu = gn.info()["cpu"]
    assert cpu["instruction_set"] == instruction_set
    assert instruction_set in cpu["stages"]["fast"]["moe_up"]


@pytest.mark.parametrize("precision", ["fast", "exact"])
@pytest.mark.parametrize(
    ("device", "kind", "context"),
    [
        ("cpu", {}, 1000),
        ("cpu", {"dense": "int8"}, 1000),
        ("cpu", {"kv": "fp8"}, 1000),
        pytest.param("cuda", {}, 200, marks=pytest.mark.cuda),
        pytest.param("cuda", {"dense": "int8"}, 200, marks=pytest.mark.cuda),
        pytest.param("cuda", {"kv": "fp8"}, 200, marks=pytest.mark.cuda),
    ],
)
def test_a_plan_is_what_the_model_then_takes(request, config, device, kind, precision, context):
    if "kv" in kind and precision == "exact":
        pytest.skip("an fp8 cache is of fast precision")
    if device == "cuda":
        device = request.getfixturevalue("cuda_device")
    options = kind | {"precision": precision, "threads": 2, "device": device}
    # The emulated device takes a second for so much of "tiny".
    sizes = config("wide" if device == "cpu" else "tiny", vocab_size=5000)
    plan = gn.plan(sizes, **options, max_context=context, measure=False)
    with gn.Model.random(sizes, **options) as model:
        info = model.info()
        assert plan["device"] == device
        assert plan["weight_bytes"] == info["weight_bytes"]
        assert plan["scratch_bytes"] == info["scratch_bytes"]
        if device == EMULATED:  # which gives memory by the byte
            left = gn.plan(sizes, **options, measure=False)["available_bytes"]
            taken = plan["weight_bytes"] + plan["scratch_bytes"]
            assert plan["available_bytes"] - left == taken
        assert plan["decode_bytes"] == model.decode_bytes(0)
        assert plan["decode_bytes_at_max_context"] == pytest.approx(
            model.decode_bytes(context - 1), rel=1e-3
        )
        session = model.session(max_context=context)
        session.prefill([1] * context)
        assert plan["cache_bytes"] == pytest.approx(session.cache_bytes, rel=0.01)


@pytest.mark.parametrize(("name", "weights"), [("20b", 12.8 * 2**30), ("120b", 60.8 * 2**30)])
def test_the_published_models_take_what_their_checkpoints_have(name, weights):
    plan = gn.plan(name, measure=False)
    assert plan["weight_bytes"] == pytest.approx(weights, rel=0.05)
    assert all(plan[key] > 0 for key in BYTES)
    parts = ("weight_bytes", "scratch_bytes", "cache_bytes")
    assert plan["total_bytes"] == sum(plan[key] for key in parts)
    assert plan["fits"] == (plan["total_bytes"] <= plan["available_bytes"])
    assert plan["max_context"] == 131072
    # half the layers keep every position: 2 KiB each for 20b's 12 and 120b's 18
    full = {"20b": 12, "120b": 18}[name] * 131072 * 2048
    assert full <= plan["cache_bytes"] < 1.01 * full
    assert gn.plan(name, kv="fp8", measure=False)["cache_bytes"] * 2 == plan["cache_bytes"]
    small = gn.plan(name, max_context=1024, dense="int8", measure=False)
    assert small["cache_bytes"] < plan["cache_bytes"] / 50
    assert small["weight_bytes"] < plan["weight_bytes"]
    assert small["decode_bytes_at_max_context"] < plan["decode_bytes_at_max_context"]


def test_a_plan_loads_nothing(run_python):
    code = """
import resource
import gptoss_native as gn
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
gn.plan("120b", measure=False)
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10e3
"""
    run_python(code)


def test_a_plan_of_a_checkpoint_is_that_of_its_config(golden_checkpoint):
    for form in ("huggingface", "openai"):
        plan = gn.plan(golden_checkpoint("tiny-1", form)[1], measure=False)
        with gn.Model.load(golden_checkpoint("tiny-1", form)[1]) as model:
            assert plan["weight_bytes"] == model.info()["weight_bytes"]


def test_a_measured_plan_gives_the_limits_that_the_read_rate_sets():
    plan = gn.plan("tiny")
    assert 1e8 < plan["read_rate"] < 1e13
    limit = plan["read_rate"] / plan["decode_bytes"]
    assert plan["decode_limit_tokens_per_s"] == pytest.approx(limit)
    assert 0 < plan["decode_limit_tokens_per_s_at_max_context"] < limit


def test_available_memory_is_less_than_all_of_it():
    assert 0 < available_memory() < 2**50


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *[
            ("device", value)
            for value in ("gpu", "CUDA", "cuda:", "cuda:-1", "cuda:0x1", "cuda:1000")
        ],
        *[("device", value) for value in ("cuda-emulated:0", " cuda", None, 0)],
        *[("dense", "int4"), ("precision", ""), ("kv", "f32"), ("threads", 0), ("threads", -1)],
        *[("max_context", value) for value in (0, -1, 131073)],
    ],
)
def test_a_plan_refuses_wrong_arguments_by_name(argument, value):
    with pytest.raises(gn.InvalidArgument, match=argument):
        gn.plan("tiny", measure=False, **{argument: value})


def test_a_plan_of_nothing_is_refused(tmp_path):
    for path in ("7b", tmp_path, tmp_path / "none"):
        with pytest.raises(gn.CheckpointError):
            gn.plan(path, measure=False)
