"""What a host process may do to the library: signals, exits, shrinking files, damaged weights."""

import json
import os

import gptoss_native as gn
import numpy as np
import pytest
from random_checkpoint import write_checkpoint


@pytest.mark.parametrize(
    ("action", "printed"),
    [
        ("print(session.position)", "0\nprefilled"),
        ("session.cache_bytes", "within a step"),
        ("session.close()", "session is closed"),
        ("model.close()", "model is closed"),
    ],
)
def test_a_signal_handler_that_uses_the_session_is_answered(run_python, action, printed):
    code = f"""
import os, signal, threading, gptoss_native as gn
model = gn.Model.random()
session = model.session()
signal.signal(signal.SIGUSR1, lambda *_: {action})
threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
try:
    session.prefill([1] * 6000)
    print("prefilled")
except gn.Error as error:
    print(error)
"""
    assert printed in run_python(code)


def test_the_interpreter_ends_cleanly_under_daemon_streams(run_python):
    code = """
import threading, time, gptoss_native as gn
model = gn.Model.random(threads=1)
def read():
    for _ in model.session().generate([1], stop_ids=[]):
        pass
for _ in range(3):
    threading.Thread(target=read, daemon=True).start()
end = time.monotonic() + 0.2
while time.monotonic() < end:
    pass
"""
    for _ in range(5):
        run_python(code)


def test_a_file_that_shrinks_while_it_is_loaded_is_a_checkpoint_error(tmp_path):
    path = write_checkpoint(tmp_path / "checkpoint", "tiny", seed=1, shards=1)
    file = next(path.glob("*.safetensors"))

    def shrink(done, total):
        os.truncate(file, 5000)

    with pytest.raises(gn.CheckpointError, match=file.name):
        gn.Model.load(path, threads=1, progress=shrink)


@pytest.mark.parametrize("dense", ["bf16", "int8"])
@pytest.mark.parametrize("precision", ["exact", "fast"])
@pytest.mark.parametrize("name", ["v_proj.weight", "router.weight", "down_proj_bias", "lm_head"])
def test_a_weight_that_is_nan_is_never_made_into_text(tmp_path, name, dense, precision):
    path = write_checkpoint(tmp_path / "checkpoint", "tiny", seed=1, shards=1)
    file = next(path.glob("*.safetensors"))
    raw = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    entry = next(entry for key, entry in header.items() if name in key)
    begin, end = entry["data_offsets"]
    raw[start + begin : start + end] = b"\xff\x7f" * ((end - begin) // 2)
    file.write_bytes(raw)
    with gn.Model.load(path, dense=dense, precision=precision) as model:
        logits = model.session().logits([1, 2, 3])
        assert np.isnan(logits).any(axis=1).all()
        with pytest.raises(gn.Error, match="not finite"):
            next(model.session().generate([1, 2, 3], sampling=gn.Sampling(temperature=0)))


def test_ids_beyond_the_context_are_refused_before_their_logits_have_memory():
    with gn.Model.random("tiny") as model:
        session = model.session(max_context=100)
        with pytest.raises(gn.InvalidArgument, match="100 tokens"):
            session.logits([1] * 2_000_000)
        assert session.position == 0


@pytest.mark.parametrize("position", [-1, 131072, 2**31, 2**70, 1.5])
def test_a_position_outside_the_context_has_no_bytes(position):
    with gn.Model.random("tiny") as model, pytest.raises(gn.InvalidArgument, match="position"):
        model.decode_bytes(position)
