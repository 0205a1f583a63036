"""Sums, differences, comparison, sorting, units."""

import itertools
from collections.abc import Iterable

from .columns import family, minus, plus, times
from .problem import Draw, Problem, Skill

_PLUS = [
    "What is {a} + {b}?",
    "{a} + {b}",
    "How much is {a} plus {b}?",
    "Add {a} and {b}.",
    "Please compute {a}+{b}.",
    "What is the sum of {a} and {b}?",
    "What is {a}+{b}?",
    "Calculate {a} plus {b}.",
    "And {a} + {b}?",
]
_MINUS = [
    "What is {a} - {b}?",
    "{a} - {b}",
    "How much is {a} minus {b}?",
    "Subtract {b} from {a}.",
    "Please compute {a}-{b}.",
    "What is the difference of {a} and {b}?",
    "What is {a}-{b}?",
    "Calculate {a} minus {b}.",
    "And {a} - {b}?",
]


def _claim(draw: Draw, a: int, b: int) -> None:
    if max(a, b) > 9:
        draw.own(family(a, b))
    else:
        draw.table()


def _sum_of(draw: Draw, digits: int) -> tuple[int, int]:
    if draw.mix.small_sums and draw.chance(draw.mix.small_sums):
        digits = 1
    a, b = draw.number(digits), draw.number(digits)
    if draw.chance(0.5):
        a = draw.between(10 ** (digits - 1), 10**digits - 1)
    if draw.chance(0.3):
        b = draw.between(10 ** (digits - 1), 10**digits - 1)
    if draw.chance(0.5):
        a, b = b, a
    _claim(draw, a, b)
    return a, b


def _addition(digits: int, skill: str) -> Skill:
    def make(draw: Draw) -> Problem:
        a, b = _sum_of(draw, digits)
        thought, c = plus(draw, a, b)
        user = draw.one(_PLUS).format(a=a, b=b)
        return draw.solved(skill, user, thought, f"{a} + {b} = {c}", str(c), str(c))

    return make


def _difference(digits: int, skill: str) -> Skill:
    def make(draw: Draw) -> Problem:
        most = 1 if draw.mix.small_sums and draw.chance(draw.mix.small_sums) else digits
        a = draw.number(most)
        if draw.chance(0.6):
            a = draw.between(10 ** (most - 1), 10**most - 1)
        b = min(a, draw.number(digits)) if draw.chance(0.5) else draw.between(0, a)
        _claim(draw, a - b, b)
        if draw.chance(0.1):
            a, b = b, a
        thought, c = minus(draw, a, b)
        user = draw.one(_MINUS).format(a=a, b=b)
        return draw.solved(skill, user, thought, f"{a} - {b} = {c}", str(c), str(c))

    return make


add3, add4 = _addition(3, "add3"), _addition(4, "add4")
subtract3, subtract4 = _difference(3, "subtract3"), _difference(4, "subtract4")


def product(draw: Draw) -> Problem:
    """One factor has one digit."""
    a, b = draw.between(2, 999) if draw.chance(0.5) else draw.between(2, 99), draw.between(2, 9)
    if a > 9:
        draw.own(f"{a}*{b}")
    else:
        draw.table()
    thought, c = times(a, b)
    asked = ["What is {a} * {b}?", "{a} times {b}?", "How much is {a} times {b}?"]
    user = draw.one(asked).format(a=a, b=b)
    return draw.solved("product", user, f"{thought}.", f"{a} * {b} = {c}", str(c), str(c))


def _digits_compared(a: int, b: int, largest: bool) -> tuple[str, int]:
    """Return how the larger or smaller of two different numbers is found, and it."""
    width = max(len(str(a)), len(str(b)))
    x, y = str(a).zfill(width), str(b).zfill(width)
    parts = []
    for p, q in zip(x, y, strict=True):
        parts.append(f"{p}{'<' if p < q else '>' if p > q else '='}{q}")
        if p != q:
            break
    first = (a > b) == largest
    found = a if first else b
    return f"{x} {y}: {', '.join(parts)}, the {'first' if first else 'second'}: {found}.", found


def compare(draw: Draw) -> Problem:
    a = draw.number(4)
    b = draw.number(4)
    if a > 9 and draw.chance(0.6):  # those that share their first digits are the hard ones
        keep = draw.between(1, len(str(a)) - 1)
        tail = len(str(a)) - keep
        b = a // 10**tail * 10**tail + draw.between(0, 10**tail - 1)
    if a == b:
        b += 1
    draw.own(f"compare {min(a, b)} {max(a, b)}")
    largest = draw.chance(0.5)
    thought, found = _digits_compared(a, b, largest)
    word = "larger" if largest else "smaller"
    asked = [
        f"Which is {word}, {a} or {b}?",
        f"Which number is {word}: {a} or {b}?",
        f"Tell me the {word} of {a} and {b}.",
    ]
    thought = draw.by_effort("", thought, f"The {word} one. {thought}")
    return draw.solved(
        "compare", draw.one(asked), thought, f"{found} is {word}.", str(found), str(found)
    )


def _two_digits(numbers: Iterable[int]) -> str:
    return " ".join(f"{n:02}" for n in numbers)


def sort(draw: Draw) -> Problem:
    """Medium effort takes the best of what is left each time; low effort guesses."""
    numbers = draw.several(range(1, 100), draw.between(3, 5))
    down = draw.chance(0.4)
    key = " ".join(map(str, sorted(numbers)))
    draw.own(f"sort {key}")
    ordered = sorted(numbers, reverse=down)
    left, parts = list(numbers), []
    best = max if down else min
    for n in ordered:
        # The best so far beside each number: one comparison a step.
        so_far = itertools.accumulate(left, best)
        parts.append(f"{_two_digits(left)}: {_two_digits(so_far)}")
        left.remove(n)
    shown, said = ", ".join(map(str, numbers)), ", ".join(map(str, ordered))
    asked = ["from large to small", "in falling order"] if down else ["from small to large"]
    if not down:
        asked += ["in rising order", "please"]
    user = f"{draw.one(['Sort', 'Order'])} {shown} {draw.one(asked)}."
    steps = "; ".join(parts) + "."
    pairs = " ".join(f"{a}{'>' if down else '<'}{b}" for a, b in itertools.pairwise(ordered))
    thought = draw.by_effort("", steps, f"{len(numbers)} numbers. {steps} Check: {pairs}.")
    return draw.solved("sort", user, thought, said, said)


# unit, smaller unit, how many
_UNITS = [
    ("m", "cm", 100),
    ("km", "m", 1000),
    ("kg", "g", 1000),
    ("hours", "minutes", 60),
    ("minutes", "seconds", 60),
    ("weeks", "days", 7),
    ("years", "months", 12),
    ("days", "hours", 24),
    ("cm", "mm", 10),
]


def units(draw: Draw) -> Problem:
    large, small, factor = draw.one(_UNITS)
    n = draw.between(2, 9 if factor in (12, 24) else 99)
    draw.own(f"{n} {large} {small}")
    said = f"1 {large.removesuffix('s')} = {factor} {small}."
    if factor in (10, 100, 1000):
        thought, result = f"{n}*{factor}={n * factor}.", n * factor
    elif factor == 60:
        steps, tens = times(n, 6)
        thought, result = f"{steps}, {tens}*10={tens * 10}.", tens * 10
    else:
        steps, result = times(*((n, factor) if factor < 10 else (factor, n)))
        thought = f"{steps}."
    asked = [
        f"How many {small} are {n} {large}?",
        f"Convert {n} {large} to {small}.",
        f"What is {n} {large} in {small}?",
    ]
    thought = draw.by_effort(thought, f"{said} {thought}", f"{large} to {small}: {said} {thought}")
    full = f"{n} {large} = {result} {small}"
    return draw.solved("units", draw.one(asked), thought, full, f"{result} {small}")
