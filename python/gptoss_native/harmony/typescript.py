"""Tools as the types that the models were trained to read: TypeScript in form, no compiler's input.

Of a JSON schema it shows type, properties, required, items, enum (of strings), oneOf, nullable,
title, description, default and examples, as openai-harmony 0.0.8 does; all else shows as `any`, or
not at all.
"""

import json
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

from .messages import ToolDescription, ToolNamespace

_SIMPLE = {"number": "number", "integer": "number", "boolean": "boolean"}


def _float_text(value: float) -> str:
    """Return the shortest decimal that reads back, in the notation of Rust's JSON writers."""
    sign, digits, power = Decimal(repr(value)).normalize().as_tuple()
    text, minus = "".join(map(str, digits)), "-" * sign
    point = len(text) + power  # where the decimal point stands, from the first digit
    if not value:
        return minus + "0.0"
    if len(text) <= point <= 16:
        return f"{minus}{text.ljust(point, '0')}.0"
    if 0 < point <= 16:
        return f"{minus}{text[:point]}.{text[point:]}"
    if -5 < point <= 0:
        return f"{minus}0.{'0' * -point}{text}"
    fraction = "." * (len(text) > 1) + text[1:]
    return f"{minus}{text[0]}{fraction}e{point - 1}"


def json_text(value: Any) -> str:
    """Return a JSON value without spaces, and with no character escaped that need not be."""
    if isinstance(value, dict):
        items = (f"{json_text(key)}:{json_text(item)}" for key, item in value.items())
        return "{" + ",".join(items) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(json_text, value)) + "]"
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        value = float(value)
    if isinstance(value, float):
        return _float_text(value)
    return json.dumps(value, ensure_ascii=False)


def _lines(text: str) -> list[str]:
    *whole, last = text.split("\n")
    return [line.removesuffix("\r") for line in whole] + [last] * bool(last)


def _get(schema: Any, key: str, kind: type) -> Any:
    """Return schema[key] if the schema is an object that has it with that type, else None."""
    value = schema.get(key) if isinstance(schema, dict) else None
    return value if isinstance(value, kind) else None


def _has(schema: Any, key: str) -> bool:
    return isinstance(schema, dict) and key in schema


def _default_text(schema: Any, plain_enum: bool) -> Iterator[str]:
    """Yield the comment on a default, if there is one; one of an enum stands without quotes."""
    if not _has(schema, "default"):
        return
    value = schema["default"]
    if not isinstance(value, str):
        yield f"default: {json_text(value)}"
    elif not _get(schema, "enum", list):
        yield f'default: "{value}"'
    else:
        yield f"default: {value if plain_enum else json_text(value)}"


def _type_or_null(schema: Any, indent: str) -> str:
    text = type_text(schema, indent)
    return text + " | null" * (_get(schema, "nullable", bool) is True and "null" not in text)


def _trailing(comments: list[str]) -> str:
    return f" // {' '.join(comments)}" if comments else ""


def _one_of(variants: list[Any], indent: str) -> str:
    out = []
    for variant in variants:
        described = _get(variant, "description", str)
        comments = [] if described is None else [described]
        comments += _default_text(variant, plain_enum=False)
        out.append(f"\n{indent} | {_type_or_null(variant, indent + '   ')}{_trailing(comments)}")
    return "".join(out)


def _property_one_of(schema: Any, name: str, indent: str) -> Iterator[str]:
    """Yield a property that is one of several, its variants below its name."""
    variants = schema["oneOf"]
    described = _get(schema, "description", str)
    first = _get(variants[0], "description", str) if variants else None
    above = described is not None and described != first
    if above:
        yield f"{indent}// {described}\n"
    for text in _default_text(schema, plain_enum=True):
        yield f"{indent}// {text}\n"
    yield f"{indent}{name}:\n"
    for n, variant in enumerate(variants):
        comments = []
        own = _get(variant, "description", str)
        if own not in (None, described) and not (n == 0 and above):
            comments.append(own)
        comments += _default_text(variant, plain_enum=True)
        yield f"{indent} | {_type_or_null(variant, indent + '   ')}{_trailing(comments)}\n"
    yield f"{indent},\n"


def _property(name: str, schema: Any, indent: str) -> Iterator[str]:
    title = _get(schema, "title", str)
    if title is not None:
        yield f"{indent}// {title}\n{indent}//\n"
    described = _get(schema, "description", str)
    if described is not None and not _has(schema, "oneOf"):
        yield f"{indent}// {described}\n"
    if examples := _get(schema, "examples", list):
        yield f"{indent}// Examples:\n"
        for example in examples:
            if isinstance(example, str):
                yield f'{indent}// - "{example}"\n'
    if _get(schema, "oneOf", list) is not None:
        yield from _property_one_of(schema, name, indent)
        return
    yield f"{indent}{name}: {_type_or_null(schema, indent + '    ')},"
    if not _has(schema, "oneOf"):
        for text in _default_text(schema, plain_enum=True):
            yield f" // {text}"
    yield "\n"


def _object(schema: Any, indent: str) -> str:
    described = _get(schema, "description", str)
    out = ["" if described is None else f"{indent}// {described}\n", "{\n"]
    required = _get(schema, "required", list) or []
    for key, value in (_get(schema, "properties", dict) or {}).items():
        out += _property(key + "?" * (key not in required), value, indent)
    return "".join([*out, indent, "}"])


def type_text(schema: Any, indent: str = "") -> str:
    """Return the type of what a JSON schema describes; `indent` goes before its inner lines."""
    variants = _get(schema, "oneOf", list)
    if variants is not None:
        return _one_of(variants, indent)
    named = [name for name in _get(schema, "type", list) or [] if isinstance(name, str)]
    if named:
        return " | ".join("number" if name == "integer" else name for name in named)
    kind = _get(schema, "type", str)
    if kind == "object":
        return _object(schema, indent)
    if kind == "string":
        choices = [f'"{v}"' for v in _get(schema, "enum", list) or [] if isinstance(v, str)]
        return " | ".join(choices) or "string"
    if kind == "array":
        items = _has(schema, "items")
        return f"{type_text(schema['items'], indent)}[]" if items else "Array<any>"
    return _SIMPLE.get(kind, "any")


def _tool(tool: ToolDescription) -> Iterator[str]:
    for line in _lines(tool.description):
        yield f"// {line}"
    taken = "" if tool.parameters is None else f"_: {type_text(tool.parameters)}"
    yield f"type {tool.name} = ({taken}) => any;\n"


def _namespace(space: ToolNamespace) -> str:
    out = [f"## {space.name}\n"]
    mark = "// " if space.tools else ""
    out += [mark + line for line in _lines(space.description or "")]
    if space.tools:
        out.append(f"namespace {space.name} {{\n")
        for tool in space.tools:
            out += _tool(tool)
        out.append(f"}} // namespace {space.name}")
    return "\n".join(out)


def tools_text(spaces: Iterable[ToolNamespace]) -> str:
    """Return the section "# Tools", its namespaces by name."""
    ordered = sorted(spaces, key=lambda space: space.name)
    return "\n\n".join(["# Tools", *map(_namespace, ordered)])
