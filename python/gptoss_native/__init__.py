"""gpt-oss-20b and gpt-oss-120b inside your own process: hand-written kernels, no torch."""

from ._core import (
    CheckpointError,
    DeviceError,
    EngineBusy,
    Error,
    InvalidArgument,
    OutOfMemory,
)
from .checkpoint import Checkpoint, read_checkpoint
from .constraint import Constraint
from .limits import Limits
from .machine import info, plan
from .model import Model
from .sampling import Sampling
from .session import Session, Usage
from .stream import Stats, Stream, Token
from .tokenizer import StreamDecoder, Tokenizer

__version__ = "0.1.0"

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Constraint",
    "DeviceError",
    "EngineBusy",
    "Error",
    "InvalidArgument",
    "Limits",
    "Model",
    "OutOfMemory",
    "Sampling",
    "Session",
    "Stats",
    "Stream",
    "StreamDecoder",
    "Token",
    "Tokenizer",
    "Usage",
    "info",
    "plan",
    "read_checkpoint",
]
