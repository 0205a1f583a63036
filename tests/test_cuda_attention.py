"""Decode attention of the CUDA backend over many keys, beside the processor's."""

import gptoss_native as gn
import numpy as np
import pytest
from conftest import SMALLEST
from gptoss_native import _core
from make_goldens import relative_l2

pytestmark = pytest.mark.cuda

FULL = 1  # the layer that sees all keys


@pytest.mark.parametrize(
    ("precision", "kv", "tolerance"),
    [("exact", "f16", 1e-6), ("fast", "f16", 1e-5), ("fast", "fp8", 1e-5)],
)
@pytest.mark.parametrize(("heads", "head_dim"), [(8, 64), (12, 32)])
def test_units_longer_than_what_a_warp_has_under_way(
    cuda_device, config, precision, kv, tolerance, heads, head_dim
):
    """Beyond 48 units of 128 keys a unit has more of them, and crosses pages."""
    sizes = {"num_attention_heads": heads, "head_dim": head_dim, "num_hidden_layers": 2}
    values = config("tiny", **SMALLEST | sizes)
    last = 48 * 128 + 77
    random = np.random.default_rng(heads)
    keys = random.standard_normal((last + 1, 2, head_dim)).astype(np.float32)
    q = random.standard_normal((1, heads * head_dim)).astype(np.float32)
    found = []
    for device in ("cpu", cuda_device):
        with gn.Model.random(values, seed=1, device=device, precision=precision, kv=kv) as model:
            stages = _core.Stages(model._core, sequences=1, max_context=last + 1, decode=True)
            for position in range(last + 1):
                stages.set_cached(FULL, (0, position), keys[position])
            found.append(stages.attention(FULL, q, [(0, last)]))
    want, got = found
    assert relative_l2(got, want) < tolerance
