"""Written arithmetic, one column at a time: small steps that a small network can learn.

`17+25: 7+5=12 [2], 1+2+1=4 [42]`: each column from the right, with what was carried, and in
brackets the digits of the result so far. Sums without columns were never learnt.
"""

from .problem import WRONG, Draw


def family(a: int, b: int) -> str:
    """Return the key of a + b and of both differences that undo it."""
    return f"{min(a, b)}+{max(a, b)}"


def held(draw: Draw, a: int, b: int) -> None:
    """Refuse a sum that is held out; those of two digits are the tables that columns need."""
    if max(a, b) > 9:
        draw.spare(family(a, b))


Columns = list[tuple[str, int]]  # from the right: what is worked out, and what it gives


def _sum_columns(a: int, b: int) -> Columns:
    width = max(len(str(a)), len(str(b)))
    found, carry = [], 0
    for p, q in zip(reversed(str(a).zfill(width)), reversed(str(b).zfill(width)), strict=True):
        total = int(p) + int(q) + carry
        found.append((f"{p}+{q}{'+1' if carry else ''}", total))
        carry = total // 10
    return found


def _difference_columns(a: int, b: int) -> Columns:
    """Return the columns of a - b; one that borrows shows 1x. Where b is larger the last column,
    which has nothing to borrow from, is negative."""
    width = max(len(str(a)), len(str(b)))
    pairs = list(zip(str(a).zfill(width), str(b).zfill(width), strict=True))
    found, borrow = [], 0
    for n, (p, q) in enumerate(reversed(pairs), 1):
        left = int(p) - int(q) - borrow
        low = left < 0 and n < width
        found.append((f"{'1' if low else ''}{p}{'-1' if borrow else ''}-{q}", left + 10 * low))
        borrow = int(left < 0)
    return found


def _slipped(value: int) -> int:
    """Return a value beside the right one; what is carried stays."""
    return value + 1 if value % 10 < 9 else value - 1


def _kept(columns: Columns, n: int, slip: int | None) -> str:
    """Return the digits that a column gives to the result: the last gives all of its own."""
    value = _slipped(columns[n][1]) if n == slip else columns[n][1]
    return str(value) if n == len(columns) - 1 else str(value % 10)


def _written(columns: Columns, brackets: bool, slip: int | None = None) -> str:
    parts, done = [], ""
    for n, (step, value) in enumerate(columns):
        shown = str(value)
        if n == slip:
            wrong = str(_slipped(value))
            shown = wrong[:-1] + WRONG + wrong[-1]
        done = _kept(columns, n, slip) + done
        parts.append(f"{step}={shown} [{done}]" if brackets else f"{step}={shown}")
    return ", ".join(parts)


def _filled(a: int, b: int) -> tuple[str, str]:
    width = max(len(str(a)), len(str(b)))
    return str(a).zfill(width), str(b).zfill(width)


def add(a: int, b: int, brackets: bool = True, slip: int | None = None) -> str:
    """Return the columns of a + b; `slip` is a column whose sum is wrong by one."""
    x, y = _filled(a, b)
    return f"{x}+{y}: {_written(_sum_columns(a, b), brackets, slip)}"


def subtract(a: int, b: int, brackets: bool = True, slip: int | None = None) -> str:
    """Return the columns of a - b for a >= b."""
    x, y = _filled(a, b)
    return f"{x}-{y}: {_written(_difference_columns(a, b), brackets, slip)}"


def less(a: int, b: int, brackets: bool) -> str:
    """Return the columns of a - b for a < b: only the last tells that b is larger."""
    x, y = _filled(a, b)
    *columns, (last, _) = _difference_columns(a, b)
    before = f"{_written(columns, brackets)}, " if columns else ""
    return f"{x}-{y}: {before}{last} less."


def times(a: int, digit: int) -> tuple[str, int]:
    """Return the columns of a times one digit, and the product."""
    parts, done, carry = [], "", 0
    text = str(a)
    for n in range(len(text)):
        p = int(text[-1 - n])
        product = p * digit
        total = product + carry
        step = f"{p}*{digit}={product}" + (f"+{carry}={total}" if carry else "")
        done = (str(total) if n == len(text) - 1 else str(total % 10)) + done
        parts.append(f"{step} [{done}]")
        carry = total // 10
    return f"{a}*{digit}: {', '.join(parts)}", int(done)


def _checked(draw: Draw, a: int, b: int, plus: bool) -> str:
    """Return the columns and their check; some go wrong, are found out and redone.

    The check takes each digit of the result, works its column out once more and compares the two,
    which stand side by side. Undone instead, every sum was said to be right: what came out stood
    far from the number to compare it with.
    """
    work, columns = (add, _sum_columns(a, b)) if plus else (subtract, _difference_columns(a, b))
    slips = draw.split == "train" and draw.chance(0.35)
    slip = draw.between(0, len(columns) - 1) if slips else None
    parts = []
    for n, (step, value) in enumerate(columns):
        parts.append(f"{_kept(columns, n, slip)}? {step}={value}")
        if n == slip:
            break
    said = f"{work(a, b, slip=slip)}. Check: {' right, '.join(parts)}"
    return f"{said} right." if slip is None else f"{said} wrong. Again: {work(a, b)}."


def plus(draw: Draw, a: int, b: int) -> tuple[str, int]:
    """Return how a + b is thought at the draw's effort, and the sum."""
    held(draw, a, b)
    if draw.effort == "high":
        return _checked(draw, a, b, True), a + b
    return add(a, b, brackets=draw.effort == "medium") + ".", a + b


def minus(draw: Draw, a: int, b: int) -> tuple[str, int]:
    """Return how a - b is thought at the draw's effort, and the difference."""
    if a < b:
        thought, result = minus(draw, b, a)
        return f"{less(a, b, draw.effort != 'low')} {thought} Negative.", -result
    held(draw, a - b, b)
    if draw.effort == "high":
        return _checked(draw, a, b, False), a - b
    return subtract(a, b, brackets=draw.effort == "medium") + ".", a - b
