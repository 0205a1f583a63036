"""gpt-oss-20b and gpt-oss-120b inside your own process: hand-written kernels, no torch."""

from ._core import (
    CheckpointError,
    DeviceError,
    EngineBusy,
    Error,
    InvalidArgument,
    OutOfMemory,
)
from .chat import Chat, Reply, Turn
from .checkpoint import Checkpoint, read_checkpoint
from .limits import Limits
from .machine import info, plan
from .model import Model
from .sampling import Sampling
from .session import Session, Usage
from .stream import Stats, Stream, Token
from .tokenizer import StreamDecoder, Tokenizer
from .tools import Tool, ToolError, ToolLimits, function_tool

__version__ = "0.1.0"

__all__ = [
    "Chat",
    "Checkpoint",
    "CheckpointError",
    "DeviceError",
    "EngineBusy",
    "Error",
    "InvalidArgument",
    "Limits",
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
