"""Who may go on where memory or places are few: budgets are kept, nothing is lost, bits stay."""

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


def texts(stream):
    return [(token.id, token.logprob) for token in stream]


def options(seed, count=30):
    return {"max_new_tokens": count, "sampling": gn.Sampling(seed=seed), "stop_ids": []}


@pytest.fixture(scope="module")
def each(config):
    """Return the bytes of a session of 512 tokens, as many as a session here has at most."""
    with gn.Model.random(config("tiny"), seed=3) as model, model.session() as session:
        session.prefill(some(512))
        return session.cache_bytes


@pytest.fixture
def make(config):
    """Return a function that makes a model of so many bytes of cache, and other limits."""
    made = []

    def model(kv_bytes, **limits):
        limits = gn.Limits(kv_bytes=int(kv_bytes), **{"prefix_bytes": 0} | limits)
        made.append(gn.Model.random(config("tiny"), seed=3, limits=limits))
        return made[-1]

    yield model
    for one in made:
        one.close()


class Watch:
    """Looks at the caches all the while; the most that they took."""

    def __init__(self, model):
        self.model, self.most, self.spilled, self.stop = model, 0, 0, threading.Event()
        self.thread = threading.Thread(target=self.look)

    def look(self):
        while not self.stop.is_set():
            caches = self.model.info()["caches"]
            self.most = max(self.most, caches["kv_used_bytes"])
            self.spilled = max(self.spilled, caches["kv_spilled_bytes"])
            time.sleep(0.001)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()


@pytest.fixture(scope="module")
def alone(config):
    with gn.Model.random(config("tiny"), seed=3) as model:
        return [
            texts(model.session().generate(some(300, seed), **options(seed, 100)))
            for seed in range(12)
        ]


def test_idle_sessions_leave_for_those_in_use_and_come_back_exactly(make, each, alone):
    model = make(2.5 * each)
    sessions = [model.session() for _ in range(12)]
    with Watch(model) as watch:
        got = [[] for _ in sessions]
        for part in (30, 30, 40):
            for seed, session in enumerate(sessions):
                ids = some(300, seed) if session.position == 0 else []
                got[seed] += texts(session.generate(ids, **options(seed, part)))
    assert got == alone
    assert watch.most <= 2.5 * each
    assert watch.spilled > 5 * each


@pytest.mark.parametrize("prefix_share", [0, 0.5])
def test_more_streams_than_fit_take_turns(make, each, alone, prefix_share):
    model = make(2.5 * each, prefix_bytes=int(prefix_share * 2.5 * each))

    def answer(seed):
        with model.session() as session:
            return texts(session.generate(some(300, seed), **options(seed, 100)))

    with Watch(model) as watch, ThreadPoolExecutor(12) as pool:
        assert list(pool.map(answer, range(12))) == alone
    assert watch.most <= 2.5 * each


def test_streams_without_a_length_are_preempted_and_resumed_exactly(make, each, config):
    """Each is promised a part of what it may come to take; the youngest leave when it is short."""
    sizes = {"max_context": 2600}
    with gn.Model.random(config("tiny"), seed=3) as model:
        want = []
        for seed in range(4):
            session = model.session(**sizes)
            more = {"sampling": gn.Sampling(seed=seed), "stop_ids": []}
            want.append(texts(session.generate(some(20, seed), **more)))
            whole = session.cache_bytes
    model = make(1.9 * whole)

    def answer(seed):
        with model.session(**sizes) as session:
            more = {"sampling": gn.Sampling(seed=seed), "stop_ids": []}
            return texts(session.generate(some(20, seed), **more))

    with Watch(model) as watch, ThreadPoolExecutor(4) as pool:
        assert list(pool.map(answer, range(4))) == want
    assert watch.most <= 1.9 * whole
    assert watch.spilled > 0


def test_what_could_never_fit_is_refused_before_any_work(make, each):
    model = make(each)
    session = model.session()
    with pytest.raises(gn.OutOfMemory, match="kv_bytes"):
        session.generate(some(10), max_new_tokens=20_000)
    with pytest.raises(gn.OutOfMemory, match="kv_bytes"):
        session.prefill(some(20_000))
    assert session.position == 0
    assert len(texts(session.generate(some(10), **options(0)))) == 30


def test_more_priority_goes_first_and_the_other_is_resumed_exactly(make, each, alone):
    model = make(1.2 * each)
    begun, order = threading.Event(), []
    low = model.session()
    stream = low.generate(some(300, 0), **options(0, 100))
    got = []

    def read_low():
        for token in stream:
            got.append((token.id, token.logprob))
            begun.set()
        order.append("low")

    thread = threading.Thread(target=read_low)
    thread.start()
    begun.wait()
    with model.session() as high:
        assert texts(high.generate(some(300, 1), **options(1, 100), priority=1)) == alone[1]
    order.append("high")
    thread.join()
    assert order == ["high", "low"]
    assert got == alone[0]


def test_a_full_line_says_so_and_nothing_is_lost(make, each, alone):
    model = make(100 * each, max_streams=1, max_waiting=1)
    first = model.session()
    stream = first.generate(some(300, 0), **options(0, 100))
    got = [next(stream)]
    stop, waiting = threading.Event(), model.session()

    def keep_reading():  # an unread stream would give way
        while not stop.is_set():
            if token := next(stream, None):
                got.append(token)
                time.sleep(0.02)

    def wait():
        return texts(waiting.generate(some(300, 1), **options(1, 100)))

    with ThreadPoolExecutor(2) as pool:
        reader = pool.submit(keep_reading)
        second = pool.submit(wait)
        while model.info()["caches"]["waiting"] == 0:
            time.sleep(0.001)
        third = model.session()
        with pytest.raises(gn.EngineBusy, match=r"1 calls and streams go on and 1 wait"):
            third.prefill(some(10))
        assert third.position == 0
        stream.cancel()
        assert second.result() == alone[1]
        stop.set()
        reader.result()
    assert [(token.id, token.logprob) for token in got] == alone[0][: len(got)]
    assert third.prefill(some(10)).prefilled_tokens == 10


def test_a_stream_that_nobody_reads_gives_way(make, each, alone):
    model = make(1.2 * each)
    left = model.session().generate(some(300, 0), **options(0, 100))
    got = [next(left), next(left)]
    with model.session() as session:
        assert texts(session.generate(some(300, 1), **options(1, 100))) == alone[1]
    got += left
    assert [(token.id, token.logprob) for token in got] == alone[0]


def test_streams_read_in_turn_by_one_thread_come_to_an_end(make, each, alone):
    model = make(2.2 * each)
    streams = [model.session().generate(some(300, n), **options(n, 100)) for n in range(3)]
    got = [[], [], []]
    for part in (2, 98):
        for stream, tokens in zip(streams, got, strict=True):
            tokens += [next(stream) for _ in range(part)]
    assert [[(t.id, t.logprob) for t in tokens] for tokens in got] == alone[:3]


def test_a_timeout_ends_a_stream_where_it_is(make, each):
    model = make(100 * each)
    session = model.session()
    stream = session.generate(some(20), timeout=0.2, stop_ids=[])
    tokens = [token.id for token in stream]
    assert stream.stats.finish_reason == "timeout"
    assert session.tokens == some(20) + tokens
    assert len(list(session.generate(max_new_tokens=3, stop_ids=[]))) == 3


def test_a_timeout_ends_waiting_too(make, each):
    model = make(1.2 * each)
    first = model.session().generate(some(300), max_new_tokens=100, stop_ids=[], priority=5)
    next(first)
    session = model.session()
    stream = session.generate(some(300), max_new_tokens=100, stop_ids=[], timeout=0.2)
    assert list(stream) == []
    assert stream.stats.finish_reason == "timeout"
    assert session.position == 0


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), "1"])
def test_a_timeout_that_is_none_is_refused(make, each, timeout):
    with pytest.raises(gn.InvalidArgument, match="timeout"):
        make(each).session().generate([1], timeout=timeout)


@pytest.mark.parametrize("priority", [1001, -1001, 0.5, "high"])
def test_a_priority_out_of_range_is_refused(make, each, priority):
    with pytest.raises(gn.InvalidArgument, match="priority"):
        make(each).session().generate([1], priority=priority)


@pytest.mark.parametrize(
    "limits", [{"kv_bytes": -1}, {"prefix_bytes": "1"}, {"max_streams": 0}, {"max_waiting": -1}]
)
def test_limits_out_of_range_are_refused_by_name(limits):
    with pytest.raises(gn.InvalidArgument, match=next(iter(limits))):
        gn.Model.random(limits=gn.Limits(**limits))
    with pytest.raises(gn.InvalidArgument, match="wanted a Limits"):
        gn.Model.random(limits=limits)


def test_waiting_ends_when_the_model_or_the_session_is_closed(make, each):
    model = make(1.2 * each)
    first = model.session().generate(some(300), max_new_tokens=100, stop_ids=[], priority=5)
    next(first)
    sessions = [model.session() for _ in range(2)]

    def wait(session):
        with pytest.raises(gn.InvalidArgument, match="closed"):
            session.prefill(some(400))

    with ThreadPoolExecutor(2) as pool:
        ended = [pool.submit(wait, session) for session in sessions]
        while model.info()["caches"]["waiting"] < 2:
            time.sleep(0.001)
        sessions[0].close()
        ended[0].result(timeout=20)
        model.close()
        ended[1].result(timeout=20)


def test_a_cancelled_task_leaves_the_line(make, each):
    async def main():
        model = make(1.2 * each)
        first = model.session().generate(some(300), max_new_tokens=100, stop_ids=[], priority=5)
        await anext(first)
        session = model.session()

        async def read():
            async for _ in session.generate(some(300), max_new_tokens=100, stop_ids=[]):
                pass

        task = asyncio.create_task(read())
        while model.info()["caches"]["waiting"] == 0:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while model.info()["caches"]["waiting"]:
            await asyncio.sleep(0.001)
        assert session.position == 0

    asyncio.run(main())


def test_spilled_sessions_fork_go_back_and_are_saved(make, each, tmp_path, config):
    model = make(2.2 * each)
    sessions = [model.session() for _ in range(6)]
    for seed, session in enumerate(sessions):
        session.prefill(some(400, seed))
    assert model.info()["caches"]["kv_spilled_bytes"] > 0
    twin = sessions[0].fork()
    sessions[0].close()
    sessions[1].rewind(200)
    sessions[2].save(tmp_path / "saved")
    loaded = model.load_session(tmp_path / "saved")
    with gn.Model.random(config("tiny"), seed=3) as other:
        for session, held in [
            (twin, some(400)),
            (sessions[1], some(400, 1)[:200]),
            (sessions[2], some(400, 2)),
            (loaded, some(400, 2)),
            (sessions[3], some(400, 3)),
        ]:
            assert session.tokens == held
            with other.session() as cold:
                cold.prefill(held)
                assert np.array_equal(session.logits(PROBE), cold.logits(PROBE))


def test_one_session_alone_may_take_all_there_is(make, config):
    """What it remembers of its earlier turns does not keep it from going on."""
    with gn.Model.random(config("tiny"), seed=3) as other, other.session() as session:
        session.prefill(some(2048))
        most = session.cache_bytes
    for prefix_bytes in (0, most):
        session = make(most, prefix_bytes=prefix_bytes).session(max_context=2048)
        while session.position < 2048:
            session.prefill(some(128, session.position))


def test_a_prefix_that_is_copied_where_it_is_gone_on_with_gives_its_room(make, each):
    model = make(1.02 * each, prefix_bytes=int(each))
    with model.session() as first:
        first.prefill(some(400))
    session = model.session()
    assert (
        len(list(session.generate(some(400), max_new_tokens=100, stop_ids=[], timeout=20))) == 100
    )


def test_a_stream_of_no_given_length_has_what_fits(make, each):
    session = make(each).session()
    stream = session.generate(some(100), stop_ids=[])
    with pytest.raises(gn.OutOfMemory, match="kv_bytes"):
        list(stream)
    assert session.position > 400


def test_going_back_gives_memory_back_also_where_others_have_all(make, each):
    model = make(100 * each)
    session = model.session()
    session.prefill(some(5000))
    whole = session.cache_bytes
    session.rewind(10)
    assert session.cache_bytes < whole / 3
    model = make(1.1 * each)
    session = model.session()
    session.prefill(some(300))
    stream = model.session().generate(some(300), max_new_tokens=100, stop_ids=[])
    next(stream)
    stop = threading.Event()

    def keep_reading():
        while not stop.is_set() and next(stream, None):
            time.sleep(0.05)

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(keep_reading)
        with pytest.raises(gn.EngineBusy):
            session.rewind(200)
        assert session.tokens == some(300)
        session.rewind(0)
        assert session.cache_bytes == 0
        stop.set()
        reader.result()


def test_a_fork_that_finds_no_room_stops_no_stream(make, each):
    model = make(1.1 * each)
    session = model.session()
    session.prefill(some(300, 1))
    stream = model.session().generate(some(300), max_new_tokens=200, stop_ids=[])
    next(stream)
    ended = threading.Event()

    def fork():
        try:
            with pytest.raises(gn.EngineBusy):
                session.fork()
        finally:
            ended.set()

    thread = threading.Thread(target=fork)
    thread.start()
    meanwhile = 0
    while not ended.is_set():
        assert next(stream)
        meanwhile += 1
        time.sleep(0.02)  # so that it outlasts the fork
    thread.join()
    assert meanwhile > 10
    assert session.tokens == some(300, 1)
