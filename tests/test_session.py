"""gptoss_native.Session: the same bits however a conversation is cut and whatever runs beside it.

Bits are compared, not closeness, wherever the arithmetic is the same; the float64 specification
says that they are the right ones.
"""

import threading

import gptoss_native as gn
import numpy as np
import pytest
from conftest import run_threads
from hypothesis import given, settings
from hypothesis import strategies as st
from make_goldens import relative_l2
from random_checkpoint import write_checkpoint
from reference import (
    Reference,
    attention,
    attn_out,
    embed,
    logits,
    moe_down,
    moe_up,
    qkv,
    router,
)

GREEDY = gn.Sampling(temperature=0.0)
EXACT_ERROR = 1e-5
LONG = 700  # of a window of 128: its ring comes round more than once
WINDOWED = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}


@pytest.fixture(scope="module", params=["fast", "exact", "int8", "odd"])
def model(request, config):
    """A window of 128 between full layers, computed in each way; odd has a window of 5."""
    sizes = config("odd") if request.param == "odd" else config("wide", **WINDOWED)
    options = {"exact": {"precision": "exact"}, "int8": {"dense": "int8"}}.get(request.param, {})
    with gn.Model.random(sizes, seed=7, limits=gn.Limits(prefix_bytes=0), **options) as made:
        yield made


@pytest.fixture
def session():
    """Of the random model "tiny": 512 tokens known, 8 of them seen by a windowed layer."""
    with gn.Model.random(threads=1) as made:
        yield made.session()


@pytest.fixture(scope="module")
def ids(some_ids):
    return some_ids(LONG, 331)


@pytest.fixture(scope="module")
def want(model, ids):
    return logits_of(model, ids)


def logits_of(model, ids):
    with model.session() as session:
        return session.logits(ids)


# Bits


@pytest.mark.parametrize("step", [1, 7, 127, 128, 129, 300])
def test_the_length_of_the_pieces_does_not_change_a_bit(model, ids, want, step):
    with model.session() as session:
        got = [session.logits(ids[at : at + step]) for at in range(0, LONG, step)]
    assert np.array_equal(np.concatenate(got), want)


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.tuples(st.integers(0, 200), st.booleans()), max_size=12))
def test_no_way_of_cutting_a_prompt_changes_a_bit(model, ids, want, cuts):
    with model.session() as session:
        at = 0
        for length, quiet in [*cuts, (LONG, False)]:
            piece = ids[at : at + length]
            if quiet:
                session.prefill(piece)
            else:
                assert np.array_equal(session.logits(piece), want[at : at + len(piece)])
            at += len(piece)
        assert session.tokens == ids


@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_threads_and_pieces_do_not_change_a_bit(config, ids, precision, instruction_set):
    got = []
    for threads, step in ((1, 200), (2, 1), (3, 129), (5, 7)):
        options = {"seed": 7, "threads": threads, "precision": precision}
        with gn.Model.random(
            config("wide", **WINDOWED), limits=gn.Limits(prefix_bytes=0), **options
        ) as model:
            session = model.session()
            rows = [session.logits(ids[at : min(at + step, 200)]) for at in range(0, 200, step)]
            stream = session.generate(max_new_tokens=20, sampling=gn.Sampling(seed=3))
            answer = [(token.id, token.logprob) for token in stream]
        got.append((np.concatenate(rows).tobytes(), answer))
    assert got[1:] == got[:1] * 3


@pytest.mark.parametrize("dense", ["bf16", "int8"])
def test_deterministic_gives_generated_and_fed_text_the_same_bits(
    config, ids, dense, instruction_set
):
    options = {"seed": 7, "dense": dense, "deterministic": True}
    with gn.Model.random(
        config("wide", **WINDOWED), limits=gn.Limits(prefix_bytes=0), **options
    ) as model:
        assert model.info()["deterministic"]
        session = model.session()
        list(session.generate(ids[:150], max_new_tokens=40, sampling=gn.Sampling(seed=5)))
        after = session.logits(ids[150:160])
        assert np.array_equal(after, logits_of(model, session.tokens)[-10:])


def test_forms_differ_by_rounding_alone(config, ids, instruction_set):
    got = []
    for deterministic in (True, False):
        sizes = config("wide", **WINDOWED)
        with gn.Model.random(
            sizes, seed=7, limits=gn.Limits(prefix_bytes=0), deterministic=deterministic
        ) as model:
            got.append(logits_of(model, ids[:60]))
    # Random experts flip where their scores are close: bfloat16 alone leaves up to 5.6e-2.
    assert relative_l2(got[1], got[0]) < 0.1


def converse(session, ids):
    """Prompts and answers in turns; yields between any two steps, returns all that came out."""
    out = []
    for start in range(0, 400, 130):
        out.append(session.logits(ids[start : start + 90]).tobytes())
        yield out
        session.prefill(ids[start + 90 : start + 120])
        yield out
        sampling = gn.Sampling(seed=start, temperature=0.8, top_p=0.9)
        for token in session.generate(max_new_tokens=10, sampling=sampling):
            out.append((token.id, token.logprob))
            yield out


def test_interleaved_sessions_are_each_what_they_are_alone(model, ids):
    prompts = [ids, ids[::-1], ids[1:] + ids[:1]]
    alone = []
    for prompt in prompts:
        with model.session() as session:
            alone.append(list(converse(session, prompt))[-1])
    turns = [converse(model.session(), prompt) for prompt in prompts]
    together = [None] * len(turns)
    while any(turns):
        for index, turn in enumerate(turns):
            if turn:
                together[index] = next(turn, together[index])
                turns[index] = turn if turn.gi_frame else None
    assert together == alone
    assert alone[0] != alone[1]


def test_sessions_on_several_threads_are_each_what_they_are_alone(model, ids):
    prompts = [ids[n:] + ids[:n] for n in range(4)]
    alone = [list(converse(model.session(), prompt))[-1] for prompt in prompts]
    together = [None] * len(prompts)

    def work(index):
        together[index] = list(converse(model.session(), prompts[index]))[-1]

    run_threads(*(lambda index=index: work(index) for index in range(len(prompts))))
    assert together == alone


def test_threads_that_share_a_session_wait_for_each_other(model):
    session = model.session()
    run_threads(*(lambda n=n: session.prefill([n] * 40) for n in range(6)))
    order = session.tokens[::40]
    assert sorted(order) == list(range(6))
    assert session.tokens == [n for n in order for _ in range(40)]
    assert np.array_equal(session.logits([9]), logits_of(model, session.tokens)[-1:])


def test_rings_that_wrap_agree_with_the_specification(tmp_path, some_ids):
    path = write_checkpoint(tmp_path, "tiny", 11, sliding_window=37, num_hidden_layers=3)
    reference, ids = Reference(path), some_ids(400, 517)
    with gn.Model.load(path, precision="exact", threads=1) as model:
        session = model.session()
        got = np.concatenate([session.logits(ids[:50]), session.logits(ids[50:])])
        tokens = list(session.generate(max_new_tokens=150, sampling=GREEDY))
    want = reference.logits(session.tokens)
    assert relative_l2(got, want[:400]) < EXACT_ERROR
    rows = want[399:-1]
    assert [token.id for token in tokens] == rows.argmax(axis=1).tolist()
    logprobs = rows.max(axis=1) - np.log(np.exp(rows).sum(axis=1))
    assert [token.logprob for token in tokens] == pytest.approx(logprobs, abs=1e-4)


# The context's end


def test_the_last_positions_of_the_longest_context_are_the_specifications(tmp_path, some_ids):
    """One windowed layer: the last 40 positions need only the keys of those, at their angles."""
    sizes = {"hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 1}
    path = write_checkpoint(tmp_path, "tiny", 5, **sizes)
    ids = some_ids(131072, 517)
    with gn.Model.load(path, precision="exact") as model:
        session = model.session()
        session.prefill(ids[:-40])
        got = session.logits(ids[-40:])
        with pytest.raises(gn.InvalidArgument, match="131072"):
            session.prefill([1])
    model, positions = Reference(path), np.arange(131072 - 40, 131072)
    (w,) = model.layers
    x = embed(ids[-40:], model.embedding)
    q, k, v = qkv(
        x, w.attn_norm, w.qkv_weight, w.qkv_bias, positions, model.kv_heads, model.rotation
    )
    x = attn_out(x, attention(q, k, v, w.sinks, w.window), w.out_weight, w.out_bias)
    h, expert, weight = router(x, w.mlp_norm, w.gate_weight, w.gate_bias)
    x = moe_down(x, moe_up(h, expert, w.up, w.up_bias), expert, weight, w.down, w.down_bias)
    want = logits(x, model.norm, model.unembedding)
    assert relative_l2(got[w.window :], want[w.window :]) < EXACT_ERROR


def test_a_context_can_be_filled_exactly_and_no_further(model, ids, want):
    session = model.session(max_context=150)
    assert session.max_context == 150
    assert np.array_equal(session.logits(ids[:140]), want[:140])
    for use in (session.prefill, session.logits, session.generate):
        with pytest.raises(gn.InvalidArgument, match="150"):
            use(ids[140:151])
        assert (session.tokens, session.position) == (ids[:140], 140)
    assert np.array_equal(session.logits(ids[140:150]), want[140:150])
    for use in (session.prefill, session.logits, session.generate):
        with pytest.raises(gn.InvalidArgument, match="150"):
            use(ids[:1])
    assert session.tokens == ids[:150]


def test_generating_fills_a_context_exactly_and_is_refused_beforehand(model, ids):
    session = model.session(max_context=64)
    with pytest.raises(gn.InvalidArgument, match="64"):
        session.generate(ids[:60], max_new_tokens=5)
    assert session.position == 0
    assert len(list(session.generate(ids[:60], max_new_tokens=4))) == 4
    assert session.position == 64
    session = model.session(max_context=64)
    stream = session.generate(ids[:50])
    assert len(list(stream)) == 14
    assert stream.stats.finish_reason == "length"
    assert session.position == 64


def test_a_session_may_be_as_long_as_the_model_and_takes_memory_as_it_grows(session):
    assert session.max_context == 131072
    before = session.cache_bytes
    assert before < 2**20
    session.prefill([1] * 2000)
    assert session.cache_bytes > before


def test_logits_are_the_callers_own_array(session):
    first = session.logits([1, 2])
    assert first.dtype == np.float32
    assert first.shape == (2, 512)
    assert first.flags.writeable
    kept = first.copy()
    session.logits([3])
    session.close()
    assert np.array_equal(first, kept)


# Closing and interrupting


def test_a_closed_session_refuses_every_use(session):
    with session:
        stream = session.generate([1], max_new_tokens=9)
        next(stream)
        assert not session.closed
    session.close()
    assert session.closed
    for use in (
        lambda: session.prefill([1]),
        lambda: session.logits([1]),
        lambda: session.generate([1]),
        lambda: next(stream),
    ):
        with pytest.raises(gn.InvalidArgument, match="closed"):
            use()


def test_other_threads_run_while_a_prompt_is_computed(session):
    """Several turns of the GIL between the start and the end of one call."""
    for call in ("prefill", "logits"):
        started, done = threading.Event(), threading.Event()

        def work(started=started, done=done):
            started.wait()
            for _ in range(10):
                threading.Event().wait(1e-4)
            done.set()

        thread = threading.Thread(target=work)
        thread.start()
        started.set()
        getattr(session, call)([1] * 3000)
        assert done.is_set()
        thread.join()


def test_ctrl_c_ends_a_long_prompt_and_leaves_a_session_to_go_on_with(run_python):
    code = """
import os, signal, threading
import gptoss_native as gn
import numpy as np

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background job
model = gn.Model.random(threads=1)
session = model.session()
ids = np.random.default_rng(0).integers(0, 512, 130000).tolist()
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    session.prefill(ids)
    raise AssertionError("was not interrupted")
except KeyboardInterrupt:
    done = session.position
assert session.tokens == ids[:done]
assert 0 < done < len(ids)
rest = ids[done : done + 9]
with model.session() as cold:
    cold.prefill(ids[:done])
    assert np.array_equal(cold.logits(rest), session.logits(rest))
"""
    run_python(code)
