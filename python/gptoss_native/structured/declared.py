"""The tools of a turn: which recipients may be called, and what their arguments have to be."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from .._core import InvalidArgument
from ..harmony import ToolDescription, ToolNamespace
from ..json_fields import shown
from .formats import Format, json_schema

CHOICES = ("auto", "none", "required")
FUNCTIONS = "functions"
_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}


class Declared(NamedTuple):
    """Whom a call may name, and the format of its arguments; None: any text."""

    recipient: str
    is_function: bool
    arguments: Format | None


def declared(tools: Iterable[Any], strict: bool | Iterable[str]) -> list[Declared]:
    """Return what may be called. Raises InvalidArgument for what is no tool, or declared twice."""
    if isinstance(tools, str) or not isinstance(tools, Iterable):
        raise InvalidArgument(f"tools is {shown(tools)}, wanted a list of tools")
    described: dict[str, ToolDescription | None] = {}
    for tool in tools:
        for recipient, description in _recipients(tool):
            if recipient in described:
                raise InvalidArgument(f"two tools are called {recipient}, wanted a name for each")
            described[recipient] = description
    if isinstance(strict, bool):
        chosen = set(described) if strict else set()
    else:
        chosen = {find(name, described, "one of strict") for name in _names(strict)}
    out = []
    for recipient, tool in described.items():
        # What takes no JSON, as the python tool, has no arguments to check.
        follows = recipient in chosen and tool is not None
        form = json_schema(tool.parameters or _NO_ARGUMENTS) if follows else None
        out.append(Declared(recipient, recipient.startswith(f"{FUNCTIONS}."), form))
    return out


def find(name: object, recipients: Iterable[str], what: str) -> str:
    """Return the recipient that a name means: itself, or a function's. Raises InvalidArgument."""
    for known in recipients:
        if name in (known, known.removeprefix(f"{FUNCTIONS}.")):
            return known
    names = ", ".join(recipients) or "none is declared"
    raise InvalidArgument(f"{what} is {shown(name)}, wanted a tool ({names})")


def called(tool_choice: object, tools: list[Declared]) -> list[Declared]:
    """Return those of the tools that may be called. Raises InvalidArgument for another choice."""
    if tool_choice == "none":
        return []
    if tool_choice == "auto":
        return tools
    if tool_choice == "required":
        if not tools:
            raise InvalidArgument("tool_choice is 'required', wanted tools to call: there are none")
        return tools
    what = f"tool_choice, if none of {', '.join(CHOICES)},"
    name = find(tool_choice, [tool.recipient for tool in tools], what)
    return [tool for tool in tools if tool.recipient == name]


def _recipients(tool: object) -> list[tuple[str, ToolDescription | None]]:
    if isinstance(tool, ToolDescription):
        return [(f"{FUNCTIONS}.{tool.name}", tool)]
    if not isinstance(tool, ToolNamespace):
        wanted = "a harmony.ToolDescription or ToolNamespace"
        raise InvalidArgument(f"one of tools is {shown(tool)}, wanted {wanted}")
    return [(f"{tool.name}.{one.name}", one) for one in tool.tools] or [(tool.name, None)]


def _names(strict: object) -> list[object]:
    if isinstance(strict, str) or not isinstance(strict, Iterable):
        raise InvalidArgument(f"strict is {shown(strict)}, wanted True, False or names of tools")
    return list(strict)
