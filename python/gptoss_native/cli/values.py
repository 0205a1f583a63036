"""What an option may hold: converters that say what was given and wanted."""

import argparse
import datetime
from collections.abc import Callable

from ..json_fields import shown

# What the library's own integers can hold; it checks the narrower ranges and names them.
_INT_MAX = 2**31 - 1


def integer(low: int, high: int) -> Callable[[str], int]:
    def convert(given: str) -> int:
        try:
            value = int(given)
        except ValueError:  # also thousands of digits
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{shown(given)} is no integer from {low} to {high}")
        return value

    return convert


count = integer(1, _INT_MAX)
count_or_zero = integer(0, _INT_MAX)


def number(given: str) -> float:
    try:
        return float(given)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shown(given)} is no number") from None


def ids(given: str) -> list[int]:
    found = [count_or_zero(part) for part in given.replace(",", " ").split()]
    if not found:
        raise argparse.ArgumentTypeError("no ids; wanted integers, as in 1,2,3")
    return found


def text(given: str) -> str:
    if not given:
        raise argparse.ArgumentTypeError("it is empty")
    return given


def bias(given: str) -> tuple[int, float]:
    token, equals, value = given.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{shown(given)} is not ID=VALUE")
    return count_or_zero(token), number(value)


def date(given: str) -> datetime.date:
    try:
        found = datetime.date.fromisoformat(given)
        if found.isoformat() == given:  # newer Pythons take other forms too
            return found
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{shown(given)} is no date YYYY-MM-DD")
