"""Type hints -> JSON schemas, and JSON values -> the Python values that the hints promise."""

import collections.abc
import dataclasses
import enum
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

from .._core import InvalidArgument
from ..json_fields import shown
from .tool import ToolError

# A schema that needs more is one of a type that holds itself.
_MAX_DEPTH = 20
_LISTS = (list, collections.abc.Sequence, collections.abc.Iterable)
_DICTS = (dict, collections.abc.Mapping)


class Kind(NamedTuple):
    """A type: its JSON schema, and how a JSON value is read as one; `read` raises ToolError."""

    schema: dict[str, Any]
    read: Callable[[Any, str], Any]


def _wrong(where: str, value: Any, wanted: str) -> NoReturn:
    raise ToolError(f"{where} is {shown(value)}, wanted {wanted}")


def _read_string(value: Any, where: str) -> str:
    return value if isinstance(value, str) else _wrong(where, value, "a string")


def _read_boolean(value: Any, where: str) -> bool:
    return value if isinstance(value, bool) else _wrong(where, value, "true or false")


def _read_integer(value: Any, where: str) -> int:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    _wrong(where, value, "an integer")


def _read_number(value: Any, where: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    _wrong(where, value, "a number")


def _read_null(value: Any, where: str) -> None:
    return None if value is None else _wrong(where, value, "null")


_ANY = Kind({}, lambda value, where: value)
_PLAIN: dict[Any, Kind] = {
    str: Kind({"type": "string"}, _read_string),
    bool: Kind({"type": "boolean"}, _read_boolean),
    int: Kind({"type": "integer"}, _read_integer),
    float: Kind({"type": "number"}, _read_number),
    type(None): Kind({"type": "null"}, _read_null),
    None: Kind({"type": "null"}, _read_null),
    Any: _ANY,
    object: _ANY,
}


def kind_of(hint: Any, where: str, depth: int = 0) -> Kind:
    """Return how values of a type hint are described and read.

    str, int, float, bool, None, Any, list, dict, Optional and other unions, Literal, Enum,
    dataclasses, TypedDict, and Annotated with a description. Raises InvalidArgument naming `where`
    for any other.
    """
    if depth > _MAX_DEPTH:
        raise InvalidArgument(f"the type of {where} is nested deeper than {_MAX_DEPTH} levels")
    if isinstance(hint, collections.abc.Hashable) and hint in _PLAIN:
        return _PLAIN[hint]
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin is typing.Annotated:
        kind = kind_of(args[0], where, depth + 1)
        text = next((text for text in args[1:] if isinstance(text, str)), None)
        return kind if text is None else Kind(kind.schema | {"description": text}, kind.read)
    if getattr(origin, "_name", None) in ("Required", "NotRequired"):
        return kind_of(args[0], where, depth + 1)
    if origin in (typing.Union, types.UnionType):
        return _union(args, where, depth + 1)
    if origin is typing.Literal:
        return _choice({value: value for value in args})
    if origin in _LISTS:
        return _list(kind_of(args[0] if args else Any, f"{where}[]", depth + 1))
    if origin in _DICTS and args[:1] in ((), (str,)):
        return _dict(kind_of(args[1] if args else Any, f"{where}{{}}", depth + 1))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _choice({member.value: member for member in hint})
    if isinstance(hint, type) and (dataclasses.is_dataclass(hint) or typing.is_typeddict(hint)):
        return _record(hint, where, depth + 1)
    known = "str, int, float, bool, list, dict, Optional, Literal, Enum, a dataclass, a TypedDict"
    raise InvalidArgument(f"{where} has the type {hint!r}, wanted one made of {known}")


def _choice(values: Mapping[Any, Any]) -> Kind:
    schema: dict[str, Any] = {"enum": list(values)}
    kinds = {type(value) for value in values}
    if len(kinds) == 1 and (plain := _PLAIN.get(kinds.pop())):
        schema = plain.schema | schema

    def read(value: Any, where: str) -> Any:
        for known, meant in values.items():
            if type(known) is type(value) and known == value:
                return meant
        _wrong(where, value, f"one of {', '.join(map(shown, values))}")

    return Kind(schema, read)


def _list(item: Kind) -> Kind:
    def read(value: Any, where: str) -> list[Any]:
        if not isinstance(value, list):
            _wrong(where, value, "a list")
        return [item.read(one, f"{where}[{n}]") for n, one in enumerate(value)]

    return Kind({"type": "array", "items": item.schema}, read)


def _dict(item: Kind) -> Kind:
    def read(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            _wrong(where, value, "an object")
        return {key: item.read(one, f"{where}.{key}") for key, one in value.items()}

    return Kind({"type": "object", "additionalProperties": item.schema}, read)


def _union(hints: tuple[Any, ...], where: str, depth: int) -> Kind:
    optional = type(None) in hints
    kinds = [kind_of(hint, where, depth) for hint in hints if hint is not type(None)]
    schema = kinds[0].schema if len(kinds) == 1 else {"oneOf": [kind.schema for kind in kinds]}

    def read(value: Any, where: str) -> Any:
        if value is None and optional:
            return None
        problem = None
        for kind in kinds:
            try:
                return kind.read(value, where)
            except ToolError as error:
                problem = problem or error
        if len(kinds) == 1 and problem:
            raise problem
        _wrong(where, value, f"one of the {len(kinds)} types it may have")

    return Kind(schema | ({"nullable": True} if optional else {}), read)


class Field(NamedTuple):
    """One named value of an object."""

    kind: Kind
    required: bool


def object_kind(fields: Mapping[str, Field], make: Callable[[dict[str, Any]], Any]) -> Kind:
    """Return the kind of an object of these fields and no others; `make` takes what was read."""
    required = [name for name, field in fields.items() if field.required]
    properties = {name: field.kind.schema for name, field in fields.items()}
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        schema["required"] = required

    def read(value: Any, where: str) -> Any:
        if not isinstance(value, dict):
            _wrong(where, value, "an object")
        names = ", ".join(fields) or "none"
        for key in value:
            if key not in fields:
                raise ToolError(f"{where} has {shown(key)}, which is not one of its names: {names}")
        for name in required:
            if name not in value:
                raise ToolError(f"{where} lacks {name!r}")
        return make(
            {key: fields[key].kind.read(one, f"{where}.{key}") for key, one in value.items()}
        )

    return Kind(schema, read)


def hints_of(thing: Any, where: str) -> dict[str, Any]:
    """Return the type hints of a function or class; InvalidArgument for names nobody knows."""
    try:
        return typing.get_type_hints(thing, include_extras=True)
    except (NameError, TypeError, SyntaxError) as error:
        raise InvalidArgument(f"the type hints of {where} cannot be read: {error}") from None


def with_default(kind: Kind, default: Any) -> Kind:
    """Return the kind with the default told, where JSON can hold it."""
    value = default.value if isinstance(default, enum.Enum) else default
    if isinstance(value, str | int | float | bool | list | dict) and value == value:
        return Kind(kind.schema | {"default": value}, kind.read)
    return kind


def _record(hint: Any, where: str, depth: int) -> Kind:
    hints = hints_of(hint, where)
    if typing.is_typeddict(hint):
        needed = hint.__required_keys__
        names = {name: (name in needed, dataclasses.MISSING) for name in hints}
        make: Callable[[dict[str, Any]], Any] = dict
    else:
        listed = [field for field in dataclasses.fields(hint) if field.init]
        missing = dataclasses.MISSING
        names = {
            f.name: (f.default is missing and f.default_factory is missing, f.default)
            for f in listed
        }

        def make(values: dict[str, Any]) -> Any:
            return hint(**values)

    fields = {}
    for name, (required, default) in names.items():
        kind = kind_of(hints[name], f"{where}.{name}", depth)
        fields[name] = Field(with_default(kind, default), required)
    return object_kind(fields, make)
