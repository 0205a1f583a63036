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
