"""Days, months and dates."""

from .columns import add, held, subtract
from .problem import Draw, Problem
from .words import DAYS, MONTHS

_LENGTHS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]


def weekday(draw: Draw) -> Problem:
    """Counted day by day; low effort guesses."""
    start, n = draw.between(0, 6), draw.between(2, 12)
    back = draw.chance(0.3)
    draw.own(f"weekday {start} {n} {back}")
    step = -1 if back else 1
    walk = [DAYS[(start + step * k) % 7] for k in range(1, n + 1)]
    steps = " ".join(f"{day} {k}" for k, day in enumerate(walk, 1)) + "."
    where = "before" if back else "after"
    asked = [
        f"What day is {n} days {where} {DAYS[start]}?",
        f"Which day comes {n} days {where} {DAYS[start]}?",
    ]
    thought = draw.by_effort("", steps, f"{DAYS[start]}, {n} days {where}. {steps}")
    return draw.solved("weekday", draw.one(asked), thought, f"It is {walk[-1]}.", walk[-1])


def month(draw: Draw) -> Problem:
    n, back = draw.between(0, 11), draw.chance(0.4)
    found = MONTHS[(n + (-1 if back else 1)) % 12]
    user = f"Which month comes {'before' if back else 'after'} {MONTHS[n]}?"
    thought = draw.by_effort("", "", f"{MONTHS[n]}, then {found}." if not back else "")
    return draw.solved("month", user, thought, f"{found}.", found)


def date(draw: Draw) -> Problem:
    """A date some days later; no leap years."""
    year, month, day = draw.between(2021, 2029), draw.between(1, 12), draw.between(1, 28)
    n = draw.between(2, 20)
    draw.own(f"date {month} {day} {n}")
    held(draw, day, n)
    length, total = _LENGTHS[month - 1], day + n
    steps = f"{add(day, n)}. {MONTHS[month - 1]} has {length}"
    if total <= length:
        steps += ", enough."
        year2, month2, day2 = year, month, total
    else:
        month2, year2 = (month + 1, year) if month < 12 else (1, year + 1)
        day2 = total - length
        steps += f", too few. {subtract(total, length)}."
    shown, found = f"{year}-{month:02}-{day:02}", f"{year2}-{month2:02}-{day2:02}"
    asked = [f"What is the date {n} days after {shown}?", f"Which date is {n} days after {shown}?"]
    thought = draw.by_effort("", steps, f"{shown} and {n} days. {steps}")
    return draw.solved("date", draw.one(asked), thought, f"It is {found}.", found)
