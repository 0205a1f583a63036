"""What the benches share: choosing a model, the machine's name, printing lines and JSON."""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import gptoss_native as gn


def parser(description):
    """Return an argument parser with the options that choose and load a model."""
    out = argparse.ArgumentParser(description=description)
    out.add_argument(
        "model",
        nargs="?",
        default="20b",
        help="a checkpoint's folder, or random weights of the shape 20b, 120b or tiny (20b)",
    )
    out.add_argument("--device", default="auto")
    out.add_argument("--dense", default="bf16", choices=("bf16", "int8"))
    out.add_argument("--precision", default="fast", choices=("fast", "exact"))
    out.add_argument("--kv", default="f16", choices=("f16", "fp8"))
    out.add_argument("--threads", type=int)
    out.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    return out


def open_model(arguments):
    names = ("device", "dense", "precision", "kv", "threads")
    options = {name: getattr(arguments, name) for name in names}
    if os.path.isdir(arguments.model):
        return gn.Model.load(arguments.model, **options)
    return gn.Model.random(arguments.model, **options)


def processor():
    """Return the processor's model name, or what the platform calls it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def commit():
    """Return the commit this file is of, with a + if the tree differs, or None outside git."""
    if shutil.which("git") is None:
        return None
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip() or None


def header(arguments, model, read_rate):
    """Return what every report begins with."""
    return {
        "version": gn.__version__,
        "commit": commit(),
        "command": " ".join(["python", *sys.argv]),
        "processor": processor(),
        "backend": model.info()["backend"],
        "model": arguments.model,
        "dense": arguments.dense,
        "precision": arguments.precision,
        "kv": arguments.kv,
        "read_bytes_per_s": read_rate,
    }


def text_header(tokenizer):
    """Return what a report of text and ids alone begins with."""
    return {
        "version": gn.__version__,
        "commit": commit(),
        "command": " ".join(["python", *sys.argv]),
        "processor": processor(),
        "vocab_size": tokenizer.vocab_size,
    }


def tell(report, lines, print_line, as_json):
    """Print a report and its lines as they come, or all of it as JSON once it is whole."""
    if as_json:
        return print_json(report | {"lines": list(lines)})
    print_header(report)
    for line in lines:
        print_line(line)


def print_header(report):
    backend = report.get("backend", {})
    where = backend.get("device", report["processor"])
    print(f"gptoss-native {report['version']} {report['commit'] or ''} on {where}")
    if not backend:
        print(f"vocabulary of {report['vocab_size']}, one core")
        return
    if "device" in backend:
        how = backend["architecture"]
    else:
        how = f"{backend['instruction set']}, {backend['threads']} threads"
    print(
        f"{report['model']}, dense {report['dense']}, {report['precision']}, kv {report['kv']}, "
        f"{how}; reads {report['read_bytes_per_s'] / 1e9:.1f} GB/s without arithmetic"
    )


def print_json(report):
    print(json.dumps(report, indent=2))
