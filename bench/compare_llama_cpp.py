"""Run this project and llama.cpp in turn on the same model and print the ratios pair by pair.

python bench/compare_llama_cpp.py CHECKPOINT MODEL.gguf --llama-bench PATH [--prompt 512] [--json]

CHECKPOINT is a folder of safetensors, MODEL.gguf the same model converted for llama.cpp (its own
convert_hf_to_gguf.py does that; `--outtype q8_0` goes with --dense int8). Each of the --pairs pairs
is one run of bench/generate.py and one of llama-bench, each in a process of its own, so that only
one model is in memory. Decode begins at a context of 16 tokens here and at 0 there.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import gptoss_native as gn

HERE = Path(__file__).resolve().parent
SHORT_PROMPT = 16


def run(command):
    """Return a command's standard output; end the program with its complaint if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")
    if done.returncode != 0:
        complaint = "\n".join((done.stderr or done.stdout).splitlines()[-20:])
        sys.exit(f"{' '.join(command)}\nended with status {done.returncode}:\n{complaint}")
    return done.stdout


def ours(arguments):
    """Return (prefill, decode) in tokens a second, and the report they come from."""
    command = [sys.executable, str(HERE / "generate.py"), arguments.checkpoint, "--json"]
    command += ["--device", "cpu", "--dense", arguments.dense, "--threads", str(arguments.threads)]
    command += ["--prompts", f"{SHORT_PROMPT},{arguments.prompt}"]
    command += ["--new-tokens", str(arguments.new_tokens)]
    report = json.loads(run(command))
    short, long = report["lines"]
    return long["prefill_tokens_per_s"], short["decode_tokens_per_s"], report


def theirs(arguments):
    """Return (prefill, decode) in tokens a second, and llama-bench's two tests."""
    command = [arguments.llama_bench, "-m", arguments.gguf, "-t", str(arguments.threads)]
    command += ["-p", str(arguments.prompt), "-n", str(arguments.new_tokens), "-r", "1"]
    tests = json.loads(run([*command, "-o", "json"]))
    rate = {test["n_prompt"] > 0: test["avg_ts"] for test in tests}
    return rate[True], rate[False], tests


def parse_arguments():
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("checkpoint", help="a folder of safetensors")
    options.add_argument("gguf", help="the same model as a GGUF file")
    options.add_argument("--llama-bench", required=True, help="llama.cpp's llama-bench")
    options.add_argument("--dense", default="int8", choices=("bf16", "int8"))
    options.add_argument("--threads", type=int, default=gn.info()["cpu"]["threads"])
    options.add_argument("--prompt", type=int, default=512, help="tokens to prefill (512)")
    options.add_argument("--new-tokens", type=int, default=32, help="tokens to decode (32)")
    options.add_argument("--pairs", type=int, default=3, help="runs of each (3)")
    options.add_argument("--json", action="store_true", help="print one JSON object instead")
    arguments = options.parse_args()
    if not os.path.isdir(arguments.checkpoint):
        options.error(f"{arguments.checkpoint} is no folder")
    if not os.path.isfile(arguments.gguf):
        options.error(f"{arguments.gguf} is no file")
    if arguments.pairs < 1:
        options.error(f"--pairs is {arguments.pairs}, wanted 1 or more")
    return arguments


def main():
    arguments = parse_arguments()
    pairs = []
    for number in range(1, arguments.pairs + 1):
        prefill, decode, report = ours(arguments)
        peer_prefill, peer_decode, tests = theirs(arguments)
        pairs.append(
            {
                "prefill_tokens_per_s": [prefill, peer_prefill],
                "decode_tokens_per_s": [decode, peer_decode],
                "prefill_ratio": prefill / peer_prefill,
                "decode_ratio": decode / peer_decode,
                "ours": report,
                "llama_bench": tests,
            }
        )
        if arguments.json:
            continue
        if number == 1:
            isa = report["backend"]["instruction set"]
            print(
                f"gptoss-native {report['version']} {report['commit'] or ''} ({isa}) and llama.cpp "
                f"{tests[0]['build_commit']}, {arguments.threads} threads, {report['processor']}"
            )
        print(
            f"pair {number}: prefill {arguments.prompt} {prefill:7.2f} / {peer_prefill:6.2f} tok/s "
            f"= {prefill / peer_prefill:5.2f} x   decode {decode:6.2f} / {peer_decode:5.2f} tok/s "
            f"= {decode / peer_decode:5.2f} x"
        )
    if arguments.json:
        print(json.dumps(pairs, indent=2))
    elif len(pairs) > 1:
        medians = [
            statistics.median(pair[name] for pair in pairs)
            for name in ("prefill_ratio", "decode_ratio")
        ]
        print(f"median: prefill {medians[0]:.2f} x, decode {medians[1]:.2f} x")


if __name__ == "__main__":
    main()
