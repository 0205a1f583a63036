"""What bench/gpu.py asks of the machine: which card, which compiler, the package built for it.

The package goes to build/gpu of the repository, objects beside it, so that a second build there
compiles only what changed.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "build" / "gpu" / "site"
OBJECTS = ROOT / "build" / "gpu" / "objects"
CARD = ("name", "driver_version", "compute_cap", "memory.total", "clocks.max.sm", "clocks.max.mem")


class BuildError(Exception):
    """The package could not be built; the text says why."""


def output(*command):
    """Return what a command printed, or None where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def card():
    """Return what nvidia-smi says of the first card, {} without one."""
    text = output("nvidia-smi", f"--query-gpu={','.join(CARD)}", "--format=csv,noheader")
    if not text:
        return {}
    return dict(zip(CARD, map(str.strip, text.splitlines()[0].split(",")), strict=True))


def nvcc_version():
    found = re.search(r"V(\d[\d.]*)", output("nvcc", "--version") or "")
    return found[1] if found else None


def architecture(card):
    """Return the card's architecture as compilers name it, with its own instructions from 9.0."""
    if "compute_cap" not in card:
        raise BuildError("nvidia-smi names no card; say --arch, or --no-build")
    number = card["compute_cap"].replace(".", "")
    return number + "a" if int(number) >= 90 else number


def build(architecture, log, most_s):
    """Install the package with its CUDA backend into SITE; return the seconds it took."""
    start = time.time()
    shutil.rmtree(SITE, ignore_errors=True)
    settings = {
        "build-dir": OBJECTS,
        "cmake.define.GPTOSS_CUDA": "ON",
        "cmake.define.GPTOSS_CUDA_ARCHITECTURES": f"{architecture}-real",
    }
    command = [sys.executable, "-m", "pip", "install", "-v", "--no-build-isolation", "--no-deps"]
    command += ["--no-index", "--disable-pip-version-check", "--target", str(SITE)]
    for name, value in settings.items():
        command += ["-C", f"{name}={value}"]
    jobs = {"CMAKE_BUILD_PARALLEL_LEVEL": str(len(os.sched_getaffinity(0)))}
    with log.open("w") as out:
        try:
            done = subprocess.run(
                [*command, str(ROOT)],
                stdout=out,
                stderr=subprocess.STDOUT,
                env=jobs | dict(os.environ),
                timeout=max(most_s, 1),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BuildError(f"not done in {most_s:.0f} s; see {log}") from None
    if done.returncode != 0:
        last = "\n".join(log.read_text().splitlines()[-30:])
        raise BuildError(f"pip ended with status {done.returncode}; the end of {log}:\n{last}")
    if not (SITE / "gptoss_native" / "libgptoss_cuda.so").exists():
        raise BuildError(f"it made no libgptoss_cuda.so; see {log}")
    return time.time() - start
