"""What a skill makes: a question and the moves that answer it, and the draws behind it."""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .forms import PLAIN, Form

T = TypeVar("T")
# Written before a character that is wrong on purpose, so that a check has something to find: what
# follows it is context, not what is learnt.
WRONG = "\x01"
SPLITS = ("train", "validation", "test")


class NoneFound(Exception):
    """No problem that belongs here was drawn."""


class Elsewhere(Exception):
    """The problem that was drawn belongs to another split, or does not fit: draw again."""


def split_of(key: str) -> str:
    """Return the split that owns a problem: 8 of 10 are trained on."""
    first = hashlib.sha256(key.encode()).digest()[0] % 20
    return SPLITS[0] if first < 16 else SPLITS[1] if first < 18 else SPLITS[2]


@dataclass(frozen=True)
class Think:
    """A message on the channel analysis."""

    text: str


@dataclass(frozen=True)
class Call:
    """A call of a declared function.

    more: whether another call of the same turn follows at once; None where both would be right.
    """

    name: str
    arguments: dict[str, Any]
    more: bool | None = False


@dataclass(frozen=True)
class Result:
    """What a function answers."""

    name: str
    value: Any


@dataclass(frozen=True)
class Answer:
    """The message on the channel final."""

    text: str


Move = Think | Call | Result | Answer


@dataclass
class Problem:
    """One turn: `user` asks, `moves` answer; `bare` is the answer alone, as "42"."""

    skill: str
    user: str
    moves: list[Move]
    bare: str = ""
    follow: str = field(default="", compare=False)

    @property
    def answer(self) -> str:
        last = self.moves[-1]
        assert isinstance(last, Answer)
        return last.text


@dataclass(frozen=True)
class Mix:
    """What is asked for how often, where it differs from the skills' own weights.

    random_letters: share of words to spell that are letters without sense. small_sums: share of
    sums that are of one digit each. short_texts: share of readings that are two sentences.
    """

    weights: tuple[tuple[str, float], ...] = ()
    random_letters: float = 0.0
    small_sums: float = 0.1
    short_texts: float = 0.5


USUAL = Mix()


class Draw:
    """The random choices of one conversation, within one split.

    effort: "low", "medium" or "high". tools: names of the declared functions.
    """

    def __init__(
        self,
        rng: random.Random,
        split: str = "train",
        effort: str = "medium",
        tools: Sequence[str] = (),
        form: Form = PLAIN,
        mix: Mix = USUAL,
    ) -> None:
        self.rng, self.split, self.effort = rng, split, effort
        self.tools, self.form = tuple(tools), form
        self.mix = mix

    def one(self, choices: Sequence[T]) -> T:
        return choices[int(self.rng.random() * len(choices))]

    def several(self, choices: Sequence[T], count: int) -> list[T]:
        return self.rng.sample(choices, count)

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def between(self, low: int, high: int) -> int:
        return low + int(self.rng.random() * (high - low + 1))

    def number(self, most_digits: int) -> int:
        """Return a number whose count of digits is drawn first."""
        digits = self.between(1, most_digits)
        return self.between(0 if digits == 1 else 10 ** (digits - 1), 10**digits - 1)

    def own(self, key: str) -> None:
        """Claim a problem for this split; Elsewhere if it is another's."""
        if split_of(key) != self.split:
            raise Elsewhere

    def table(self) -> None:
        """Refuse to ask for what everybody has to know by heart, in what is held out."""
        if self.split != "train":
            raise Elsewhere

    def spare(self, key: str) -> None:
        """Refuse to train on what is held out, where it comes up within another problem."""
        if self.split == "train" and split_of(key) != "train":
            raise Elsewhere

    def by_effort(self, low: T, medium: T, high: T) -> T:
        return {"low": low, "medium": medium, "high": high}[self.effort]

    def solved(
        self, skill: str, user: str, think: str, full: str, bare: str, follow: str = ""
    ) -> Problem:
        """Return a problem answered by one thought and one answer in the form asked for."""
        moves: list[Move] = [Think(think)] if think else []
        return Problem(skill, user, [*moves, self.answer(full, bare)], bare, follow)

    def answer(self, full: str, bare: str) -> Answer:
        return Answer(self.form.apply(full, bare))


Skill = Callable[[Draw], Problem]


def draw_until(make: Callable[[], T], tries: int = 2000) -> T:
    """Return the first result of `make` that belongs here."""
    for _ in range(tries):
        try:
            return make()
        except Elsewhere:
            continue
    raise NoneFound(f"no problem of this split was found in {tries} tries")
