"""Conversations over the harmony format: history, reasoning, tools, and what a turn tells."""

from .chat import Chat
from .events import ChatEvent, TextDelta, TokenEvent, ToolCall, ToolResult
from .history import Entry
from .options import TurnOptions
from .reply import Reply, TurnUsage
from .turn import Turn

__all__ = [
    "Chat",
    "ChatEvent",
    "Entry",
    "Reply",
    "TextDelta",
    "TokenEvent",
    "ToolCall",
    "ToolResult",
    "Turn",
    "TurnOptions",
    "TurnUsage",
]
