"""Constraints that keep what they are told, and a small model's sizes to try them on."""

import gptoss_native as gn
import numpy as np

VOCAB = 77
PROMPT = [3, 1, 4, 1, 5]
GREEDY = gn.Sampling(temperature=0.0)
SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "num_experts": 2,
    "experts_per_token": 1,
}


def fill(out, allowed):
    """Set the bits of bool [vocab], and those past the vocabulary."""
    bits = np.ones(32 * out.size, bool)
    bits[: allowed.size] = allowed
    out[:] = np.packbits(bits, bitorder="little").view(np.int32)


class Some:
    """About a quarter of the tokens, others after each token; keeps what it is told."""

    def __init__(self, seed=0, vocab=VOCAB):
        self.seed, self.vocab = seed, vocab
        self.accepted, self.asked = [], []

    def allowed(self, at):
        rng = np.random.default_rng([self.seed, at])
        out = rng.random(self.vocab) < 0.25
        out[rng.integers(self.vocab)] = True
        return out

    def mask(self, out):
        assert out.dtype == np.int32
        assert out.shape == (-(-self.vocab // 32),)
        assert out.flags.c_contiguous
        assert not out.any()
        self.asked.append(len(self.accepted))
        fill(out, self.allowed(len(self.accepted)))

    def accept(self, token_id):
        assert type(token_id) is int
        self.accepted.append(token_id)

    def check(self, said):
        """What came is what was accepted, and allowed; a mask was asked for before each."""
        assert self.accepted == said
        assert all(self.allowed(at)[token] for at, token in enumerate(said))
        assert sorted(set(self.asked)) == list(range(len(said)))
        assert self.asked == sorted(self.asked)


class Stretches(Some):
    """Free text until one of a few tokens comes, then three that must, a quarter, and so on.

    It says so ahead.
    """

    def __init__(self, seed=0, vocab=VOCAB, leaves=8):
        super().__init__(seed, vocab)
        self.leaving = set(range(0, vocab, leaves))
        self.free = np.arange(vocab) % 3 > 0
        bits = np.zeros((2, -(-vocab // 32)), np.int32)
        fill(bits[0], self.free)
        fill(bits[1], self.free & ~np.isin(np.arange(vocab), list(self.leaving)))
        self.fixed = gn.FixedMask(*bits)

    def state(self, said):
        """Return how many tokens ago free text was left; None within it."""
        since = None
        for token in said:
            since = (0 if token in self.leaving else None) if since is None else since + 1
            since = None if since == 4 else since
        return since

    def allowed_after(self, said):
        since = self.state(said)
        if since is None:
            return self.free
        if since < 3:
            return np.arange(self.vocab) == (31 * len(said) + self.seed) % self.vocab
        return self.allowed(len(said))

    def mask(self, out):
        fill(out, self.allowed_after(self.accepted))

    def mask_after(self, ids, out):
        said = self.accepted.copy()
        for token in ids:
            assert self.allowed_after(said)[token]
            said.append(token)
        fill(out, self.allowed_after(said))

    def ahead(self, guess):
        said, ids = self.accepted.copy(), []
        if self.state(said) is None:
            return self.fixed
        while (since := self.state(said)) is not None and since < 3:
            ids.append(int(np.flatnonzero(self.allowed_after(said))[0]))
            said.append(ids[-1])
        if ids:
            return ids, len(ids)
        for token in guess:
            if not self.allowed_after(said)[token]:
                break
            said.append(token)
        return said[len(self.accepted) :], 0


class Failing(Some):
    """Raises when the token `at` is to be masked, or has come."""

    def __init__(self, error, at=0, method="mask"):
        super().__init__()
        self.error, self.at, self.method = error, at, method

    def mask(self, out):
        if self.method == "mask" and len(self.accepted) == self.at:
            raise self.error
        super().mask(out)

    def accept(self, token_id):
        if self.method == "accept" and len(self.accepted) == self.at:
            raise self.error
        super().accept(token_id)


def generate(session, constraint, count=12, prompt=PROMPT, **options):
    return session.generate(
        prompt, max_new_tokens=count, stop_ids=[], constraint=constraint, **options
    )


def ids_of(stream):
    return [token.id for token in stream]
