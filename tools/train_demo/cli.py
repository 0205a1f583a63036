"""Command line: build, or one step of it."""

import argparse
import copy
from pathlib import Path

import gptoss_native as gn
import torch

from . import report
from .batches import exact_matches
from .conversation import Writer
from .evaluate import Runner, held_out, with_slips
from .export import export
from .mxfp4 import quantise
from .network import Network, Shape
from .train import Plan, train
from .vocabulary import build


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m train_demo", description="Rebuild the model that the wheel bundles."
    )
    parser.add_argument(
        "what",
        choices=["build", "vocabulary", "train", "export", "evaluate"],
        help="build does the others in order; a training that was stopped goes on",
    )
    parser.add_argument("--work", type=Path, default=Path("build/demo"), help="state and results")
    parser.add_argument("--steps", type=int, default=Plan.steps)
    parser.add_argument("--problems", type=int, default=100, help="held-out, a skill and effort")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def _compared(net: Network, writer: Writer, plan: Plan) -> dict[str, float]:
    """Return the percent of whole turns exact on the test split, by number format."""
    batches = [b for n in range(12) for b in plan.draw(writer, f"test {n}", "test")]

    def share(network: Network, rounded: bool) -> float:
        def logits(b):
            return network(
                b.ids, b.positions, b.seen, b.chosen, lambda w: quantise(w)[2] if rounded else w
            )

        _, found = exact_matches(logits, batches)
        right, count = (sum(values[n] for values in found.values()) for n in (0, 1))
        return 100 * right / count

    half = copy.deepcopy(net)
    with torch.no_grad():
        for p in half.parameters():
            p.copy_(p.to(torch.bfloat16).float())
    return {
        "float32": share(net, False),
        "weights in bf16": share(half, False),
        "experts in MXFP4, the rest in bf16": share(half, True),
    }


def main() -> int:
    """Run the command line; returns its exit status."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    plan = Plan(steps=args.steps)
    steps = ["vocabulary", "train", "export", "evaluate"] if args.what == "build" else [args.what]
    work, checkpoint = args.work, args.work / "checkpoint"
    if "vocabulary" in steps and not (args.what == "build" and (work / "tokenizer.json").exists()):
        build(work)
    writer = Writer(gn.Tokenizer.from_checkpoint(work))
    shape = Shape(vocab_size=writer.tokenizer.vocab_size)
    if "train" in steps:
        train(writer, shape, plan, work)
    if not {"export", "evaluate"} & set(steps):
        return 0
    net = Network(shape)
    net.load_state_dict(torch.load(work / "checkpoint.pt", weights_only=True)["net"])
    if "export" in steps:
        export(net, work / "tokenizer.json", checkpoint)
    if "evaluate" in steps:
        with gn.Model.load(checkpoint, threads=args.threads) as model:
            runner = Runner(model)
            tallies = runner.run(held_out(args.problems, report.TARGETS))
            slips = runner.run(with_slips(args.problems))
        for key, tally in tallies.items():
            for text in tally.wrong[:3]:
                print(*key, text)
        forms = _compared(net, writer, plan)
        report.write(work / "report", tallies, slips, forms, work / "log.jsonl")
        print((work / "report" / "report.md").read_text())
    return 0
