"""Make tests/goldens/*.npz again: logits and greedy continuations by an independent implementation.

    python tests/make_goldens.py --oracle PATH/TO/reference_logits.py

The oracle is a script `reference_logits.py CHECKPOINT IDS OUT.npz [--dtype float32|bfloat16]
[--generate N]` around Hugging Face transformers, run with this interpreter (so that one needs torch
and transformers); OUT.npz gets `logits` [tokens, vocab] float32 and, with --generate, `greedy` [N].

A golden holds
    shape, seed, overrides  what `write_checkpoint` is called with (overrides: JSON text)
    tokens                  int32 [tokens], the prompt
    rows                    int32 [rows], the positions of the prompt whose logits are kept
    logits                  float32 [rows, vocab], by transformers in float32
    greedy                  int32 [24], the argmax continuation of the prompt
    greedy_gap              the least distance from the best logit to the second on the way
    bf16_error              relative L2 error of transformers in bfloat16 on the same rows
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import numpy as np
from random_checkpoint import random_bits, write_checkpoint

GOLDENS = pathlib.Path(__file__).with_name("goldens")
NEW_IDS = 24
LEAST_GAP = 0.005  # a logit's standard deviation is 2: float32 cannot turn such a choice round

# name: (shape, seed, overrides, prompt seed, prompt length, rows kept; None keeps all)
CASES = {
    "tiny-1": ("tiny", 1, {}, 1, 40, None),
    # activations of order one reach the published limit of 7 too seldom to test the clamp
    "tiny-2": ("tiny", 2, {"swiglu_limit": 1.0}, 2, 40, None),
    "odd-3": ("odd", 3, {"norm_dtype": "F32"}, 4, 40, None),
    # both sides of the window's first step, of its second wrap, and the end
    "wide-4": ("wide", 4, {}, 4, 320, [0, 126, 127, 128, 129, 255, 256, *range(312, 320)]),
    # YaRN on both sides of the 4096 positions that it was stretched from
    "long-8": (
        "tiny",
        8,
        {"num_hidden_layers": 2},
        8,
        4300,
        [2048, *range(4092, 4100), *range(4292, 4300)],
    ),
}


def relative_l2(x, want):
    """Return |x - want| / |want|, over all elements."""
    return float(np.linalg.norm(np.float64(x) - want) / np.linalg.norm(np.float64(want)))


def read_golden(name):
    """Return a golden's contents as attributes; `.write(path, ...)` writes its checkpoint."""
    with np.load(GOLDENS / f"{name}.npz") as file:
        golden = SimpleNamespace(**{key: file[key] for key in file.files})
    for key in ("shape", "seed", "overrides", "greedy_gap", "bf16_error"):
        setattr(golden, key, getattr(golden, key).item())
    golden.overrides = json.loads(golden.overrides)

    def write(path, form="huggingface", **options):
        options |= golden.overrides
        return write_checkpoint(path, golden.shape, golden.seed, form, **options)

    golden.write = write
    return golden


def run_oracle(oracle, checkpoint, ids, *options):
    """Run the oracle script on the ids; return what it saved as a dict of arrays."""
    out = checkpoint / "oracle.npz"
    text = ",".join(str(token_id) for token_id in ids)
    subprocess.run([sys.executable, oracle, checkpoint, text, out, *options], check=True)
    with np.load(out) as file:
        return dict(file)


def make_golden(oracle, checkpoint, case):
    """Return the arrays of one golden; raise ValueError where its greedy ids are not safe."""
    shape, seed, overrides, prompt_seed, length, rows = case
    write_checkpoint(checkpoint, shape, seed, **overrides)
    vocab = json.loads((checkpoint / "config.json").read_text())["vocab_size"]
    tokens = (random_bits(prompt_seed, "prompt", length) % np.uint64(vocab)).astype(np.int32)
    rows = np.array(range(length) if rows is None else rows, np.int32)
    exact = run_oracle(oracle, checkpoint, tokens, "--generate", str(NEW_IDS))
    rounded = run_oracle(oracle, checkpoint, tokens, "--dtype", "bfloat16")
    # transformers' generate holds the end-of-sequence id back: run the continuation as a prompt
    # and see that every greedy id is the plain argmax, and by how much
    greedy = exact["greedy"].astype(np.int32)
    fed_back = run_oracle(oracle, checkpoint, [*tokens, *greedy[:-1]])["logits"][length - 1 :]
    second, best = np.sort(fed_back, axis=-1)[:, -2:].T
    gap = float((best - second).min())
    if not np.array_equal(fed_back.argmax(axis=-1), greedy) or gap < LEAST_GAP:
        raise ValueError(f"greedy ids end or nearly tie (gap {gap:.4g}): take another prompt")
    logits = exact["logits"][rows]
    return {
        "shape": np.array(shape),
        "seed": np.array(seed),
        "overrides": np.array(json.dumps(overrides)),
        "tokens": tokens,
        "rows": rows,
        "logits": logits,
        "greedy": greedy,
        "greedy_gap": np.array(gap),
        "bf16_error": np.array(relative_l2(rounded["logits"][rows], logits)),
    }


def main():
    parser = argparse.ArgumentParser(description="Make tests/goldens/*.npz again.")
    parser.add_argument("--oracle", type=pathlib.Path, required=True)
    parser.add_argument("names", nargs="*", default=list(CASES), help="cases, all without any")
    arguments = parser.parse_args()
    GOLDENS.mkdir(exist_ok=True)
    for name in arguments.names:
        with tempfile.TemporaryDirectory() as folder:
            golden = make_golden(arguments.oracle, pathlib.Path(folder), CASES[name])
        file = GOLDENS / f"{name}.npz"
        np.savez(file, **golden)
        print(
            f"{name}: {file.stat().st_size} bytes, gap {float(golden['greedy_gap']):.4f}, "
            f"bf16 error {float(golden['bf16_error']):.2e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
