"""Plain Python functions as tools: from their signature, type hints and docstring."""

import dataclasses
import enum
import functools
import inspect
import json
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

from .._core import InvalidArgument
from ..harmony import ToolDescription, ToolNamespace
from ..json_fields import shown
from .docstrings import read_docstring
from .kinds import Field, Kind, hints_of, kind_of, object_kind, with_default
from .tool import ToolError

NAMESPACE = "functions"
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _plain(value: Any) -> Any:
    """Return what JSON can hold of a result's part; for json.dumps."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    raise TypeError(f"a {type(value).__name__}")


def _text_of(result: Any) -> str:
    if isinstance(result, str):
        return result
    try:
        return json.dumps(result, ensure_ascii=False, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise ToolError(f"Error: the tool's result is neither text nor JSON: {error}") from None


async def _awaited_text(result: Awaitable[Any]) -> str:
    return _text_of(await result)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def _read_object(arguments: str) -> Any:
    """Return the JSON value of a call's arguments; nothing at all is no arguments."""
    if not arguments.strip():
        return {}
    try:
        return json.loads(arguments, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ToolError(f"Error: the arguments are no JSON: {error}") from None


class FunctionTool:
    """A Python function as a tool of the namespace "functions". Made by `function_tool`.

    `function` is the function itself, `name` what the model calls it by.
    """

    def __init__(
        self, function: Callable[..., Any], described: ToolDescription, kind: Kind
    ) -> None:
        self.function = function
        self.namespace = ToolNamespace(NAMESPACE, None, (described,))
        self.name = described.name
        self._kind = kind

    def call(self, name: str, arguments: str) -> str | Awaitable[str]:
        """Check the arguments, call the function and return its result as text, or as JSON.

        Raises ToolError for another name and for arguments that do not fit; what the function
        raises. Where the function is a coroutine's, so is what is returned.
        """
        if name != self.name:
            raise ToolError(f"Error: there is no function {shown(name)}, only {self.name}")
        given = _read_object(arguments)
        try:
            values = self._kind.read(given, "arguments")
        except ToolError as error:
            raise ToolError(f"Error: {error}. The function was not called.") from None
        result = self.function(**values)
        return _awaited_text(result) if inspect.isawaitable(result) else _text_of(result)


def function_tool(
    function: Callable[..., Any], *, name: str | None = None, description: str | None = None
) -> FunctionTool:
    """Return a function, plain or async, as a tool.

    The model is told its name, its docstring up to the first section (`Args:`, `Returns:`), and a
    type for each parameter: str, int, float, bool, list, dict, Optional and other unions, Literal,
    Enum, a dataclass or a TypedDict; any value where there is no hint. Parameters are described by
    the docstring (`Args:` or `:param x:`) or by `Annotated[..., "text"]`. A call's arguments are
    checked first: what does not fit is told to the model and the function is not called. A result
    that is no text is given to the model as JSON.
    name, description: instead of the function's own.

    Raises InvalidArgument for what is no function, for other types, and for parameters that cannot
    be given by name.
    """
    if not callable(function):
        raise InvalidArgument(f"a tool is {shown(function)}, wanted a function or a Tool")
    name = getattr(function, "__name__", type(function).__name__) if name is None else name
    if not isinstance(name, str) or not name.replace("-", "_").isidentifier():
        wanted = "letters, digits and underscores: give name="
        raise InvalidArgument(f"a function tool's name is {shown(name)}, wanted {wanted}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"the function {name} has no signature: {error}") from None
    said_by = function.func if isinstance(function, functools.partial) else function
    said_by = said_by if inspect.isroutine(said_by) else type(said_by).__call__
    hints = hints_of(said_by, f"the function {name}")
    doc = read_docstring(inspect.getdoc(said_by))
    fields = {}
    for parameter in signature.parameters.values():
        where = f"{name}({parameter.name})"
        if parameter.kind not in _BY_NAME:
            raise InvalidArgument(f"{where} is {parameter}, wanted one that is given by its name")
        kind = kind_of(hints.get(parameter.name, Any), where)
        if "description" not in kind.schema and (said := doc.parameters.get(parameter.name)):
            kind = Kind(kind.schema | {"description": said}, kind.read)
        required = parameter.default is parameter.empty
        if not required:
            kind = with_default(kind, parameter.default)
        fields[parameter.name] = Field(kind, required)
    kind = object_kind(fields, dict)
    text = doc.summary if description is None else description
    described = ToolDescription(name, text, kind.schema if fields else None)
    return FunctionTool(function, described, kind)
