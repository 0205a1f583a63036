"""What is refused by name, before any work: arguments of models, sessions, streams and sampling."""

import math

import gptoss_native as gn
import numpy as np
import pytest

NAN, INF = math.nan, math.inf
SAMPLING = {
    "temperature": 0.5,
    "top_k": 3,
    "top_p": 0.25,
    "min_p": 0.125,
    "repetition_penalty": 1.5,
    "presence_penalty": -0.5,
    "frequency_penalty": 2.0,
    "logit_bias": {1: -3.0},
    "seed": 12,
    "logprobs": 2,
}


@pytest.fixture(scope="module")
def model():
    """It knows 512 tokens."""
    with gn.Model.random(threads=1) as made:
        yield made


@pytest.fixture
def session(model):
    with model.session() as made:
        yield made


# Models


@pytest.fixture(params=["load", "random", "demo"])
def make(request, golden_checkpoint):
    """Each way to make a model, as a function of the arguments they share."""
    path = golden_checkpoint("tiny-1")[1]
    makers = {"load": lambda **a: gn.Model.load(path, **a), "demo": gn.Model.demo}
    return makers.get(request.param, gn.Model.random)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *[("device", value) for value in ("gpu", "cuda:x", "")],
        *[("dense", value) for value in ("int4", "BF16", "")],
        *[("precision", value) for value in ("float16", "")],
        *[("kv", value) for value in ("f32", "int8", "")],
        *[("threads", value) for value in (0, -1, 10**9)],
    ],
)
def test_a_wrong_value_is_refused_by_name(make, argument, value):
    with pytest.raises(gn.InvalidArgument, match=argument) as caught:
        make(**{argument: value})
    assert str(value) in str(caught.value)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("device", None),
        ("dense", 8),
        ("precision", None),
        ("kv", 8),
        ("threads", 1.5),
        ("threads", "2"),
    ],
)
def test_a_wrong_type_is_refused_in_a_line_one_can_read(make, argument, value):
    with pytest.raises((gn.InvalidArgument, TypeError), match=argument) as caught:
        make(**{argument: value})
    assert len(str(caught.value)) < 1000


def test_cuda_is_refused_where_there_is_none(make):
    found = gn.info()["cuda"]
    if found and not isinstance(found, str):
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(gn.DeviceError, match=r"CUDA|driver"):
        make(device="cuda")


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_wrong_seed_of_a_random_model_is_refused_by_name(seed):
    with pytest.raises(gn.InvalidArgument, match=f"seed is {seed}"):
        gn.Model.random(seed=seed)


def test_a_random_shape_is_refused_like_a_checkpoint_of_it(config):
    with pytest.raises(gn.CheckpointError, match="hidden_size is 100"):
        gn.Model.random(config(hidden_size=100))
    with pytest.raises(gn.InvalidArgument, match="7b"):
        gn.Model.random("7b")


# Sessions and streams


@pytest.mark.parametrize("limit", [0, -1, 131073, 2**31, 2**62, 1.5, "8"])
def test_a_wrong_max_context_is_refused_by_name(model, limit):
    with pytest.raises((gn.InvalidArgument, TypeError), match="max_context") as caught:
        model.session(max_context=limit)
    assert isinstance(caught.value, gn.InvalidArgument) or not isinstance(limit, int)


@pytest.mark.parametrize("count", [0, -1, 131072, 2**31, 2**63, 2**70, 1.0, "3", [3]])
def test_a_wrong_max_new_tokens_is_refused(session, count):
    with pytest.raises(gn.InvalidArgument, match=r"max_new_tokens|context holds"):
        session.generate([1, 2, 3], max_new_tokens=count)
    assert session.position == 0


def test_sampling_of_another_type_is_refused(session):
    for wrong in (0.5, {"temperature": 0}, "greedy"):
        with pytest.raises(gn.InvalidArgument, match="sampling"):
            session.generate([1], sampling=wrong)


@pytest.mark.parametrize(
    "bad", [-1, 512, 2**31, 2**32, 2**63, 2**70, -(2**70), 1.0, 1.5, "1", None, [1], np.float32(1)]
)
def test_an_id_that_is_none_is_refused_by_its_index(session, bad):
    session.prefill([1, 2])
    for use in (session.prefill, session.logits, session.generate):
        for index in (0, 3):
            with pytest.raises(gn.InvalidArgument, match=rf"index {index}\b"):
                use([5] * index + [bad])
    with pytest.raises(gn.InvalidArgument, match=r"stop.ids?\b"):
        session.generate([1], stop_ids=[bad])
    assert session.tokens == [1, 2]


def test_ids_that_cannot_be_listed_are_refused(session):
    for bad in (None, 3, 1.5, "12", np.array([1.0]), np.array([[1, 2]]), np.array(3)):
        with pytest.raises(gn.InvalidArgument, match="ids"):
            session.prefill(bad)
    assert session.position == 0


@pytest.mark.parametrize("form", [tuple, np.int64, np.int32, np.uint16, iter])
def test_ids_may_be_any_integers_that_can_be_listed(session, form):
    ids = [5, 511, 0, 300]
    session.prefill(form(ids) if form in (tuple, iter) else np.array(ids, form))
    assert session.tokens == ids
    assert all(type(token) is int for token in session.tokens)


def test_no_ids_are_no_work(session):
    session.prefill([])
    assert session.logits([]).shape == (0, 512)
    assert session.position == 0
    with pytest.raises(gn.InvalidArgument):
        session.generate()
    session.prefill([4])
    session.prefill(np.array([], np.int64))
    assert session.tokens == [4]


# Sampling


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("temperature", value) for value in (-0.1, NAN, INF, -INF)],
        *[("top_k", value) for value in (-1, -(2**31))],
        *[("top_p", value) for value in (-0.1, 1.0001, NAN, INF)],
        *[("min_p", value) for value in (-0.1, 1.0001, NAN, INF)],
        *[("repetition_penalty", value) for value in (0, -1, NAN, INF)],
        *[("presence_penalty", value) for value in (NAN, INF, -INF)],
        *[("frequency_penalty", value) for value in (NAN, INF, -INF)],
        *[("logit_bias", {1: value}) for value in (NAN, INF, 1e300)],
        *[("seed", value) for value in (-1, 2**64)],
        *[("logprobs", value) for value in (-1, 2**31 - 1)],
    ],
)
def test_a_value_of_sampling_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(gn.InvalidArgument, match=name):
        gn.Sampling(**{name: value})


@pytest.mark.parametrize("name", SAMPLING)
def test_a_value_of_sampling_of_another_type_is_refused_by_name(name):
    for value in ("1", [1], {"a": 1}, 1j):
        with pytest.raises((TypeError, gn.InvalidArgument), match=name):
            gn.Sampling(**{name: value})
    with pytest.raises(TypeError, match="heat"):
        gn.Sampling(heat=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [("logit_bias", {512: 1.0}), ("logit_bias", {-1: 1.0}), ("logprobs", 513)],
)
def test_what_the_vocabulary_lacks_is_refused(session, name, value):
    with pytest.raises(gn.InvalidArgument, match=name):
        session.generate([1], sampling=gn.Sampling(**{name: value}))
    assert session.position == 0


def test_sampling_holds_what_it_was_given_and_does_not_change():
    sampling = gn.Sampling(**SAMPLING)
    assert {name: getattr(sampling, name) for name in SAMPLING} == SAMPLING
    assert "temperature=0.5" in repr(sampling)
    with pytest.raises(AttributeError):
        sampling.temperature = 1.0
