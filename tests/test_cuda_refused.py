"""Weights that CUDA cannot compute with are refused by name; NaN stays what it is."""

import gptoss_native as gn
import numpy as np
import pytest
from conftest import available_bytes
from random_checkpoint import COMMON, SHAPES, random_tensors, write_checkpoint, write_safetensors

pytestmark = pytest.mark.cuda

GREEDY = gn.Sampling(temperature=0.0)


@pytest.mark.parametrize("value", [200, 255])
@pytest.mark.parametrize("matrix", ["gate_up_proj", "down_proj"])
def test_a_scale_out_of_range_is_refused_by_tensor(cuda_device, tmp_path, matrix, value):
    shape = COMMON | SHAPES["tiny"] | {"num_hidden_layers": 2}
    tensors = random_tensors(shape, 1)
    name = f"model.layers.1.mlp.experts.{matrix}_scales"
    tensors[name].flat[-1] = value
    path = write_checkpoint(tmp_path, "tiny", 1, shards=1, index=False, num_hidden_layers=2)
    write_safetensors(path / "model.safetensors", tensors)
    before = available_bytes(cuda_device)
    with pytest.raises(gn.CheckpointError) as caught:
        gn.Model.load(path, device=cuda_device)
    for part in (name, "model.safetensors", f"{value}"):
        assert part in str(caught.value)
    assert available_bytes(cuda_device) == before


def test_a_gain_beyond_float16_is_refused_by_tensor(cuda_device, tmp_path):
    """Activations of experts are sums of float16 terms in the decode form."""
    tensors = random_tensors(COMMON | SHAPES["tiny"] | {"num_hidden_layers": 1}, 1)
    name = "model.layers.0.post_attention_layernorm.weight"
    tensors[name][3] = 0xC700  # -32768 in bfloat16
    path = write_checkpoint(tmp_path, "tiny", 1, shards=1, index=False, num_hidden_layers=1)
    write_safetensors(path / "model.safetensors", tensors)
    with pytest.raises(gn.CheckpointError, match=rf"{name} holds -32768, wanted at most \d+"):
        gn.Model.load(path, device=cuda_device)
    with gn.Model.load(path, device="cpu") as model:
        assert np.isfinite(model.session().logits([1, 2])).all()


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.0.input_layernorm.weight"])
def test_a_gain_beyond_float16_is_refused_where_int8_makes_it_float16(cuda_device, tmp_path, name):
    tensors = random_tensors(COMMON | SHAPES["tiny"] | {"num_hidden_layers": 1}, 1)
    tensors[name][3] = 0x4700  # 32768 in bfloat16
    path = write_checkpoint(tmp_path, "tiny", 1, shards=1, index=False, num_hidden_layers=1)
    write_safetensors(path / "model.safetensors", tensors)
    with pytest.raises(gn.CheckpointError, match=rf"{name} holds 32768, wanted at most \d+"):
        gn.Model.load(path, device=cuda_device, dense="int8")
    for options in ({"dense": "int8", "precision": "exact"}, {"dense": "bf16"}):
        with gn.Model.load(path, device=cuda_device, **options) as model:
            assert np.isfinite(model.session().logits([1, 2])).all()


def test_a_limit_beyond_float16_is_refused(cuda_device, config):
    with pytest.raises(gn.CheckpointError, match="swiglu_limit is 300, wanted at most 255"):
        gn.Model.random(config(swiglu_limit=300.0), device=cuda_device)


# Numbers that are none


@pytest.mark.parametrize("precision", ["exact", "fast"])
@pytest.mark.parametrize(
    ("name", "dense"),
    [
        *(
            (name, "bf16")
            for name in ("v_proj.weight", "router.weight", "down_proj_bias", "lm_head")
        ),
        *((name, "int8") for name in ("v_proj.weight", "lm_head")),
    ],
)
def test_a_weight_that_is_nan_is_never_made_into_text(
    cuda_device, tmp_path, name, dense, precision
):
    shape = COMMON | SHAPES["tiny"] | {"num_hidden_layers": 1}
    tensors = random_tensors(shape, 1)
    for key, array in tensors.items():
        if name in key:
            array[:] = 0x7FFF
    path = write_checkpoint(tmp_path, "tiny", 1, shards=1, index=False, num_hidden_layers=1)
    write_safetensors(path / "model.safetensors", tensors)
    with gn.Model.load(path, device=cuda_device, precision=precision, dense=dense) as model:
        for sampling in (GREEDY, gn.Sampling(seed=1, top_k=5, top_p=0.5, logprobs=2)):
            with pytest.raises(gn.Error, match="not finite"):
                next(model.session().generate([1, 2, 3], sampling=sampling))


def test_a_token_whose_embedding_is_nan_ends_its_own_stream_alone(cuda_device, tmp_path):
    tensors = random_tensors(COMMON | SHAPES["tiny"] | {"num_hidden_layers": 2}, 1)
    tensors["model.embed_tokens.weight"][7] = 0x7FFF
    path = write_checkpoint(tmp_path, "tiny", 1, shards=1, index=False, num_hidden_layers=2)
    write_safetensors(path / "model.safetensors", tensors)
    with gn.Model.load(path, device=cuda_device) as model:

        def text(session, count=6, **sampling):
            options = {"sampling": gn.Sampling(temperature=0.0, **sampling), "stop_ids": []}
            stream = session.generate([1, 2], max_new_tokens=count, **options)
            return [(token.id, token.logprob) for token in stream]

        want = text(model.session())
        assert all(token != 7 for token, _ in want)
        bad = model.session()
        with pytest.raises(gn.Error, match="not finite"):
            text(bad, logit_bias={7: 1e6})
        assert bad.tokens == [1, 2, 7]
        assert text(model.session()) == want
