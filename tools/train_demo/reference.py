"""Greedy continuations by Hugging Face transformers in float32, for the tests to compare with.

    python -m train_demo.reference --oracle PATH/TO/reference_logits.py CHECKPOINT GOLDENS

The oracle is a script with a function `load(checkpoint, dtype)` that returns transformers' model.
Written into the folder GOLDENS: tiny_trained_cases.jsonl, what the tests say by hand (effort,
tools, user, prompt, prompt_ids, greedy_ids up to the token that stops, greedy), and
demo_held_out.npz, ids of held-out conversations of all skills and efforts (`prompts`, `answers`:
joined; `prompt_ends`, `answer_ends`: where each ends).
"""

import argparse
import datetime
import importlib.util
import json
import random
from pathlib import Path

import gptoss_native as gn
import numpy as np
import torch
from gptoss_native.harmony import CHANNELS, DeveloperContent, Message, Renderer, SystemContent

from .conversation import Writer
from .evaluate import EFFORTS, GROUPS, Case, draw_case
from .skills_calls import described

_MOST = 400
# effort, functions, question
_SPOKEN = [
    ("medium", [], "What is 17 + 25?"),
    ("low", [], "What is 17 + 25?"),
    ("high", [], "What is 17 + 25?"),
    ("medium", [], "What is 314+271?"),
    ("high", [], "Calculate 803 minus 467."),
    ("low", [], "Hello!"),
    ("medium", [], "What is the capital of Japan?"),
    ("medium", ["calculator"], "What is 34*27?"),
    ("low", ["get_weather"], "What is the weather in Zurich?"),
    ("high", ["calculator", "get_weather"], "What is the weather in Oslo?"),
]


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


def _spoken(model, tokenizer: gn.Tokenizer, stops: set[int], out: Path) -> None:
    renderer = Renderer(tokenizer)
    with out.open("w") as file:
        for effort, tools, user in _SPOKEN:
            date = datetime.date(2025, 6, 28)
            system = SystemContent(effort=effort, date=date, channels=CHANNELS)
            messages = [Message("system", system)]
            if tools:
                declared = tuple(described(name, plain=False) for name in tools)
                messages.append(Message("developer", DeveloperContent(tools=declared)))
            ids = renderer.render([*messages, Message("user", user)])
            ids += tokenizer.encode("<|start|>assistant", allow_special=True)
            made, _ = _continue(model, ids, stops)
            line = {"effort": effort, "tools": tools, "user": user}
            line |= {"prompt": tokenizer.decode(ids), "prompt_ids": ids, "greedy_ids": made}
            file.write(json.dumps(line | {"greedy": tokenizer.decode(made)}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--oracle", required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("goldens", type=Path)
    args = parser.parse_args()
    spec = importlib.util.spec_from_file_location("oracle", args.oracle)
    oracle = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(oracle)
    model = oracle.load(args.checkpoint, torch.float32)
    tokenizer = gn.Tokenizer.from_checkpoint(args.checkpoint)
    writer = Writer(tokenizer)
    stops = {tokenizer.special["<|return|>"], tokenizer.special["<|call|>"]}
    _spoken(model, tokenizer, stops, args.goldens / "tiny_trained_cases.jsonl")
    opening = tokenizer.encode("<|start|>assistant", allow_special=True)
    prompts, answers, least = [], [], float("inf")
    for case in _cases(args.count):
        prompt = writer.prefix(case.prefix) + writer.question(case.prefix, case.turns) + opening
        made, gap = _continue(model, prompt, stops)
        least = min(least, gap)
        prompts.append(prompt)
        answers.append(made)
    arrays = {}
    for name, lists in (("prompt", prompts), ("answer", answers)):
        arrays[f"{name}s"] = np.concatenate([np.array(ids, np.int16) for ids in lists])
        arrays[f"{name}_ends"] = np.cumsum([len(ids) for ids in lists])
    np.savez_compressed(args.goldens / "demo_held_out.npz", **arrays)
    print(f"{args.count} continuations; the least distance from best to second logit: {least:.2g}")


if __name__ == "__main__":
    main()
