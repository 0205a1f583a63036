"""Saved sessions go on to the same bits; a file that is not one is refused and changes nothing."""

import os
import struct

import gptoss_native as gn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

PROBE = [5, 6, 7]
OPTIONS = {"max_new_tokens": 30, "sampling": gn.Sampling(seed=2), "stop_ids": []}


def some(count, seed=0):
    return np.random.default_rng(seed).integers(0, 512, count).tolist()


def texts(stream):
    return [(token.id, token.logprob) for token in stream]


@pytest.fixture(scope="module", params=["fast", "exact"])
def model(request, config):
    with gn.Model.random(
        config("tiny"), seed=3, precision=request.param, limits=gn.Limits(prefix_bytes=0)
    ) as made:
        yield made


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    """Return a saved session's bytes."""
    path = tmp_path_factory.mktemp("saved") / "session"
    with model.session() as session:
        session.prefill(some(200))
        session.save(path)
    return path.read_bytes()


@pytest.mark.parametrize("length", [0, 1, 7, 8, 127, 128, 129, 1000, 3000])
def test_a_loaded_session_goes_on_as_the_saved_one(model, tmp_path, length):
    path = tmp_path / "session"
    session = model.session(max_context=5000)
    session.prefill(some(length))
    session.save(path)
    want = texts(session.generate(some(3, 1), **OPTIONS))
    loaded = model.load_session(path)
    assert (loaded.tokens, loaded.max_context) == (some(length), 5000)
    stream = loaded.generate(some(3, 1), **OPTIONS)
    assert texts(stream) == want
    assert stream.stats.cached_tokens == length
    assert np.array_equal(loaded.logits(PROBE), session.logits(PROBE))


def test_a_generation_goes_on_after_saving_in_its_middle(model, tmp_path):
    whole = texts(model.session().generate(some(50), **OPTIONS))
    session = model.session()
    stream = session.generate(some(50), **OPTIONS)
    begun = [(token.id, token.logprob) for token in (next(stream) for _ in range(11))]
    session.save(tmp_path / "s")
    loaded = model.load_session(tmp_path / "s")
    rest = OPTIONS | {"max_new_tokens": 30 - len(begun)}
    assert begun + texts(loaded.generate(**rest)) == whole


SAMPLINGS = [
    gn.Sampling(temperature=0),
    gn.Sampling(logprobs=3),  # whatever seed it drew
    gn.Sampling(seed=2, presence_penalty=0.7, frequency_penalty=0.4, repetition_penalty=1.2),
    gn.Sampling(seed=3, logit_bias={5: 3.0, 9: -1.5}, top_p=0.9, top_k=40, min_p=0.01),
]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=range(4))
@pytest.mark.parametrize("bounded", [True, False])
def test_a_stream_is_resumed_as_if_it_had_not_been_left(model, tmp_path, sampling, bounded):
    """By the session itself, by a fork, and from a file; with its counts, and what was left."""
    session = model.session(max_context=130)
    most = 60 if bounded else None
    stream = session.generate(some(50), max_new_tokens=most, sampling=sampling, stop_ids=[])
    begun = [next(stream) for _ in range(17)]
    with session.fork() as twin:
        want = begun + list(twin.resume())
    assert len(want) == (60 if bounded else 80)
    session.save(tmp_path / "s")
    loaded = model.load_session(tmp_path / "s")
    assert loaded.tokens == session.tokens
    half = list(loaded.resume(max_new_tokens=10))
    assert begun + half == want[:27]
    assert begun + list(session.resume()) == want
    assert stream.stats.seed == sampling.seed or sampling.seed is None


@pytest.mark.parametrize("length", [1, 15, 16, 130, 300])
def test_a_file_holds_what_its_session_holds_and_nothing_of_others(model, tmp_path, length):
    """Pages are copied whole and windows by tiles, with what stood behind the tokens there."""
    with model.session() as cold:
        cold.prefill(some(length))
        cold.save(tmp_path / "cold")
    other = model.session()
    other.prefill(some(length))
    twin = other.fork()
    other.prefill(some(100, 8))
    other.rewind(length)
    other.prefill(some(40, 9))
    other.rewind(length)
    for number, session in enumerate((other, twin)):
        session.save(tmp_path / str(number))
        assert (tmp_path / str(number)).read_bytes() == (tmp_path / "cold").read_bytes()


def test_there_is_nothing_to_resume_but_a_stream_that_was_left(model):
    session = model.session()
    for call in (
        lambda: None,
        lambda: list(session.generate(some(5), max_new_tokens=3)),
        lambda: [next(session.generate([1])), session.prefill([1])],
        lambda: [next(session.generate([1])), session.rewind(2)],
        lambda: session.generate([1]),
    ):
        call()
        with pytest.raises(gn.InvalidArgument, match="was not left in a stream"):
            session.resume()
    list(session.generate([1], max_new_tokens=9, timeout=1e-9))
    with pytest.raises(gn.InvalidArgument, match="was not left in a stream"):
        session.resume()


def test_a_session_is_loaded_by_another_process_of_the_same_model(config, tmp_path):
    for part in range(2):
        with gn.Model.random(config("tiny"), seed=3) as model:
            if part == 0:
                session = model.session()
                session.prefill(some(300))
                session.save(tmp_path / "s")
                want = session.logits(PROBE)
            else:
                assert np.array_equal(model.load_session(tmp_path / "s").logits(PROBE), want)


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 4},
        {"precision": "exact"},
        {"dense": "int8"},
        {"config": {"sliding_window": 9}},
        {"kv": "fp8"},
    ],
)
def test_another_model_refuses_it_by_name(config, tmp_path, other):
    path = tmp_path / "session"
    with gn.Model.random(config("tiny"), seed=3) as model, model.session() as session:
        session.prefill(some(20))
        session.save(path)
    options = {"seed": 3} | other
    sizes = config("tiny", **options.pop("config", {}))
    words = r"session.*other weights, options or device"
    if "kv" in other:
        words = r'session: was saved with kv "f16", this model has "fp8"'
    with gn.Model.random(sizes, **options) as model, pytest.raises(gn.CheckpointError, match=words):
        model.load_session(path)


@pytest.mark.parametrize("cut", [0, 1, 47, 48, 55, 56, 60, -9, -8, -1])
def test_a_file_cut_short_is_refused(model, saved, tmp_path, cut):
    path = tmp_path / "cut"
    path.write_bytes(saved[:cut])
    with pytest.raises(gn.CheckpointError, match="cut: "):
        model.load_session(path)


def test_a_longer_file_a_foreign_file_and_another_version_are_refused(model, saved, tmp_path):
    path = tmp_path / "file"
    for content, words in (
        (saved + b"\0", "bytes, wanted"),
        (b"\x7fELF" + saved[4:], "no saved session"),
        (saved[:8] + struct.pack("<I", 7) + saved[12:], "version 7, wanted 2"),
    ):
        path.write_bytes(content)
        with pytest.raises(gn.CheckpointError, match=words):
            model.load_session(path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_one_changed_bit_anywhere_is_noticed(model, saved, tmp_path_factory, data):
    changed = bytearray(saved)
    bit = data.draw(st.integers(0, 8 * len(saved) - 1))
    changed[bit // 8] ^= 1 << bit % 8
    path = tmp_path_factory.mktemp("bit") / "session"
    path.write_bytes(changed)
    with pytest.raises(gn.CheckpointError, match="session"):
        model.load_session(path)


def test_what_cannot_be_written_leaves_what_was_there(model, tmp_path):
    path = tmp_path / "session"
    path.write_text("older")
    session = model.session()
    session.prefill(some(20))
    with pytest.raises(gn.Error, match="cannot be written"):
        session.save(tmp_path / "no such folder" / "session")
    with pytest.raises(gn.Error, match="cannot be written"):
        session.save(tmp_path)
    session.close()
    with pytest.raises(gn.InvalidArgument, match="closed"):
        session.save(path)
    assert path.read_text() == "older"
    assert os.listdir(tmp_path) == ["session"]


@pytest.mark.parametrize("path", ["", "a\0b", 3, None, b"bytes"])
def test_a_path_that_is_none_is_refused(model, path):
    with model.session() as session:
        for call in (session.save, model.load_session):
            with pytest.raises(gn.InvalidArgument, match="path"):
                call(path)


def test_a_missing_file_is_named(model, tmp_path):
    with pytest.raises(gn.CheckpointError, match=r"nothing here.*cannot be opened"):
        model.load_session(tmp_path / "nothing here")
