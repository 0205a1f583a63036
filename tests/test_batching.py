"""Many sessions at once: each gets what it would get alone, and one's end is not another's."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import gptoss_native as gn
import numpy as np
import pytest

PROBE = [5, 6, 7]


def some(count, seed=0):
    return np.random.default_rng(seed).integers(0, 512, count).tolist()


def job(seed):
    """Return a prompt and options that differ from job to job."""
    sampling = gn.Sampling(
        seed=seed,
        temperature=[0, 1.0, 0.7][seed % 3],
        repetition_penalty=1.1 if seed % 4 == 1 else 1.0,
        logit_bias={seed: 2.0} if seed % 5 == 2 else {},
        logprobs=seed % 3,
    )
    prompt = some([3, 130, 17, 260][seed % 4], seed)
    return prompt, {"max_new_tokens": 20 + 7 * (seed % 5), "sampling": sampling, "stop_ids": []}


def answer(model, seed):
    prompt, options = job(seed)
    with model.session() as session:
        return list(session.generate(prompt, **options))


@pytest.fixture(scope="module", params=["fast", "exact", "int8"])
def model(request, config):
    options = {"exact": {"precision": "exact"}, "int8": {"dense": "int8"}}.get(request.param, {})
    limits = gn.Limits(prefix_bytes=0)  # what is computed twice here is to be computed twice
    with gn.Model.random(config("tiny"), seed=3, limits=limits, **options) as made:
        yield made


@pytest.fixture(scope="module")
def alone(model):
    return [answer(model, seed) for seed in range(32)]


@pytest.mark.parametrize("together", [2, 7, 32])
def test_a_session_gets_the_same_bits_alone_and_among_others(model, alone, together):
    """Others join and leave while it runs, since prompts and lengths differ."""
    with ThreadPoolExecutor(together) as pool:
        got = list(pool.map(lambda seed: answer(model, seed), range(32)))
    assert got == alone


def test_streams_of_one_event_loop_are_computed_together(model, alone):
    async def one(seed):
        prompt, options = job(seed)
        with model.session() as session:
            return [token async for token in session.generate(prompt, **options)]

    async def all_of_them():
        return await asyncio.gather(*(one(seed) for seed in range(32)))

    assert asyncio.run(all_of_them()) == alone


def test_streams_read_in_turn_by_one_thread_are_the_same_too(model, alone):
    sessions = [model.session() for _ in range(8)]
    streams = [s.generate(job(i)[0], **job(i)[1]) for i, s in enumerate(sessions)]
    got = [[] for _ in streams]
    while any(stream.stats.finish_reason is None for stream in streams):
        for stream, tokens in zip(streams, got, strict=True):
            tokens += [token for token in [next(stream, None)] if token]
    assert got == alone[:8]


def test_a_stream_goes_on_while_a_long_prompt_comes_in(model):
    """The prompt's steps are cut smaller and begin with what waits: the bits stay the same."""
    long = some(3000, 1)
    with model.session() as session:
        session.prefill(long)
        want = session.logits(PROBE)
    reader, stop, count = model.session(), threading.Event(), 0

    def read():
        nonlocal count
        for _ in reader.generate(some(5), max_new_tokens=4000, stop_ids=[]):
            count += 1
            if stop.is_set():
                break

    thread = threading.Thread(target=read)
    thread.start()
    while count < 3:
        time.sleep(0.001)
    before = count
    with model.session() as session:
        session.prefill(long)
        during = count - before
        stop.set()
        thread.join()
        assert np.array_equal(session.logits(PROBE), want)
    # One for each of 47 steps where the reader is quick.
    assert during >= 5


def test_a_session_that_is_closed_ends_alone(config):
    with gn.Model.random(config("tiny"), seed=3) as model:
        expected = [answer(model, seed) for seed in range(6)]
        barrier = threading.Barrier(7)

        def fine(seed):
            barrier.wait()
            return answer(model, seed)

        def cancelled():
            barrier.wait()
            session = model.session()
            stream = session.generate(some(9), max_new_tokens=3000, stop_ids=[])
            for _ in range(5):
                next(stream)
            session.close()
            with pytest.raises(gn.InvalidArgument, match="closed"):
                next(stream)

        with ThreadPoolExecutor(7) as pool:
            ended = pool.submit(cancelled)
            got = list(pool.map(fine, range(6)))
            ended.result()
        assert got == expected


def test_closing_the_model_ends_all_streams(config):
    model = gn.Model.random(config("tiny"), seed=3)
    begun = threading.Barrier(9)

    def read(seed):
        session = model.session()
        stream = session.generate(some(9, seed), max_new_tokens=100_000, stop_ids=[])
        next(stream)
        begun.wait()
        with pytest.raises(gn.InvalidArgument, match="closed"):
            for _ in stream:
                pass

    with ThreadPoolExecutor(8) as pool:
        ended = [pool.submit(read, seed) for seed in range(8)]
        begun.wait()
        time.sleep(0.05)
        model.close()
        for one in ended:
            one.result(timeout=20)


def test_a_signal_handler_may_ask_for_a_session_that_another_thread_streams(run_python):
    run_python("""
import signal, threading, time
import gptoss_native as gn

model = gn.Model.random(threads=1)
first, second = model.session(), model.session()
stop, answers = threading.Event(), []

def follow():
    for _ in second.generate([1, 2], max_new_tokens=100_000, stop_ids=[]):
        if stop.is_set():
            return

def handler(*_):
    for ask in (lambda: second.tokens, lambda: second.cache_bytes, second.fork, second.close):
        try:
            answers.append(ask())
        except gn.InvalidArgument as error:
            assert "within a step" in str(error) or "closed" in str(error), error
            answers.append(error)

signal.signal(signal.SIGALRM, handler)
thread = threading.Thread(target=follow)
thread.start()
time.sleep(0.1)
signal.setitimer(signal.ITIMER_REAL, 0.2)
first.prefill(list(range(500)) * 20)
stop.set()
try:
    thread.join(20)
finally:
    assert not thread.is_alive() and len(answers) == 4
""")
