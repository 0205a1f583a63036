"""Rows as tensors, and exact matches by skill."""

import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .conversation import Row, Writer, draw_row
from .problem import USUAL, Mix


@dataclass
class Batch:
    """ids, positions: int64 [rows, length]; seen: bool [rows, length, length]; chosen: int64 [n],
    flat places whose next token is learnt; targets: int64 [n]; conversation: int64 [n], which one
    each place belongs to; skills: of each conversation."""

    ids: torch.Tensor
    positions: torch.Tensor
    seen: torch.Tensor
    chosen: torch.Tensor
    targets: torch.Tensor
    conversation: torch.Tensor
    skills: list[tuple[str, str]]


def make_batch(rows: list[Row], length: int) -> Batch:
    count = len(rows)
    ids = torch.zeros(count, length, dtype=torch.int64)
    positions = torch.zeros(count, length, dtype=torch.int64)
    segments = torch.full((count, length), -1)
    chosen, targets, conversation, skills = [], [], [], []
    for n, row in enumerate(rows):
        size = len(row.ids)
        ids[n, :size] = torch.tensor(row.ids)
        positions[n, :size] = torch.tensor(row.positions)
        segments[n, :size] = torch.tensor(row.segments)
        for k in range(1, size):
            if row.learnt[k]:
                chosen.append(n * length + k - 1)
                targets.append(row.ids[k])
                conversation.append(len(skills) + row.segments[k] - 1)
        skills += row.skills
    # Small integers: these are a million comparisons a row of a step.
    own = segments.to(torch.int8)
    seen = (own[:, :, None] == own[:, None, :]) | (own[:, None, :] == 0)
    seen &= torch.ones(length, length, dtype=torch.bool).tril()
    return Batch(
        ids,
        positions,
        seen,
        torch.tensor(chosen),
        torch.tensor(targets),
        torch.tensor(conversation),
        skills,
    )


def draw_batch(
    writer: Writer,
    seed: str,
    split: str,
    rows: int,
    length: int,
    declares: bool | None = None,
    mix: Mix = USUAL,
) -> Batch:
    """Return the batch of a seed: the same whenever it is asked for."""
    rng = random.Random(seed)
    drawn = [draw_row(writer, rng, split, length, declares, mix) for _ in range(rows)]
    return make_batch(drawn, length)


@torch.no_grad()
def exact_matches(
    logits_of: Callable[[Batch], torch.Tensor], batches: list[Batch]
) -> tuple[float, dict[tuple[str, str], list[int]]]:
    """Return the mean loss, and of each skill and effort [conversations written exactly, all].

    A conversation's answer is determined by its question, so one in which every token is the
    likeliest after those before it is what greedy decoding writes.
    """
    found: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    loss, count = 0.0, 0
    for batch in batches:
        logits = logits_of(batch).float()
        loss += torch.nn.functional.cross_entropy(logits, batch.targets, reduction="sum").item()
        count += len(batch.targets)
        wrong = torch.zeros(len(batch.skills), dtype=torch.int64)
        wrong.index_add_(0, batch.conversation, (logits.argmax(-1) != batch.targets).long())
        for skill, n in zip(batch.skills, wrong.tolist(), strict=True):
            found[skill][0] += n == 0
            found[skill][1] += 1
    return loss / count, dict(found)
