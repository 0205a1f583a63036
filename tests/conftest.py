"""What several test files share: instruction sets, sizes, golden checkpoints, a second process."""

import os
import subprocess
import sys

import gptoss_native as gn
import numpy as np
import pytest
from make_goldens import read_golden
from random_checkpoint import COMMON, SHAPES

RENAMED = {"num_local_experts": "num_experts", "num_experts_per_tok": "experts_per_token"}


@pytest.fixture(params=["scalar", "avx2", "avx512"])
def instruction_set(request, monkeypatch):
    """Models made in the test run on this set; skipped where the machine lacks it."""
    if request.param not in gn.info()["cpu"]["instruction_sets"]:
        pytest.skip(f"this machine has no {request.param}")
    monkeypatch.setenv("GPTOSS_ISA", request.param)
    return request.param


@pytest.fixture(scope="session")
def golden_checkpoint(tmp_path_factory):
    """Return a function (name, form) -> (golden, its checkpoint on disk), each written once."""
    ready = {}

    def get(name, form="huggingface"):
        if (name, form) not in ready:
            golden = read_golden(name)
            path = tmp_path_factory.mktemp(f"{name}-{form}")
            ready[name, form] = golden, golden.write(path, form)
        return ready[name, form]

    return get


@pytest.fixture(scope="session")
def config():
    """Return a function (shape, **overrides) -> what a config.json of OpenAI's form holds."""

    def make(shape="tiny", **overrides):
        values = COMMON | SHAPES[shape] | {"rope_ntk_alpha": 1, "rope_ntk_beta": 32}
        return {RENAMED.get(key, key): value for key, value in values.items()} | overrides

    return make


@pytest.fixture(scope="session")
def some_ids():
    """Return a function (count, vocab_size, seed) -> that many token ids."""

    def make(count, vocab_size=512, seed=0):
        return np.random.default_rng(seed).integers(0, vocab_size, count).tolist()

    return make


@pytest.fixture
def run_python():
    """Return a function that runs code in a fresh interpreter and returns what it printed.

    A crash, a hang past the timeout, or an exception there fails only the test that asked.
    """

    def run(code, *arguments, timeout=120):
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-c", code, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert done.returncode == 0, f"exit status {done.returncode}\n{done.stderr[-3000:]}"
        return done.stdout

    return run
