"""Session.generate: where a stream ends, what it leaves behind, and who else may run meanwhile."""

import asyncio
import gc
import math
import os
import threading

import gptoss_native as gn
import numpy as np
import pytest

GREEDY = gn.Sampling(temperature=0.0)
WATCHED = gn.Sampling(temperature=0.0, logprobs=3)
ENDLESS = 20_000  # more tokens than any test lets come


@pytest.fixture(scope="module")
def model():
    with gn.Model.random(seed=2, threads=1, limits=gn.Limits(prefix_bytes=0)) as made:
        yield made


@pytest.fixture(scope="module")
def exact():
    with gn.Model.random(
        seed=2, threads=1, precision="exact", limits=gn.Limits(prefix_bytes=0)
    ) as made:
        yield made


@pytest.fixture(scope="module")
def ids(some_ids):
    return some_ids(100)


def ids_of(stream):
    return [token.id for token in stream]


# Where it ends


def sum_prompt(demo):
    text = "<|start|>user<|message|>What is 17 + 25?<|end|><|start|>assistant"
    return demo.tokenizer.encode(text, allow_special=True)


def test_the_checkpoints_stop_ids_end_it_unless_others_are_given(demo):
    prompt = sum_prompt(demo)
    stop = demo.tokenizer.special["<|return|>"]
    assert stop in demo.stop_ids
    session = demo.session()
    stream = session.generate(prompt, max_new_tokens=200, sampling=GREEDY)
    answer = ids_of(stream)
    assert answer[-1] == stop
    assert answer.count(stop) == 1
    assert session.tokens == prompt + answer
    assert stream.stats.finish_reason == "stop"
    with demo.session() as session:
        stream = session.generate(prompt, max_new_tokens=200, sampling=GREEDY, stop_ids=[])
        on = ids_of(stream)
    assert on[: len(answer)] == answer
    assert len(on) == 200
    assert stream.stats.finish_reason == "length"


def test_any_of_the_given_stop_ids_ends_it_as_its_last_token(model, ids):
    free = ids_of(model.session().generate(ids, max_new_tokens=40, sampling=GREEDY))
    for stop in (free[0], free[12], free[39]):
        first = free.index(stop)
        session = model.session()
        unused = next(n for n in range(512) if n not in free)
        options = {"max_new_tokens": 40, "sampling": GREEDY}
        stream = session.generate(ids, **options, stop_ids=np.array([unused, stop, stop]))
        assert ids_of(stream) == free[: first + 1]
        assert session.tokens == ids + free[: first + 1]
        assert stream.stats.finish_reason == "stop"
        assert next(stream, None) is None
        assert session.position == len(ids) + first + 1


@pytest.mark.parametrize("count", [1, 2, 17])
def test_max_new_tokens_is_how_many_come(model, ids, count):
    session = model.session()
    stream = session.generate(ids, max_new_tokens=count)
    assert len(list(stream)) == count
    assert stream.stats.finish_reason == "length"
    assert session.position == len(ids) + count


# What it leaves behind


def test_stats_count_every_token_of_the_context(model, ids):
    session = model.session()
    at_start = 0
    for turn in range(3):
        given_ids = ids[: 20 * turn] if turn else ids
        stream = session.generate(given_ids, max_new_tokens=8)
        assert stream.stats.finish_reason is None
        list(stream)
        stats = stream.stats
        assert stats.cached_tokens + stats.prefilled_tokens == at_start + len(given_ids)
        assert stats.prefilled_tokens <= len(given_ids) + 1
        assert stats.generated_tokens == 8
        assert 0 < stats.ttft_s < 600
        assert 0 < stats.decode_s < 600
        assert stats.tokens_per_s == pytest.approx(7 / stats.decode_s)
        assert stats.finish_reason == "length"
        at_start = session.position
    assert at_start == len(ids) + 20 + 40 + 3 * 8


def test_tokens_are_plain_numbers(model):
    stream = model.session().generate([1], max_new_tokens=2, sampling=gn.Sampling(logprobs=2))
    for token in stream:
        assert type(token.id) is int
        assert type(token.logprob) is float
        assert math.isfinite(token.logprob)
        assert len(token.top_logprobs) == 2
        assert all(type(n) is int and type(p) is float for n, p in token.top_logprobs)


@pytest.mark.parametrize("sampling", [WATCHED, gn.Sampling(seed=5, logprobs=3)], ids=str)
def test_a_generation_cut_in_pieces_has_the_bits_of_one(model, ids, sampling):
    """Also over stops between them, and a loop left early, which ends its stream."""
    options = {"sampling": sampling, "stop_ids": []}
    whole = list(model.session().generate(ids, max_new_tokens=40, **options))
    session = model.session()
    session.prefill(ids)
    got = list(session.generate(max_new_tokens=11, **options))
    got += list(session.generate([], max_new_tokens=1, **options))
    stream = session.generate(max_new_tokens=28, **options)
    for token in stream:
        got.append(token)
        if len(got) == 20:
            break
    assert list(stream) == []
    assert stream.stats.finish_reason == "cancelled"
    stream = session.generate(max_new_tokens=20, **options)
    got += [next(stream), next(stream)]  # no loop: it may be gone on with
    got += list(stream)
    assert got == whole


def test_a_conversation_gone_on_with_is_the_one_fed_cold(exact, ids):
    """Not bit for bit: an answer fed back is computed as a prompt. The same ids, exact to 1e-5."""
    session = exact.session()
    answers = []
    for at in (0, 30, 60):
        stream = session.generate(ids[at : at + 30], max_new_tokens=15, sampling=GREEDY)
        answers.append(ids_of(stream))
    history = session.tokens
    assert len(history) == 135
    cold = exact.session().generate(history[:-15], max_new_tokens=15, sampling=GREEDY)
    assert ids_of(cold) == answers[-1]
    rows = exact.session().logits([*history, 1])
    assert session.logits([1])[0] == pytest.approx(rows[-1], abs=1e-4)


def test_leaving_the_loop_leaves_the_session_as_it_is_then(exact, ids):
    session = exact.session()
    seen = []
    for token in session.generate(ids, max_new_tokens=ENDLESS, sampling=GREEDY):
        seen.append(token.id)
        if len(seen) == 5:
            break
    assert session.tokens == ids + seen
    assert session.position == len(ids) + 5
    rows = session.logits(ids[:9])
    assert rows == pytest.approx(exact.session().logits(ids + seen + ids[:9])[-9:], abs=1e-4)
    assert session.tokens == ids + seen + ids[:9]


@pytest.mark.parametrize("use", ["generate", "prefill", "logits"])
def test_an_old_stream_has_ended_once_the_session_is_used_again(model, ids, use):
    session = model.session()
    old = session.generate(ids, max_new_tokens=50)
    next(old)
    new = getattr(session, use)([7])
    before = session.tokens
    assert next(old, None) is None
    assert old.stats.finish_reason == "cancelled"
    assert old.stats.generated_tokens == 1
    assert session.tokens == before
    if use == "generate":
        next(new)
        assert new.stats.finish_reason is None


# Cancelling


def test_cancel_from_another_thread_ends_the_loop(model):
    session = model.session()
    stream = session.generate([1], max_new_tokens=ENDLESS, stop_ids=[])
    third = threading.Event()
    thread = threading.Thread(target=lambda: (third.wait(), stream.cancel()))
    thread.start()
    count = 0
    for _ in stream:
        count += 1
        if count == 3:
            third.set()
    thread.join()
    assert 3 <= count < ENDLESS
    assert stream.stats.finish_reason == "cancelled"
    assert stream.stats.generated_tokens == count
    assert session.position == 1 + count
    assert len(ids_of(session.generate([2], max_new_tokens=3))) == 3


def test_cancel_during_a_long_prompt_ends_it_between_two_steps(model, some_ids):
    session, prompt = model.session(), some_ids(120_000)
    stream = session.generate(prompt, max_new_tokens=2)
    timer = threading.Timer(0.2, stream.cancel)
    timer.start()
    assert next(stream, None) is None
    timer.join()
    assert stream.stats.finish_reason == "cancelled"
    done = session.position
    assert session.tokens == prompt[:done]
    assert done < len(prompt)
    with model.session() as cold:
        cold.prefill(prompt[:done])
        assert np.array_equal(session.logits([5]), cold.logits([5]))


def test_cancel_before_the_start_and_after_the_end_is_harmless(model):
    session = model.session()
    stream = session.generate([1, 2], max_new_tokens=3)
    stream.cancel()
    stream.cancel()
    assert list(stream) == []
    assert stream.stats.finish_reason == "cancelled"
    stream = session.generate([3], max_new_tokens=3)
    assert len(list(stream)) == 3
    stream.cancel()
    assert stream.stats.finish_reason == "length"


# asyncio


def test_async_for_gives_the_tokens_of_for_and_leaves_the_loop_free(model, some_ids):
    prompt = some_ids(1500)
    options = {"max_new_tokens": 20, "sampling": gn.Sampling(seed=8)}
    want = list(model.session().generate(prompt, **options))

    async def main():
        ticks = []
        running = True

        async def ticker():
            while running:
                ticks.append(len(got))
                await asyncio.sleep(0)

        got = []
        task = asyncio.create_task(ticker())
        async for token in model.session().generate(prompt, **options):
            got.append(token)
        running = False
        await task
        return got, ticks

    got, ticks = asyncio.run(main())
    assert got == want
    assert ticks.count(0) > 10  # during the prompt


def test_cancelling_the_task_cancels_the_stream_and_frees_the_session(model, ids):
    session = model.session()
    stream = session.generate(ids, max_new_tokens=ENDLESS, stop_ids=[])

    async def main():
        some = asyncio.Event()
        got = []

        async def consume():
            async for token in stream:
                got.append(token)
                if len(got) == 3:
                    some.set()

        task = asyncio.create_task(consume())
        await some.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return got

    got = asyncio.run(main())
    assert 3 <= len(got) < ENDLESS
    assert list(stream) == []
    assert stream.stats.finish_reason == "cancelled"
    assert session.tokens[: len(ids) + len(got)] == ids + [token.id for token in got]
    assert len(list(session.generate([1], max_new_tokens=2))) == 2


def test_many_streams_run_in_one_event_loop(model):
    def options(n):
        return {"max_new_tokens": 10, "sampling": gn.Sampling(seed=n)}

    want = [list(model.session().generate([n], **options(n))) for n in range(8)]

    async def consume(n):
        return [token async for token in model.session().generate([n], **options(n))]

    async def main():
        return await asyncio.gather(*(consume(n) for n in range(8)))

    assert asyncio.run(main()) == want


def test_a_stream_that_was_left_says_so_at_once(model, ids):
    for leave in ("break", "cancel"):
        stream = model.session().generate(ids, max_new_tokens=50, stop_ids=[])
        for _ in stream:
            if leave == "cancel":
                stream.cancel()
                assert stream.stats.finish_reason == "cancelled"
            break
        assert stream.stats.finish_reason == "cancelled"


def test_stop_strings_end_a_stream_with_the_token_that_completes_one():
    with gn.Model.demo() as demo:
        question = "<|start|>user<|message|>What is 17 + 25?"
        prompt = demo.tokenizer.encode(question, allow_special=True)
        options = {"max_new_tokens": 60, "sampling": gn.Sampling(temperature=0), "stop_ids": []}
        whole = [token.id for token in demo.session().generate(prompt, **options)]
        text = demo.tokenizer.decode(whole)
        for start, length in ((3, 1), (7, 4), (12, 9)):
            wanted = text[start : start + length]
            session = demo.session()
            stream = session.generate(prompt, stop=["never this", wanted], **options)
            said = [token.id for token in stream]
            assert said == whole[: len(said)]
            assert wanted in demo.tokenizer.decode(said)
            assert wanted not in demo.tokenizer.decode(said[:-1])
            assert (stream.stats.finish_reason, stream.stats.stop_string) == ("stop", wanted)
            assert session.tokens == prompt + said


@pytest.mark.parametrize("stop", [[""], [3], 3, None])
def test_stop_strings_that_are_none_are_refused(model, stop):
    with pytest.raises(gn.InvalidArgument, match="stop"):
        model.session().generate([1], stop=stop)


def test_a_cancelled_task_leaves_no_token_that_nobody_was_given(model, ids):
    """And no descriptor, and nothing of its event loop."""

    async def main():
        given = []

        async def read():
            async for token in session.generate(ids, stop_ids=[]):
                given.append(token.id)

        task = asyncio.create_task(read())
        while len(given) < 3:
            await asyncio.sleep(0.0005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.02)
        return given

    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        session = model.session()
        given = asyncio.run(main())
        assert session.tokens == [*ids, *given]
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before
