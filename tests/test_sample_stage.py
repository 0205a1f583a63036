"""The sample stage alone, masks above all, against `sample` of the specification.

A row of a mask is one of: everything, one token, about half, all but the best; bits past the
vocabulary are set in all of them. Row i of a call draws at position i.
"""

import gptoss_native as gn
import numpy as np
import pytest
import reference
from constraint_kinds import SMALL
from gptoss_native import _core

ROWS = 8  # a decode step's on every device
OPTIONS = [
    {"temperature": 0.0},
    {},
    {"top_k": 3},
    {"top_p": 0.7},
    {"min_p": 0.2},
    {"temperature": 1.6, "top_k": 20, "top_p": 0.9, "min_p": 0.05},
    {"temperature": 0.0, "logit_bias": {0: 30.0, 5: 40.0}},
    {"logit_bias": {0: 6.0, 7: -2.0}, "repetition_penalty": 1.4, "presence_penalty": 0.5},
    {"top_p": 0.6, "logit_bias": {3: 1e6}},
]


class Bench:
    """The stage over logits of a vocabulary."""

    def __init__(self, config, device, vocab):
        self.model = gn.Model.random(
            config(**SMALL | {"vocab_size": vocab}), threads=1, device=device
        )
        self.stages = _core.Stages(self.model._core, decode=True)
        self.vocab = vocab
        self.rng = np.random.default_rng(vocab)

    def logits(self, rows=ROWS):
        return 3 * self.rng.standard_normal((rows, self.vocab)).astype(np.float32)

    def masks(self, logits):
        """Return bool [rows, vocab]."""
        out = self.rng.random(logits.shape) < 0.5
        out[:, self.rng.integers(self.vocab)] = True
        out[0] = True
        out[1] = np.arange(self.vocab) == self.vocab - 1
        if self.vocab > 1:
            out[2] = np.arange(self.vocab) != logits[2].argmax()
        return out

    def sample(self, logits, masks=None, seed=0, logprobs=0, seen=(), **options):
        """Return [(id, logprob)] of the rows, and of the most likely tokens."""
        sampling = _core.Sampling(seed=seed, logprobs=logprobs, **options)
        words = np.zeros(0, np.uint32) if masks is None else packed(masks)
        return self.stages.sample(logits, sampling, words, list(seen))


def packed(masks):
    rows, vocab = masks.shape
    bits = np.ones((rows, -vocab % 32 + vocab), bool)
    bits[:, :vocab] = masks
    return np.packbits(bits, axis=1, bitorder="little").view(np.uint32)


@pytest.fixture(params=[1, 31, 64, 77, 5003])
def bench(request, config, any_device):
    return Bench(config, any_device, request.param)


@pytest.fixture
def small_bench(config, any_device):
    return Bench(config, any_device, 77)


def log_softmax(rows):
    rows = np.float64(rows)
    rows = rows - rows.max(axis=1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: str(options)[:40])
def test_sample_takes_what_the_specification_allows(bench, options):
    fitting = {t: b for t, b in options.get("logit_bias", {}).items() if t < bench.vocab}
    options = options | {"logit_bias": fitting}
    seen = {0: 0, 9: 2, 30: 1}
    counts = [(t, n) for t, n in seen.items() if t < bench.vocab]
    generated = [t for t, n in counts for _ in range(n)]
    prompt = [t for t, n in counts if n == 0]
    for seed in range(4):
        logits = bench.logits()
        masks = bench.masks(logits)
        chosen, _ = bench.sample(logits, masks, seed, seen=counts, **options)
        own = log_softmax(logits)
        for row, (token, logprob) in enumerate(chosen):
            ids, _ = reference.sample(logits[row], prompt, generated, mask=masks[row], **options)
            assert token in ids
            assert logprob == pytest.approx(own[row, token], abs=1e-4)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: str(options)[:40])
def test_sample_of_a_mask_that_allows_all_is_that_of_none(small_bench, options):
    logits = small_bench.logits()
    everything = np.ones(logits.shape, bool)
    for seed in range(8):
        want = small_bench.sample(logits, None, seed, **options)
        assert small_bench.sample(logits, everything, seed, **options) == want


@pytest.mark.parametrize("options", [{}, {"top_p": 0.8}, {"top_k": 6}, {"logit_bias": {4: 1.0}}])
def test_sample_draws_those_left_in_proportion(small_bench, options):
    logits = np.repeat(small_bench.logits(1), ROWS, axis=0)
    mask = np.arange(77) % 3 == 1
    masks = np.repeat(mask[None], ROWS, axis=0)
    ids, p = reference.sample(logits[0], mask=mask, **options)
    counts, calls = np.zeros(77, int), 60
    for seed in range(calls):
        for token, _ in small_bench.sample(logits, masks, seed, **options)[0]:
            counts[token] += 1
    draws = calls * ROWS
    assert counts[ids].sum() == draws
    sigma = np.sqrt(draws * p * (1 - p))
    assert np.all(np.abs(counts[ids] - draws * p) <= 5 * sigma + 3)


def test_sample_does_not_mind_how_likely_the_forbidden_are(bench):
    logits = bench.logits()
    masks = bench.masks(logits)
    want = [bench.sample(logits, masks, seed)[0] for seed in range(3)]
    likely = np.where(masks, logits, logits + 5000).astype(np.float32)
    got = [bench.sample(likely, masks, seed)[0] for seed in range(3)]
    assert [[t for t, _ in rows] for rows in got] == [[t for t, _ in rows] for rows in want]


def test_sample_reports_the_most_likely_of_all_tokens(bench):
    logits = bench.logits()
    count = min(bench.vocab, 20)
    want = bench.sample(logits, logprobs=count)[1]
    assert bench.sample(logits, bench.masks(logits), logprobs=count)[1] == want
    best = np.argsort(-logits, axis=1, kind="stable")[:, :count]
    assert [token for token, _ in want] == best.ravel().tolist()


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.0}, {"top_k": 2}, {"logit_bias": {0: 1}}]
)
def test_sample_of_a_mask_that_allows_none_is_no_token(bench, options):
    logits = bench.logits()
    masks = bench.masks(logits)
    masks[3] = False
    chosen, _ = bench.sample(logits, masks, **options)
    assert [token < 0 for token, _ in chosen] == [row == 3 for row in range(ROWS)]
