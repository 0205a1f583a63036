"""Sessions on CUDA: the same bits however a conversation is cut and whatever runs beside it."""

import gptoss_native as gn
import numpy as np
import pytest
from conftest import run_threads

pytestmark = pytest.mark.cuda


@pytest.fixture(scope="module")
def ids(some_ids):
    return some_ids(150, 331)


@pytest.fixture(scope="module", params=["fast", "exact", "int8"])
def cuda_options(request, cuda_device, config):
    """Of a model that takes the emulated device 20 ms a step: a windowed layer and a full one."""
    small = {"intermediate_size": 32, "num_experts": 6, "experts_per_token": 2}
    sizes = config("tiny", num_hidden_layers=2, vocab_size=331, **small)
    options = {"dense": "int8"} if request.param == "int8" else {"precision": request.param}
    return {"shape": sizes, "seed": 7, "device": cuda_device, **options}


@pytest.fixture(scope="module")
def cuda_model(cuda_options):
    with gn.Model.random(limits=gn.Limits(prefix_bytes=0), **cuda_options) as made:
        yield made


def test_the_length_of_the_pieces_does_not_change_a_bit_on_cuda(cuda_model, ids):
    with cuda_model.session() as session:
        want = session.logits(ids)
    with cuda_model.session() as session:
        at = 0
        for piece in (1, 2, 1, 1, 15, 16, 17, 63, 1, 33):
            assert np.array_equal(session.logits(ids[at : at + piece]), want[at : at + piece])
            at += piece
    with cuda_model.session() as session:
        session.prefill(ids[:131])
        assert np.array_equal(session.logits(ids[131:150]), want[131:])


def generated(session, ids=(), count=6, **sampling):
    stream = session.generate(ids, max_new_tokens=count, sampling=gn.Sampling(**sampling))
    return [(token.id, token.logprob, token.top_logprobs) for token in stream]


def converse_on_cuda(session, ids, turn):
    """One short conversation, some of its options chosen by its turn; yields between steps."""
    out = [session.logits(ids[:9]).tobytes()]
    yield out
    options = [{"temperature": 0.0}, {"top_p": 0.9}, {"repetition_penalty": 1.2, "logprobs": 3}]
    for start, more in ((9, options[turn]), (12, {})):
        session.prefill(ids[start : start + 3])
        yield out
        stream = session.generate(max_new_tokens=3, sampling=gn.Sampling(seed=turn, **more))
        for token in stream:
            out.append((token.id, token.logprob, token.top_logprobs))
            yield out


def test_sessions_side_by_side_on_cuda_are_each_what_they_are_alone(cuda_model, ids):
    prompts = [ids, ids[50:], ids[80:]]
    alone = [
        list(converse_on_cuda(cuda_model.session(), prompt, turn))[-1]
        for turn, prompt in enumerate(prompts)
    ]
    turns = [
        converse_on_cuda(cuda_model.session(), prompt, turn) for turn, prompt in enumerate(prompts)
    ]
    together = [None] * len(turns)
    for _ in range(12):
        together = [next(turn, held) for turn, held in zip(turns, together, strict=True)]
    assert together == alone
    together = [None] * len(prompts)

    def work(turn):
        session = cuda_model.session()
        together[turn] = list(converse_on_cuda(session, prompts[turn], turn))[-1]

    run_threads(*(lambda turn=turn: work(turn) for turn in range(len(prompts))))
    assert together == alone
    assert all(len(out) == 7 for out in alone)


def test_recorded_steps_give_the_bits_of_the_first_ones(cuda_model, cuda_options, ids):
    """The first decode step of a model is not recorded, later ones are replayed."""
    with gn.Model.random(limits=gn.Limits(prefix_bytes=0), **cuda_options) as fresh:
        want = generated(fresh.session(), ids[:9], seed=5)
        assert generated(fresh.session(), ids[:9], seed=5) == want
    for _ in range(2):
        assert generated(cuda_model.session(), ids[:9], seed=5) == want
    with cuda_model.session() as session:
        said = generated(session, ids[:9], count=1, seed=5)
        for count in (2, 1, 1, 1):
            said += generated(session, count=count, seed=5)
    assert said == want


def test_a_stream_left_on_cuda_leaves_nothing_behind(cuda_model, ids):
    """A step may have begun ahead of the token asked for last; what comes next decides."""
    want = generated(cuda_model.session(), ids[:9], seed=5)
    stop = want[2][0]
    with cuda_model.session() as fresh:
        before = generated(fresh, ids[:9], count=3, seed=5)
        fed = fresh.logits(ids[20:24])
        after = generated(fresh, count=3, temperature=0.0)
    for leave in ("drop", "cancel", "stop"):
        session = cuda_model.session()
        options = {"sampling": gn.Sampling(seed=5), "max_new_tokens": 100}
        stream = session.generate(ids[:9], stop_ids=[stop] if leave == "stop" else [], **options)
        said = [next(stream) for _ in range(3)]
        assert [(t.id, t.logprob, t.top_logprobs) for t in said] == before
        if leave == "cancel":
            stream.cancel()
        assert np.array_equal(session.logits(ids[20:24]), fed)
        assert generated(session, count=3, temperature=0.0) == after
        session.close()


def test_a_context_on_cuda_can_be_filled_exactly_and_no_further(cuda_model, ids):
    session = cuda_model.session(max_context=20)
    with pytest.raises(gn.InvalidArgument, match="20"):
        session.prefill(ids[:21])
    stream = session.generate(ids[:15], sampling=gn.Sampling(seed=1), stop_ids=[])
    assert len(list(stream)) == 5
    assert stream.stats.finish_reason == "length"
    assert session.position == 20
    with pytest.raises(gn.InvalidArgument, match="20"):
        session.logits([1])
