"""What a tool is to a conversation."""

from collections.abc import Awaitable
from typing import Protocol

from ..harmony import ToolNamespace


class ToolError(Exception):
    """A call that failed; its text goes to the model as the tool's answer."""


class Tool(Protocol):
    """Functions under one name, as the model is told of them, and how they are called."""

    namespace: ToolNamespace

    def call(self, name: str, arguments: str) -> str | Awaitable[str]:
        """Answer a call of `name`, what follows "namespace." in the recipient ("" where nothing
        does), with `arguments` as the model wrote them; raises ToolError."""
        ...
