"""What a conversation is made of: messages and what a system or developer message says.

All are frozen and check what they are given; a JSON schema is kept as a copy.
"""

import datetime
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from .._core import InvalidArgument
from ..json_fields import shown

ROLES = ("system", "developer", "user", "assistant", "tool")
EFFORTS = ("low", "medium", "high")
CHANNELS = ("analysis", "commentary", "final")
# Far above what a tool needs, far below where Python's recursion ends.
_MAX_DEPTH = 100


def _wrong(what: str, value: object, wanted: str) -> NoReturn:
    raise InvalidArgument(f"{what} is {shown(value)}, wanted {wanted}")


def _check_text(what: str, value: object, optional: bool = False) -> None:
    if not isinstance(value, str) and not (optional and value is None):
        _wrong(what, value, "text or None" if optional else "text")


def _check_word(what: str, value: object, optional: bool = False) -> None:
    """Refuse what would read as more than one word of a header, or as none."""
    _check_text(what, value, optional)
    if value is not None and (not value or any(map(str.isspace, value))):
        _wrong(what, value, "a word without white space" + ", or None" * optional)


def _check_one_of(what: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        _wrong(what, value, f"one of {', '.join(choices)}")


def _tuple_of(what: str, values: object, kind: type) -> tuple[Any, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        _wrong(what, values, f"a sequence of {kind.__name__}")
    out = tuple(values)
    for value in out:
        if not isinstance(value, kind):
            _wrong(f"one of {what}", value, kind.__name__)
    names = [value if kind is str else value.name for value in out]
    for name in names:
        if names.count(name) > 1:
            _wrong(f"the name of two {what}", name, "a name for each")
    return out


def _json_copy(what: str, value: object, depth: int = 0) -> Any:
    """Return a copy that holds dict, list, str, int, float, bool and None alone."""
    if depth > _MAX_DEPTH:
        raise InvalidArgument(f"{what} is nested deeper than {_MAX_DEPTH} levels")
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, list | tuple):
        return [_json_copy(f"{what}[{n}]", item, depth + 1) for n, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            _check_text(f"a key of {what}", key)
        return {key: _json_copy(f"{what}.{key}", value[key], depth + 1) for key in value}
    _wrong(what, value, "a JSON value")


def _schema_copy(what: str, schema: object) -> dict[str, Any]:
    if not isinstance(schema, Mapping):
        _wrong(what, schema, "a JSON schema as a dict")
    return _json_copy(what, schema)


@dataclass(frozen=True)
class ToolDescription:
    """A function that the model may call; `parameters` is the JSON schema of its arguments.

    Raises InvalidArgument for a name that is no word, and for a schema that is no JSON.
    """

    name: str
    description: str
    parameters: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        _check_word("a tool's name", self.name)
        _check_text("a tool's description", self.description)
        if self.parameters is not None:
            copy = _schema_copy(f"parameters of {self.name}", self.parameters)
            object.__setattr__(self, "parameters", copy)


@dataclass(frozen=True)
class ToolNamespace:
    """Tools under a common name; without tools the description alone says how to call it."""

    name: str
    description: str | None = None
    tools: tuple[ToolDescription, ...] = ()

    def __post_init__(self) -> None:
        _check_word("a namespace's name", self.name)
        _check_text("a namespace's description", self.description, optional=True)
        tools = _tuple_of(f"tools of {self.name}", self.tools, ToolDescription)
        object.__setattr__(self, "tools", tools)


@dataclass(frozen=True)
class ResponseFormat:
    """A JSON schema that the final answer should follow, told to the model by name."""

    name: str
    schema: Mapping[str, Any]
    description: str | None = None

    def __post_init__(self) -> None:
        _check_word("a response format's name", self.name)
        _check_text("a response format's description", self.description, optional=True)
        object.__setattr__(self, "schema", _schema_copy(f"schema of {self.name}", self.schema))


@dataclass(frozen=True, kw_only=True)
class SystemContent:
    """What the system message says; None leaves a line out.

    effort: "low", "medium" or "high". date: the current date, a datetime.date or text.
    channels: those named as valid; None: analysis and final, and commentary where a developer
    message of the conversation has tools. tools: built-in namespaces, as BROWSER and PYTHON.
    """

    identity: str | None = "You are ChatGPT, a large language model trained by OpenAI."
    knowledge_cutoff: str | None = "2024-06"
    date: datetime.date | str | None = None
    effort: str | None = "medium"
    channels: tuple[str, ...] | None = None
    tools: tuple[ToolNamespace, ...] = ()

    def __post_init__(self) -> None:
        _check_text("identity", self.identity, optional=True)
        _check_text("knowledge_cutoff", self.knowledge_cutoff, optional=True)
        if isinstance(self.date, datetime.date):
            object.__setattr__(self, "date", self.date.strftime("%Y-%m-%d"))
        _check_text("date", self.date, optional=True)
        if self.effort is not None:
            _check_one_of("effort", self.effort, EFFORTS)
        if self.channels is not None:
            object.__setattr__(self, "channels", _tuple_of("channels", self.channels, str))
        object.__setattr__(self, "tools", _tuple_of("tools", self.tools, ToolNamespace))


@dataclass(frozen=True, kw_only=True)
class DeveloperContent:
    """What the developer message says: instructions, functions to call, formats of the answer."""

    instructions: str | None = None
    tools: tuple[ToolDescription, ...] = ()
    response_formats: tuple[ResponseFormat, ...] = ()

    def __post_init__(self) -> None:
        _check_text("instructions", self.instructions, optional=True)
        object.__setattr__(self, "tools", _tuple_of("tools", self.tools, ToolDescription))
        formats = _tuple_of("response_formats", self.response_formats, ResponseFormat)
        object.__setattr__(self, "response_formats", formats)


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    content: text, or for the roles system and developer a SystemContent or a DeveloperContent.
    name: of the tool for the role tool, else of the author. recipient: who is called or answered.
    constrained: the model announced its content type by <|constrain|>.
    Raises InvalidArgument for an unknown role, content of another role, a tool without a name,
    and a channel, recipient, content type or name that is no word.
    """

    role: str
    content: str | SystemContent | DeveloperContent
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None
    name: str | None = None
    constrained: bool = False

    def __post_init__(self) -> None:
        _check_one_of("role", self.role, ROLES)
        own = {"system": SystemContent, "developer": DeveloperContent}.get(self.role, str)
        if not isinstance(self.content, str | own):
            wanted = "text" if own is str else f"text or {own.__name__}"
            _wrong(f"content of the role {self.role}", self.content, wanted)
        for what in ("channel", "recipient", "content_type", "name"):
            _check_word(what, getattr(self, what), optional=True)
        if self.role == "tool" and self.name is None:
            _wrong("name", None, "the tool's name for the role tool")
        if self.constrained and self.content_type is None:
            _wrong("content_type", None, "one where constrained is True")

    @classmethod
    def tool_call(cls, recipient: str, arguments: str) -> "Message":
        """Return the assistant's call of a function, as "functions.NAME", with JSON arguments."""
        where = {"channel": "commentary", "recipient": recipient}
        return cls("assistant", arguments, **where, content_type="json", constrained=True)

    @classmethod
    def tool_result(cls, name: str, content: str, channel: str = "commentary") -> "Message":
        """Return a tool's answer to the assistant; `channel` is that of the call."""
        return cls("tool", content, channel=channel, recipient="assistant", name=name)
