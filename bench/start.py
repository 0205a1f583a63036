"""How long a process needs from nothing to the first token.

python bench/start.py CHECKPOINT [--dense int8] [--prompt 16] [--rounds 3]

Each round starts one process that waits for the weights (`Model.load`) and one that computes the
prompt as far as they are there (`wait=False`), in turns. Seconds from the process's start: Python
and its imports are in them. What the system's file cache holds is left as it is.
"""

import json
import os
import statistics
import subprocess
import sys
import time

import gptoss_native as gn
from measure import commit, parser, print_json, processor


def first_token(arguments, wait):
    """Load, compute a prompt, and return seconds from `arguments.begun` to each of the two."""
    options = {name: getattr(arguments, name) for name in ("device", "dense", "precision", "kv")}
    model = gn.Model.load(arguments.model, threads=arguments.threads, wait=wait, **options)
    loaded = time.time() - arguments.begun
    with model, model.session() as session:
        prompt = [7919 * n % 1000 for n in range(arguments.prompt)]
        next(session.generate(prompt, max_new_tokens=1, stop_ids=[]))
        return {"load_s": loaded, "first_token_s": time.time() - arguments.begun}


def start(arguments, way):
    """Do it in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--way", way, "--begun", str(time.time())]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"a process ended with status {done.returncode}")
    return json.loads(done.stdout)


def main():
    out = parser(__doc__.splitlines()[0])
    out.add_argument("--prompt", type=int, default=16)
    out.add_argument("--rounds", type=int, default=3)
    out.add_argument("--way", choices=("wait", "behind"), help="be such a process")
    out.add_argument("--begun", type=float, help="when it was started")
    arguments = out.parse_args()
    if not os.path.isdir(arguments.model):
        out.error(f"the model is {arguments.model!r}, wanted a checkpoint's folder")
    if arguments.way:
        print(json.dumps(first_token(arguments, wait=arguments.way == "wait")))
        return
    rounds = [
        {way: start(arguments, way) for way in ("wait", "behind")} for _ in range(arguments.rounds)
    ]
    if arguments.json:
        print_json({"commit": commit(), "processor": processor(), "rounds": rounds})
        return
    print(f"gptoss-native {gn.__version__} {commit() or ''} on {processor()}")
    for way in ("wait", "behind"):
        for name in ("load_s", "first_token_s"):
            seconds = [one[way][name] for one in rounds]
            each = ", ".join(f"{one:.2f}" for one in seconds)
            print(f"{way:<8} {name:<14} {statistics.median(seconds):6.2f} s   ({each})")


if __name__ == "__main__":
    main()
