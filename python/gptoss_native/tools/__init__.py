"""Tools that a model may call: what one is, Python functions as tools, and how calls are run."""

from .functions import FunctionTool, function_tool
from .run import Outcome, StopSignal, ToolLimits, run_calls, run_calls_async
from .tool import Tool, ToolError

__all__ = [
    "FunctionTool",
    "Outcome",
    "StopSignal",
    "Tool",
    "ToolError",
    "ToolLimits",
    "function_tool",
    "run_calls",
    "run_calls_async",
]
