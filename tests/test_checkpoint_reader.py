"""What a checkpoint's folder holds: both forms, shards, the index."""

import json
import os
import shutil
import tracemalloc

import pytest
from checkpoint_files import (
    CONFIGS,
    HEADER,
    HUGGINGFACE,
    MISSING,
    OPENAI,
    changed,
    refusal,
    shard,
    write,
)
from gptoss_native import CheckpointError
from gptoss_native.checkpoint import parse_config, read_checkpoint
from random_checkpoint import random_tensors, write_checkpoint

# What is read


@pytest.mark.parametrize("form", CONFIGS)
@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("norm_dtype", ["BF16", "F32"])
def test_both_published_forms_are_read(tmp_path, form, index, norm_dtype):
    path = write_checkpoint(
        tmp_path, "tiny", 1, form=form, shards=3, index=index, norm_dtype=norm_dtype
    )
    checkpoint = read_checkpoint(path)
    assert checkpoint.form == form
    assert checkpoint.path == path
    assert len(checkpoint.files) == 3
    assert list(checkpoint.files) == sorted(path.glob("*.safetensors"))
    assert checkpoint.tokenizer is None
    tensors = random_tensors(_tiny_config(path), 1, form, norm_dtype)
    assert {spec.name for spec in checkpoint.tensors} == set(tensors)
    assert checkpoint.total_bytes == sum(array.nbytes for array in tensors.values())
    for spec in checkpoint.tensors:
        array = tensors[spec.name]
        with open(checkpoint.files[spec.file], "rb") as file:
            file.seek(spec.offset)
            assert file.read(array.nbytes) == array.tobytes()
        assert spec.shape == array.shape
        assert spec.dtype == {1: "U8", 2: "BF16", 4: "F32"}[array.itemsize]


def _tiny_config(path):
    config = json.loads((path / "config.json").read_text())
    return {"num_local_experts": config.get("num_experts")} | config


def test_both_forms_of_one_model_have_one_config(tmp_path):
    configs = [
        read_checkpoint(write_checkpoint(tmp_path / form, "odd", 2, form=form)).config
        for form in CONFIGS
    ]
    assert configs[0] == configs[1]
    assert configs[0]["max_context"] == 131072
    assert configs[0]["windowed"] == [True, False, True]


def test_huggingface_config_is_read_from_its_keys(tmp_path):
    assert read_checkpoint(write(tmp_path)).config == {
        "vocab_size": 500,
        "hidden_size": 96,
        "intermediate_size": 160,
        "layers": 3,
        "experts": 8,
        "experts_per_token": 4,
        "heads": 6,
        "kv_heads": 2,
        "head_dim": 64,
        "sliding_window": 128,
        "max_context": 131072,
        "initial_context": 2048,
        "rope_theta": 10000.0,
        "rope_factor": 8.0,
        "rope_beta_fast": 16.0,
        "rope_beta_slow": 2.0,
        "rope_truncate": True,
        "rms_norm_eps": 1e-6,
        "swiglu_limit": 5.5,
        "windowed": [False, True, True],
    }


@pytest.mark.parametrize("form", CONFIGS)
def test_a_config_without_files_is_checked_alike(tmp_path, form):
    config = CONFIGS[form]
    assert parse_config(config) == read_checkpoint(write(tmp_path, config)).config
    with pytest.raises(CheckpointError, match="hidden_size is 100; it must be an integer from 32"):
        parse_config(config | {"hidden_size": 100})


@pytest.mark.parametrize("absent", [MISSING, None])
def test_absent_layer_types_mean_that_even_layers_are_windowed(tmp_path, absent):
    config = changed(HUGGINGFACE, "layer_types", absent)
    assert read_checkpoint(write(tmp_path, config)).config["windowed"] == [True, False, True]


def test_rope_parameters_of_newer_transformers_are_read(tmp_path):
    config = changed(HUGGINGFACE, "rope_scaling", MISSING)
    config = changed(config, "rope_theta", MISSING)
    config["rope_parameters"] = HUGGINGFACE["rope_scaling"] | {"rope_theta": 10000.0}
    expected = read_checkpoint(write(tmp_path / "old")).config
    assert read_checkpoint(write(tmp_path / "new", config)).config == expected


def test_the_older_name_of_rope_type_is_read(tmp_path):
    config = changed(HUGGINGFACE, "rope_scaling.rope_type", MISSING)
    config["rope_scaling"]["type"] = "yarn"
    assert read_checkpoint(write(tmp_path, config)).config["rope_factor"] == 8


def test_offsets_are_absolute_and_tensors_in_the_order_of_the_file(tmp_path):
    header = {"__metadata__": {"format": "pt"}} | HEADER
    content = shard(header)
    checkpoint = read_checkpoint(write(tmp_path, shards={"model.safetensors": content}))
    data = len(content) - 20
    assert [t.offset - data for t in checkpoint.tensors] == [0, 4, 12]
    assert [t.name for t in checkpoint.tensors] == ["gain", "dense", "bytes"]
    assert checkpoint.total_bytes == 20


def test_reading_takes_no_memory_for_the_weights(tmp_path):
    size = 1 << 33
    header = {"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    content = shard(header, b"")
    path = write(tmp_path, shards={"model.safetensors": content})
    os.truncate(path / "model.safetensors", len(content) + size)  # a sparse file
    tracemalloc.start()
    assert read_checkpoint(path).total_bytes == size
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


# Folders


def test_the_published_repository_with_only_original_is_read(tmp_path):
    write(tmp_path / "original", OPENAI)
    (tmp_path / "config.json").write_text(json.dumps(HUGGINGFACE))
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [3, 4]}')
    for given in (tmp_path, tmp_path / "original"):
        checkpoint = read_checkpoint(given)
        assert checkpoint.form == "openai"
        assert checkpoint.path == tmp_path / "original"
        assert checkpoint.tokenizer == tmp_path / "tokenizer.json"
        assert checkpoint.stop_ids == (3, 4)


def test_a_whole_folder_is_preferred_to_original_in_it(tmp_path):
    write(tmp_path)
    write(tmp_path / "original", OPENAI)
    assert read_checkpoint(str(tmp_path)).form == "huggingface"


def test_a_path_to_no_checkpoint_says_what_is_there(tmp_path):
    refusal(tmp_path / "absent", "absent: no such folder")
    (tmp_path / "model.gguf").touch()
    refusal(tmp_path / "model.gguf", "model.gguf: is a file; wanted the checkpoint's folder")
    refusal(tmp_path, "no config.json in this folder")
    (tmp_path / "config.json").write_text(json.dumps(HUGGINGFACE))
    refusal(tmp_path, "no *.safetensors in this folder")
    (tmp_path / "original").mkdir()
    refusal(tmp_path, "no config.json in original/")
    refusal("nul\0byte", "no such folder")


def test_a_config_or_shard_that_is_no_regular_file_is_refused(tmp_path):
    path = write(tmp_path / "a")
    (path / "config.json").unlink()
    (path / "config.json").mkdir()
    refusal(path, "config.json: is missing, or no regular file")
    path = write(tmp_path / "b")
    os.mkfifo(path / "more.safetensors")  # opening one would wait for ever
    refusal(path, "more.safetensors: is missing, or no regular file")


# The index


def two_shards():
    first = {"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    second = {"b": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}
    return {"x.safetensors": shard(first, bytes(1)), "y.safetensors": shard(second, bytes(2))}


def indexed(tmp_path, weight_map):
    return write(tmp_path, shards=two_shards(), index={"metadata": {}, "weight_map": weight_map})


def test_an_index_names_the_shards_and_others_are_ignored(tmp_path):
    path = indexed(tmp_path, {"b": "y.safetensors"})
    checkpoint = read_checkpoint(path)
    assert checkpoint.files == (path / "y.safetensors",)
    assert [tensor.name for tensor in checkpoint.tensors] == ["b"]


def test_without_an_index_all_shards_are_read_in_order(tmp_path):
    path = write(tmp_path, shards=two_shards() | {"._x.safetensors": b"left by another system"})
    checkpoint = read_checkpoint(path)
    assert checkpoint.files == (path / "x.safetensors", path / "y.safetensors")
    assert [(tensor.name, tensor.file) for tensor in checkpoint.tensors] == [("a", 0), ("b", 1)]


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/etc/passwd", "sub/x.safetensors", "", ".", "..", "a\0b", "\ud800"],
)
def test_an_index_cannot_leave_the_folder(tmp_path, name):
    refuses_shard_name(tmp_path, name)


@pytest.mark.parametrize("name", ["x" * 300, None, 3, ["x.safetensors"]])
def test_an_index_must_give_file_names(tmp_path, name):
    refuses_shard_name(tmp_path, name)


def refuses_shard_name(tmp_path, name):
    shutil.copy(write(tmp_path) / "model.safetensors", tmp_path / "x.safetensors")
    path = indexed(tmp_path / "sub", {"a": "x.safetensors", "b": name})
    refusal(path, "index.json: weight_map.b is ", "the plain name of a file in this folder")


def test_an_index_that_the_shards_contradict_is_refused(tmp_path):
    good = {"a": "x.safetensors", "b": "y.safetensors"}
    assert len(read_checkpoint(indexed(tmp_path, good)).tensors) == 2
    for weight_map, parts in (
        (good | {"b": "z.safetensors"}, ("z.safetensors: is missing",)),
        (good | {"c": "x.safetensors"}, ("weight_map.c is 'x.safetensors'", "whose header has")),
        ({"a": "y.safetensors", "b": "x.safetensors"}, ("weight_map.a is 'y.", "x.safetensors,")),
        ({"b": "y.safetensors", "c": "x.safetensors"}, ("weight_map.a is missing",)),
    ):
        refusal(indexed(tmp_path, weight_map), *parts)
    for index in ({}, {"weight_map": None}, {"weight_map": []}):
        refusal(write(tmp_path, shards=two_shards(), index=index), "index.json: weight_map")


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    shards = two_shards()
    shards["z.safetensors"] = shards["x.safetensors"]
    refusal(write(tmp_path, shards=shards), "z.safetensors: tensor a is also in x.safetensors")
