"""The command gptoss-native: answers on stdout, all else on stderr, errors in one line."""

import contextlib
import io
import os
import sys
from collections.abc import Sequence

from .. import Error
from .arguments import parse
from .chat import chat
from .generate import generate
from .machine import show_info, show_plan
from .pull import pull
from .serve import serve
from .terminal import one_line, say

_COMMANDS = {
    "chat": chat,
    "generate": generate,
    "info": show_info,
    "plan": show_plan,
    "pull": pull,
    "serve": serve,
}
_FAILED = 2
_INTERRUPTED = 128 + 2  # as a shell reports a process ended by SIGINT
_PIPE_CLOSED = 128 + 13  # and by SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0, 2 for an error, 130 for Ctrl-C."""
    message = None
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A terminal that cannot show a character must not end the answer.
            sys.stdout.reconfigure(errors="backslashreplace")
        _run(argv)
        if sys.stdout is not None:
            sys.stdout.flush()
        return 0
    except BrokenPipeError:  # `| head` has read enough
        status = _PIPE_CLOSED
    except KeyboardInterrupt:
        status, message = _INTERRUPTED, "interrupted"
    except (Error, OSError) as error:
        status, message = _FAILED, str(error)
    except MemoryError:
        status, message = _FAILED, "the process has no memory left"
    with contextlib.suppress(OSError):
        if message is not None:
            say(f"gptoss-native: {one_line(message)}")
    _settle_output()
    return status


def _run(argv: Sequence[str] | None) -> None:
    try:
        args = parse(argv)
    except SystemExit:  # after --help and --version
        return
    _COMMANDS[args.command](args)


def _settle_output() -> None:
    """Write what is left, or drop it: the interpreter would fail again at it when it exits."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
