"""JSON read strictly: a parser without surprises, and getters that name the file and the key."""

import contextlib
import json
import os
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from ._core import CheckpointError

MAX_JSON_BYTES = 100_000_000  # safetensors' limit for a header, kept for the other files too
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80


def fail(file: object, what: str, cause: BaseException | None = None) -> NoReturn:
    """Raise the CheckpointError "<file>: <what>"."""
    raise CheckpointError(f"{file}: {what}") from cause


def shown(value: object) -> str:
    """Return a value's repr, cut to what a message can hold."""
    try:
        return _REPR.repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits has no repr
        return f"some {type(value).__name__}"


def is_name(text: str) -> bool:
    """Whether a string is fit to name a tensor or a file, and to stand in a message as it is."""
    return 0 < len(text) <= 256 and text.isprintable()


@contextlib.contextmanager
def opened(file: Path) -> Iterator[BinaryIO]:
    """Open a regular file to read; CheckpointError if that or a later read fails."""
    if not os.path.isfile(file):
        fail(file, "is missing, or no regular file")
    try:
        with open(file, "rb") as stream:
            yield stream
    except OSError as error:
        fail(file, f"cannot be read: {error.strerror}", error)


@dataclass(frozen=True)
class Fields:
    """A JSON object and where it stands: each getter checks one key, or says what is wrong."""

    file: Path
    values: dict[str, Any]
    prefix: str = ""

    def wrong(self, key: str, wanted: str) -> NoReturn:
        given = f"is {shown(self.values[key])}" if key in self.values else "is missing"
        name = key if is_name(key) else shown(key)
        fail(self.file, f"{self.prefix}{name} {given}; it must be {wanted}")

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def integer(self, key: str, low: int, high: int, multiple: int = 1) -> int:
        value = self.values.get(key)
        if type(value) is not int or not low <= value <= high or value % multiple:
            step = f", a multiple of {multiple}" if multiple > 1 else ""
            self.wrong(key, f"an integer from {low} to {high}{step}")
        return value

    def number(self, key: str, low: float, high: float) -> float:
        value = self.values.get(key)
        if type(value) not in (int, float) or not low <= value <= high:  # no NaN passes
            self.wrong(key, f"a number from {low:g} to {high:g}")
        return float(value)

    def one_of(self, key: str, *allowed: Any) -> Any:
        value = self.values.get(key)
        if not any(type(value) is type(choice) and value == choice for choice in allowed):
            self.wrong(key, " or ".join("absent" if c is None else json.dumps(c) for c in allowed))
        return value

    def string(self, key: str) -> str:
        if type(self.values.get(key)) is not str or not self.values[key]:
            self.wrong(key, "a string that is not empty")
        return self.values[key]

    def sequence(self, key: str) -> list[Any]:
        if type(self.values.get(key)) is not list:
            self.wrong(key, "a list")
        return self.values[key]

    def objects(self, key: str) -> "list[Fields]":
        items = enumerate(self.sequence(key))
        numbered = Fields(self.file, {f"{key}[{n}]": item for n, item in items}, self.prefix)
        return [numbered.object(name) for name in numbered.values]

    def object(self, key: str) -> "Fields":
        if type(self.values.get(key)) is not dict:
            self.wrong(key, "an object")
        return Fields(self.file, self.values[key], f"{self.prefix}{key}.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {shown(twice)} appears twice")
    return table


def parse_object(file: Path, text: bytes, what: str) -> Fields:
    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is no number of JSON")

    try:
        values = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:  # also bad UTF-8 and integers too long to parse
        fail(file, f"{what} is not valid JSON: {error}", error)
    if type(values) is not dict:
        fail(file, f"{what} is JSON but no object: {shown(values)}")
    return Fields(file, values)


def read_object(file: Path) -> Fields:
    """Read a JSON file; CheckpointError unless it holds one object, in which no key is twice."""
    with opened(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > MAX_JSON_BYTES:
            fail(file, f"has {size} bytes; at most {MAX_JSON_BYTES} are allowed")
        text = stream.read(size)
    return parse_object(file, text, "the file")
