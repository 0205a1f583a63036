"""CUDA devices that are not there, and memory: what does not fit is refused, nothing else changes.

What only the emulated device can do (have so much memory) is skipped on a card.
"""

import gptoss_native as gn
import numpy as np
import pytest
from conftest import EMULATED, available_bytes, near
from random_checkpoint import write_checkpoint

pytestmark = pytest.mark.cuda


@pytest.fixture
def give_memory(emulated, monkeypatch):
    """Return a function: the device has so many bytes more than are in use now."""

    def give(more_bytes):
        monkeypatch.delenv("GPTOSS_EMULATION_MEMORY", raising=False)
        in_use = (8 << 30) - available_bytes(emulated)
        monkeypatch.setenv("GPTOSS_EMULATION_MEMORY", str(in_use + more_bytes))

    return give


# Devices that are not there


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"DEVICES": "0"}, "no CUDA device"),
        ({"DRIVER": "old"}, "driver is too old"),
        ({"CAPABILITY": "75"}, r"7\.5.*8\.0"),
    ],
)
def test_a_device_that_cannot_be_used_says_why(emulated, small, monkeypatch, settings, text):
    for name, value in settings.items():
        monkeypatch.setenv(f"GPTOSS_EMULATION_{name}", value)
    for make in (gn.Model.random, lambda *a, **k: gn.plan(*a, measure=False, **k)):
        with pytest.raises(gn.DeviceError, match=text):
            make(small, device=emulated)
    monkeypatch.undo()
    with gn.Model.random(small, device="cpu") as model:
        assert model.session().logits([1]).shape == (1, 40)


@pytest.mark.parametrize("library", [None, "/nowhere.so", "not a library"])
def test_an_emulated_device_without_its_library_says_so(monkeypatch, tmp_path, library):
    monkeypatch.delenv("GPTOSS_CUDA_EMULATED", raising=False)
    if library == "not a library":
        library = tmp_path / "library.so"
        library.write_text("text")
    if library is not None:
        monkeypatch.setenv("GPTOSS_CUDA_EMULATED", str(library))
    with pytest.raises(gn.DeviceError, match=str(library or "GPTOSS_CUDA_EMULATED")):
        gn.Model.random(device=EMULATED)


# Memory


@pytest.mark.parametrize("missing", [1, 100_000, 10**7, "nearly all"])
def test_a_model_that_does_not_fit_is_refused_before_loading(give_memory, emulated, missing):
    plan = gn.plan("tiny", device=emulated, measure=False, max_context=1)
    needed = plan["weight_bytes"] + plan["scratch_bytes"]
    given = 1000 if missing == "nearly all" else needed - missing
    give_memory(given)
    assert not gn.plan("tiny", device=emulated, measure=False, max_context=1)["fits"]
    calls = []
    with pytest.raises(gn.OutOfMemory) as caught:
        gn.Model.random(device=emulated, progress=lambda *call: calls.append(call))
    assert calls == []
    assert str(plan["weight_bytes"]) in str(caught.value)
    assert str(given) in str(caught.value)
    assert available_bytes(emulated) == given


def test_a_model_that_a_plan_says_fits_loads_and_runs(give_memory, emulated):
    plan = gn.plan("tiny", device=emulated, measure=False, max_context=30)
    give_memory(plan["total_bytes"] + 4096)  # the table of a session's pages is no page
    assert gn.plan("tiny", device=emulated, measure=False, max_context=30)["fits"]
    with gn.Model.random(device=emulated) as model:
        session = model.session(max_context=30)
        session.prefill(range(26))
        assert len(list(session.generate(max_new_tokens=4))) == 4


def test_a_cache_that_does_not_fit_leaves_the_session_and_its_neighbours(
    give_memory, emulated, small, some_ids, monkeypatch
):
    ids = some_ids(300, 40)
    cold = gn.Limits(prefix_bytes=0)
    with (
        gn.Model.random(small, device=emulated, limits=cold) as model,
        gn.Model.random(small, seed=8) as other,
    ):
        want = model.session().logits(ids)
        beside = other.session().logits(ids[:9])
        neighbour, session = model.session(), model.session(max_context=400)
        neighbour.prefill(ids[:20])
        session.prefill(ids[:100])
        give_memory(1000)
        for use in (session.prefill, session.logits):
            with pytest.raises(gn.OutOfMemory, match="cache"):
                use(ids[100:300])
            assert session.tokens == ids[:100]
        assert np.array_equal(session.logits(ids[100:120]), want[100:120])
        assert np.array_equal(neighbour.logits(ids[20:30]), want[20:30])
        assert np.array_equal(other.session().logits(ids[:9]), beside)
        with pytest.raises(gn.OutOfMemory, match="cache"):
            model.session().prefill(ids[:1])
        monkeypatch.undo()
        assert np.array_equal(session.logits(ids[120:]), want[120:])


def test_a_cache_that_ends_under_a_stream_loses_no_token(give_memory, emulated, small, monkeypatch):
    sampling = gn.Sampling(seed=3)
    with gn.Model.random(small, device=emulated) as model:
        want = [t.id for t in model.session().generate([1], max_new_tokens=150, sampling=sampling)]
        session = model.session()
        stream = session.generate([1], max_new_tokens=150, sampling=sampling)
        said = [next(stream).id]
        give_memory(1000)
        with pytest.raises(gn.OutOfMemory):
            said += [token.id for token in stream]
        assert 100 < session.position < 130
        assert session.tokens[1:] == want[: session.position - 1]
        assert list(stream) == []
        monkeypatch.undo()
        rest = session.generate(max_new_tokens=20, sampling=sampling)
        said = [*session.tokens[1:], *(token.id for token in rest)]
        assert said == want[: len(said)]


def test_closing_and_failing_return_the_devices_memory(cuda_device, tmp_path, small):
    path = write_checkpoint(tmp_path, "tiny", 1, num_hidden_layers=1)
    gn.Model.load(path, device=cuda_device).close()
    before = available_bytes(cuda_device)

    def stop(done, total):
        raise KeyError("enough")

    for _ in range(5):
        with gn.Model.load(path, device=cuda_device) as model:
            session = model.session()
            stream = session.generate([1, 2], max_new_tokens=9, stop_ids=[])
            next(stream)
            next(stream)
            taken = before - available_bytes(cuda_device)
            assert taken >= model.info()["weight_bytes"] + session.cache_bytes
        assert available_bytes(cuda_device) == before
        with pytest.raises(KeyError, match="enough"):
            gn.Model.load(path, device=cuda_device, progress=stop)
        assert available_bytes(cuda_device) == before
    with gn.Model.random(small, device=cuda_device, limits=gn.Limits(prefix_bytes=0)) as model:
        model.session().prefill([1])
        opened = available_bytes(cuda_device)
        with model.session() as session:
            session.prefill([1] * 200)
            held = opened - available_bytes(cuda_device)
            assert held >= session.cache_bytes - near(cuda_device)
        assert abs(available_bytes(cuda_device) - opened) <= near(cuda_device)
