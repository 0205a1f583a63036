"""The evaluation as a page: report.md, accuracy.png by skill and effort, learning.png by step."""

import json
from collections import defaultdict
from pathlib import Path

from .evaluate import EFFORTS, GROUPS, Tally

Tallies = dict[tuple[str, str], Tally]
# skill: least share right at medium effort, in percent
TARGETS = {
    "add3": 98,
    "subtract3": 98,
    "call": 98,
    "add4": 95,
    "subtract4": 95,
    "chain2": 95,
    "chain3": 90,
    "story": 90,
    "reading": 90,
}


def _cell(tally: Tally | None) -> str:
    if tally is None:
        return "-"
    return f"{100 * tally.right / tally.count:.1f} ({tally.tokens / tally.count:.0f})"


def table(tallies: Tallies) -> list[str]:
    """Return a table: percent right, and in brackets tokens generated."""
    lines = ["| skill | " + " | ".join(EFFORTS) + " | target at medium |", "|---|---|---|---|---|"]
    for skill in GROUPS:
        cells = [_cell(tallies.get((skill, effort))) for effort in EFFORTS]
        lines.append(f"| {skill} | {' | '.join(cells)} | {TARGETS.get(skill, '')} |")
    return lines


def _plot_accuracy(tallies: Tallies, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(11, 4))
    for n, effort in enumerate(EFFORTS):
        shares = []
        for skill in GROUPS:
            tally = tallies.get((skill, effort))
            shares.append(100 * tally.right / tally.count if tally else 0)
        axes.bar([k + 0.27 * (n - 1) for k in range(len(GROUPS))], shares, 0.27, label=effort)
    axes.set_xticks(range(len(GROUPS)), GROUPS, rotation=60, ha="right")
    axes.set_ylabel("right, percent")
    axes.set_title("Held-out problems, MXFP4, by reasoning effort")
    axes.legend(loc="lower left")
    figure.tight_layout()
    figure.savefig(path, dpi=70)
    pyplot.close(figure)


def _plot_learning(log: Path, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    steps: list[int] = []
    shares: dict[str, list[float]] = defaultdict(list)
    for line in log.read_text().splitlines():
        values = json.loads(line)
        by_skill: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for skill, _, right, count in values["found"]:
            by_skill[skill][0] += right
            by_skill[skill][1] += count
        steps.append(values["step"])
        for skill in ("add4", "subtract4", "story", "reading", "chain3", "count", "document"):
            right, count = by_skill[skill]
            shares[skill].append(100 * right / max(1, count))
    figure, axes = pyplot.subplots(figsize=(8, 4))
    for skill, values in shares.items():
        axes.plot(steps, values, label=skill)
    axes.set_xlabel("step")
    axes.set_ylabel("validation, whole turns exact, percent")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=70)
    pyplot.close(figure)


def write(
    folder: Path, tallies: Tallies, slips: Tallies, forms: dict[str, float], log: Path | None
) -> None:
    """Write the report.

    slips: sums whose first column was made wrong. forms: percent of whole turns exact by number
    format of the same network.
    """
    folder.mkdir(parents=True, exist_ok=True)
    others = [
        t for (skill, _), t in tallies.items() if not skill.startswith(("call", "chain", "recall"))
    ]
    quiet = sum(t.count - t.called for t in others) / max(1, sum(t.count for t in others))
    found = sum(t.right for t in slips.values()), sum(t.count for t in slips.values())
    total = sum(t.right for t in tallies.values()), sum(t.count for t in tallies.values())
    lines = [
        "# How the bundled model does on problems that it was not trained on",
        "",
        f"{total[1]} conversations, {100 * total[0] / total[1]:.2f} % right.",
        "Percent right, and in brackets the mean number of tokens generated; by the runtime, its",
        "experts in MXFP4, the rest in bf16, greedy. Right: calls and answer exactly as",
        "expected, in whatever prefix was drawn. A skill with a target was asked for four times as",
        "often at medium effort as the others.",
        "",
        *table(tallies),
        "",
        f"Questions that need no function: none was called in {100 * quiet:.2f} %.",
        f"Sums whose first column was made wrong: {found[0]} of {found[1]} corrected by the check.",
        "",
        "The same network in PyTorch, whole turns exact on the test split: "
        + ", ".join(f"{name} {share:.2f} %" for name, share in forms.items())
        + ".",
        "",
        "![right by skill and effort](accuracy.png)",
        "",
        "![learning](learning.png)",
        "",
    ]
    (folder / "report.md").write_text("\n".join(lines))
    _plot_accuracy(tallies, folder / "accuracy.png")
    if log is not None and log.exists():
        _plot_learning(log, folder / "learning.png")
