"""Builds sources with g++ over the emulated CUDA of this folder.

    python tests/emulation/build.py OUTPUT_DIR [--sanitize address,undefined]

makes OUTPUT_DIR/libgptoss_cuda_emulated.so of the CUDA backend. Objects stay in OUTPUT_DIR and are
used again while neither their command nor any file they were made of has changed.
"""

import argparse
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
EMULATOR = sorted(HERE.glob("*.cpp"))
FLAGS = [
    *("-std=c++20", "-O2", "-g1", "-fPIC", "-fvisibility=hidden", "-pthread"),
    # As device code: products stay unfused unless asked for, and shared memory changes its type.
    *("-ffp-contract=off", "-fno-math-errno", "-fno-strict-aliasing"),
    *("-Wall", "-Wextra", "-Wno-unknown-pragmas", "-DGPTOSS_EMULATED=1"),
    *(f"-I{folder}" for folder in (ROOT / "csrc", ROOT / "tests", HERE)),
]


class BuildError(Exception):
    """The compiler or linker failed; the text is its command and output."""


def compiler():
    """Return the C++ compiler's command as a list, or None where there is none."""
    if "CXX" in os.environ:
        return shlex.split(os.environ["CXX"])
    found = shutil.which("g++") or shutil.which("c++")
    return [found] if found else None


def plugin_version():
    """Return what CMakeLists.txt makes of the headers that the plugin shares with the module."""
    places = ("base/*.h", "weights/*.h", "backend/*.h")
    headers = sorted(str(path) for place in places for path in (ROOT / "csrc").glob(place))
    hashes = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in headers]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]


def backend_sources():
    """Return the sources of the CUDA backend."""
    places = ("backend/cuda/*.cu", "backend/cuda/*.cpp", "backend/*.cpp", "base/*.cpp")
    return [source for place in places for source in sorted((ROOT / "csrc").glob(place))]


def build(folder, sources, output, sanitize=None, jobs=2):
    """Compile the sources and the emulator and link them in `folder` under the name `output`.

    `output` ending in .so is a shared library, anything else a program. `sanitize` is the value of
    -fsanitize. Returns the path; raises BuildError with the compiler's output.
    """
    command = compiler()
    if command is None:
        raise BuildError("no C++ compiler found; set CXX")
    sanitizers = []
    if sanitize:
        sanitizers = [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all"]
        sanitizers.append("-fno-omit-frame-pointer")
    folder = Path(folder)
    objects = folder / f"objects-{(sanitize or 'plain').replace(',', '-')}"
    objects.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        made = pool.map(
            lambda source: compile_source(command + FLAGS + sanitizers, Path(source), objects),
            [*sources, *EMULATOR],
        )
        made = list(made)
    target = folder / output
    unfinished = folder / f"{output}.{os.getpid()}"
    shared = ["-shared", "-Wl,--no-undefined"] if target.suffix == ".so" else []
    execute([*command, *sanitizers, *shared, "-pthread", "-o", unfinished, *made])
    unfinished.replace(target)
    return target


def compile_source(command, source, objects):
    """Return the source's object file, made anew only if something changed."""
    source = source.resolve()
    name = f"{source.name}-{hashlib.sha256(str(source).encode()).hexdigest()[:8]}"
    made, dependencies, stamp = (objects / f"{name}{end}" for end in (".o", ".d", ".stamp"))
    if source.stem == "plugin":
        command = [*command, f'-DGPTOSS_PLUGIN_VERSION="{plugin_version()}"']
    command = [*command, "-x", "c++", "-MMD", "-MF", dependencies, "-c", source]
    if made.exists() and stamp.exists() and stamp.read_text() == digest(command, dependencies):
        return made
    unfinished = objects / f"{name}.{os.getpid()}.o"
    execute([*command, "-o", unfinished])
    unfinished.replace(made)
    stamp.write_text(digest(command, dependencies))
    return made


def digest(command, dependencies):
    """Return a hash of the command and of every file named in the compiler's list."""
    out = hashlib.sha256("\0".join(map(str, command)).encode())
    names = dependencies.read_text().replace("\\\n", " ").split(":", 1)[1].split()
    for name in names:
        try:
            out.update(Path(name).read_bytes())
        except FileNotFoundError:
            out.update(b"gone")
    return out.hexdigest()


def execute(command):
    """Run a command; BuildError with what it printed if it fails."""
    command = list(map(str, command))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{shlex.join(command)}\n{done.stdout}{done.stderr}")
    sys.stderr.write(done.stderr)


def main():
    """Build the backend; see the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--sanitize", help="for -fsanitize=, such as address,undefined")
    arguments = parser.parse_args()
    try:
        path = build(
            arguments.output_dir,
            backend_sources(),
            "libgptoss_cuda_emulated.so",
            sanitize=arguments.sanitize,
        )
    except BuildError as error:
        sys.exit(str(error))
    print(path)


if __name__ == "__main__":
    main()
