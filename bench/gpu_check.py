"""The checks of bench/gpu.py: logits against the processor's, the CUDA tests, compute-sanitizer.

A process of bench/gpu.py; prints JSON lines. The logits are those of fresh random ids, by the demo
model and a tiny random one, with dense weights of bf16 and of int8: after each prompt token, after
each token decoded in steps of eight sequences, and the log-probabilities of a greedy generation,
which runs recorded steps. The reference is the processor in float32, with the same dense weights. A
near tie of two experts' scores may turn in fast precision, so there a few rows may differ.
"""

import functools
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gptoss_native as gn
import numpy as np
from gptoss_native import _core
from gpu_shape import emit, note

ROOT = Path(__file__).resolve().parents[1]
# Of the rows' relative L2 errors: the median, the largest, and the share that may be beyond that.
# Prompts in fast have one bf16 term of an activation, and a random model's experts many near ties:
# by the emulated device the demo model's median is 2.4e-3 (decode: 2.8e-4), the tiny one's 1.1e-2.
TOLERANCE = {
    "exact": (1e-5, 1e-4, 0.0),
    "fast": (2e-3, 3e-2, 0.05),
    "fast prefill": (2e-2, 1e-1, 0.05),
}
SEQUENCES, STEPS = 8, 12


def short_run(device):
    """Prefill and decode a little of everything, for compute-sanitizer."""
    samplings = (gn.Sampling(temperature=0), gn.Sampling(top_p=0.9, seed=1, logprobs=3))
    for kv in ("f16", "fp8"):
        with gn.Model.random("tiny", device=device, kv=kv) as model, model.session() as session:
            for sampling in samplings:
                ids = np.random.default_rng(1).integers(0, 512, 40)
                for _ in session.generate(ids, max_new_tokens=4, sampling=sampling, stop_ids=[]):
                    pass


def report_check(name, passed, text):
    emit("check", name=name, passed=passed, text=text)


def report_errors(name, error, precision):
    middle, tolerance, share = TOLERANCE[precision]
    beyond = float(np.mean(~(error <= tolerance)))
    report_check(
        name,
        bool(np.median(error) <= middle and beyond <= share),
        f"{len(error)} rows, median error {np.median(error):.1e}, largest {np.max(error):.1e}, "
        f"{100 * beyond:.0f} % beyond {tolerance:.0e}",
    )


def report_logits(name, got, want, precision):
    error = np.linalg.norm(got - want, axis=-1) / np.linalg.norm(want, axis=-1)
    report_errors(name, error.ravel(), precision)


def report_greedy(name, logprobs, ids, logits, precision):
    """Compare with the reference's logits before each of the ids."""
    chances = log_softmax(logits)
    chosen = chances[np.arange(len(ids)), ids]
    # A likely token's log-probability is near 0: the error is that of the logits.
    error = np.maximum(np.abs(logprobs - chosen), chances.max(-1) - chosen)
    report_errors(name, error / np.abs(logits).max(-1), precision)


def whole_logits(model, ids):
    with model.session() as session:
        return session.logits(ids)


def decode_logits(model, ids):
    """Return [sequences, steps, vocab] of ids [sequences, steps], each step in the decode form."""
    core, out = model._core, []
    sequences, steps = ids.shape
    stages = _core.Stages(core, sequences=sequences, max_context=steps, decode=True)
    for step in range(steps):
        at = [(sequence, step) for sequence in range(sequences)]
        x = stages.embed(ids[:, step].tolist())
        for layer in range(model.info()["layers"]):
            mixed = stages.attention(layer, stages.qkv(layer, x, at), at)
            x = stages.experts(layer, stages.attn_out(layer, mixed, x))["x"]
        out.append(stages.logits(x, list(range(sequences))))
    return np.stack(out, axis=1)


def greedy(model, prompt, count):
    with model.session() as session:
        sampling = gn.Sampling(temperature=0)
        stream = session.generate(prompt, max_new_tokens=count, sampling=sampling, stop_ids=[])
        tokens = list(stream)
    return [token.id for token in tokens], np.array([token.logprob for token in tokens])


def log_softmax(logits):
    shifted = np.float64(logits) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def check_model(name, make, device, rng):
    """make(device=..., precision=...) -> the model."""
    with make(device="cpu", precision="exact") as reference:
        vocab = reference.info()["vocab_size"]
        prompt = rng.integers(0, vocab, 150)
        batch = rng.integers(0, vocab, (SEQUENCES, STEPS))
        want = whole_logits(reference, prompt)
        want_batch = np.stack([whole_logits(reference, ids) for ids in batch])
        for precision in ("exact", "fast"):
            label = f"{name} {precision}"
            with make(device=device, precision=precision) as model:
                got = whole_logits(model, prompt)
                form = "fast prefill" if precision == "fast" else precision
                report_logits(f"{label} prefill", got, want, form)
                got = decode_logits(model, batch)
                report_logits(f"{label} decode", got, want_batch, precision)
                ids, logprobs = greedy(model, prompt[:20], 24)
            known = whole_logits(reference, [*prompt[:20], *ids[:-1]])[-len(ids) :]
            report_greedy(f"{label} greedy", logprobs, ids, known, precision)


def test_files():
    """Return the files with CUDA tests; without those whose packages this machine lacks."""
    files = sorted(p for p in (ROOT / "tests").glob("test_*.py") if "cuda" in p.read_text())
    lacking = [
        name for name in ("hypothesis", "tiktoken") if importlib.util.find_spec(name) is None
    ]
    for name in lacking:
        imports = re.compile(rf"^(import|from) {name}\b", re.M)
        without = [p for p in files if imports.search(p.read_text())]
        files = [p for p in files if p not in without]
        if without:
            names = ", ".join(p.name for p in without)
            note(f"no {name} here: {names} not run")
    return [str(p) for p in files]


def run_file(path, options):
    """Run a file's CUDA tests; return its exit status (None: out of time) and its output."""
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "--cuda-device", options["device"]]
    command += ["-q", "--tb=short", "-p", "no:cacheprovider", path]
    with tempfile.TemporaryFile("w+") as out:
        try:
            status = subprocess.run(
                command,
                cwd=ROOT,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=max(options["until"] - time.time(), 1),
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            status = None
        out.seek(0)
        return status, out.read()


def run_tests(options):
    """A process a file, several at once: one that dies takes no other along."""
    # The files that look at the card's free memory want nobody beside them.
    alone = [path for path in test_files() if "available_bytes" in Path(path).read_text()]
    files = [*alone, *(path for path in test_files() if path not in alone)]
    cores = len(os.sched_getaffinity(0))
    done = [run_file(path, options) for path in alone]
    with ThreadPoolExecutor(max(1, cores // 2)) as pool:
        done += pool.map(lambda path: run_file(path, options), files[len(alone) :])
    log = Path(options["out"]) / "pytest.log"
    log.write_text("\n".join(text for _, text in done))
    for path, (status, text) in zip(files, done, strict=True):
        lines = text.splitlines() or [""]
        failed = [line for line in lines if re.match(r"(FAILED|ERROR) ", line)]
        said = "not done in time" if status is None else lines[-1].strip("= ")
        # 5: the file has no test marked cuda.
        report_check(f"tests, {Path(path).name}", status in (0, 5), "; ".join([said, *failed[:5]]))


def run_sanitizer(tool, options):
    """Errors it found fail the check; that it does not run here does not."""
    name, found_errors = shutil.which("compute-sanitizer"), 99
    if name is None:
        report_check(tool, None, "skipped: no compute-sanitizer on the PATH")
        return
    code = f"import gpu_check; gpu_check.short_run({options['device']!r})"
    command = [name, "--tool", tool, "--error-exitcode", str(found_errors), sys.executable]
    log = Path(options["out"]) / f"{tool}.log"
    try:
        with log.open("w") as out:
            status = subprocess.run(
                [*command, "-c", code],
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=max(options["until"] - time.time(), 1),
                check=False,
            ).returncode
    except subprocess.TimeoutExpired:
        report_check(tool, None, f"not done in time; see {log.name}")
        return
    last = (log.read_text().splitlines() or [""])[-1]
    passed = {0: True, found_errors: False}.get(status)
    if passed is None:
        last = f"could not run, status {status}: {last}"
    report_check(tool, passed, last)


def main():
    options = json.loads(sys.argv[1])
    seed = int.from_bytes(os.urandom(4), "little")
    emit("check", name="seed of the random ids", passed=None, text=str(seed))
    rng = np.random.default_rng(seed)

    def random_tiny(**which):
        return gn.Model.random("tiny", seed=seed, **which)

    models = (("demo", gn.Model.demo), ("tiny", random_tiny))
    for name, make, dense in (
        *((name, make, "bf16") for name, make in models),
        *((f"{name} int8", make, "int8") for name, make in models),
    ):
        try:
            check_model(name, functools.partial(make, dense=dense), options["device"], rng)
        except gn.Error as error:
            report_check(name, False, f"{type(error).__name__}: {error}")
    run_tests(options)
    for tool in ("memcheck", "racecheck"):
        if options["device"] == "cuda-emulated":
            report_check(tool, None, "skipped: the device is emulated")
        else:
            run_sanitizer(tool, options)


if __name__ == "__main__":
    main()
