"""gptoss_native.checkpoint: what it reads, and that it refuses all else with a CheckpointError."""

import copy
import json
import os
import random
import shutil
import tracemalloc

import pytest
from gptoss_native import CheckpointError
from gptoss_native.checkpoint import parse_config, read_checkpoint
from random_checkpoint import random_tensors, write_checkpoint

HUGGINGFACE = {
    "attention_bias": True,
    "experts_per_token": 4,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 96,
    "intermediate_size": 160,
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
    "max_position_embeddings": 131072,
    "model_type": "gpt_oss",
    "num_attention_heads": 6,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "num_local_experts": 8,
    "quantization_config": {"quant_method": "mxfp4"},
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 16.0,
        "beta_slow": 2,
        "factor": 8.0,
        "original_max_position_embeddings": 2048,
        "rope_type": "yarn",
        "truncate": True,
    },
    "rope_theta": 10000,
    "sliding_window": 128,
    "swiglu_limit": 5.5,
    "tie_word_embeddings": False,
    "vocab_size": 500,
}
OPENAI = {
    "experts_per_token": 4,
    "head_dim": 32,
    "hidden_size": 96,
    "initial_context_length": 4096,
    "intermediate_size": 160,
    "num_attention_heads": 6,
    "num_experts": 8,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "rope_ntk_alpha": 1,
    "rope_ntk_beta": 32,
    "rope_scaling_factor": 32.0,
    "rope_theta": 150000,
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "vocab_size": 500,
}
CONFIGS = {"huggingface": HUGGINGFACE, "openai": OPENAI}
HEADER = {
    "bytes": {"dtype": "U8", "shape": [2, 4], "data_offsets": [12, 20]},
    "dense": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [4, 12]},
    "gain": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
}
MISSING = object()
NOT_INTEGERS = (MISSING, None, True, "32", 64.0, 0, -32, 2**60, 10**400, [], {})
NOT_NUMBERS = (MISSING, None, True, "1", 0, -1.5, 1e300, 10**400, [])


def shard(header, payload=bytes(20)):
    """Return a safetensors file of a header, given as JSON values or as text."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + payload


def write(folder, config=HUGGINGFACE, shards=None, **files):
    """Write a checkpoint's folder; a file's content is bytes or a JSON value."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {"index": "model.safetensors.index.json", "generation": "generation_config.json"}
    files = {names.get(key, f"{key}.json"): value for key, value in files.items()}
    files |= {"config.json": config} | (shards or {"model.safetensors": shard(HEADER)})
    for name, content in files.items():
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / name).write_bytes(text)
    return folder


def changed(values, key, value):
    """Return a copy of a JSON object with one key, "outer.inner" at most, set or taken away."""
    values = copy.deepcopy(values)
    *outer, key = key.split(".")
    table = values[outer[0]] if outer else values
    if value is MISSING:
        del table[key]
    else:
        table[key] = value
    return values


def refusal(path, *parts):
    """Read, which must fail with a message that has all the parts; return the message."""
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert len(message) < 1000
    for part in parts:
        assert part in message
    return message


def header_refusal(tmp_path, header, *parts, payload=bytes(20)):
    content = shard(header, payload)
    path = write(tmp_path, shards={"model.safetensors": content})
    return refusal(path, "model.safetensors: ", *parts)


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


# config.json


@pytest.mark.parametrize(
    ("form", "key"),
    [
        (form, key)
        for form, config in CONFIGS.items()
        for key, value in config.items()
        if type(value) is int
        and not key.startswith("rope_")
        and (form, key) != ("huggingface", "experts_per_token")
    ]
    + [("huggingface", "rope_scaling.original_max_position_embeddings")],
)
def test_config_refuses_what_is_no_sane_integer(tmp_path, form, key):
    for value in NOT_INTEGERS:
        if value is MISSING and key in ("num_experts", "initial_context_length"):
            continue  # what tells the form from Hugging Face's: see below
        path = write(tmp_path, changed(CONFIGS[form], key, value))
        given = " is missing;" if value is MISSING else " is "
        refusal(path, "config.json: ", key + given, "; it must be ")


@pytest.mark.parametrize(
    ("form", "key"),
    [
        ("huggingface", "rms_norm_eps"),
        ("huggingface", "rope_theta"),
        ("huggingface", "swiglu_limit"),
        ("huggingface", "rope_scaling.beta_fast"),
        ("huggingface", "rope_scaling.beta_slow"),
        ("huggingface", "rope_scaling.factor"),
        ("openai", "rope_ntk_alpha"),
        ("openai", "rope_ntk_beta"),
        ("openai", "rope_scaling_factor"),
        ("openai", "rope_theta"),
        ("openai", "swiglu_limit"),
    ],
)
def test_config_refuses_what_is_no_sane_number(tmp_path, form, key):
    for value in NOT_NUMBERS:
        refusal(write(tmp_path, changed(CONFIGS[form], key, value)), "config.json: ", key)
    text = json.dumps(changed(CONFIGS[form], key, "VALUE")).encode()
    for number in (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 5000):
        refusal(write(tmp_path, text.replace(b'"VALUE"', number)), "config.json: ")


@pytest.mark.parametrize(
    ("form", "key", "value", "wanted"),
    [
        ("huggingface", "model_type", "llama", '"gpt_oss"'),
        ("huggingface", "model_type", MISSING, '"gpt_oss"'),
        ("huggingface", "hidden_act", "gelu", '"silu"'),
        ("huggingface", "attention_bias", False, "true"),
        ("huggingface", "attention_bias", 1, "true"),
        ("huggingface", "tie_word_embeddings", True, "false"),
        ("huggingface", "quantization_config.quant_method", "gptq", '"mxfp4"'),
        ("huggingface", "quantization_config", [], "an object"),
        ("huggingface", "experts_per_token", 2, "4"),
        ("huggingface", "hidden_size", 100, "a multiple of 32"),
        ("huggingface", "intermediate_size", 48, "a multiple of 32"),
        ("huggingface", "head_dim", 96, "from 32 to 64"),
        ("huggingface", "head_dim", 48, "a multiple of 32"),
        ("huggingface", "num_key_value_heads", 4, "a divisor of num_attention_heads, 6"),
        ("huggingface", "num_local_experts", 129, "to 128"),
        ("huggingface", "num_experts_per_tok", 9, "at most the number of experts, 8"),
        ("huggingface", "max_position_embeddings", 1024, "from 2048"),
        ("huggingface", "rope_scaling", MISSING, "an object"),
        ("huggingface", "rope_scaling", None, "an object"),
        ("huggingface", "rope_scaling.rope_type", "llama3", '"yarn"'),
        ("huggingface", "rope_scaling.rope_type", MISSING, '"yarn"'),
        ("huggingface", "rope_scaling.rope_type", ["yarn"], '"yarn"'),
        ("huggingface", "rope_scaling.truncate", 0, "false or true"),
        ("huggingface", "rope_scaling.truncate", MISSING, "false or true"),
        ("huggingface", "rope_scaling.attention_factor", 1.0, "absent"),
        ("huggingface", "rope_scaling.mscale", 1.0, "absent"),
        ("huggingface", "rope_scaling.partial_rotary_factor", 0.5, "absent"),
        ("huggingface", "rope_scaling.beta_fast", 2.0, "more than the slow beta, 2"),
        ("huggingface", "layer_types", ["full_attention"] * 2, "as long as num_hidden_layers, 3"),
        ("huggingface", "layer_types", "full_attention", "a list"),
        ("huggingface", "layer_types", ["full_attention", "chunked", "x"], "layer_types[1]"),
        ("huggingface", "layer_types", ["full_attention", [], None], "layer_types[1]"),
        ("openai", "experts_per_token", 9, "at most the number of experts, 8"),
        ("openai", "num_experts", MISSING, 'model_type is missing; it must be "gpt_oss"'),
        ("openai", "rope_ntk_beta", 1, "more than the slow beta, 1"),
        ("openai", "rope_scaling_factor", 1e5, "at most 16777216 / 4096"),
    ],
)
def test_config_refuses_another_model_by_the_key(tmp_path, form, key, value, wanted):
    message = refusal(write(tmp_path, changed(CONFIGS[form], key, value)), "config.json: ", wanted)
    assert key in message or value is MISSING


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[]", "no object: []"),
        (b'"gpt_oss"', "no object"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'{"a": "\xff"}', "codec can't decode byte 0xff"),
        ('{"a": 1}'.encode("utf-16"), "codec can't decode"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' appears twice"),
        (b'{"a": ' + b"[" * 100_000, "not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"a": NaN}', "NaN is no number of JSON"),
    ],
)
@pytest.mark.parametrize("name", ["config", "index", "generation"])
def test_broken_json_is_refused_with_the_reason(tmp_path, name, text, reason):
    path = write(tmp_path, **{name: text})
    message = refusal(path, reason)
    assert {"index": "index.json", "generation": "generation_config"}.get(name, name) in message


def test_a_json_file_above_the_limit_is_not_read(tmp_path):
    path = write(tmp_path)
    os.truncate(path / "config.json", 10**8 + 1)  # a sparse file
    refusal(path, "config.json: has 100000001 bytes; at most 100000000 are allowed")


def test_deeply_nested_values_are_refused_and_shown_short(tmp_path):
    for depth in range(900, 1000, 7):
        text = json.dumps(changed(HUGGINGFACE, "hidden_size", "VALUE"))
        path = write(tmp_path, text.replace('"VALUE"', "[" * depth + "]" * depth).encode())
        refusal(path, "config.json: ")


# Stop ids


@pytest.mark.parametrize(
    ("generation", "config", "tokenizer", "expected"),
    [
        ({"eos_token_id": [7, 499, 7]}, 5, None, (7, 499)),
        ({"eos_token_id": 0}, 5, None, (0,)),
        ({"eos_token_id": None}, 5, None, (5,)),
        ({}, [5, 6], None, (5, 6)),
        (None, 5, [("<|call|>", 8)], (5,)),
        (None, None, [("<|start|>", 9), ("<|return|>", 3), ("<|call|>", 8)], (3, 8)),
        (None, None, [], ()),
        (None, None, None, ()),
    ],
)
def test_stop_ids_come_from_the_first_file_that_has_them(
    tmp_path, generation, config, tokenizer, expected
):
    files = {} if generation is None else {"generation": generation}
    if tokenizer is not None:
        added = [{"content": name, "id": token_id} for name, token_id in tokenizer]
        files["tokenizer"] = {"added_tokens": added}
    path = write(tmp_path, changed(HUGGINGFACE, "eos_token_id", config), **files)
    checkpoint = read_checkpoint(path)
    assert checkpoint.stop_ids == expected
    assert checkpoint.tokenizer == (None if tokenizer is None else path / "tokenizer.json")


def test_without_any_file_the_published_stop_ids_are_taken(tmp_path):
    path = write(tmp_path, changed(OPENAI, "vocab_size", 201088))
    assert read_checkpoint(path).stop_ids == (200002, 200012)
    path = write(tmp_path, changed(OPENAI, "vocab_size", 200012))
    assert read_checkpoint(path).stop_ids == (200002,)


@pytest.mark.parametrize("value", [500, -1, True, 3.0, "3", [], [1, 500], [[1]], {}, 10**400])
def test_a_stop_id_outside_the_vocabulary_is_refused(tmp_path, value):
    path = write(tmp_path / "a", generation={"eos_token_id": value})
    refusal(path, "generation_config.json: eos_token_id is ", "a token id below 500")
    path = write(tmp_path / "b", changed(HUGGINGFACE, "eos_token_id", value))
    refusal(path, "config.json: eos_token_id is ", "a token id below 500")


@pytest.mark.parametrize(
    "tokenizer",
    [{}, {"added_tokens": {}}, {"added_tokens": [1]}, {"added_tokens": [{"content": "<|call|>"}]}]
    + [{"added_tokens": [{"content": "<|return|>", "id": token}]} for token in (500, True, "1")],
)
def test_a_tokenizer_that_gives_no_sane_stop_ids_is_refused(tmp_path, tokenizer):
    refusal(write(tmp_path, tokenizer=tokenizer), "tokenizer.json: added_tokens")


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


# Shards


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("dtype", "F16", '"U8" or "BF16" or "F32"'),
        ("dtype", "F8_E4M3", "is 'F8_E4M3'"),
        ("dtype", ["BF16"], "must be"),
        ("dtype", MISSING, "dtype is missing"),
        ("shape", MISSING, "shape is missing"),
        ("shape", 4, "a list"),
        ("shape", [2, -2], "integers from 0"),
        ("shape", [2, True], "integers from 0"),
        ("shape", [2, 2.0], "integers from 0"),
        ("shape", [2, "2"], "integers from 0"),
        ("shape", [2**63, 2**63], "integers from 0"),
        ("shape", [1] * 9, "at most 8"),
        ("shape", [3, 2], "shape [3, 2] of BF16 needs 12 bytes, the header gives 8"),
        ("shape", [], "needs 2 bytes, the header gives 8"),
        ("shape", [2**40] * 8, "bytes, the header gives 8"),
        ("data_offsets", MISSING, "data_offsets is missing"),
        ("data_offsets", {}, "a list"),
        ("data_offsets", [4], "two integers"),
        ("data_offsets", [4, 12, 20], "two integers"),
        ("data_offsets", [-4, 4], "two integers"),
        ("data_offsets", [4.0, 12], "two integers"),
        ("data_offsets", [False, 8], "two integers"),
        ("data_offsets", [10**400, 10**400 + 8], "two integers"),
        ("data_offsets", [12, 4], "the begin, then the end"),
        ("data_offsets", [2**62, 2**62 + 8], "is truncated"),
        ("data_offsets", [16, 24], "is truncated"),
        ("data_offsets", [2, 10], "ends at"),
        ("data_offsets", [6, 14], "ends at"),
        ("strides", [1, 2], "no such key"),
        ("\ud800\n", 1, "no such key"),
    ],
)
def test_a_wrong_header_entry_is_refused_by_tensor_and_key(tmp_path, key, value, reason):
    header = copy.deepcopy(HEADER)
    header["dense"] = changed(header["dense"], key, value)
    header_refusal(tmp_path, header, "tensor dense", reason)


def test_overlaps_holes_and_spare_bytes_are_refused(tmp_path):
    def byte(begin, end):
        return {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}

    for header, size, reason in (
        ({"a": byte(0, 4), "b": byte(3, 6)}, 6, "an overlap"),
        ({"a": byte(0, 6), "b": byte(2, 4)}, 6, "an overlap"),
        ({"a": byte(0, 4), "b": byte(0, 4)}, 4, "an overlap"),
        ({"a": byte(0, 4), "b": byte(5, 6)}, 6, "a hole"),
        ({"a": byte(1, 4)}, 4, "a hole"),
        ({"a": byte(0, 4)}, 5, "1 bytes follow after tensor a"),
        ({}, 5, "5 bytes follow after the header"),
        ({"a": byte(0, 4), "b": byte(4, 6)}, 5, "is truncated"),
    ):
        header_refusal(tmp_path, header, reason, payload=bytes(size))


def test_an_unaligned_tensor_is_refused(tmp_path):
    for dtype, size in (("BF16", 2), ("F32", 4)):
        dense = {"dtype": dtype, "shape": [1], "data_offsets": [1, 1 + size]}
        header = {"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "dense": dense}
        header_refusal(tmp_path, header, f"unaligned for {dtype}", payload=bytes(1 + size))
    text = json.dumps(HEADER).encode()
    text += b" " * (-len(text) % 8 + 2)  # data at 2 past a multiple of 8
    content = len(text).to_bytes(8, "little") + text + bytes(20)
    path = write(tmp_path, shards={"model.safetensors": content})
    refusal(path, "tensor gain: ", "unaligned for F32")


@pytest.mark.parametrize("name", ["", "\ud800", "a\0b", "a\nb", "x" * 257])
def test_a_name_that_no_tensor_can_have_is_refused(tmp_path, name):
    header_refusal(tmp_path, HEADER | {name: {}}, payload=bytes(20))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"a": \xff}',
        b'{"a": 1}',
        b'{"a": []}',
        b"[" * 200_000,
        b'{"a": ' * 50_000,
        b'{"__metadata__": 1}',
        b'{"a": ' + b"1" * 5000 + b"}",
        b"{}\0\0\0",
        json.dumps(HEADER).encode().replace(b"bytes", b"dense"),
    ],
    ids=range(13),
)
def test_a_header_that_is_no_sound_json_is_refused(tmp_path, text):
    header_refusal(tmp_path, text)


def test_a_header_longer_than_the_file_or_the_limit_is_not_read(tmp_path):
    good = shard(HEADER)
    for length in (len(good) - 7, 10**8, 10**8 + 1, 2**32, 2**63, 2**64 - 1):
        content = length.to_bytes(8, "little") + good[8:]
        path = write(tmp_path, shards={"model.safetensors": content})
        refusal(path, "at most 100000000" if length > 10**8 else "is truncated")


def test_every_truncation_is_refused(tmp_path):
    content = shard({"__metadata__": {"format": "pt"}} | HEADER)
    path = write(tmp_path, shards={"model.safetensors": content})
    read_checkpoint(path)
    for size in range(len(content) - 1, -1, -1):
        os.truncate(path / "model.safetensors", size)
        refusal(path, "model.safetensors: is truncated")


def test_every_sampled_truncation_of_a_real_shard_is_refused(tmp_path):
    path = write_checkpoint(tmp_path, "tiny", 3, shards=1)
    file = path / "model.safetensors"
    size, header = file.stat().st_size, int.from_bytes(file.read_bytes()[:8], "little")
    sizes = set(range(0, 64)) | set(range(8, 8 + header, 37)) | {7 + header, 8 + header}
    sizes |= set(random.Random(0).sample(range(9 + header, size), 100)) | {size - 1}
    for cut in sorted(sizes, reverse=True):
        os.truncate(file, cut)
        refusal(path, "is truncated")


# Fuzzing: only success or a CheckpointError may come out


def reads_or_refuses(path, name, content):
    """Read with one file replaced; return whether that went well."""
    (path / name).unlink()
    (path / name).write_bytes(content)
    try:
        read_checkpoint(path)
    except CheckpointError:
        return False
    return True


def test_random_bytes_in_a_header_never_escape_as_another_error(tmp_path):
    random_ = random.Random(1)
    content = shard({"__metadata__": {"format": "pt"}} | HEADER)
    path = write(tmp_path)
    likely = b' "{}[]:,0129-.eE\\\x00\xff'
    outcomes = set()
    for _ in range(4000):
        mutated = bytearray(content)
        for _ in range(random_.choice((1, 1, 2, 5))):
            mutated[random_.randrange(len(content) - 20)] = random_.choice(likely)
        outcomes.add(reads_or_refuses(path, "model.safetensors", mutated))
    assert outcomes == {True, False}


JUNK = [None, True, False, 0, 1, -1, 2, 4, 12, 20, 2**31, 2**63, 2**64, 10**400, 0.5, 1e308, 1e-320]
JUNK += ["", "U8", "F32", "a\0", "\ud800", "\U0001f600", [], [0], [[]], [0, 20], {}, {"": {}}]
JUNK += [{"dtype": "U8", "shape": [20], "data_offsets": [0, 20]}]


def mutate(value, random_):
    """Return a copy with a few places deep inside replaced, taken away, doubled or renamed."""
    value = copy.deepcopy(value)
    for _ in range(random_.choice((1, 1, 2, 3))):
        table = value
        while True:
            key = random_.choice(list(table) if isinstance(table, dict) else range(len(table)))
            if not isinstance(table[key], (dict, list)) or not table[key] or random_.random() < 0.3:
                break
            table = table[key]
        action = random_.randrange(4)
        if action == 0 and len(table) > 1:
            del table[key]
        elif action == 1 and isinstance(table, list):
            table.insert(key, copy.deepcopy(random_.choice(JUNK)))
        elif action == 2 and isinstance(table, dict):
            table[random_.choice(("dtype", "shape", "a", "", "\ud800"))] = table[key]
        else:
            table[key] = copy.deepcopy(random_.choice(JUNK))
    return value


@pytest.mark.parametrize("what", ["header", "huggingface", "openai", "index", "generation"])
def test_mutated_json_never_escapes_as_another_error(tmp_path, what):
    random_ = random.Random(what)
    index = {"metadata": {}, "weight_map": dict.fromkeys(HEADER, "model.safetensors")}
    generation = {"eos_token_id": [3, 4]}
    path = write(tmp_path, CONFIGS.get(what, HUGGINGFACE), index=index, generation=generation)
    name, value = {
        "header": ("model.safetensors", HEADER),
        "index": ("model.safetensors.index.json", index),
        "generation": ("generation_config.json", generation),
    }.get(what, ("config.json", CONFIGS.get(what)))
    outcomes = set()
    for _ in range(1500):
        mutated = mutate(value, random_)
        content = shard(mutated) if what == "header" else json.dumps(mutated).encode()
        outcomes.add(reads_or_refuses(path, name, content))
    assert outcomes == {True, False}
