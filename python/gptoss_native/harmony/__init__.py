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
from .render import Renderer, render_user

__all__ = [
    "BROWSER",
    "CHANNELS",
    "EFFORTS",
    "PYTHON",
    "ROLES",
    "DeveloperContent",
    "Message",
    "Renderer",
    "ResponseFormat",
    "SystemContent",
    "ToolDescription",
    "ToolNamespace",
    "render_user",
]
