"""What a tool is: a namespace that the model is told of, and a call."""

from collections.abc import Awaitable
from typing import Protocol, runtime_checkable

from ..harmony import ToolNamespace


class ToolError(Exception):
    """A call went wrong in a way the model should know: the text is the tool's answer."""


@runtime_checkable
class Tool(Protocol):
    """What the model may call.

    namespace: what the model is told; "functions" is the one of function tools, which many may
    share, any other name belongs to one tool.
    """

    namespace: ToolNamespace

    def call(self, name: str, arguments: str) -> str | Awaitable[str]:
        """Answer one call, or return what can be awaited for the answer.

        name: what follows "namespace." in the recipient, "" where that is the namespace itself.
        arguments: as the model wrote them, whatever that is. It may be called from several threads
        at a time. What it raises is told to the model.
        """
        ...
