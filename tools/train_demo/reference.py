"""Greedy continuations by Hugging Face transformers in float32, for the tests to compare with.

    python -m train_demo.reference --oracle PATH/TO/reference_logits.py CHECKPOINT OUT.jsonl

The oracle is a script with a function `load(checkpoint, dtype)` that returns transformers' model.
A line of the output: skill, effort, user (the last question), prompt_ids, greedy_ids (up to the
token that stops), answer (None where the turn ends in a call).
"""

import argparse
import importlib.util
import json
import random
from pathlib import Path

import gptoss_native as gn
import torch

from .conversation import Writer
from .evaluate import EFFORTS, GROUPS, Case, draw_case
from .problem import Call

_MOST = 400


def _cases(count: int) -> list[Case]:
    """Return held-out cases, all skills and efforts in turn."""
    groups = [(skill, effort) for effort in EFFORTS for skill in GROUPS]
    random.Random(0).shuffle(groups)
    return [
        draw_case(*groups[n % len(groups)], random.Random(f"reference {n}")) for n in range(count)
    ]


@torch.inference_mode()
def _continue(model, prompt: list[int], stops: set[int]) -> tuple[list[int], float]:
    """Return the argmax continuation, and the least distance from best to second on the way."""
    made: list[int] = []
    past, ids, gap = None, torch.tensor([prompt]), float("inf")
    while len(made) < _MOST and not (made and made[-1] in stops):
        out = model(ids, past_key_values=past, use_cache=True)
        best, second = out.logits[0, -1].topk(2).values.tolist()
        gap = min(gap, best - second)
        made.append(int(out.logits[0, -1].argmax()))
        past, ids = out.past_key_values, torch.tensor([[made[-1]]])
    return made, gap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--oracle", required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    spec = importlib.util.spec_from_file_location("oracle", args.oracle)
    oracle = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(oracle)
    model = oracle.load(args.checkpoint, torch.float32)
    tokenizer = gn.Tokenizer.from_checkpoint(args.checkpoint)
    writer = Writer(tokenizer)
    stops = {tokenizer.special["<|return|>"], tokenizer.special["<|call|>"]}
    opening = tokenizer.encode("<|start|>assistant", allow_special=True)
    least = float("inf")
    with args.out.open("w") as out:
        for case in _cases(args.count):
            problem = case.turns[-1]
            prompt = writer.prefix(case.prefix) + writer.question(case.prefix, case.turns) + opening
            made, gap = _continue(model, prompt, stops)
            least = min(least, gap)
            calls = any(isinstance(move, Call) for move in problem.moves)
            line = {"skill": problem.skill, "effort": case.prefix.effort, "user": problem.user}
            line |= {"prompt_ids": prompt, "greedy_ids": made}
            line["answer"] = None if calls else problem.answer
            out.write(json.dumps(line) + "\n")
    print(f"{args.count} continuations; the least distance from best to second logit: {least:.2g}")


if __name__ == "__main__":
    main()
