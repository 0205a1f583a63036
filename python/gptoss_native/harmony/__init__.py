"""Harmony, the format of the models' conversations: messages to ids, and ids to messages."""

from .builtin import BROWSER, PYTHON
from .messages import (
    CHANNELS,
    EFFORTS,
    ROLES,
    DeveloperContent,
    Message,
    ResponseFormat,
    SystemContent,
    ToolDescription,
    ToolNamespace,
)
from .parse import Anomaly, Delta, Event, MessageEnd, MessageStart, Parsed, Parser, parse
from .render import Renderer, render_user

__all__ = [
    "BROWSER",
    "CHANNELS",
    "EFFORTS",
    "PYTHON",
    "ROLES",
    "Anomaly",
    "Delta",
    "DeveloperContent",
    "Event",
    "Message",
    "MessageEnd",
    "MessageStart",
    "Parsed",
    "Parser",
    "Renderer",
    "ResponseFormat",
    "SystemContent",
    "ToolDescription",
    "ToolNamespace",
    "parse",
    "render_user",
]
