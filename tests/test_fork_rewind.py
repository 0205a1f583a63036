"""Sessions that fork and go back: the same bits as a session that was never anything else."""

import gptoss_native as gn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

PROBE = [5, 6, 7]
LENGTHS = [1, 7, 8, 9, 127, 128, 129, 300, 1000]


def cold_logits(model, tokens):
    with model.session() as session:
        session.prefill(tokens)
        return session.logits(PROBE)


@pytest.fixture(scope="module", params=["fast", "exact", "no windows"])
def model(request, config):
    options = {"precision": "exact"} if request.param == "exact" else {}
    # A window of 8 wraps soon; deterministic, so that a cold session may stand for a generated one.
    sizes = config("tiny")
    if request.param == "no windows":
        sizes["sliding_window"] = 4096
    options["limits"] = gn.Limits(prefix_bytes=0)  # a cold session is to be one
    with gn.Model.random(sizes, seed=3, deterministic=True, **options) as made:
        yield made


def some(count, seed=0):
    return np.random.default_rng(seed).integers(0, 512, count).tolist()


def texts(stream):
    return [(token.id, token.logprob) for token in stream]


@pytest.mark.parametrize("length", [1, 127, 128, 129, 1000])
def test_a_fork_goes_on_as_the_session_would_have(model, length):
    sampling = gn.Sampling(seed=4)
    alone = model.session()
    alone.prefill(some(length))
    want = texts(alone.generate(some(3, 1), max_new_tokens=40, sampling=sampling, stop_ids=[]))
    first = model.session()
    first.prefill(some(length))
    twin = first.fork()
    assert twin.tokens == first.tokens == some(length)
    # Each writes into the page that both share before the other does.
    for session in (twin, first):
        got = session.generate(some(3, 1), max_new_tokens=40, sampling=sampling, stop_ids=[])
        assert texts(got) == want
        assert got.stats.prefilled_tokens == 3
    assert np.array_equal(first.logits(PROBE), twin.logits(PROBE))


def test_what_a_fork_does_is_not_seen_by_the_other(model):
    first = model.session()
    list(first.generate(some(200), max_new_tokens=20, sampling=gn.Sampling(seed=1), stop_ids=[]))
    held = first.tokens
    twins = [first.fork() for _ in range(3)]
    for seed, twin in enumerate(twins):
        twin.rewind(190 + seed)
        twin.prefill(some(300, seed))
    twins[1].close()
    assert first.tokens == held
    assert np.array_equal(first.logits(PROBE), cold_logits(model, held))
    for seed in (0, 2):
        expected = cold_logits(model, held[: 190 + seed] + some(300, seed))
        assert np.array_equal(twins[seed].logits(PROBE), expected)


def test_a_fork_outlives_the_session_it_came_from(model):
    first = model.session()
    first.prefill(some(500))
    twin = first.fork()
    first.close()
    with model.session() as other:  # takes the memory that came free
        other.prefill(some(500, 9))
    assert np.array_equal(twin.logits(PROBE), cold_logits(model, some(500)))


def test_an_empty_session_forks(model):
    twin = model.session(max_context=77).fork()
    assert (twin.position, twin.max_context) == (0, 77)
    assert np.array_equal(twin.logits(PROBE), cold_logits(model, [])[-3:])


@pytest.mark.parametrize("back", [0, 1, 2, 119, 120, 128, 700, 1499, 1500])
def test_going_back_is_as_if_what_followed_had_never_been(model, back):
    session = model.session()
    session.prefill(some(1500))
    session.rewind(back)
    assert session.tokens == some(1500)[:back]
    session.prefill(some(50, 1))
    expected = cold_logits(model, some(1500)[:back] + some(50, 1))
    assert np.array_equal(session.logits(PROBE), expected)


def test_streams_end_where_their_session_goes_back(model):
    session = model.session()
    stream = session.generate(some(20), max_new_tokens=50, stop_ids=[])
    for _ in range(5):
        next(stream)
    session.rewind(22)
    assert list(stream) == []
    assert stream.stats.finish_reason == "cancelled"
    assert session.position == 22


@pytest.mark.parametrize("position", [-1, 11, 2**70, "3", 1.5, None])
def test_a_position_that_is_not_there_is_refused(model, position):
    session = model.session()
    session.prefill(some(10))
    with pytest.raises(gn.InvalidArgument, match="position"):
        session.rewind(position)
    assert session.tokens == some(10)


def test_closed_sessions_neither_fork_nor_go_back(model):
    session = model.session()
    session.close()
    for call in (session.fork, lambda: session.rewind(0)):
        with pytest.raises(gn.InvalidArgument, match="closed"):
            call()


def test_dropping_a_chain_of_thought_computes_nothing_again(config):
    """Ten turns whose thoughts, longer than the ring, are dropped after each answer."""
    with gn.Model.random(config("tiny"), seed=5, threads=1) as model:
        session = model.session()
        for turn in range(10):
            question = some(60, turn)
            start = session.position
            stream = session.generate(question, max_new_tokens=1200, stop_ids=[])
            thoughts = [token.id for token in stream]
            assert stream.stats.prefilled_tokens <= len(question) + 128
            assert stream.stats.cached_tokens + stream.stats.prefilled_tokens == start + 60
            session.rewind(start + len(question))
            session.prefill(thoughts[-20:])


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["feed", "generate", "fork", "rewind", "close"]),
        st.sampled_from(LENGTHS),
        st.floats(0, 1),
        st.integers(0, 3),
    ),
    max_size=14,
)


@settings(max_examples=25, deadline=None)
@given(steps=STEPS)
def test_any_history_gives_the_bits_of_a_cold_session(model, steps):
    sessions = [model.session()]
    held = [[]]
    for number, (step, length, share, which) in enumerate(steps):
        at = which % len(sessions)
        session, tokens = sessions[at], held[at]
        if step in ("feed", "generate") and len(tokens) + length > 3000:
            continue
        if step == "feed":
            session.prefill(some(length, number))
            tokens += some(length, number)
        elif step == "generate":
            count = min(length, 30)
            sampling = gn.Sampling(seed=number)
            options = {"max_new_tokens": count, "sampling": sampling, "stop_ids": []}
            tokens += [number]
            tokens += [token.id for token in session.generate([number], **options)]
        elif step == "fork" and len(sessions) < 4:
            sessions.append(session.fork())
            held.append(list(tokens))
        elif step == "rewind":
            del tokens[int(share * len(tokens)) :]
            session.rewind(len(tokens))
        elif step == "close" and len(sessions) > 1:
            sessions.pop(at).close()
            held.pop(at)
    for session, tokens in zip(sessions, held, strict=True):
        assert session.tokens == tokens
        assert np.array_equal(session.logits(PROBE), cold_logits(model, tokens))
        session.close()
