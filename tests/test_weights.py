"""Which tensors a model needs, and that nothing in a file can take the process down.

A refusal names the file, the tensor and what was wanted. What reads beyond a file would crash with
SIGBUS or SIGSEGV, so that such tests run in a second process.
"""

import json
import os

import gptoss_native as gn
import numpy as np
import pytest
from random_checkpoint import COMMON, SHAPES, random_tensors, write_checkpoint, write_safetensors

FORMS = ["huggingface", "openai"]
# One tensor by its name in both forms: (Hugging Face's, OpenAI's).
NAMES = {
    "embedding": ("model.embed_tokens.weight", "embedding.weight"),
    "norm": ("model.norm.weight", "norm.scale"),
    "unembedding": ("lm_head.weight", "unembedding.weight"),
    "attn_norm": ("model.layers.2.input_layernorm.weight", "block.2.attn.norm.scale"),
    "qkv_weight": ("model.layers.2.self_attn.k_proj.weight", "block.2.attn.qkv.weight"),
    "qkv_bias": ("model.layers.2.self_attn.v_proj.bias", "block.2.attn.qkv.bias"),
    "sinks": ("model.layers.2.self_attn.sinks", "block.2.attn.sinks"),
    "out_weight": ("model.layers.2.self_attn.o_proj.weight", "block.2.attn.out.weight"),
    "out_bias": ("model.layers.2.self_attn.o_proj.bias", "block.2.attn.out.bias"),
    "mlp_norm": ("model.layers.2.post_attention_layernorm.weight", "block.2.mlp.norm.scale"),
    "gate_weight": ("model.layers.2.mlp.router.weight", "block.2.mlp.gate.weight"),
    "gate_bias": ("model.layers.2.mlp.router.bias", "block.2.mlp.gate.bias"),
    "up_blocks": (
        "model.layers.2.mlp.experts.gate_up_proj_blocks",
        "block.2.mlp.mlp1_weight.blocks",
    ),
    "up_scales": (
        "model.layers.2.mlp.experts.gate_up_proj_scales",
        "block.2.mlp.mlp1_weight.scales",
    ),
    "up_bias": ("model.layers.2.mlp.experts.gate_up_proj_bias", "block.2.mlp.mlp1_bias"),
    "down_blocks": (
        "model.layers.2.mlp.experts.down_proj_blocks",
        "block.2.mlp.mlp2_weight.blocks",
    ),
    "down_scales": (
        "model.layers.2.mlp.experts.down_proj_scales",
        "block.2.mlp.mlp2_weight.scales",
    ),
    "down_bias": ("model.layers.2.mlp.experts.down_proj_bias", "block.2.mlp.mlp2_bias"),
}
FILE = "model.safetensors"


@pytest.fixture(params=FORMS)
def checkpoint(request, tmp_path):
    """A sound checkpoint's (form, path, tensors), for a test to spoil."""
    form = request.param
    path = write_checkpoint(tmp_path, "tiny", 1, form, shards=1, index=False)
    return form, path, random_tensors(COMMON | SHAPES["tiny"], 1, form)


def refusal(path, *parts):
    with pytest.raises(gn.CheckpointError) as caught:
        gn.Model.load(path)
    message = str(caught.value)
    assert len(message) < 1000
    for part in parts:
        assert part in message, message


def named(form, key):
    return NAMES[key][FORMS.index(form)]


# Roles


@pytest.mark.parametrize("key", NAMES)
def test_a_missing_tensor_is_refused_by_name(checkpoint, key):
    form, path, tensors = checkpoint
    name = named(form, key)
    shape = tensors.pop(name).shape
    write_safetensors(path / FILE, tensors)
    refusal(path, name, "missing", str(list(shape)))


def test_a_missing_tensor_is_refused_by_its_folder_too(checkpoint):
    _, path, tensors = checkpoint
    write_safetensors(path / FILE, dict(list(tensors.items())[:-1]))
    refusal(path, str(path))


@pytest.mark.parametrize("extra", ["lm_head.bias", "block.2.attn.qkv.weight2", "model.layers.02.x"])
def test_an_extra_tensor_is_refused_by_file_and_name(checkpoint, extra):
    _, path, tensors = checkpoint
    tensors[extra] = np.zeros(96, "<u2")
    write_safetensors(path / FILE, tensors)
    refusal(path, FILE, extra)


def test_tensors_of_both_forms_at_once_are_refused(checkpoint):
    form, path, tensors = checkpoint
    other = random_tensors(COMMON | SHAPES["tiny"], 1, FORMS[1 - FORMS.index(form)])
    write_safetensors(path / FILE, tensors | other)
    refusal(path, FILE)


@pytest.mark.parametrize("key", NAMES)
@pytest.mark.parametrize("change", ["longer", "flat", "deeper"])
def test_a_wrong_shape_is_refused_with_the_one_wanted(checkpoint, key, change):
    form, path, tensors = checkpoint
    name = named(form, key)
    array = tensors[name]
    wanted = str(list(array.shape))
    if change == "longer":
        array = np.concatenate([array, array[:1]])
    elif change == "deeper" or array.ndim == 1:
        array = array[None]
    else:
        array = array.reshape(-1)
    tensors[name] = array
    write_safetensors(path / FILE, tensors)
    refusal(path, FILE, name, wanted, str(list(array.shape)))


@pytest.mark.parametrize("key", ["embedding", "qkv_weight", "up_blocks", "down_scales"])
@pytest.mark.parametrize("dtype", ["F32", "U8", "BF16"])
def test_a_wrong_dtype_is_refused_with_the_one_wanted(checkpoint, key, dtype):
    form, path, tensors = checkpoint
    name = named(form, key)
    wanted = "BF16" if "weight" in key or key == "embedding" else "U8"
    if dtype == wanted:
        return
    tensors[name] = tensors[name].astype({"F32": "<f4", "U8": "u1", "BF16": "<u2"}[dtype])
    write_safetensors(path / FILE, tensors)
    refusal(path, FILE, name, wanted, dtype)


def test_a_transposed_matrix_of_the_same_size_is_refused(checkpoint):
    form, path, tensors = checkpoint
    name = named(form, "gate_weight")
    tensors[name] = np.ascontiguousarray(tensors[name].T)
    write_safetensors(path / FILE, tensors)
    refusal(path, FILE, name, "[8, 96]", "[96, 8]")


@pytest.mark.parametrize("layers", [1, 3, 5, 1024])
def test_another_count_of_layers_in_the_config_is_refused(checkpoint, layers):
    form, path, _ = checkpoint
    file = path / "config.json"
    config = json.loads(file.read_text()) | {"num_hidden_layers": layers}
    config.pop("layer_types", None)
    file.write_text(json.dumps(config))
    prefix = ("model.layers.", "block.")[FORMS.index(form)]
    refusal(path, f"{prefix}{layers if layers < 4 else 4}.")


def test_a_size_out_of_range_is_a_checkpoint_error_whoever_finds_it(checkpoint):
    _, path, _ = checkpoint
    file = path / "config.json"
    sound = json.loads(file.read_text())
    others = []
    for key, values in {
        "num_attention_heads": (0, 2, 2**10, 2**16, 2**40),
        "num_key_value_heads": (0, 1, 8, 2**16),
        "sliding_window": (0, 1, 2**20, 2**24, 2**40),
        "rms_norm_eps": (0, 1e-12, 1, 2),
        "swiglu_limit": (-1, 1e-6, 1e6, 1e9),
        "vocab_size": (0, 2**24, 2**40),
    }.items():
        for value in values if key in sound else ():
            file.write_text(json.dumps(sound | {key: value}))
            try:
                gn.Model.load(path).close()
            except gn.Error as error:
                if not isinstance(error, gn.CheckpointError) or str(path) not in str(error):
                    others.append(repr(error))
    assert others == []


@pytest.mark.parametrize("key", ["vocab_size", "intermediate_size", "hidden_size"])
def test_sizes_that_the_tensors_contradict_are_refused_before_memory_is_taken(
    run_python, checkpoint, key
):
    """The config promises gigabytes; the refusal comes before they are asked for."""
    _, path, _ = checkpoint
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: 2**16}))
    code = """
import resource, sys
import gptoss_native as gn
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    gn.Model.load(sys.argv[1])
except gn.CheckpointError as error:
    assert any(number in str(error) for number in ("65536", "131072", "2048")), error
else:
    raise AssertionError("was loaded")
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20e3
"""
    run_python(code, path)


# Files that change, and specs that no reader would write

RAW_LOAD = """
import json, os, sys
import gptoss_native as gn
from gptoss_native import _core, read_checkpoint

checkpoint = read_checkpoint(sys.argv[1])
files = [str(file) for file in checkpoint.files]
specs = [[t.name, t.dtype, list(t.shape), t.file, t.offset] for t in checkpoint.tensors]

def load(specs, files=files):
    return _core.Model.load(checkpoint.config, files, [tuple(spec) for spec in specs])

def refuses(specs, files=files, kind=gn.Error):
    try:
        load(specs, files)
    except kind as error:
        assert str(error)
        return
    raise AssertionError(f"was loaded: {changed}")

def replaced(index, field, value):
    changed = [*specs[index]]
    changed[field] = value
    return [*specs[:index], changed, *specs[index + 1 :]]

load(specs).close()
changed = None
"""


def test_a_file_cut_after_its_header_was_read_is_refused(run_python, checkpoint):
    _, path, _ = checkpoint
    code = """
size = os.path.getsize(files[0])
for changed in (size - 1, size // 2, 4096, 100, 8, 0):
    os.truncate(files[0], changed)
    refuses(specs, kind=gn.CheckpointError)
os.remove(files[0])
refuses(specs, kind=gn.CheckpointError)
os.mkdir(files[0])
refuses(specs, kind=gn.CheckpointError)
"""
    run_python(RAW_LOAD + code, path)


def test_specs_out_of_their_file_are_refused(run_python, checkpoint):
    _, path, _ = checkpoint
    code = """
size = os.path.getsize(files[0])
for index in (0, len(specs) // 2, len(specs) - 1):
    for field, values in {
        0: ["", "x", "a" * 10**6, "model.layers.99999999999999999999.x", "block.-1.attn.sinks"],
        1: ["", "F16", "U8\\0", "I64"],
        3: [1, 2**31 - 1],
        4: [size - 1, size, size + 2, 2**31, 2**40, 2**62, 2**63 - 2],
    }.items():
        for changed in values:
            refuses(replaced(index, field, changed))
    for field in (3, 4):
        for changed in (-1, -2**62, 2**64):
            refuses(replaced(index, field, changed), kind=(gn.Error, TypeError))
refuses([])
refuses(specs[1:])
refuses(specs, files=[])
refuses(specs, files=["/dev/zero"])
refuses(specs, files=[""])
"""
    run_python(RAW_LOAD + code, path)


def test_shapes_that_overflow_or_are_negative_are_refused(run_python, checkpoint):
    _, path, _ = checkpoint
    code = """
for index in range(len(specs)):
    shape = specs[index][2]
    for changed in (
        [],
        [0] * len(shape),
        [-n for n in shape],
        [-shape[0], *shape[1:]],
        [2**62, *shape[1:]],
        [2**32] * len(shape),
        [2**63 - 1, 2**63 - 1],
        [2**32, 2**32, *shape],
        [shape[0] + 2**32, *shape[1:]],
        [1, *shape],
        [*shape, 1],
        shape[:-1],
        [1] * 10000,
    ):
        refuses(replaced(index, 2, changed))
"""
    run_python(RAW_LOAD + code, path)


def test_a_checkpoint_is_not_kept_open_once_loaded(checkpoint):
    _, path, _ = checkpoint
    with gn.Model.load(path) as model:
        with open("/proc/self/maps") as maps:
            assert str(path) not in maps.read()
        links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        assert not any(str(path) in os.readlink(fd) for fd in links if os.path.lexists(fd))
        os.truncate(path / FILE, 0)
        assert np.isfinite(model.session().logits([1, 2, 3])).all()
