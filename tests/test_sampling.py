"""gptoss_native.Sampling: what is drawn, against `sample` of the specification.

A model of few tokens gives one fixed row of logits; every draw is a fresh session's first token,
under seeds 0, 1, 2, ...: the outcome is the same in every run of the tests.
"""

import itertools
import json
import math
import threading

import gptoss_native as gn
import numpy as np
import pytest
from random_checkpoint import COMMON, SHAPES, random_tensors, write_checkpoint, write_safetensors
from reference import sample

VOCAB = 24
PROMPT = [3, 1, 4, 1, 5]
DRAWS = 2000
OPTIONS = [
    {},
    {"temperature": 0.5},
    {"temperature": 3.0},
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": VOCAB},
    {"top_k": 10**6},
    {"top_p": 0.05},
    {"top_p": 0.6},
    {"top_p": 0.999},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"temperature": 1.7, "top_k": 9, "top_p": 0.8, "min_p": 0.15},
    {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.8},
    {"repetition_penalty": 0.5, "top_k": 6},
    {"logit_bias": {0: 3.0, 7: -2.5, 23: 1.5}, "top_k": 12},
    {"logit_bias": {2: 1e6, 9: 1e6 - 1}},
    {"logit_bias": dict.fromkeys(range(20), -1e6)},
]
# A model whose step takes the emulated device five milliseconds.
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "num_experts": 2,
    "experts_per_token": 1,
}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


def shortened(options):
    """Name a test by its options."""
    return str(options)[:50]


@pytest.fixture(scope="module")
def model(config):
    with gn.Model.random(config(vocab_size=VOCAB), seed=1, threads=1) as made:
        yield made


def small_model(config, device, vocab_size=VOCAB):
    sizes = config(vocab_size=vocab_size, **SMALL)
    return gn.Model.random(sizes, seed=1, threads=1, precision="exact", device=device)


@pytest.fixture(scope="module", params=DEVICES)
def exact(request, config):
    """For texts whose tokens are checked against the rows of a run that feeds them back."""
    if request.param == "cuda":
        with small_model(config, request.getfixturevalue("cuda_device")) as made:
            yield made
        return
    with gn.Model.random(config(vocab_size=VOCAB), seed=1, threads=1, precision="exact") as made:
        yield made


@pytest.fixture(scope="module", params=[VOCAB, 5003])
def both(request, config, cuda_device):
    """The same small model on the processor and on CUDA."""
    with (
        small_model(config, "cpu", request.param) as cpu,
        small_model(config, cuda_device, request.param) as cuda,
    ):
        yield cpu, cuda


@pytest.fixture(scope="module")
def row(model):
    """The logits after PROMPT, which every draw is from: float64 of the float32 computed."""
    with model.session() as session:
        return session.logits(PROMPT)[-1].astype(np.float64)


def first_token(model, **sampling):
    with model.session() as session:
        return next(session.generate(PROMPT, max_new_tokens=1, sampling=gn.Sampling(**sampling)))


def text(model, count=40, **sampling):
    with model.session() as session:
        stream = session.generate(PROMPT, max_new_tokens=count, sampling=gn.Sampling(**sampling))
        return [token.id for token in stream]


def last_row(model, ids=PROMPT):
    with model.session() as session:
        return session.logits(ids)[-1].astype(np.float64)


def log_softmax(row):
    return row - row.max() - np.log(np.exp(row - row.max()).sum())


# The distribution


@pytest.mark.parametrize("options", OPTIONS, ids=shortened)
def test_draws_have_the_frequencies_of_the_specification(model, row, options):
    ids, p = sample(row, PROMPT, **options)
    counts = np.zeros(VOCAB, int)
    for seed in range(DRAWS):
        counts[first_token(model, seed=seed, **options).id] += 1
    assert counts[ids].sum() == DRAWS, f"{np.flatnonzero(counts)} drawn, {sorted(ids)} allowed"
    sigma = np.sqrt(DRAWS * p * (1 - p))
    # Where one or two draws are expected the distribution is Poisson's, with a longer tail.
    assert np.all(np.abs(counts[ids] - DRAWS * p) <= 5 * sigma + 3)


@pytest.mark.cuda
@pytest.mark.parametrize("options", OPTIONS, ids=shortened)
def test_a_seed_draws_on_cuda_what_it_draws_on_the_processor(both, options):
    """Of this seed no draw falls within the devices' difference of the edge of a token."""
    cpu, cuda = (text(model, seed=11, **options) for model in both)
    assert cuda == cpu


def chi_square_is_likely(pairs):
    """Whether pairs of ids look uniform: chi square within 6 of its standard deviations."""
    counts = np.zeros((VOCAB, VOCAB))
    np.add.at(counts, tuple(np.transpose(pairs)), 1)
    expected = len(pairs) / counts.size
    freedom = counts.size - 1
    chi_square = ((counts - expected) ** 2 / expected).sum()
    return abs(chi_square - freedom) < 6 * math.sqrt(2 * freedom)


def test_draws_of_neighbouring_positions_and_seeds_are_independent(model):
    uniform = {"temperature": 1e6}
    along = text(model, 4000, seed=0, **uniform)
    assert chi_square_is_likely(list(itertools.pairwise(along)))
    assert chi_square_is_likely([text(model, 2, seed=seed, **uniform) for seed in range(4000)])
    first = [first_token(model, seed=seed, **uniform).id for seed in range(4001)]
    assert chi_square_is_likely(list(itertools.pairwise(first)))


def test_temperature_zero_takes_the_best_and_the_lower_id_of_a_tie(exact):
    model, row = exact, last_row(exact)
    for seed in range(20):
        assert first_token(model, temperature=0, seed=seed).id == row.argmax()
    for tied in ([5, 20], [20, 5], [0, 23, 11]):
        bias = {token: 30.0 - float(row[token]) for token in tied}  # exact: float32 values
        assert sample(row, logit_bias=bias, temperature=0)[0] == [min(tied)]
        assert first_token(model, temperature=0, logit_bias=bias).id == min(tied)


def test_a_bias_on_every_token_changes_no_choice(exact):
    model = exact
    for bias in (100.0, 1e6, -1e6):
        for options in ({"temperature": 0}, {"temperature": 0.05, "seed": 1}, {"seed": 2}):
            shifted = text(model, logit_bias=dict.fromkeys(range(VOCAB), bias), **options)
            assert shifted == text(model, **options)


def test_ties_at_the_edge_of_top_k_go_to_the_lower_ids(exact):
    model, row = exact, last_row(exact)
    bias = {token: 30.0 - float(row[token]) for token in (4, 8, 15, 16)}
    drawn = {first_token(model, top_k=2, seed=seed, logit_bias=bias).id for seed in range(60)}
    assert drawn == {4, 8}


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.3},
        {"repetition_penalty": 0.8},
        {"presence_penalty": 1.5},
        {"presence_penalty": -0.7},
        {"frequency_penalty": 0.4},
        {"frequency_penalty": -0.2},
        {"repetition_penalty": 1.2, "presence_penalty": 0.3, "frequency_penalty": 0.6},
        {"logit_bias": {6: 1.0, 12: 2.0}, "repetition_penalty": 1.5, "frequency_penalty": 0.3},
    ],
    ids=shortened,
)
def test_penalties_choose_the_ids_of_the_specification(exact, options):
    """Token by token over a text long enough to repeat itself."""
    said = text(exact, 60, temperature=0, **options)
    rows = exact.session().logits(PROMPT + said)[len(PROMPT) - 1 : -1]
    want = [
        sample(row, PROMPT, said[:index], temperature=0, **options)[0].tolist()
        for index, row in enumerate(rows)
    ]
    assert [[token] for token in said] == want
    assert said != rows.argmax(axis=1).tolist()


def test_presence_and_frequency_forget_earlier_calls_and_repetition_does_not(exact):
    with exact.session() as session:
        list(session.generate(PROMPT, max_new_tokens=20, sampling=gn.Sampling(temperature=0)))
        for name in ("presence_penalty", "frequency_penalty", "repetition_penalty"):
            options = {"temperature": 0, name: 50.0}
            (row,) = exact.session().logits(session.tokens)[-1:]
            want = sample(row, session.tokens, **options)[0].tolist()
            (token,) = session.generate(max_new_tokens=1, sampling=gn.Sampling(**options))
            assert [token.id] == want


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1e300},
        {"repetition_penalty": 1e-300},
        {"repetition_penalty": 1e6},
        {"repetition_penalty": 1e-6},
        {"presence_penalty": 1e308},
        {"presence_penalty": -1e308},
        {"presence_penalty": 1e6, "frequency_penalty": 1e6},
        {"presence_penalty": -1e6, "frequency_penalty": -1e6},
        {"frequency_penalty": 1e306},
        {"temperature": 5e-324},
        {"temperature": 1e308},
        {"top_p": 5e-324},
        {"min_p": 5e-324, "top_k": 2**31 - 1},
        {"repetition_penalty": 1e6, "logit_bias": dict.fromkeys(range(VOCAB), -1e6)},
        {"repetition_penalty": 1e-6, "logit_bias": dict.fromkeys(range(VOCAB), 1e6)},
    ],
    ids=shortened,
)
def test_extreme_values_are_refused_or_choose_as_the_specification_says(
    run_python, config, options
):
    code = """
import ast, json, sys
import gptoss_native as gn
from reference import sample
model = gn.Model.random(json.loads(sys.argv[1]), seed=1, threads=1, precision="exact")
options, prompt = ast.literal_eval(sys.argv[2]), [3, 1, 4, 1, 5]
try:
    sampling = gn.Sampling(seed=0, logprobs=3, **options)
except gn.InvalidArgument:
    sys.exit()
stream = model.session().generate(prompt, max_new_tokens=60, sampling=sampling)
said = [token.id for token in stream]
rows = model.session().logits(prompt + said)[len(prompt) - 1 : -1]
for index, row in enumerate(rows):
    allowed = sample(row, prompt, said[:index], **options)[0]
    assert said[index] in allowed, (index, said[index], allowed)
"""
    run_python(code, json.dumps(config(vocab_size=VOCAB)), options)


@pytest.mark.cuda
@pytest.mark.parametrize("vocab", [9001, 4096])
def test_logits_that_are_all_equal_are_taken_by_rising_id_on_cuda(cuda_device, tmp_path, vocab):
    """More ties than the sample stage lists of a bin."""
    shape = {key: value for key, value in SMALL.items() if "expert" not in key}
    shape |= {"num_local_experts": 2, "num_experts_per_tok": 1, "vocab_size": vocab}
    path = write_checkpoint(tmp_path, "tiny", 1, shards=1, index=False, **shape)
    tensors = random_tensors(COMMON | SHAPES["tiny"] | shape, 1)
    tensors["lm_head.weight"][:] = 0
    write_safetensors(path / "model.safetensors", tensors)
    with gn.Model.load(path, device=cuda_device) as model:
        assert first_token(model, temperature=0).id == 0
        token = first_token(model, top_k=3, seed=2, logprobs=1024)
        assert token.id < 3
        assert [other for other, _ in token.top_logprobs] == list(range(1024))
        assert token.logprob == pytest.approx(-math.log(vocab), abs=1e-5)
        drawn = {first_token(model, top_k=3, seed=seed).id for seed in range(30)}
        assert drawn == {0, 1, 2}
        last = [first_token(model, top_p=0.5, seed=seed).id for seed in range(30)]
        assert vocab * 0.4 < max(last) <= math.ceil(vocab * 0.5)
        free = [first_token(model, seed=seed).id for seed in range(30)]
        assert max(free) > vocab * 0.8


@pytest.mark.cuda
@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1e6},
        {"repetition_penalty": 1e-6},
        {"presence_penalty": 1e6, "frequency_penalty": 1e6},
        {"presence_penalty": -1e6, "frequency_penalty": -1e6},
        {"temperature": 5e-324},
        {"temperature": 1e308},
        {"top_p": 5e-324},
        {"min_p": 5e-324, "top_k": 2**31 - 1},
        {"repetition_penalty": 1e6, "logit_bias": dict.fromkeys(range(VOCAB), -1e6)},
        {"repetition_penalty": 1e-6, "logit_bias": dict.fromkeys(range(VOCAB), 1e6)},
    ],
    ids=shortened,
)
def test_extreme_values_choose_on_cuda_as_the_specification_says(both, options):
    _, cuda = both
    said = text(cuda, 25, seed=0, **options)
    rows = cuda.session().logits(PROMPT + said)[len(PROMPT) - 1 : -1]
    with np.errstate(over="ignore"):
        allowed = [sample(row, PROMPT, said[:i], **options)[0] for i, row in enumerate(rows)]
    assert all(token in ids for token, ids in zip(said, allowed, strict=True))


# Log-probabilities


@pytest.mark.cuda
@pytest.mark.parametrize("count", [1, 20, 1024])
def test_logprobs_on_cuda_are_those_of_the_processor(both, count):
    cpu, cuda = (
        first_token(model, logprobs=min(count, last_row(model).size), seed=4) for model in both
    )
    assert cuda.id == cpu.id
    assert cuda.logprob == pytest.approx(cpu.logprob, abs=1e-4)
    assert [t for t, _ in cuda.top_logprobs][:20] == [t for t, _ in cpu.top_logprobs][:20]
    got, want = ([p for _, p in token.top_logprobs] for token in (cuda, cpu))
    assert got == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize("options", [{}, {"temperature": 0}, {"temperature": 2.0, "top_k": 3}])
@pytest.mark.parametrize("count", [0, 1, 5, VOCAB])
def test_logprobs_are_of_the_models_own_distribution(exact, options, count):
    model, row = exact, last_row(exact)
    want = log_softmax(row)
    bias = {23: 4.0, int(row.argmax()): -9.0}
    token = first_token(model, logprobs=count, seed=1, logit_bias=bias, **options)
    assert token.logprob == pytest.approx(want[token.id], abs=1e-4)
    assert len(token.top_logprobs) == count
    best = np.argsort(-want, kind="stable")[:count]
    assert [other for other, _ in token.top_logprobs] == best.tolist()
    assert [p for _, p in token.top_logprobs] == pytest.approx(want[best], abs=1e-4)


# Seeds


@pytest.fixture(scope="module")
def busy_texts(model):
    """Texts of 10 seeds: alone, then each on its thread, beside another model at work."""
    seeds = [0, 1, 2, 3, 4, 5, 2**31, 2**32, 2**63, 2**64 - 1]
    alone = [text(model, seed=seed) for seed in seeds]
    together = {}

    def work(seed):
        together[seed] = text(model, seed=seed)

    with gn.Model.random(seed=9, threads=1) as other:
        works = [threading.Thread(target=work, args=(seed,)) for seed in seeds]
        works.append(threading.Thread(target=lambda: other.session().prefill([1] * 500)))
        for thread in works:
            thread.start()
        for thread in works:
            thread.join()
    return alone, [together[seed] for seed in seeds]


def test_a_seed_gives_the_same_text_whatever_runs_beside_it(busy_texts):
    alone, together = busy_texts
    assert together == alone


def test_other_seeds_give_other_texts(busy_texts):
    texts = [tuple(said) for said in busy_texts[0]]
    assert len(set(texts)) == len(texts)


def test_the_seed_in_the_stats_gives_an_unseeded_text_again(model):
    texts = []
    for _ in range(4):
        with model.session() as session:
            stream = session.generate(PROMPT, max_new_tokens=40)
            texts.append([token.id for token in stream])
            seed = stream.stats.seed
        assert 0 <= seed < 2**64
        assert text(model, seed=seed) == texts[-1]
    assert len({tuple(said) for said in texts}) == 4


def test_a_seed_given_is_the_seed_reported(model):
    for seed in (0, 7, 2**64 - 1):
        stream = model.session().generate([1], max_new_tokens=1, sampling=gn.Sampling(seed=seed))
        assert stream.stats.seed == seed


@pytest.mark.parametrize(
    "options",
    [
        {"top_p": 0.5},
        {"top_p": 0.9},
        {"top_p": 0.95, "temperature": 0.6},
        {"top_p": 0.75, "min_p": 0.02},
        {"min_p": 0.05},
        {"top_k": 40, "top_p": 0.8, "min_p": 0.02},
    ],
)
def test_what_is_dropped_early_is_what_would_be_dropped(config, options):
    """A bias of nothing takes the path that lists all tokens before it drops any."""
    with gn.Model.random(config("tiny", vocab_size=5000), seed=8) as model:
        for seed in range(12):
            said = []
            for bias in ({}, {0: 0.0}):
                sampling = gn.Sampling(seed=seed, logit_bias=bias, **options)
                with model.session() as session:
                    stream = session.generate([seed], max_new_tokens=40, sampling=sampling)
                    said.append([token.id for token in stream])
            assert said[0] == said[1]
