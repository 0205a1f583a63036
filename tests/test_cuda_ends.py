"""How a CUDA model ends: a lost device, closing under running calls, exit and fork.

What only the emulated device can do (lose itself) is skipped on a card.
"""

import json
import threading

import gptoss_native as gn
import numpy as np
import pytest
from conftest import available_bytes, near

pytestmark = pytest.mark.cuda

# A lost device


LOSE = """
import json, os, sys
import gptoss_native as gn
import numpy as np

device, config, when = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
processor = gn.Model.random(config, device="cpu")
want = processor.session().logits([1, 2, 3])

def fails(use):
    try:
        use()
    except gn.DeviceError as error:
        return str(error)
    return None

def until_lost(use):
    for _ in range(2000):
        text = fails(use)
        if text:
            return text
    raise AssertionError("the device was not lost")

if when == "load":
    os.environ["GPTOSS_EMULATION_LOSE"] = "2"
    text = fails(lambda: gn.Model.random(config, device=device))
    assert text
else:
    model = gn.Model.random(config, device=device)
    spare, session, other = (model.session() for _ in range(3))
    other.prefill([5])
    os.environ["GPTOSS_EMULATION_LOSE"] = "300"
    if when == "decode":
        text = until_lost(lambda: list(session.generate([1], max_new_tokens=200, stop_ids=[])))
    else:
        uses = {"prompt": lambda ids: next(session.generate(ids)), "logits": session.logits}
        text = until_lost(lambda: uses[when]([1, 2]))
    held = session.tokens
    assert session.position == len(held)
    for use in (
        lambda: session.prefill([1]),
        lambda: session.logits([1]),
        lambda: next(session.generate([1])),
        lambda: other.logits([1]),
        lambda: next(other.generate()),
        lambda: spare.prefill([1]),
        lambda: model.session().logits([1]),
    ):
        assert fails(use), "no DeviceError"
    assert session.tokens == held
    other.close()
    model.close()
    assert model.closed
    try:
        session.prefill([1])
    except gn.InvalidArgument as error:
        assert "closed" in str(error)
assert "illegal memory access" in text, text
assert fails(lambda: gn.Model.random(config, device=device))
assert np.array_equal(processor.session().logits([1, 2, 3]), want)
print("end")
"""


@pytest.mark.parametrize("when", ["load", "prompt", "logits", "decode"])
def test_a_lost_device_is_an_error_and_the_processor_goes_on(run_python, emulated, small, when):
    assert run_python(LOSE, emulated, json.dumps(small), when) == "end\n"


# A model's life


def test_closing_a_model_under_running_calls_ends_them_cleanly(cuda_device, small):
    for _ in range(2):
        model, outcomes, started = (
            gn.Model.random(small, device=cuda_device),
            [],
            threading.Barrier(4),
        )

        def work(call, session, started=started, outcomes=outcomes):
            started.wait()
            try:
                while True:
                    call(session)
            except gn.InvalidArgument as error:
                outcomes.append("closed" in str(error))

        calls = (
            lambda session: (session.prefill([1] * 9), session.logits([2])),
            lambda session: session.logits([1] * 5),
            lambda session: list(session.generate([1], max_new_tokens=1000)),
        )
        threads = [threading.Thread(target=work, args=(c, model.session())) for c in calls]
        for thread in threads:
            thread.start()
        started.wait()
        threading.Event().wait(0.1)
        model.close()
        for thread in threads:
            thread.join()
        assert outcomes == [True] * 3


def test_a_session_outlives_its_model_and_a_stream_its_session(cuda_device, small):
    before = available_bytes(cuda_device)
    session = gn.Model.random(small, seed=5, device=cuda_device).session()
    with gn.Model.random(small, seed=5, device=cuda_device) as model:
        assert np.array_equal(session.logits([1, 2]), model.session().logits([1, 2]))
        kept = model.session()
        stream = kept.generate([1], max_new_tokens=9)
        next(stream)
        next(stream)
    with pytest.raises(gn.InvalidArgument, match="closed"):
        next(stream)
    del kept, stream
    session.close()
    del session
    assert abs(available_bytes(cuda_device) - before) <= near(cuda_device)


@pytest.mark.parametrize("state", ["idle", "stream", "thread"])
def test_the_interpreter_exits_with_a_model_still_open(run_python, cuda_device, small, state):
    code = """
import json, sys, threading
import gptoss_native as gn

model = gn.Model.random(json.loads(sys.argv[2]), device=sys.argv[1])
stream = model.session().generate([1], stop_ids=[])
if sys.argv[3] != "idle":
    next(stream), next(stream), next(stream)
if sys.argv[3] == "thread":
    threading.Thread(target=lambda: list(stream), daemon=True).start()
    threading.Event().wait(0.05)
print("end")
"""
    assert run_python(code, cuda_device, json.dumps(small), state) == "end\n"


def test_a_forked_child_gets_an_error_and_leaves_the_parents_model(run_python, emulated, small):
    code = """
import json, os, signal, sys
import gptoss_native as gn

model = gn.Model.random(json.loads(sys.argv[2]), device=sys.argv[1])
session = model.session()
first = list(session.generate([1, 2], max_new_tokens=3))
pid = os.fork()
if pid == 0:
    signal.alarm(20)
    try:
        session.prefill([4])
        os._exit(1)
    except gn.Error:
        model.close()
        os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
session.prefill([4])
assert session.tokens[-1] == 4
"""
    run_python(code, emulated, json.dumps(small))
