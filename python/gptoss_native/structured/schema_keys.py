"""What of a JSON schema llguidance takes without an error, and does not hold to."""

import re
from collections.abc import Iterator
from typing import Any

from ..json_fields import shown

# Written as \u and digits alone, an escape that is not allowed (`formats`).
_UNSPELLED = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")
# What of a regular expression stands for one character, or may be one: by number, by letter.
_HEX = r"[0-9A-Fa-f]"
_PIECE = re.compile(
    rf"\\x(?P<x>{_HEX}{{2}})|\\u(?P<u>{_HEX}{{4}})|\\U(?P<U>{_HEX}{{8}})|"
    rf"\\[xuU]\{{(?P<braced>{_HEX}{{1,8}})\}}|\\(?P<letter>.)|.",
    re.DOTALL,
)
_LETTERS = "av"  # bell, vertical tab
# Keys whose texts are written: the texts within, or the names.
_VALUES = ("const", "enum", "pattern", "required")
_NAMES = ("properties", "patternProperties")
_PATTERNS = ("pattern", "patternProperties")
# Keys that hold schemas: by name, in a list, or one.
_BY_NAME = (*_NAMES, "$defs", "definitions")
_LISTED = ("anyOf", "allOf", "oneOf", "prefixItems", "items")
_SINGLE = ("items", "additionalProperties")


def broken_key(schema: Any) -> str | None:
    """Return a key that would not be held to, and why, of a schema or those within; None: none."""
    if not isinstance(schema, dict):
        return None
    return next(filter(None, (_broken(schema), *map(broken_key, _within(schema)))), None)


def _broken(schema: dict[str, Any]) -> str | None:
    least, required = schema.get("minProperties"), schema.get("required")
    # Keys beyond `properties` may come twice, and then count once.
    sure = len(required) + 1 if isinstance(required, list) else 1
    if isinstance(least, int) and least > sure:
        return f"minProperties is {least}, wanted at most one more than are required"
    for key in (*_VALUES, *_NAMES):
        held = schema.get(key)
        names = list(held) if key in _NAMES and isinstance(held, dict) else held
        for text in _strings(names):
            if _UNSPELLED.search(text):
                return f"{key} has {shown(text)}, wanted no control characters"
            if key in _PATTERNS and (escape := _unspelled_escape(text)) is not None:
                what = f"has {shown(text)}, with the control character {escape}"
                return f"{key} {what}, wanted none that must come"
    return None


def _unspelled_escape(pattern: str) -> str | None:
    """Return what stands for a character that cannot be written, alone or in a class of such."""
    held: list[str] | None = None  # of a class: its pieces
    pieces = [match[0] for match in _PIECE.finditer(pattern)]
    for piece in pieces:
        if held is None:
            if piece == "[":
                held = []
            elif _is_unspelled(piece):
                return piece
        elif piece != "]" or held in ([], ["^"]):  # as the first it is one of them
            held.append(piece)
        else:
            members = [held[n] for n in range(len(held)) if not _is_range(held, n)]
            if all(map(_is_unspelled, members)):
                return f"[{''.join(held)}]"
            held = None
    return None


def _is_range(held: list[str], at: int) -> bool:
    return held[at] == "-" and 0 < at < len(held) - 1


def _is_unspelled(piece: str) -> bool:
    match = _PIECE.fullmatch(piece)
    if match is None or len(piece) == 1:
        return False
    number = next(filter(None, match.group("x", "u", "U", "braced")), None)
    if number is None:
        return (match["letter"] or " ") in _LETTERS
    return int(number, 16) < 128 and _UNSPELLED.match(chr(int(number, 16))) is not None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _strings(list(value.items()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _within(schema: dict[str, Any]) -> Iterator[Any]:
    for key in _BY_NAME:
        if isinstance(schema.get(key), dict):
            yield from schema[key].values()
    for key in _LISTED:
        if isinstance(schema.get(key), list):
            yield from schema[key]
    for key in _SINGLE:
        yield schema.get(key)
