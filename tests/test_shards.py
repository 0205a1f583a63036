"""Shard headers: every truncation, and a fuzz of bytes and of JSON."""

import copy
import json
import os
import random

import pytest
from checkpoint_files import (
    CONFIGS,
    HEADER,
    HUGGINGFACE,
    MISSING,
    changed,
    header_refusal,
    refusal,
    shard,
    write,
)
from gptoss_native import CheckpointError
from gptoss_native.checkpoint import read_checkpoint
from random_checkpoint import write_checkpoint

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
