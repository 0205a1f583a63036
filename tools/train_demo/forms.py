"""Developer instructions that change the form of an answer, and nothing else."""

import random
from collections.abc import Callable
from dataclasses import dataclass

_WORDS = "Sure Right Look Well Okay Here Note Done Over Thanks Cheers End Bye Yes Good".split()


@dataclass(frozen=True)
class Form:
    """instructions: what the developer says; None says nothing. apply(full, bare): the answer."""

    instructions: str | None
    apply: Callable[[str, str], str]


PLAIN = Form(None, lambda full, bare: full)
BRIEF = Form("Answer briefly.", lambda full, bare: full)
POLITE = Form("You are a helpful assistant.", lambda full, bare: full)
BARE = [
    Form(text, lambda full, bare: bare)
    for text in (
        "Give the result only.",
        "Answer with the result only.",
        "Reply with the bare answer, no sentence.",
    )
]


def draw_form(rng: random.Random) -> Form:
    """Return a form: half of them change nothing."""
    kind = rng.random()
    if kind < 0.3:
        return PLAIN
    if kind < 0.5:
        return rng.choice([BRIEF, POLITE])
    if kind < 0.7:
        return rng.choice(BARE)
    word = rng.choice(_WORDS)
    if kind < 0.8:
        return Form(
            f"Begin every answer with '{word}:'.", lambda full, bare, w=word: f"{w}: {full}"
        )
    if kind < 0.9:
        return Form(f"End every answer with '{word}!'.", lambda full, bare, w=word: f"{full} {w}!")
    return Form(
        f"Write every answer as '{word.lower()} = ...'.",
        lambda full, bare, w=word: f"{w.lower()} = {bare}",
    )
