"""Training: fixed seeds, progress, checkpoints from which it goes on."""

import json
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from .batches import Batch, draw_batch, exact_matches
from .conversation import Writer
from .mxfp4 import straight_through
from .network import Network, Shape
from .optimiser import optimisers
from .problem import USUAL, Mix


@dataclass(frozen=True)
class Part:
    """The rows of a step that have one length; a fixed shape compiles once.

    declares: whether their prefixes declare functions or a schema, which makes them long.
    most_learnt: places whose loss counts, more are cut off.
    """

    rows: int
    length: int
    declares: bool
    most_learnt: int


@dataclass(frozen=True)
class Plan:
    """How long and how fast."""

    steps: int = 10400
    parts: tuple[Part, ...] = (Part(7, 384, False, 1408), Part(4, 640, True, 1152))
    muon_lr: float = 0.02
    adam_lr: float = 3e-3
    warmup: int = 100
    # From `falling` on the rate falls, in a line, to 0 at `again`, and from a part of it once more.
    falling: int = 3500
    again: int = 9000
    again_rate: float = 0.3
    # From which step on what is asked for how often. All else rests on copying, so words are
    # repeated most at first; letters without sense would be a third of the loss later on.
    mixes: tuple[tuple[int, Mix], ...] = (
        (0, Mix((("repeat", 24), ("sort", 3), ("date", 3)), random_letters=0.2)),
        (1600, Mix((("repeat", 12),), random_letters=0.1)),
        (3000, USUAL),
        (9000, Mix((("reading", 60),), short_texts=0.1)),
    )
    seed: int = 0

    def rate(self, step: int) -> float:
        if step >= self.again:
            return self.again_rate * (self.steps - step) / (self.steps - self.again)
        left = (self.again - step) / (self.again - self.falling)
        return min(1.0, (step + 1) / self.warmup, left)

    def draw(self, writer: Writer, name: int | str, split: str) -> list[Batch]:
        """Return the batches of a step, or of another name, one a part."""
        mix = USUAL
        if isinstance(name, int):
            mix = next(mix for first, mix in reversed(self.mixes) if first <= name)
        return [
            draw_batch(writer, f"{self.seed} {name} {n}", split, p.rows, p.length, p.declares, mix)
            for n, p in enumerate(self.parts)
        ]


def _fixed(batch: Batch, size: int, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return places, targets and weights, 1 / count each, of exactly `size` places."""
    most = min(size, len(batch.chosen))
    chosen, targets = torch.zeros(size, dtype=torch.int64), torch.zeros(size, dtype=torch.int64)
    chosen[:most], targets[:most] = batch.chosen[:most], batch.targets[:most]
    weights = torch.zeros(size)
    weights[:most] = 1 / count
    return chosen, targets, weights


def _loss(net, ids, positions, seen, chosen, targets, weights):
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(ids, positions, seen, chosen)
    return (F.cross_entropy(logits.float(), targets, reduction="none") * weights).sum()


def _backward(loss_of, net: Network, plan: Plan, batches: list[Batch]) -> float:
    """Leave the gradients of a step's loss in the parameters, and return the loss."""
    count = sum(min(p.most_learnt, len(b.chosen)) for p, b in zip(plan.parts, batches, strict=True))
    total = 0.0
    for part, batch in zip(plan.parts, batches, strict=True):
        fixed = _fixed(batch, part.most_learnt, count)
        loss = loss_of(net, batch.ids, batch.positions, batch.seen, *fixed)
        loss.backward()
        total += loss.item()
    return total


def report(found: dict[tuple[str, str], list[int]]) -> str:
    """Return shares of exact matches by skill, the efforts in a row."""
    by_skill: dict[str, dict[str, str]] = defaultdict(dict)
    for (skill, effort), (right, count) in found.items():
        by_skill[skill][effort] = f"{100 * right / count:.0f}"
    efforts = ("low", "medium", "high")
    return "  ".join(
        f"{skill} {'/'.join(of.get(e, '-') for e in efforts)}"
        for skill, of in sorted(by_skill.items())
    )


def _rounded_logits(net: Network, batch: Batch) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return net(batch.ids, batch.positions, batch.seen, batch.chosen, straight_through)


def _save(path: Path, net: Network, optims: list, step: int) -> None:
    state = {"net": net.state_dict(), "step": step}
    state["optims"] = [optim.state_dict() for optim in optims]
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def train(writer: Writer, shape: Shape, plan: Plan, folder: Path, every: int = 500) -> Network:
    """Train, or go on from folder/checkpoint.pt; write a line a report to folder/log.jsonl."""
    torch.manual_seed(plan.seed)
    net = Network(shape)
    optims = optimisers(net, plan.muon_lr, plan.adam_lr)
    rates = [[group["lr"] for group in optim.param_groups] for optim in optims]
    saved, first = folder / "checkpoint.pt", 0
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        net.load_state_dict(state["net"])
        for optim, values in zip(optims, state["optims"], strict=True):
            optim.load_state_dict(values)
        first = state["step"]
    loss_of = torch.compile(_loss, dynamic=False)
    checks = [b for n in range(16) for b in plan.draw(writer, f"check {n}", "validation")]
    folder.mkdir(parents=True, exist_ok=True)
    started, mean, tokens = time.monotonic(), 0.0, 0
    for step in range(first, plan.steps):
        batches = plan.draw(writer, step, "train")
        loss = _backward(loss_of, net, plan, batches)
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for optim, bases in zip(optims, rates, strict=True):
            for group, base in zip(optim.param_groups, bases, strict=True):
                group["lr"] = base * plan.rate(step)
            optim.step()
            optim.zero_grad(set_to_none=True)
        mean = loss if step == first else 0.98 * mean + 0.02 * loss
        tokens += sum(batch.ids.numel() for batch in batches)
        if (step + 1) % 50 == 0:
            speed = tokens / (time.monotonic() - started)
            print(f"step {step + 1}  loss {mean:.4f}  {speed:.0f} tokens/s", flush=True)
        if (step + 1) % 100 == 0 or step + 1 == plan.steps:
            _save(saved, net, optims, step + 1)
        if (step + 1) % every == 0 or step + 1 == plan.steps:
            values, found = exact_matches(lambda b: _rounded_logits(net, b), checks)
            right, count = (sum(v[n] for v in found.values()) for n in (0, 1))
            print(f"  validation {values:.4f}  {100 * right / count:.1f} %  {report(found)}")
            line = {"step": step + 1, "loss": mean, "validation": values, "exact": right / count}
            line["found"] = [[*key, *value] for key, value in sorted(found.items())]
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
    return net
