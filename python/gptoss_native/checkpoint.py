"""A checkpoint's folder -> the model's sizes and where each tensor lies; no weight is read.

Structure is checked here: JSON, config values, shard headers, byte ranges. Which tensors a model
needs, in which shape and dtype, is checked in csrc/weights.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .json_fields import (
    MAX_JSON_BYTES,
    Fields,
    fail,
    is_name,
    opened,
    parse_object,
    read_object,
    shown,
)

INDEX_NAME = "model.safetensors.index.json"
DTYPE_BYTES = {"U8": 1, "BF16": 2, "F32": 4}
MAX_RANK, MAX_EXTENT = 8, 2**40
MAX_CONTEXT = MAX_VOCAB = 2**24
PUBLISHED_STOP_IDS = (200002, 200012)  # <|return|>, <|call|>


@dataclass(frozen=True)
class TensorSpec:
    """A tensor by name: dtype "U8", "BF16" or "F32", and its first byte in `files[file]`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: int
    offset: int


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of sound structure; `config` has the keys of csrc/weights/config.h."""

    path: Path  # where config.json and the shards are: the folder given, or original/ in it
    form: str  # "huggingface" or "openai": how the tensors are named
    config: dict[str, Any]
    files: tuple[Path, ...]
    tensors: tuple[TensorSpec, ...]
    stop_ids: tuple[int, ...]
    tokenizer: Path | None
    total_bytes: int  # of the tensors


def find_beside(folder: Path, name: str) -> Path | None:
    """Find a file in the folder, or in the one above when this is a repository's `original/`."""
    places = (folder, folder.parent) if folder.name == "original" else (folder,)
    return next((place / name for place in places if os.path.isfile(place / name)), None)


def check_folder(path: str | os.PathLike[str]) -> Path:
    """Return the path of a folder; CheckpointError if it is none."""
    path = Path(path)
    if not os.path.isdir(path):
        there = os.path.exists(path)
        fail(path, "is a file; wanted the checkpoint's folder" if there else "no such folder")
    return path


def _find_shards(path: Path) -> tuple[Path, list[str]]:
    """Return the folder that holds the model, and the names of its *.safetensors files."""
    lacking = []
    for folder in (path, path / "original"):
        try:
            names = os.listdir(folder) if os.path.isdir(folder) else []
        except OSError as error:
            fail(folder, f"cannot be read: {error.strerror}", error)
        shards = sorted(n for n in names if n.endswith(".safetensors") and n[0] != ".")
        if shards and "config.json" in names:
            return folder, shards
        lacking.append("no *.safetensors" if "config.json" in names else "no config.json")
    fail(path, f"{lacking[0]} in this folder, and {lacking[1]} in original/ in it")


# Ours: (Hugging Face's name, OpenAI's name, lowest, highest, multiple of).
_INTEGERS = {
    "vocab_size": ("vocab_size", "vocab_size", 1, MAX_VOCAB, 1),
    "hidden_size": ("hidden_size", "hidden_size", 32, 2**16, 32),
    "intermediate_size": ("intermediate_size", "intermediate_size", 32, 2**16, 32),
    "layers": ("num_hidden_layers", "num_hidden_layers", 1, 1024, 1),
    "experts": ("num_local_experts", "num_experts", 1, 128, 1),
    "experts_per_token": ("num_experts_per_tok", "experts_per_token", 1, 128, 1),
    "heads": ("num_attention_heads", "num_attention_heads", 1, 2**16, 1),
    "kv_heads": ("num_key_value_heads", "num_key_value_heads", 1, 2**16, 1),
    "head_dim": ("head_dim", "head_dim", 32, 64, 32),
    "sliding_window": ("sliding_window", "sliding_window", 1, MAX_CONTEXT, 1),
}
# The same, of Hugging Face's rope object.
_ROPE = {
    "rope_factor": ("factor", "rope_scaling_factor", 1, 1e6),
    "rope_beta_fast": ("beta_fast", "rope_ntk_beta", 1e-6, 1e6),
    "rope_beta_slow": ("beta_slow", "rope_ntk_alpha", 1e-6, 1e6),
}


def _windowed(fields: Fields, layers: int) -> list[bool]:
    if not fields.has("layer_types"):
        return [layer % 2 == 0 for layer in range(layers)]
    kinds = fields.sequence("layer_types")
    if len(kinds) != layers:
        fields.wrong("layer_types", f"as long as num_hidden_layers, {layers}, not {len(kinds)}")
    numbered = Fields(fields.file, {f"layer_types[{n}]": kind for n, kind in enumerate(kinds)})
    kinds = [numbered.one_of(n, "sliding_attention", "full_attention") for n in numbered.values]
    return [kind == "sliding_attention" for kind in kinds]


def _huggingface_rope(fields: Fields) -> Fields:
    """Check what this runtime computes in one way only; return the object with YaRN's numbers."""
    fields.one_of("model_type", "gpt_oss")
    fields.one_of("hidden_act", "silu", None)
    fields.one_of("attention_bias", True, None)
    fields.one_of("tie_word_embeddings", False, None)
    if fields.has("quantization_config"):
        fields.object("quantization_config").one_of("quant_method", "mxfp4")
    rope = fields.object("rope_parameters" if fields.has("rope_parameters") else "rope_scaling")
    rope.one_of("type" if rope.has("type") and not rope.has("rope_type") else "rope_type", "yarn")
    rope.one_of("partial_rotary_factor", 1.0, 1, None)
    for key in ("attention_factor", "mscale", "mscale_all_dim"):
        rope.one_of(key, None)
    return rope


def _read_config(fields: Fields) -> tuple[str, dict[str, Any]]:
    """Return the form of the checkpoint and its sizes, from either form of config.json."""
    keys = fields.values.keys()
    openai = "model_type" not in keys and {"num_experts", "initial_context_length"} <= keys
    rope = fields if openai else _huggingface_rope(fields)
    config: dict[str, Any] = {
        ours: fields.integer(names[openai], low, high, multiple)
        for ours, (*names, low, high, multiple) in _INTEGERS.items()
    }
    if config["heads"] % config["kv_heads"]:
        fields.wrong("num_key_value_heads", f"a divisor of num_attention_heads, {config['heads']}")
    if config["experts_per_token"] > config["experts"]:
        name = _INTEGERS["experts_per_token"][openai]
        fields.wrong(name, f"at most the number of experts, {config['experts']}")
    for ours, (*names, low, high) in _ROPE.items():
        config[ours] = rope.number(names[openai], low, high)
    if config["rope_beta_fast"] <= config["rope_beta_slow"]:
        slow = config["rope_beta_slow"]
        rope.wrong(_ROPE["rope_beta_fast"][openai], f"more than the slow beta, {slow:g}")
    theta = rope if rope.has("rope_theta") else fields
    config["rope_theta"] = theta.number("rope_theta", 2, 1e12)
    config["swiglu_limit"] = fields.number("swiglu_limit", 1e-6, 1e6)
    config["windowed"] = _windowed(fields, config["layers"])
    if openai:
        initial = fields.integer("initial_context_length", 1, MAX_CONTEXT)
        context = initial * config["rope_factor"]
        if context > MAX_CONTEXT:
            fields.wrong("rope_scaling_factor", f"at most {MAX_CONTEXT} / {initial} positions")
        truncate, eps = False, 1e-5  # fixed in OpenAI's own code
    else:
        initial = rope.integer("original_max_position_embeddings", 1, MAX_CONTEXT)
        context = fields.integer("max_position_embeddings", initial, MAX_CONTEXT)
        truncate = rope.one_of("truncate", False, True)
        eps = fields.number("rms_norm_eps", 1e-12, 1)
        fields.one_of("experts_per_token", config["experts_per_token"], None)  # its older name
    config |= {"initial_context": initial, "max_context": int(context)}
    config |= {"rope_truncate": truncate, "rms_norm_eps": eps}
    return "openai" if openai else "huggingface", config


def parse_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes in what a config.json holds, of either form; raises CheckpointError."""
    return _read_config(Fields(Path("config"), dict(values)))[1]


def _read_header(path: Path) -> tuple[Fields, int, int]:
    """Return a shard's header, the offset of its data, and the file's size."""
    with opened(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size < 8:
            fail(path, f"is truncated: {size} bytes, the header's length alone takes 8")
        length = int.from_bytes(stream.read(8), "little")
        if length > MAX_JSON_BYTES:
            fail(path, f"the header has {length} bytes; at most {MAX_JSON_BYTES} are allowed")
        if 8 + length > size:
            fail(path, f"is truncated: {size} bytes, the header ends at {8 + length}")
        text = stream.read(length)
    return parse_object(path, text, "the header"), 8 + length, size


def _read_tensor(entry: Fields, name: str, file: int, data: int) -> tuple[int, int, TensorSpec]:
    """Return (begin, end, spec) of a header's entry; begin and end count from byte `data`."""
    for key in entry.values:
        if key not in ("dtype", "shape", "data_offsets"):
            entry.wrong(key, "absent, as the format has no such key")
    dtype = entry.one_of("dtype", *DTYPE_BYTES)
    shape, offsets = entry.sequence("shape"), entry.sequence("data_offsets")
    if len(shape) > MAX_RANK or any(type(n) is not int or not 0 <= n <= MAX_EXTENT for n in shape):
        entry.wrong("shape", f"at most {MAX_RANK} integers from 0 to {MAX_EXTENT}")
    if len(offsets) != 2 or any(type(n) is not int or not 0 <= n < 2**63 for n in offsets):
        entry.wrong("data_offsets", "two integers from 0 to 2**63")
    begin, end = offsets
    if begin > end:
        entry.wrong("data_offsets", "the begin, then the end")
    needed = math.prod(shape) * DTYPE_BYTES[dtype]
    if needed != end - begin:
        given = f"the header gives {end - begin}"
        fail(entry.file, f"{entry.prefix}shape {shape} of {dtype} needs {needed} bytes, {given}")
    if (data + begin) % DTYPE_BYTES[dtype]:
        fail(entry.file, f"{entry.prefix}byte {data + begin} of the file is unaligned for {dtype}")
    return begin, end, TensorSpec(name, dtype, tuple(shape), file, data + begin)


def _read_shard(path: Path, file: int) -> list[TensorSpec]:
    """Return a shard's tensors, which tile its data: no overlap, no hole, nothing after them."""
    header, data, size = _read_header(path)
    ranges = []
    for name in header.values:
        entry = Fields(path, header.object(name).values, f"tensor {name}: ")
        if name == "__metadata__":
            continue
        if not is_name(name):
            fail(path, f"tensor name {shown(name)} is not 1 to 256 printable characters")
        begin, end, tensor = _read_tensor(entry, name, file, data)
        if data + end > size:
            fail(path, f"is truncated: {size} bytes, tensor {name} ends at {data + end}")
        ranges.append((begin, end, tensor))
    ranges.sort(key=lambda item: item[:2])
    at, before = 0, "the header"
    for begin, end, tensor in ranges:
        if begin != at:
            kind = "an overlap" if begin < at else "a hole"
            where = f"begins at byte {data + begin}, but {before} ends at {data + at}"
            fail(path, f"tensor {tensor.name}: {where}: {kind}")
        at, before = end, f"tensor {tensor.name}"
    if data + at != size:
        fail(path, f"{size - data - at} bytes follow after {before}, the last")
    return [tensor for _, _, tensor in ranges]


def _check_index(index: Fields, tensors: list[TensorSpec], shards: list[str]) -> None:
    """Compare weight_map, whose files `shards` names, with what the headers hold."""
    placed = index.object("weight_map")
    for tensor in tensors:
        if placed.values.get(tensor.name) != shards[tensor.file]:
            placed.wrong(tensor.name, f"{shards[tensor.file]}, where the tensor is")
    missing = placed.values.keys() - {tensor.name for tensor in tensors}
    for name in sorted(missing):
        placed.wrong(name, "a file whose header has this tensor")


def _indexed_shards(index: Fields) -> list[str]:
    placed = index.object("weight_map")
    for tensor, name in placed.values.items():
        # A plain name: an index must not lead out of the folder.
        if type(name) is not str or not is_name(name) or "/" in name or name in (".", ".."):
            placed.wrong(tensor, "the plain name of a file in this folder")
    return sorted(set(placed.values.values()))


def _stop_ids(
    folder: Path, config: Fields, vocab_size: int, tokenizer: Path | None
) -> tuple[int, ...]:
    generation = find_beside(folder, "generation_config.json")
    for fields in ([read_object(generation)] if generation else []) + [config]:
        if fields.has("eos_token_id"):
            given = fields.values["eos_token_id"]
            ids = given if type(given) is list else [given]
            if not ids or any(type(n) is not int or not 0 <= n < vocab_size for n in ids):
                fields.wrong("eos_token_id", f"a token id below {vocab_size}, or a list of them")
            return tuple(dict.fromkeys(ids))
    if tokenizer is None:
        return tuple(token for token in PUBLISHED_STOP_IDS if token < vocab_size)
    added = read_object(tokenizer).objects("added_tokens")
    stops = [t for t in added if t.values.get("content") in ("<|return|>", "<|call|>")]
    return tuple(token.integer("id", 0, vocab_size - 1) for token in stops)


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read and check a checkpoint's folder, or the published repository's that has `original/`.

    Raises CheckpointError naming the file and the key or tensor: nothing here, not a gpt-oss
    model, a value out of range, a damaged or truncated shard, an index that the shards contradict.
    """
    folder, shards = _find_shards(check_folder(path))
    fields = read_object(folder / "config.json")
    form, config = _read_config(fields)
    index = None
    if os.path.lexists(folder / INDEX_NAME):
        index = read_object(folder / INDEX_NAME)
        shards = _indexed_shards(index)
    tensors: list[TensorSpec] = []
    owner: dict[str, str] = {}
    for file, name in enumerate(shards):
        for tensor in _read_shard(folder / name, file):
            if owner.setdefault(tensor.name, name) != name:
                fail(folder / name, f"tensor {tensor.name} is also in {owner[tensor.name]}")
            tensors.append(tensor)
    if index:
        _check_index(index, tensors, shards)
    tokenizer = find_beside(folder, "tokenizer.json")
    return Checkpoint(
        path=folder,
        form=form,
        config=config,
        files=tuple(folder / name for name in shards),
        tensors=tuple(tensors),
        stop_ids=_stop_ids(folder, fields, config["vocab_size"], tokenizer),
        tokenizer=tokenizer,
        total_bytes=sum(math.prod(t.shape) * DTYPE_BYTES[t.dtype] for t in tensors),
    )
