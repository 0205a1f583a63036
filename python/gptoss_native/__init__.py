"""gpt-oss-20b and gpt-oss-120b inside your own process: hand-written kernels, no torch."""

from typing import TYPE_CHECKING, Any

from ._core import (
    CheckpointError,
    DeviceError,
    EngineBusy,
    Error,
    InvalidArgument,
    OutOfMemory,
)
from .checkpoint import Checkpoint, read_checkpoint
from .constraint import Constraint, FixedMask, LookAhead
from .limits import Limits
from .machine import info, plan
from .model import Model
from .sampling import Sampling
from .session import Session, Usage
from .stream import Stats, Stream, Token
from .tokenizer import StreamDecoder, Tokenizer

if TYPE_CHECKING:
    from .chat import Chat, Reply, Turn
    from .tools import Tool, ToolError, ToolLimits, function_tool

__version__ = "0.1.0"

__all__ = [
    "Chat",
    "Checkpoint",
    "CheckpointError",
    "Constraint",
    "DeviceError",
    "EngineBusy",
    "Error",
    "FixedMask",
    "InvalidArgument",
    "Limits",
    "LookAhead",
    "Model",
    "OutOfMemory",
    "Reply",
    "Sampling",
    "Session",
    "Stats",
    "Stream",
    "StreamDecoder",
    "Token",
    "Tokenizer",
    "Tool",
    "ToolError",
    "ToolLimits",
    "Turn",
    "Usage",
    "function_tool",
    "info",
    "plan",
    "read_checkpoint",
]

# Who works with ids alone starts without these, in two thirds of the time.
_LATER = {
    "chat": ("Chat", "Reply", "Turn"),
    "tools": ("Tool", "ToolError", "ToolLimits", "function_tool"),
}


def __getattr__(name: str) -> Any:
    for module, names in _LATER.items():
        if name in names:
            import importlib

            value = getattr(importlib.import_module(f".{module}", __name__), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
