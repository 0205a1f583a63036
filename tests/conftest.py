"""What several test files share: devices, sizes, golden checkpoints, a second process."""

import os
import subprocess
import sys
import threading

import gptoss_native as gn
import numpy as np
import pytest
from constraint_kinds import SMALL
from emulation import build
from make_goldens import read_golden
from random_checkpoint import COMMON, SHAPES

RENAMED = {"num_local_experts": "num_experts", "num_experts_per_tok": "experts_per_token"}


INSTRUCTION_SETS = ["scalar", "avx2", "avx512", "amx"]
EMULATED = "cuda-emulated"
# A model that the emulated device takes a hundredth of a second a step for.
SMALLEST = SMALL | {"vocab_size": 40}


def run_threads(*works):
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def pytest_addoption(parser):
    parser.addoption(
        "--cuda-device",
        default=EMULATED,
        help="of tests marked cuda: cuda is a card, cuda-emulated (the default) needs none",
    )


def pytest_configure(config):
    # A card that happens to be there must not change what device="auto" means in the other tests.
    if config.getoption("--cuda-device") == EMULATED:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def cuda_device(request):
    """The device of tests marked cuda; the emulated one is built first (a minute, once)."""
    device = request.config.getoption("--cuda-device")
    if device == EMULATED and "GPTOSS_CUDA_EMULATED" not in os.environ:
        if build.compiler() is None:
            pytest.skip("no C++ compiler to build the emulated CUDA device with")
        folder = build.ROOT / "build" / "emulation"
        library = build.build(folder, build.backend_sources(), "libgptoss_cuda_emulated.so")
        os.environ["GPTOSS_CUDA_EMULATED"] = str(library)
    return device


@pytest.fixture
def emulated(cuda_device):
    if cuda_device != EMULATED:
        pytest.skip("only the emulated device can be told to")
    return cuda_device


@pytest.fixture
def small(config):
    return config("tiny", **SMALLEST)


def available_bytes(device):
    return gn.plan("tiny", device=device, measure=False)["available_bytes"]


def near(device):
    """Bytes that a card's free memory may be off: it is given in pieces of 2 MiB, and kernels take
    some when they are first used."""
    return 0 if device == EMULATED else 8 << 20


@pytest.fixture(scope="module")
def demo():
    with gn.Model.demo(threads=1) as made:
        yield made


@pytest.fixture
def take_instruction_set(monkeypatch):
    """Return a function: models made in the test run on the set named; skips where it is absent."""

    def take(name):
        if name not in gn.info()["cpu"]["instruction_sets"]:
            pytest.skip(f"this machine has no {name}")
        monkeypatch.setenv("GPTOSS_ISA", name)

    return take


@pytest.fixture(params=INSTRUCTION_SETS)
def instruction_set(request, take_instruction_set):
    """Models made in the test run on this set; skipped where the machine lacks it."""
    take_instruction_set(request.param)
    return request.param


@pytest.fixture(params=[*INSTRUCTION_SETS, pytest.param("cuda", marks=pytest.mark.cuda)])
def any_device(request, take_instruction_set):
    """What to pass as `device`, for each instruction set and for CUDA."""
    if request.param == "cuda":
        return request.getfixturevalue("cuda_device")
    take_instruction_set(request.param)
    return "cpu"


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


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def small_model(request, config):
    """A model of 77 tokens, on the processor and on CUDA."""
    device = "cpu" if request.param == "cpu" else request.getfixturevalue("cuda_device")
    with gn.Model.random(config(**SMALL), seed=1, precision="exact", device=device) as made:
        yield made


@pytest.fixture
def small_cpu(config):
    """The same on the processor, to be closed as well."""
    with gn.Model.random(config(**SMALL), seed=1) as made:
        yield made


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


@pytest.fixture(scope="module")
def served():
    """The bundled model behind a port (see served.py), of a test file."""
    from served import demo, serving

    with demo() as model, serving(model) as ready:
        yield ready


@pytest.fixture(scope="module")
def client(served):
    """The official client of it."""
    with served.client() as made:
        yield made
