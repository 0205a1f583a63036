"""Checkpoint folders as small as they get, sound and damaged, for the tests of the reader."""

import copy
import json

import pytest
from gptoss_native import CheckpointError
from gptoss_native.checkpoint import read_checkpoint

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
