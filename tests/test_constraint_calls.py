"""A constraint's methods beside all else: calls back, closing, cancelling, signals, the process's
end.
"""

import asyncio
import os

import gptoss_native as gn
import pytest
from constraint_kinds import PROMPT, SMALL, Some, generate, ids_of


@pytest.fixture(scope="module")
def model(small_model):
    return small_model


# Calling back, ending


def test_neither_method_may_use_the_session_or_its_model(small_cpu):
    beside = small_cpu.session()
    beside.prefill(PROMPT)

    class Curious(Some):
        answers = 0

        def ask(self):
            for use in (
                lambda: session.tokens,
                lambda: session.prefill([1]),
                lambda: session.rewind(0),
                lambda: list(session.generate([1], max_new_tokens=1)),
                session.fork,
                small_cpu.session,
                small_cpu.info,
                lambda: beside.logits([1]),
                lambda: list(beside.generate([1], max_new_tokens=1)),
            ):
                with pytest.raises(gn.InvalidArgument, match="called from within a step"):
                    use()
                self.answers += 1

        def mask(self, out):
            self.ask()
            super().mask(out)

        def accept(self, token_id):
            self.ask()
            super().accept(token_id)

    session, constraint = small_cpu.session(), Curious()
    constraint.check(ids_of(generate(session, constraint, 3)))
    assert constraint.answers == 2 * 3 * 9
    assert beside.tokens == PROMPT


def test_streams_that_ask_for_each_others_sessions_do_not_wait_for_ever(run_python):
    code = """
import threading
import gptoss_native as gn

class Nosy:
    accepted = 0
    def mask(self, out):
        out[:] = -1
    def accept(self, token_id):
        self.accepted += 1
        for session in sessions:
            try:
                assert session.tokens[:1] == [1]
            except gn.InvalidArgument as error:
                assert "within a step" in str(error)

def run(session, constraint):
    list(session.generate(max_new_tokens=40, stop_ids=[], constraint=constraint))

model = gn.Model.random(threads=1)
sessions, constraints = [model.session() for _ in range(4)], [Nosy() for _ in range(4)]
for session in sessions:
    session.prefill([1, 2])
pairs = zip(sessions, constraints)
threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in pairs]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(30)
assert [constraint.accepted for constraint in constraints] == [40] * 4
"""
    run_python(code)


@pytest.mark.parametrize("what", ["session", "model"])
@pytest.mark.parametrize("method", ["mask", "accept"])
def test_either_method_may_close(config, method, what):
    model = gn.Model.random(config(**SMALL), seed=1)
    session = model.session()

    class Closing(Some):
        def mask(self, out):
            super().mask(out)
            if method == "mask" and len(self.accepted) == 3:
                {"session": session, "model": model}[what].close()

        def accept(self, token_id):
            super().accept(token_id)
            if method == "accept" and len(self.accepted) == 4:
                {"session": session, "model": model}[what].close()

    constraint, said = Closing(), []
    stream = generate(session, constraint)
    with pytest.raises(gn.InvalidArgument, match="closed"):
        said.extend(token.id for token in stream)
    assert said in (constraint.accepted, constraint.accepted[:-1])
    assert len(constraint.accepted) <= 4
    assert session.closed or model.closed
    model.close()
    assert session.cache_bytes == 0


@pytest.mark.parametrize("method", ["mask", "accept"])
def test_cancelling_from_within_ends_after_that_token(model, method):
    class Cancelling(Some):
        def mask(self, out):
            super().mask(out)
            if method == "mask" and len(self.accepted) == 3:
                stream.cancel()

        def accept(self, token_id):
            super().accept(token_id)
            if method == "accept" and len(self.accepted) == 4:
                stream.cancel()

    constraint = Cancelling()
    stream = generate(model.session(), constraint)
    said = ids_of(stream)
    constraint.check(said)
    assert len(said) == 4
    assert stream.stats.finish_reason == "cancelled"


def test_cancelling_the_task_leaves_a_session_that_goes_on(model):
    session, constraint = model.session(), Some()

    async def main():
        async def consume():
            async for _ in generate(session, constraint, 5000):
                pass

        task = asyncio.create_task(consume())
        while len(constraint.accepted) < 3:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    after = ids_of(generate(session, None, 2, []))
    # A token that had been accepted, and never reached the task, is taken back.
    accepted = constraint.accepted
    held = (PROMPT + accepted + after, PROMPT + accepted[:-1] + after)
    assert session.tokens in held


# The process


def test_a_forked_child_is_refused_before_its_constraint_is_asked(small_cpu):
    session, constraint = small_cpu.session(), Some()
    stream = generate(session, constraint)
    said = [next(stream).id, next(stream).id]
    child = os.fork()
    if child == 0:
        status = 1
        try:
            next(stream)
        except gn.DeviceError:
            status = 0 if len(constraint.asked) == 2 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    said += ids_of(stream)
    constraint.check(said)


@pytest.mark.parametrize("where", ["mask", "accept"])
def test_the_interpreter_ends_while_a_thread_is_in_a_constraint(run_python, where):
    code = """
import sys, threading, time
import gptoss_native as gn

class Slow:
    def mask(self, out):
        out[:] = -1
        if sys.argv[1] == "mask" and begun.is_set():
            self.loop()
    def accept(self, token_id):
        begun.set()
        if sys.argv[1] == "accept":
            self.loop()
    def loop(self):
        inside.set()
        while True:
            sum(range(1000))

begun, inside = threading.Event(), threading.Event()
model = gn.Model.random(threads=1)
stream = model.session().generate([1], stop_ids=[], constraint=Slow())
threading.Thread(target=lambda: list(stream), daemon=True).start()
inside.wait()
print("end")
"""
    assert run_python(code, where) == "end\n"


def test_an_interrupt_within_another_streams_mask_is_the_main_threads(run_python):
    code = """
import signal, threading
import gptoss_native as gn

class Interrupted:
    calls = done = 0
    def mask(self, out):
        out[:] = -1
        if threading.current_thread() is threading.main_thread():
            self.calls += 1
            if self.calls == 1:
                signal.raise_signal(signal.SIGINT)
                for _ in range(1000): pass
                assert False, "no KeyboardInterrupt"
    def accept(self, token_id):
        self.done += 1

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & ignores it
model, options = gn.Model.random(threads=1), {"stop_ids": []}
constraint, said, ended = Interrupted(), [], threading.Event()

def other():
    while not ended.is_set():
        with model.session() as session:
            stream = session.generate([1], max_new_tokens=50, constraint=constraint, **options)
            said.extend(stream)

thread = threading.Thread(target=other, daemon=True)
thread.start()
try:
    for _ in model.session().generate([1, 2], max_new_tokens=50_000, **options):
        pass
    raise SystemExit("not interrupted")
except KeyboardInterrupt:
    pass
ended.set()
thread.join(30)
assert constraint.calls >= 2
assert len(said) % 50 == 0 and constraint.done == len(said)
"""
    run_python(code)
