"""What this machine offers, and what a model would take on it."""

import os
from collections.abc import Mapping
from typing import Any

from . import _core
from .checkpoint import parse_config, read_checkpoint
from .shapes import named_shape

# Large enough that no processor's last cache holds most of it.
_MEASURED_BYTES = 1 << 30


def info() -> dict[str, Any]:
    """Return the instruction sets, devices, and the kernel of each stage for both precisions."""
    return {"cpu": _core.cpu_info(), "cuda": _core.cuda_info()}


def plan(
    path: str | os.PathLike[str] | Mapping[str, Any],
    *,
    device: str = "auto",
    dense: str = "bf16",
    precision: str = "fast",
    kv: str = "f16",
    threads: int | None = None,
    max_context: int | None = None,
    measure: bool = True,
) -> dict[str, Any]:
    """Say what a model would take and how fast this machine could decode it; loads nothing.

    path: a checkpoint's folder, "20b", "120b" or "tiny", or what a config.json holds.
    max_context: of the one session counted; the model's own limit.

    Returns bytes: weight_bytes, scratch_bytes, cache_bytes (of one full session), total_bytes,
    available_bytes (of this device now), fits, fitting_max_context (the longest context that does;
    0 if the weights alone do not); decode_bytes read by a token at the start and
    decode_bytes_at_max_context. With `measure` also read_rate (bytes a second of memory; takes
    about a second and 1 GiB) and the limits it sets, decode_limit_tokens_per_s and the same
    _at_max_context: None where that memory could not be had.

    Raises CheckpointError or InvalidArgument.
    """
    if isinstance(path, Mapping):
        config = parse_config(path)
    elif path in ("tiny", "20b", "120b") and not os.path.exists(path):
        config = named_shape(str(path))
    else:
        config = read_checkpoint(path).config
    if max_context is None:
        max_context = config["max_context"]
    out: dict[str, Any] = _core.plan(
        config,
        device=device,
        dense=dense,
        precision=precision,
        kv=kv,
        threads=threads,
        max_context=max_context,
    )
    out["max_context"] = max_context
    out["total_bytes"] = out["weight_bytes"] + out["scratch_bytes"] + out["cache_bytes"]
    out["available_bytes"] = available = out["available_bytes"] or None
    out["fits"] = None if available is None else out["total_bytes"] <= available
    if measure:
        rate = _read_rate(device, threads)
        for where in ("", "_at_max_context"):
            limit = None if rate is None else rate / out["decode_bytes" + where]
            out["decode_limit_tokens_per_s" + where] = limit
        out["read_rate"] = rate
    return out


def _read_rate(device: str, threads: int | None) -> float | None:
    try:
        return _core.measure_read_rate(device, _MEASURED_BYTES, threads or 0)
    except _core.OutOfMemory:
        return None
