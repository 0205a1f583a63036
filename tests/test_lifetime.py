"""A model's life inside a host process: threads, closing, memory, forks and exits.

What could crash, hang or be disturbed by other tests runs in a second process.
"""

import json
import threading

import gptoss_native as gn
import numpy as np
import pytest

GREEDY = gn.Sampling(temperature=0.0)

RESIDENT = """
import json, sys
import gptoss_native as gn

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

config = json.loads(sys.argv[1])
"""


@pytest.fixture
def large(config):
    """About 100 MB of weights, nearly all of them experts."""
    sizes = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4}
    return config("wide", **sizes)


def test_twenty_times_load_and_close_returns_to_the_same_memory(run_python, large):
    code = """
before = None
for turn in range(21):
    model = gn.Model.random(config)
    sessions = [model.session() for _ in range(4)]
    for session in sessions:
        session.prefill([1, 2, 3] * 100)
        list(session.generate([1], max_new_tokens=20, stop_ids=[]))
    opened = resident()
    model.close()
    if turn == 0:
        before = resident()
    assert 90e6 < opened - before, (opened, before)
assert resident() - before < 0.01 * before, (resident(), before)
"""
    run_python(RESIDENT + code, json.dumps(large))


@pytest.mark.parametrize("close", ["session.close()", "model.close()", "del session"])
def test_closing_frees_the_cache_at_once(run_python, config, close):
    code = f"""
gn.Model.random(config).close()
start = resident()
model = gn.Model.random(config, limits=gn.Limits(prefix_bytes=0))
model.session().prefill([1] * 1024)  # touches the scratch memory
session = model.session()
opened = resident()
session.prefill([7] * 1000)
taken = session.cache_bytes
assert taken > 20e6
assert resident() - opened > 0.9 * taken
{close}
left = resident() - (start if "{close}" == "model.close()" else opened)
assert left < 0.2 * taken, (left, taken)
"""
    sizes = config(num_hidden_layers=4, head_dim=64, num_attention_heads=64, num_key_value_heads=64)
    run_python(RESIDENT + code, json.dumps(sizes))


# Closing


def test_a_closed_model_refuses_every_use():
    model = gn.Model.random()
    session, running = model.session(), model.session()
    session.prefill([1])
    stream = running.generate([1], max_new_tokens=100)
    next(stream)
    assert not model.closed
    model.close()
    model.close()
    assert model.closed
    for use in (
        model.session,
        model.read_rate,
        model.decode_bytes,
        lambda: session.prefill([1]),
        lambda: session.logits([1]),
        lambda: session.generate([1]),
        lambda: running.generate(),
        lambda: next(stream),
    ):
        with pytest.raises(gn.InvalidArgument, match="closed"):
            use()
    session.close()
    running.close()


def test_a_model_is_a_context_manager_that_closes_it_whatever_happens():
    with gn.Model.random() as model:
        assert not model.closed
    assert model.closed
    with pytest.raises(ZeroDivisionError), gn.Model.random() as model:
        _ = 1 / 0
    assert model.closed


def test_a_session_keeps_its_model_alive():
    session = gn.Model.random(seed=5).session()
    with gn.Model.random(seed=5) as model:
        assert np.array_equal(session.logits([1, 2]), model.session().logits([1, 2]))


def test_closing_a_model_under_running_calls_ends_them_cleanly(run_python):
    code = """
import threading
import gptoss_native as gn

outcomes, started = [], threading.Barrier(4)

def work(kind, session):
    started.wait()
    try:
        while True:
            if kind == "prefill":
                session.prefill([1] * 500)
            elif kind == "logits":
                session.logits([1] * 50)
            else:
                for token in session.generate([1], max_new_tokens=1000):
                    pass
    except gn.InvalidArgument as error:
        outcomes.append("closed" in str(error))

for turn in range(20):
    model = gn.Model.random()
    threads = [
        threading.Thread(target=work, args=(kind, model.session(max_context=131072)))
        for kind in ("prefill", "logits", "generate")
    ]
    for thread in threads:
        thread.start()
    started.wait()
    threading.Event().wait(0.05)
    model.close()
    for thread in threads:
        thread.join()
assert outcomes == [True] * 60, outcomes
"""
    run_python(code)


# Threads


def test_a_model_loads_and_runs_on_any_thread(golden_checkpoint):
    golden, path = golden_checkpoint("tiny-1")
    got = []

    def work():
        calls = []
        with gn.Model.load(path, progress=lambda *call: calls.append(call)) as model:
            got.append(model.session().logits(golden.tokens))
        assert calls

    work()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(got) == 2
    assert np.array_equal(*got)


def test_two_models_at_once_are_each_what_they_are_alone(some_ids):
    ids = some_ids(300)

    def answer(model):
        stream = model.session().generate(ids, max_new_tokens=50, sampling=gn.Sampling(seed=1))
        return [(token.id, token.logprob) for token in stream]

    alone = []
    for seed in (1, 2):
        with gn.Model.random(seed=seed) as model:
            alone.append(answer(model))
    assert alone[0] != alone[1]
    together = [None, None]
    with gn.Model.random(seed=1) as first, gn.Model.random(seed=2) as second:

        def work(index, model):
            together[index] = answer(model)

        threads = [threading.Thread(target=work, args=pair) for pair in enumerate((first, second))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert together == alone


# Forks and exits

FORK = """
import os, signal, sys, threading
import gptoss_native as gn

model = gn.Model.random(threads=2)
session = model.session()
session.prefill([1, 2, 3])

def refuses(use):
    try:
        use()
    except gn.Error:
        return True
    return False

def child():
    signal.alarm(10)  # a hang ends with a signal, which the parent sees
    assert refuses(lambda: session.prefill([4]))
    assert refuses(lambda: session.logits([4]))
    assert refuses(lambda: list(session.generate([4], max_new_tokens=2)))
    with gn.Model.random() as own:
        assert own.session().logits([1, 2]).shape == (2, 512)
    with gn.Model.demo() as own:
        assert own.session().logits([1, 2]).shape[0] == 2
"""


def test_a_forked_child_gets_an_error_for_the_parents_model_and_may_load_its_own(run_python):
    code = """
pid = os.fork()
if pid == 0:
    child()
    os._exit(0)
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
assert status == 0, status
session.prefill([4])
assert session.tokens == [1, 2, 3, 4]
"""
    run_python(FORK + code)


@pytest.mark.parametrize("end", ["model.close()", "sys.exit(0)"])
def test_a_forked_child_may_close_the_parents_model_or_exit(run_python, end):
    code = f"""
pid = os.fork()
if pid == 0:
    signal.alarm(10)
    {end}
    os._exit(0)
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
assert status == 0, status
session.prefill([4])
assert session.tokens == [1, 2, 3, 4]
"""
    run_python(FORK + code)


def test_a_fork_while_another_thread_generates_is_as_clean(run_python):
    code = """
other, stop = model.session(), threading.Event()

def work():
    for token in other.generate([1], stop_ids=[]):
        if stop.is_set():
            break

thread = threading.Thread(target=work)
thread.start()
for turn in range(20):
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        done = refuses(lambda: other.prefill([4])) and refuses(lambda: session.prefill([4]))
        os._exit(0 if done else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        break
stop.set()
thread.join()
assert status == 0, status
"""
    run_python(FORK + code)


def test_multiprocessing_with_fork_gets_the_same_error(run_python):
    code = """
import multiprocessing
process = multiprocessing.get_context("fork").Process(target=child)
process.start()
process.join()
assert process.exitcode == 0, process.exitcode
"""
    run_python(FORK + code)


@pytest.mark.parametrize("state", ["idle", "stream", "thread"])
def test_the_interpreter_exits_with_a_model_still_open(run_python, state):
    code = """
import sys, threading
import gptoss_native as gn

model = gn.Model.random()
session = model.session()
stream = session.generate([1], stop_ids=[])
if sys.argv[1] != "idle":
    next(stream)
if sys.argv[1] == "thread":
    threading.Thread(target=lambda: list(stream), daemon=True).start()
    threading.Event().wait(0.05)
print("end")
"""
    assert run_python(code, state) == "end\n"
