"""Session.generate(constraint=...): only what is allowed comes, accept() hears each token once, and
what goes wrong in one stream's constraint ends that stream alone.
"""

import asyncio
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import gptoss_native as gn
import numpy as np
import pytest
from constraint_kinds import GREEDY, PROMPT, VOCAB, Failing, Some, generate, ids_of
from reference import sample


@pytest.fixture(scope="module")
def model(small_model):
    return small_model


# What comes


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"seed": 1},
        {"seed": 2, "top_k": 4, "top_p": 0.9},
        {"seed": 3, "min_p": 0.1, "temperature": 2.0},
        {"temperature": 0.0, "repetition_penalty": 1.8, "logit_bias": {6: 2.0, 12: 3.0}},
        {"seed": 4, "logit_bias": dict.fromkeys(range(0, VOCAB, 2), 1e6), "logprobs": 5},
    ],
    ids=str,
)
def test_tokens_are_those_that_the_specification_leaves_of_the_allowed(model, options):
    constraint = Some(5)
    with model.session() as session:
        tokens = list(generate(session, constraint, 20, sampling=gn.Sampling(**options)))
    said = [token.id for token in tokens]
    constraint.check(said)
    rules = {key: value for key, value in options.items() if key not in ("seed", "logprobs")}
    rows = model.session().logits(PROMPT + said)[len(PROMPT) - 1 : -1].astype(np.float64)
    for at, (row, token) in enumerate(zip(rows, tokens, strict=True)):
        assert token.id in sample(row, PROMPT, said[:at], mask=constraint.allowed(at), **rules)[0]
        own = row - row.max() - np.log(np.exp(row - row.max()).sum())
        assert token.logprob == pytest.approx(own[token.id], abs=1e-3)
        best = np.argsort(-own, kind="stable")[: options.get("logprobs", 0)]
        assert [t for t, _ in token.top_logprobs] == best.tolist()


@pytest.mark.parametrize("sampling", [GREEDY, gn.Sampling(seed=3), gn.Sampling(seed=3, top_p=0.7)])
def test_a_constraint_that_allows_all_changes_nothing(model, sampling):
    everything = Some()
    everything.allowed = lambda _: np.ones(VOCAB, bool)
    want = list(generate(model.session(), None, sampling=sampling))
    assert list(generate(model.session(), everything, sampling=sampling)) == want
    everything.check([token.id for token in want])


def test_one_allowed_token_comes_whatever_its_likelihood(model):
    one = Some()
    one.allowed = lambda at: np.arange(VOCAB) == (at * 31) % VOCAB
    said = ids_of(generate(model.session(), one, 15))
    assert said == [(at * 31) % VOCAB for at in range(15)]


def test_stop_ids_are_accepted_and_end_the_stream(model):
    one = Some()
    one.allowed = lambda at: np.arange(VOCAB) == 40 + at
    stream = model.session().generate(PROMPT, stop_ids=[43], constraint=one)
    assert ids_of(stream) == one.accepted == [40, 41, 42, 43]
    assert stream.stats.finish_reason == "stop"
    assert len(one.asked) == 4


def test_the_array_is_the_callees_to_keep(model):
    class Keeping(Some):
        arrays = ()

        def mask(self, out):
            for array in self.arrays:
                array[:] = 0
            super().mask(out)
            self.arrays = (*self.arrays, out)

    constraint = Keeping()
    constraint.check(ids_of(generate(model.session(), constraint)))
    assert len({array.ctypes.data for array in constraint.arrays}) == len(constraint.arrays)


def test_a_stream_goes_on_in_forks_with_other_constraints(model):
    base, first = model.session(), Some(1)
    said = ids_of(generate(base, first, 6))
    forks = {seed: base.fork() for seed in (2, 3)}
    texts = {}
    for seed, session in forks.items():
        constraint = Some(seed)
        texts[seed] = ids_of(generate(session, constraint, 6, [], sampling=GREEDY))
        constraint.check(texts[seed])
        assert session.tokens == PROMPT + said + texts[seed]
    assert texts[2] != texts[3]
    again = ids_of(generate(base.fork(), Some(2), 6, [], sampling=GREEDY))
    assert again == texts[2]


# Many at a time


def job(seed):
    prompt = np.random.default_rng(seed).integers(0, VOCAB, 3 + 40 * (seed % 3)).tolist()
    constraint = Some(seed) if seed % 2 else None
    sampling = gn.Sampling(seed=seed, temperature=[1.0, 0.0][seed % 4 // 2])
    return prompt, constraint, {"sampling": sampling}


def answer(model, seed):
    prompt, constraint, options = job(seed)
    with model.session() as session:
        tokens = list(generate(session, constraint, 25, prompt, **options))
    if constraint:
        constraint.check([token.id for token in tokens])
    return tokens


@pytest.fixture(scope="module")
def alone(model):
    return [answer(model, seed) for seed in range(16)]


def test_constrained_and_free_sessions_get_together_what_they_get_alone(model, alone):
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda seed: answer(model, seed), range(16))) == alone


def test_streams_of_one_event_loop_get_what_they_get_alone(model, alone):
    async def one(seed):
        prompt, constraint, options = job(seed)
        tokens = []
        with model.session() as session:
            async for token in generate(session, constraint, 25, prompt, **options):
                tokens.append(token)
                assert not constraint or constraint.accepted[-1] == token.id
        return tokens

    async def all_of_them():
        return await asyncio.gather(*(one(seed) for seed in range(16)))

    assert asyncio.run(all_of_them()) == alone


def test_what_one_constraint_raises_ends_its_stream_alone(model, alone):
    barrier = threading.Barrier(12)

    def fine(seed):
        barrier.wait()
        return answer(model, seed)

    def failing(seed):
        error = OSError(seed)
        constraint = Failing(error, at=seed, method=["mask", "accept"][seed % 2])
        session = model.session()
        barrier.wait()
        stream, said = generate(session, constraint, 25), []
        with pytest.raises(OSError, match=str(seed)) as caught:
            said += [token.id for token in stream]
        assert caught.value is error
        assert session.tokens == PROMPT + constraint.accepted
        assert len(constraint.accepted) == seed

    with ThreadPoolExecutor(12) as pool:
        failures = [pool.submit(failing, seed) for seed in range(4)]
        got = list(pool.map(fine, range(8)))
        for one in failures:
            one.result(timeout=60)
    assert got == alone[:8]


# What it raises


class Unusual(BaseException):
    pass


@pytest.mark.parametrize("method", ["mask", "accept"])
@pytest.mark.parametrize("at", [0, 1, 5])
@pytest.mark.parametrize(
    "error", [ValueError("no"), Unusual(), KeyboardInterrupt(), SystemExit(3), gn.OutOfMemory("x")]
)
def test_an_exception_comes_out_as_it_is_and_the_session_goes_on(model, method, at, error):
    constraint = Failing(error, at, method)
    session = model.session()
    stream = generate(session, constraint)
    with pytest.raises(type(error)) as caught:
        list(stream)
    assert caught.value is error
    assert caught.traceback[-1].name == method
    assert stream.stats.finish_reason == "cancelled"
    assert stream.stats.generated_tokens == at
    assert next(stream, None) is None
    assert session.tokens == PROMPT + constraint.accepted
    rest = ids_of(generate(session, None, 4, [], sampling=GREEDY))
    assert session.tokens == PROMPT + constraint.accepted + rest
    error.__traceback__ = None  # the same object is raised for other devices


@pytest.mark.parametrize("error", [StopIteration, StopAsyncIteration])
def test_stop_iteration_does_not_pass_for_the_end(model, error):
    with pytest.raises(RuntimeError, match=error.__name__) as caught:
        list(generate(model.session(), Failing(error(), 2)))
    assert isinstance(caught.value.__cause__, error)

    async def main():
        async for _ in generate(model.session(), Failing(error(), 2)):
            pass

    with pytest.raises(RuntimeError, match=error.__name__):
        asyncio.run(main())


@pytest.mark.parametrize("at", [0, 3])
def test_a_mask_that_allows_nothing_is_an_error(model, at):
    """Bits past the vocabulary are no tokens."""
    constraint = Some()
    allowed = constraint.allowed
    constraint.allowed = lambda n: np.zeros(VOCAB, bool) if n == at else allowed(n)
    session = model.session()
    with pytest.raises(gn.Error, match=f"allows no token at position {len(PROMPT) + at}"):
        list(generate(session, constraint))
    assert session.position == len(PROMPT) + at


def test_nothing_is_kept_of_a_stream_that_has_gone(model):
    def run(error):
        constraint = Failing(error, 3)
        stream = generate(model.session(), constraint)
        constraint.stream = stream  # a cycle
        with pytest.raises(type(error)):
            list(stream)
        return weakref.ref(constraint), weakref.ref(error)

    class Weak(Exception):
        pass

    refs = run(Weak())
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


@pytest.mark.parametrize(
    "constraint",
    [object(), 5, "mask", Some, type("", (), {"mask": 1, "accept": 2})(), [Some()]],
    ids=lambda value: str(type(value)),
)
def test_what_is_no_constraint_is_refused_before_any_work(small_cpu, constraint):
    session = small_cpu.session()
    with pytest.raises(gn.InvalidArgument, match=r"constraint is .* mask and accept"):
        session.generate(PROMPT, constraint=constraint)
    assert session.position == 0


def test_a_mask_method_that_misunderstands_is_told_so(small_cpu):
    def with_mask(mask):
        constraint = Some()
        constraint.mask = mask
        return list(generate(small_cpu.session(), constraint))

    with pytest.raises(TypeError):
        with_mask(lambda: None)
    with pytest.raises(gn.InvalidArgument, match=r"returned .*wanted None"):
        with_mask(lambda out: np.ones_like(out))
    with pytest.raises(gn.InvalidArgument, match="shape"):
        with_mask(lambda out: out.resize(1, refcheck=False))
