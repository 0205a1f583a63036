"""`Model.load(wait=False)`: a prompt is computed as far as the weights are there, to the same bits;
what goes wrong with them is told by each call, and whatever comes meanwhile ends cleanly."""

import json
import threading

import gptoss_native as gn
import numpy as np
import pytest
from random_checkpoint import COMMON, SHAPES, random_tensors, write_checkpoint, write_safetensors

# Of a checkpoint whose loading takes some tenths of a second: tables of many tokens, all zeros.
LARGE = """
import json, signal, sys, threading, time
import gptoss_native as gn

S = gn.Sampling(seed=1)

def load():
    return gn.Model.load(sys.argv[1], wait=False, threads=1)
"""
LARGE_VOCABULARY = 1 << 20


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    path = write_checkpoint(tmp_path_factory.mktemp("large"), "tiny", 1, shards=1, index=False)
    tensors = random_tensors(COMMON | SHAPES["tiny"], 1)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = np.zeros((LARGE_VOCABULARY, SHAPES["tiny"]["hidden_size"]), "<u2")
    write_safetensors(path / "model.safetensors", tensors)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"vocab_size": LARGE_VOCABULARY}))
    return path


@pytest.mark.parametrize("dense", ["bf16", "int8"])
@pytest.mark.parametrize("name", ["tiny-1", "wide-4"])
def test_a_prompt_computed_meanwhile_has_the_same_bits(golden_checkpoint, name, dense):
    golden, path = golden_checkpoint(name)
    with gn.Model.load(path, dense=dense) as model:
        want = model.session().logits(golden.tokens).tobytes()
        errors = model.info()["dense_errors"]
    for _ in range(5):
        with gn.Model.load(path, dense=dense, wait=False, threads=2) as model:
            assert model.session().logits(golden.tokens).tobytes() == want
            assert model.loaded == 1
            assert model.info()["dense_errors"] == errors
            model.wait()


def test_it_returns_before_the_weights_are_there_and_streams_once_they_are(run_python, large):
    code = """
with gn.Model.load(sys.argv[1], threads=1) as model:
    assert model.loaded == 1
    want = [t.id for t in model.session().generate([1, 2, 3], max_new_tokens=3, sampling=S)]
model = load()
begun = model.loaded
assert begun < 1, begun
assert [t.id for t in model.session().generate([1, 2, 3], max_new_tokens=3, sampling=S)] == want
assert model.loaded == 1
"""
    run_python(LARGE + code, large)


@pytest.mark.parametrize("layer", [0, 3])
def test_what_is_wrong_with_the_weights_is_raised_by_each_call(tmp_path, layer):
    tensors = random_tensors(COMMON | SHAPES["tiny"], 1)
    name = f"model.layers.{layer}.mlp.experts.down_proj_scales"
    tensors[name][3, 0, 0] = 255
    path = write_checkpoint(tmp_path, "tiny", 1, shards=1, index=False)
    write_safetensors(path / "model.safetensors", tensors)
    with gn.Model.load(path, wait=False) as model, model.session() as session:
        calls = [
            lambda: session.logits([1, 2]),
            lambda: next(session.generate([1, 2], max_new_tokens=2)),
            lambda: session.prefill([1]),
            model.wait,
            model.info,
        ]
        for call in calls:
            with pytest.raises(gn.CheckpointError, match=name.replace(".", r"\.")):
                call()
        assert session.position == 0


def test_closing_ends_the_loading_and_who_waits_for_it(run_python, large):
    code = """
for pause in (0.0, 0.01, 0.1):
    model = load()
    session, ends = model.session(), []

    def use():
        try:
            ends.append(session.logits([1, 2]).shape)
        except gn.InvalidArgument as error:
            ends.append(str(error))

    thread = threading.Thread(target=use)
    thread.start()
    time.sleep(pause)
    model.close()
    thread.join()
    print(ends)
    assert ends[0] == (2, 1 << 20) or "closed" in ends[0], ends
    try:
        model.info()
    except gn.InvalidArgument as error:
        assert "closed" in str(error)
    else:
        raise AssertionError("a closed model told of itself")
"""
    run_python(LARGE + code, large)


@pytest.mark.parametrize("end", ["exit", "drop", "fork", "signal"])
def test_whatever_comes_while_it_loads_ends_cleanly(run_python, large, end):
    code = {
        "exit": "model = load(); session = model.session(); print('out')",
        "drop": "load(); load(); print('out')",
        "fork": """
import os
model = load()
child = os.fork()
if child == 0:
    try:
        model.session().logits([1])
        code = 1
    except gn.DeviceError:
        code = 0
    del model
    os._exit(code)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
model.session().logits([1])
print('out')
""",
        "signal": """
class Enough(Exception): pass
def handler(*_): raise Enough
signal.signal(signal.SIGALRM, handler)
model = load()
session = model.session()
signal.setitimer(signal.ITIMER_REAL, 0.03)
try:
    model.wait()
    session.logits([1])
    print('late', end=' ')
    time.sleep(1)
except Enough:
    pass
assert session.position in (0, 1)
session.logits([1])
print('out')
""",
    }[end]
    assert run_python(LARGE + code, large).split()[-1] == "out"


def test_progress_is_for_who_waits(golden_checkpoint):
    with pytest.raises(gn.InvalidArgument, match="wait"):
        gn.Model.load(golden_checkpoint("tiny-1")[1], wait=False, progress=print)
    with pytest.raises(gn.InvalidArgument, match="wait"):
        gn.Model.load(golden_checkpoint("tiny-1")[1], wait=1)


def test_a_session_is_loaded_once_the_weights_are_there(golden_checkpoint, tmp_path):
    golden, path = golden_checkpoint("wide-4")
    with gn.Model.load(path) as model, model.session() as session:
        session.prefill(golden.tokens[:9])
        session.save(tmp_path / "saved")
        want = session.logits(golden.tokens[9:12])
    with (
        gn.Model.load(path, wait=False) as model,
        model.load_session(tmp_path / "saved") as session,
    ):
        assert np.array_equal(session.logits(golden.tokens[9:12]), want)


def test_many_sessions_wait_for_one_loading(golden_checkpoint):
    golden, path = golden_checkpoint("wide-4")
    with gn.Model.load(path) as model:
        want = model.session().logits(golden.tokens).tobytes()
    got = []
    with gn.Model.load(path, wait=False) as model:
        use = lambda: got.append(model.session().logits(golden.tokens).tobytes())  # noqa: E731
        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert got == [want] * 4
