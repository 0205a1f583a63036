"""Written arithmetic, one column at a time: small steps that a small network can learn.

`17+25: 7+5=12 [2], 1+2+1=4 [42]`: each column from the right, with what was carried, and in
brackets the digits of the result so far. Sums without columns were never learnt.
"""

from .problem import WRONG, Draw, Elsewhere


def family(a: int, b: int) -> str:
    """Return the key of a + b and of both differences that undo it."""
    return f"{min(a, b)}+{max(a, b)}"


def held(draw: Draw, a: int, b: int) -> None:
    """Refuse a sum that is held out; those of two digits are the tables that columns need."""
    if max(a, b) > 9:
        draw.spare(family(a, b))


def add(a: int, b: int, brackets: bool = True, slip: int | None = None) -> tuple[str, int]:
    """Return the columns of a + b, and the result; `slip` is a column whose sum is wrong by one."""
    width = max(len(str(a)), len(str(b)))
    x, y = str(a).zfill(width), str(b).zfill(width)
    parts, done, carry = [], "", 0
    for n in range(width):
        p, q = int(x[-1 - n]), int(y[-1 - n])
        total = p + q + carry
        shown = str(total)
        if n == slip:
            total += 1 if total % 10 < 9 else -1
            shown = str(total)[:-1] + WRONG + str(total)[-1]
        done = (str(total) if n == width - 1 else str(total % 10)) + done
        text = f"{p}+{q}{'+1' if carry else ''}={shown}"
        parts.append(f"{text} [{done}]" if brackets else text)
        carry = total // 10
    return f"{x}+{y}: {', '.join(parts)}", int(done)


def subtract(a: int, b: int, brackets: bool = True, slip: int | None = None) -> tuple[str, int]:
    """Return the columns of a - b for a >= b, and the result; a column that borrows shows 1x."""
    width = len(str(a))
    x, y = str(a), str(b).zfill(width)
    parts, done, borrow = [], "", 0
    for n in range(width):
        p, q = int(x[-1 - n]), int(y[-1 - n])
        low = p - q - borrow < 0
        left = p + 10 * low - q - borrow
        shown = str(left)
        if n == slip:
            left += 1 if left < 9 else -1
            shown = WRONG + str(left)
        done = str(left) + done
        text = f"{p + 10 * low}{'-1' if borrow else ''}-{q}={shown}"
        parts.append(f"{text} [{done}]" if brackets else text)
        borrow = int(low)
    return f"{x}-{y}: {', '.join(parts)}", int(done)


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
    """Return the columns and their check; some go wrong, are found out and redone."""
    work, undo = (add, subtract) if plus else (subtract, add)
    width = len(str(max(a, b)))
    slip = draw.between(0, width - 1) if draw.split == "train" and draw.chance(0.2) else None
    text, result = work(a, b, slip=slip)
    if plus and result < b:
        raise Elsewhere
    if slip is not None:
        held(draw, result if not plus else result - b, b)
    back, found = undo(result, b)
    said = f"{text}. Check: {back}"
    if found == a:
        return f"{said}, right."
    again, _ = work(a, b)
    return f"{said}, not {a}. Again: {again}."


def plus(draw: Draw, a: int, b: int) -> tuple[str, int]:
    """Return how a + b is thought at the draw's effort, and the sum."""
    held(draw, a, b)
    if draw.effort == "high":
        return _checked(draw, a, b, True), a + b
    return add(a, b, brackets=draw.effort == "medium")[0] + ".", a + b


def minus(draw: Draw, a: int, b: int) -> tuple[str, int]:
    """Return how a - b is thought at the draw's effort, and the difference."""
    if a < b:
        thought, result = minus(draw, b, a)
        return f"{a} is less than {b}. {thought} Negative.", -result
    held(draw, a - b, b)
    if draw.effort == "high":
        return _checked(draw, a, b, False), a - b
    return subtract(a, b, brackets=draw.effort == "medium")[0] + ".", a - b
