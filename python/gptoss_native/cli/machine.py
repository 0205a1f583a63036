"""gptoss-native info and plan: what this machine offers, and what a model would take on it."""

import argparse
import json
from typing import Any

from .. import __version__, info, plan
from ..model import demo_path
from .terminal import gibibytes


def show_info(args: argparse.Namespace) -> None:
    """Print versions, instruction sets and kernels."""
    found = {"version": __version__, **info()}
    if args.json:
        print(json.dumps(found))
        return
    cpu = found["cpu"]
    rows = {
        "gptoss-native": found["version"],
        "instruction sets": ", ".join(cpu["instruction_sets"]),
        "in use": cpu["instruction_set"],
        "threads": cpu["threads"],
        "CUDA": _cuda_line(found["cuda"]),
    }
    _print_rows(rows)
    for precision, kernels in cpu["stages"].items():
        print(f"\nstages, --precision {precision}")
        _print_rows(kernels)


def _cuda_line(found: list[dict[str, Any]] | str) -> str:
    if isinstance(found, str):
        return found
    names = (f"{d['name']} ({d['architecture']})" for d in found)
    return ", ".join(names) or "no device"


def show_plan(args: argparse.Namespace) -> None:
    """Print the memory a model takes and the speed that reading it allows."""
    name = demo_path() if args.checkpoint is None else args.checkpoint
    found = plan(
        name,
        device=args.device,
        dense=args.dense,
        precision=args.precision,
        kv=args.kv,
        threads=args.threads,
        max_context=args.max_context,
    )
    if args.json:
        print(json.dumps({"model": str(name)} | found))
        return
    title = "the small bundled model" if args.checkpoint is None else args.checkpoint
    print(f"{title}: dense {args.dense}, precision {args.precision}, kv {args.kv}")
    _print_rows(
        {
            "weights": gibibytes(found["weight_bytes"]),
            "scratch": gibibytes(found["scratch_bytes"]),
            "cache": f"{gibibytes(found['cache_bytes'])} for {found['max_context']} tokens",
            "in all": gibibytes(found["total_bytes"]),
            "available": _availability(found),
            **_speed(found),
        }
    )


def _speed(found: dict[str, Any]) -> dict[str, str]:
    if found["read_rate"] is None:
        return {"memory reads": "not measured: there is no memory to measure with"}
    start, end = (found[f"decode_limit_tokens_per_s{where}"] for where in ("", "_at_max_context"))
    return {
        "memory reads": f"{found['read_rate'] / 1e9:.1f} GB/s",
        "so decodes at": f"most {start:.1f} tokens/s, {end:.1f} when the context is full",
    }


def _availability(found: dict[str, Any]) -> str:
    available = found["available_bytes"]
    if available is None:
        return "unknown: this system does not say"
    if found["fits"]:
        return f"{gibibytes(available)}: it fits"
    lacking = gibibytes(found["total_bytes"] - available)
    hint = "a smaller --max-context, --dense int8 or --kv fp8 takes less"
    if found["fitting_max_context"]:
        hint = f"--max-context {found['fitting_max_context']} would fit"
    return f"{gibibytes(available)}: IT DOES NOT FIT, {lacking} are lacking; {hint}"


def _print_rows(rows: dict[str, Any]) -> None:
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:{width}}  {value}")
