"""The tools of a chat: what the model is told of them, and which of them a call means."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from .._core import InvalidArgument
from ..harmony import ToolDescription, ToolNamespace
from ..json_fields import shown
from ..tools import Tool, function_tool
from ..tools.functions import NAMESPACE
from ..tools.run import Job
from .events import ToolCall


class Target(NamedTuple):
    """What a recipient means: a tool (None: the caller's) and the name within its namespace."""

    tool: Tool | None
    name: str

    def job(self, call: ToolCall) -> Job:
        tool, name = self.tool, self.name
        assert tool is not None
        return lambda: tool.call(name, call.arguments)


class Toolbox:
    """Tools by the recipients that call them."""

    def __init__(self, tools: Iterable[Any], told: Iterable[ToolNamespace] = ()) -> None:
        """tools: those of a chat. told: of its system message, for the caller to run."""
        self.functions: list[ToolDescription] = []
        self.namespaces: list[ToolNamespace] = []
        self._functions: dict[str, Tool | None] = {}
        self._spaces: dict[str, Tool | None] = {}
        if isinstance(tools, str) or not isinstance(tools, Iterable):
            raise InvalidArgument(f"tools is {shown(tools)}, wanted a list of tools")
        for tool in (*told, *tools):
            self._add(tool)

    def _add(self, given: Any) -> None:
        if isinstance(given, ToolDescription):
            given = ToolNamespace(NAMESPACE, None, (given,))
        tool: Tool | None = None
        if isinstance(given, ToolNamespace):
            space = given
        else:
            is_tool = isinstance(getattr(given, "namespace", None), ToolNamespace)
            tool = given if is_tool and isinstance(given, Tool) else function_tool(given)
            space = tool.namespace
        if space.name != NAMESPACE:
            if space.name in self._spaces:
                raise InvalidArgument(f"two tools have the namespace {space.name}, wanted one each")
            self.namespaces.append(space)
            self._spaces[space.name] = tool
            return
        for described in space.tools:
            if described.name in self._functions:
                raise InvalidArgument(f"two tools have the name {described.name}, wanted one each")
            self.functions.append(described)
            self._functions[described.name] = tool

    def find(self, recipient: str) -> Target | None:
        """Return what a recipient means; None for what was not declared."""
        space, _, name = recipient.partition(".")
        if space == NAMESPACE:
            return Target(self._functions[name], name) if name in self._functions else None
        # A namespace's own name may have dots.
        for known, tool in self._spaces.items():
            if recipient == known:
                return Target(tool, "")
            if recipient.startswith(known + "."):
                return self._within(known, tool, recipient[len(known) + 1 :])
        return None

    def _within(self, known: str, tool: Tool | None, name: str) -> Target | None:
        space = next(space for space in self.namespaces if space.name == known)
        names = [described.name for described in space.tools]
        return Target(tool, name) if not names or name in names else None

    def names(self) -> list[str]:
        """Return all recipients that were declared."""
        out = [f"{NAMESPACE}.{described.name}" for described in self.functions]
        for space in self.namespaces:
            out += [f"{space.name}.{one.name}" for one in space.tools] or [space.name]
        return out
