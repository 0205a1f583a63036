"""Sixteen threads do everything at once; then each session is as if it had been alone.

GPTOSS_SOAK_STEPS sets how many things each thread does (20). The caches are filled with NaN where
nothing has been written, and where something was given back.
"""

import os
import random
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gptoss_native as gn
import numpy as np
import pytest

PROBE = [5, 6, 7]
STEPS = int(os.environ.get("GPTOSS_SOAK_STEPS", "20"))
# Texts of one system prompt, so that sessions share prefixes.
SHARED = np.random.default_rng(99).integers(0, 512, 300).tolist()


def some(count, seed=0):
    return np.random.default_rng(seed).integers(0, 512, count).tolist()


class User:
    """One thread's sessions, and the tokens that each must hold."""

    def __init__(self, model, seed, folder):
        self.model, self.seed, self.folder = model, seed, folder
        self.random = random.Random(seed)
        self.sessions = [(model.session(), [])]
        self.busy = 0

    def work(self):
        for step in range(STEPS):
            try:
                self.one(step)
            except gn.EngineBusy:
                self.busy += 1
        return self

    def one(self, step):
        session, tokens = self.random.choice(self.sessions)
        number = self.seed * 1000 + step
        kinds = ["open", "feed", "logits", "generate", "cancel", "leave", "fork", "completions"]
        kinds += ["rewind", "save", "close"]
        what = self.random.choice(kinds)
        options = {"stop_ids": [], "priority": self.random.choice([0, 0, 1])}
        if what == "open" and len(self.sessions) < 4:
            opened = self.model.session()
            opened.prefill(SHARED)
            self.sessions.append((opened, list(SHARED)))
        elif what == "feed":
            ids = some(self.random.choice([1, 8, 127, 130]), number)
            session.prefill(ids)
            tokens += ids
        elif what == "logits":
            session.logits([self.seed])
            tokens += [self.seed]
        elif what == "generate":
            stream = session.generate([self.seed], max_new_tokens=20, **options)
            tokens += [self.seed, *(token.id for token in stream)]
        elif what in ("cancel", "leave"):
            stream = session.generate([self.seed], max_new_tokens=400, timeout=30, **options)
            first = next(stream)
            tokens += [self.seed, first.id]
            for _ in range(self.random.randrange(8)):
                tokens.append(next(stream).id)
            if what == "cancel":
                stream.cancel()
                assert list(stream) == []
        elif what == "fork" and len(self.sessions) < 4:
            self.sessions.append((session.fork(), list(tokens)))
        elif what == "completions" and len(self.sessions) < 3:
            session.prefill([self.seed])
            tokens += [self.seed]
            for twin, stream in session.completions(n=2, max_new_tokens=5, stop_ids=[]):
                self.sessions.append((twin, tokens + [token.id for token in stream]))
        elif what == "rewind":
            del tokens[self.random.randrange(len(tokens) + 1) :]
            session.rewind(len(tokens))
        elif what == "save" and len(self.sessions) < 4:
            path = self.folder / str(number)
            session.save(path)
            self.sessions.append((self.model.load_session(path), list(tokens)))
            path.unlink()
        elif what == "close" and len(self.sessions) > 1:
            session.close()
            self.sessions.remove((session, tokens))


@pytest.mark.parametrize("room", ["plenty", "tight"])
def test_sixteen_threads_do_everything_at_once(config, monkeypatch, room):
    monkeypatch.setenv("GPTOSS_POISON_CACHE", "1")
    cold = gn.Model.random(config("tiny"), seed=3, deterministic=True)
    limits = gn.Limits()
    if room == "tight":
        with cold.session() as session:
            session.prefill(some(1000))
            each = session.cache_bytes
        limits = gn.Limits(kv_bytes=6 * each, prefix_bytes=2 * each, max_streams=4)
    with (
        cold,
        gn.Model.random(config("tiny"), seed=3, deterministic=True, limits=limits) as model,
        tempfile.TemporaryDirectory() as folder,
        ThreadPoolExecutor(16) as pool,
    ):
        users = [User(model, seed, Path(folder)) for seed in range(16)]
        for user in pool.map(User.work, users):
            for session, tokens in user.sessions:
                assert session.tokens == tokens
                with cold.session() as other:
                    other.prefill(tokens)
                    assert np.array_equal(session.logits(PROBE), other.logits(PROBE))
                session.close()
        caches = model.info()["caches"]
        assert caches["streams"] == caches["waiting"] == caches["kv_spilled_bytes"] == 0
        assert caches["kv_promised_bytes"] == 0
        assert caches["kv_used_bytes"] == caches["prefix_used_bytes"]
