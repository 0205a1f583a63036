"""Build for the card at hand, check it, time every stage and whole steps: one command, one table.

python bench/gpu.py --out DIR [--parts build,check,rates,stages,decode,prefill]
    [--shapes 20b,20b-int8,120b]

Needs one NVIDIA GPU, nvcc, CMake, pip, pybind11, scikit-build-core, numpy and what the tests need;
no network. DIR gets gpu.json (all figures, written after each), table.txt, build.log, pytest.log.
Each shape and the checks run in processes of their own: one that dies takes no other along. What
does not fit --minutes is skipped with a line. Exit status 1 if a check or a part failed.
20b-int8 is 20b with int8 dense weights, at the first context, with the fewest and the most rows;
20b-fp8 is 20b with an fp8 cache, at the two longest.

--device cuda-emulated with --shapes tiny and short --contexts runs the same without a card.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import gpu_build
from gpu_table import format_table

HERE = Path(__file__).resolve().parent
PARTS = ("build", "check", "rates", "stages", "decode", "prefill")
CHECK_S = 150  # at most
# The least a shape is begun with: making its weights, then its short measurements.
SHAPE_S = {"20b": 50, "20b-int8": 45, "20b-fp8": 75, "120b": 130}
SHAPE_S |= dict.fromkeys(("tiny", "tiny-int8", "tiny-fp8"), 10)
DEFAULT_SHAPES = ["20b", "20b-int8", "120b"]


def shown(item):
    name, value = item
    if isinstance(value, (dict, list)):
        return f"{name}=..."
    return f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"


class Report:
    """What gpu.json holds, on disk after each change."""

    def __init__(self, folder):
        self.folder = folder
        self.data = {"notes": [], "failed": [], "check": [], "shapes": {}}

    def save(self):
        unfinished = self.folder / "gpu.json.new"
        unfinished.write_text(json.dumps(self.data, indent=1) + "\n")
        unfinished.replace(self.folder / "gpu.json")

    def say(self, kind, text):
        """Add a line to "notes" or "failed"."""
        print(f"{kind}: {text}", flush=True)
        self.data[kind].append(text)
        self.save()

    def add(self, shape, event):
        """Take a line that gpu_check.py or gpu_shape.py printed."""
        for kind in ("notes", "failed"):
            if kind in event:
                self.say(kind, f"{shape}: {event[kind]}" if shape else event[kind])
                return
        print(" ".join([shape or "", *map(shown, event.items())]).strip(), flush=True)
        part = event.pop("part")
        if part == "check":
            self.data["check"].append(event)
        elif part in ("made", "rates"):
            self.data["shapes"][shape][part] = event
        else:
            self.data["shapes"][shape].setdefault(part, []).append(event)
        self.save()


def parse(arguments=None):
    def words(text):
        return text.split(",")

    def numbers(text):
        return [int(part) for part in text.split(",")]

    out = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    out.add_argument("--out", type=Path, required=True, help="folder for what is found")
    out.add_argument("--parts", type=words, default=list(PARTS), help=",".join(PARTS))
    out.add_argument("--no-build", action="store_true", help="use the package that is installed")
    out.add_argument("--arch", help="what to build for, such as 90a (the card's own)")
    out.add_argument("--device", default="cuda")
    out.add_argument(
        "--shapes", type=words, default=DEFAULT_SHAPES, help=f"({','.join(DEFAULT_SHAPES)})"
    )
    out.add_argument("--minutes", type=float, default=9, help="for everything (9)")
    out.add_argument("--dense", default="bf16", choices=("bf16", "int8"))
    out.add_argument("--kv", default="f16", choices=("f16", "fp8"))
    rows = [1, 2, 4, 8, 16, 32]
    out.add_argument("--rows", type=numbers, default=rows, help="decode rows (1,2,4,8,16,32)")
    out.add_argument("--prefill-rows", type=numbers, default=[512, 1024], help="(512,1024)")
    out.add_argument(
        "--contexts",
        type=numbers,
        default=[512, 8192, 32768, 130000],
        help="keys before them (512,8192,32768,130000)",
    )
    out.add_argument("--prompts", type=numbers, default=[512, 2048], help="prefilled (512,2048)")
    out.add_argument("--new-tokens", type=int, default=128, help="decoded a context (128)")
    out = out.parse_args(arguments)
    wrong = [f"part {p!r}" for p in out.parts if p not in PARTS]
    wrong += [f"shape {s!r}" for s in out.shapes if s not in SHAPE_S]
    if wrong:
        sys.exit(f"there is no {', '.join(wrong)}")
    return out


def run_child(report, shape, script, options, environment, until):
    """Run a script of this folder, which prints JSON lines, until it ends or its time does."""
    command = [sys.executable, "-u", str(HERE / script), json.dumps({**options, "until": until})]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    late = threading.Timer(max(until + 10 - time.time(), 1), child.kill)
    late.start()
    for line in child.stdout:
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            print(line, end="", flush=True)
        else:
            report.add(shape, event)
    status = child.wait()
    late.cancel()
    if status != 0:
        how = "stopped, out of time" if time.time() > until else f"ended with status {status}"
        report.say("failed", f"{script} {shape or ''}".strip() + f" {how}")


def shape_options(arguments, shape):
    names = ("device", "dense", "kv", "rows", "prefill_rows", "contexts", "prompts", "new_tokens")
    options = {name: getattr(arguments, name) for name in names}
    name, _, variant = shape.partition("-")
    contexts = options["contexts"]
    variants = {
        "int8": {"dense": "int8", "contexts": contexts[:1]},
        "fp8": {"kv": "fp8", "contexts": contexts[-2:]},
    }
    if variant:
        options |= variants[variant]
        options["prefill_rows"] = options["prefill_rows"][:1]
        options["rows"] = sorted({min(options["rows"]), max(options["rows"])})
    return options | {"shape": name}


def measure_shapes(report, arguments, environment, end):
    parts = [p for p in arguments.parts if p in ("rates", "stages", "decode", "prefill")]
    for index, shape in enumerate(arguments.shapes if parts else []):
        until = end - sum(SHAPE_S[later] for later in arguments.shapes[index + 1 :])
        if until - time.time() < SHAPE_S[shape] and shape != arguments.shapes[0]:
            report.say("notes", f"{shape} skipped: {end - time.time():.0f} s left")
            continue
        report.data["shapes"][shape] = {}
        options = shape_options(arguments, shape) | {"parts": parts}
        run_child(report, shape, "gpu_shape.py", options, environment, until)


def build(report, arguments, end):
    """Return the folder of the package, made now or earlier; None for the installed one."""
    if arguments.no_build or arguments.device == "cuda-emulated":
        report.say("notes", "build skipped: the package is the one that is installed")
        return None
    if "build" not in arguments.parts:
        return gpu_build.SITE if gpu_build.SITE.exists() else None
    architecture = arguments.arch or gpu_build.architecture(report.data["card"])
    log = arguments.out / "build.log"
    seconds = gpu_build.build(architecture, log, end - time.time())
    report.data["build"] = {"architecture": architecture, "seconds": seconds}
    print(f"built for sm_{architecture} in {seconds:.0f} s", flush=True)
    report.save()
    return gpu_build.SITE


def run_parts(report, arguments, end):
    try:
        site = build(report, arguments, end)
    except gpu_build.BuildError as error:
        report.say("failed", f"build: {error}")
        return
    paths = [str(site)] if site else []
    paths += [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    if "check" in arguments.parts:
        until = min(end, time.time() + CHECK_S)
        options = {"device": arguments.device, "out": str(arguments.out)}
        run_child(report, None, "gpu_check.py", options, environment, until)
    measure_shapes(report, arguments, environment, end)


def main():
    arguments = parse()
    arguments.out = arguments.out.resolve()
    arguments.out.mkdir(parents=True, exist_ok=True)
    start = time.time()
    report = Report(arguments.out)
    report.data |= {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "device": arguments.device,
        "dense": arguments.dense,
        "kv": arguments.kv,
        "contexts": arguments.contexts,
        "card": gpu_build.card(),
        "nvcc": gpu_build.nvcc_version(),
    }
    report.save()
    run_parts(report, arguments, start + 60 * arguments.minutes)
    report.data["seconds"] = time.time() - start
    report.save()
    table = format_table(report.data)
    (arguments.out / "table.txt").write_text(table + "\n")
    print(f"\n{table}", flush=True)
    wrong = [c for c in report.data["check"] if c["passed"] is False]
    sys.exit(1 if wrong or report.data["failed"] else 0)


if __name__ == "__main__":
    main()
