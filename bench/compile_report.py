"""Compile the CUDA kernels and print what each takes: registers, shared memory, stack, spills.

python bench/compile_report.py [--arch 80,90a,120a | --all] [--jobs 2]

Needs nvcc and c++filt, no GPU. Exit status 1 if a kernel spills that SPILLS_ALLOWED does not name,
2 if a file does not compile.
"""

import argparse
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Kernels, as the table names them, whose spills cost nothing that matters; each with its reason.
SPILLS_ALLOWED: dict[str, str] = {}

PROPERTIES = re.compile(
    r"Function properties for (?P<name>\S+)\n\s*(?P<stack>\d+) bytes stack frame, "
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
    r"(?:\nptxas info\s*: Used (?P<registers>\d+) registers(?P<used>[^\n]*))?"
)


def build_settings():
    """Return CMakeLists.txt's flags for CUDA and the architectures it compiles for."""
    text = (ROOT / "CMakeLists.txt").read_text()
    flags = re.search(r"COMPILE_LANGUAGE:CUDA>:([^>]*)>", text)[1].split(";")
    flags = [flag for flag in flags if not flag.startswith("-std=")]  # CMake's own setting
    architectures = re.search(r'GPTOSS_CUDA_ARCHITECTURES "([^"]*)"', text)[1].split(";")
    return flags, [name.removesuffix("-real") for name in architectures if "virtual" not in name]


def compile_one(source, architecture, flags):
    """Return [(mangled name, dict of numbers)] of a file's device functions."""
    command = ["nvcc", "-cubin", f"-arch=sm_{architecture}", "-O3", "-DNDEBUG", "-Xptxas=-v"]
    command += [
        *flags,
        "-std=c++20",
        '-DGPTOSS_PLUGIN_VERSION="none"',
        f"-I{ROOT / 'csrc'}",
        "-o",
        "/dev/null",
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        first = "\n".join((done.stdout + done.stderr).splitlines()[:20])
        raise RuntimeError(f"{' '.join(command)}\n{first}")
    out = []
    for found in PROPERTIES.finditer(done.stdout + done.stderr):
        shared = re.search(r"(\d+) bytes smem", found["used"] or "")
        numbers = {
            "registers": int(found["registers"] or 0),  # 0 for a function that is called
            "shared": int(shared[1]) if shared else 0,
            "stack": int(found["stack"]),
            "spill": int(found["stores"]) + int(found["loads"]),
        }
        out.append((found["name"], numbers))
    return out


def demangled(names):
    names = list(names)
    done = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    )
    return dict(zip(names, map(shortened, done.stdout.splitlines()), strict=True))


def shortened(name):
    """Take what all kernels share, and the parameters, off a demangled name."""
    for noise in ("(anonymous namespace)::", "gptoss::cuda::", "gptoss::", "void "):
        name = name.replace(noise, "")
    name = re.sub(r"\([\w ]+\)(-?\d+)", r"\1", name)  # a template argument's type
    name = name.replace("> >", ">>")
    depth = 0
    for at, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            return name[:at]
    return name


def cell(numbers):
    if numbers is None:
        return ""
    parts = [f"{numbers['registers'] or '-':>3}", f"{numbers['shared']:>6}"]
    return " ".join([*parts, f"{numbers['stack']:>5}", f"{numbers['spill']:>5}"])


def print_table(rows, architectures):
    """rows: (file, kernel) -> architecture -> numbers."""
    wide = max(len(kernel) for _, kernel in rows) + 3
    print(f"{'':{wide}}" + "".join(f"| sm_{name:<20}" for name in architectures))
    print(f"{'bytes but for registers':{wide}}" + "| reg shared stack spill " * len(architectures))
    last = None
    for (file, kernel), numbers in sorted(rows.items()):
        if file != last:
            print(f"{file}:")
        last = file
        cells = "".join(f"| {cell(numbers.get(name)):<23}" for name in architectures)
        print(f"  {kernel:{wide - 2}}{cells}".rstrip())


def main():
    flags, known = build_settings()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--arch", default="80,90a,120a", help="architectures (80,90a,120a)")
    parser.add_argument("--all", action="store_true", help=f"all there are: {','.join(known)}")
    parser.add_argument("--jobs", type=int, default=2, help="compilers at once (2)")
    arguments = parser.parse_args()
    architectures = known if arguments.all else arguments.arch.split(",")
    sources = sorted((ROOT / "csrc/backend/cuda").glob("*.cu"))

    failed, found = False, []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        jobs = [
            (source.name, architecture, pool.submit(compile_one, source, architecture, flags))
            for source in sources
            for architecture in architectures
        ]
        for file, architecture, job in jobs:
            try:
                found += [(file, architecture, *entry) for entry in job.result()]
            except RuntimeError as error:
                failed = True
                print(error, file=sys.stderr)
    names = demangled({name for _, _, name, _ in found})
    rows, spilling = {}, []
    for file, architecture, name, numbers in found:
        kernel = names[name]
        rows.setdefault((file, kernel), {})[architecture] = numbers
        if numbers["spill"] and kernel not in SPILLS_ALLOWED:
            spilling.append(f"{kernel} spills {numbers['spill']} bytes on sm_{architecture}")
    if rows:
        print_table(rows, architectures)
    print("\n".join(spilling) if spilling else f"{len(rows)} kernels, none spills")
    sys.exit(2 if failed else 1 if spilling else 0)


if __name__ == "__main__":
    main()
