"""Shapes of models known by name: those published, and one small enough for any test."""

from typing import Any

from ._core import InvalidArgument

_COMMON = {
    "experts_per_token": 4,
    "max_context": 131072,
    "initial_context": 4096,
    "rope_theta": 150000.0,
    "rope_factor": 32.0,
    "rope_beta_fast": 32.0,
    "rope_beta_slow": 1.0,
    "rope_truncate": False,
    "rms_norm_eps": 1e-5,
    "swiglu_limit": 7.0,
}
_WIDE = {
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "heads": 64,
    "kv_heads": 8,
    "head_dim": 64,
    "sliding_window": 128,
}
_SIZES = {
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 96,
        "intermediate_size": 160,
        "layers": 4,
        "experts": 8,
        "heads": 8,
        "kv_heads": 2,
        "head_dim": 32,
        "sliding_window": 8,
    },
    "20b": {**_WIDE, "layers": 24, "experts": 32},
    "120b": {**_WIDE, "layers": 36, "experts": 128},
}


def named_shape(name: str) -> dict[str, Any]:
    """Return the sizes, by the keys of csrc/weights/config.h, of "tiny", "20b" or "120b".

    Raises InvalidArgument for another name.
    """
    if not isinstance(name, str) or name not in _SIZES:
        known = ", ".join(_SIZES)
        raise InvalidArgument(f"shape is {name!r}, wanted {known} or what a config.json holds")
    sizes: dict[str, Any] = {**_COMMON, **_SIZES[name]}
    sizes["windowed"] = [layer % 2 == 0 for layer in range(sizes["layers"])]
    return sizes
