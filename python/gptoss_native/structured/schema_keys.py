"""What of a JSON schema llguidance takes without an error, and does not hold to."""

import re
from collections.abc import Iterator
from typing import Any

from ..json_fields import shown

# Written as \u and digits alone, an escape that is not allowed (`formats`).
_UNSPELLED = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")
# Keys whose texts are written: the texts within, or the names.
_VALUES = ("const", "enum", "pattern", "required")
_NAMES = ("properties", "patternProperties")
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
    return None


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
