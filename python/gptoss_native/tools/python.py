"""The python tool: a model's code, run in a process of its own inside a sandbox."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from .._core import InvalidArgument
from ..harmony import PYTHON, ToolNamespace
from ..json_fields import shown
from .child import Ended, run_child
from .sandbox import Bounds, choose
from .tool import ToolError

SANDBOXES = ("auto", "bwrap", "docker", "none")
# The address space of libraries that start a thread for each processor would pass any limit.
_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "4")


def _number(what: str, value: object, low: float, kinds: tuple[type, ...] = (int,)) -> None:
    if type(value) not in kinds or not low <= value < 2**62:  # no NaN passes
        wanted = "a number" if float in kinds else "an integer"
        raise InvalidArgument(f"{what} is {shown(value)}, wanted {wanted} of {low} or more")


class PythonTool:
    """Runs the code that a model sends to `python`, each call in a fresh process.

    Nothing is kept between calls, and the model is told so; what is printed and, as in a notebook,
    the value of a last expression is the answer, a traceback too. The code has no input, a scrubbed
    environment and an empty folder.

    sandbox: "bwrap" (bubblewrap), "docker", "auto" for the first of them that works, or "none".
    In the first two there is no network, and of the host's files the interpreter's alone can be
    read. "none" isolates nothing: the code can do whatever this process's user can, also stop this
    process, and what leaves its process group outlives the call. For root, without a sandbox, the
    limit on processes does not hold.
    timeout_s: for a whole call. memory_bytes: address space of each process (docker: memory of
    all). disk_bytes: a file's length, and in a sandbox all of /tmp, which is memory. processes:
    how many more than the user already has. output_bytes: kept of the output, half of it from the
    end; 64 MiB of it end a run.
    interpreter: run by bwrap and "none"; its packages are there. image: docker's, never pulled.

    Raises InvalidArgument for a wrong value, sandbox.Unusable (an Error) where the sandbox does
    not work on this machine.
    """

    def __init__(
        self,
        *,
        sandbox: str = "auto",
        timeout_s: float = 30.0,
        memory_bytes: int = 1 << 30,
        disk_bytes: int = 64 << 20,
        processes: int = 64,
        output_bytes: int = 20_000,
        interpreter: str | None = None,
        image: str = "python:3.12-slim",
    ) -> None:
        if sandbox not in SANDBOXES:
            wanted = ", ".join(SANDBOXES)
            raise InvalidArgument(f"sandbox is {shown(sandbox)}, wanted one of {wanted}")
        _number("timeout_s", timeout_s, 0.1, (int, float))
        _number("memory_bytes", memory_bytes, 64 << 20)
        _number("disk_bytes", disk_bytes, 4096)
        _number("processes", processes, 1)
        _number("output_bytes", output_bytes, 1000)
        self._bounds = Bounds(float(timeout_s), memory_bytes, disk_bytes, processes)
        self._output_bytes = output_bytes
        self._sandbox = choose(sandbox, interpreter or sys.executable, image)
        self.namespace = ToolNamespace(PYTHON.name, self._description())

    def _description(self) -> str:
        purpose = PYTHON.description.split("\n\n")[0]
        network = "There is no Internet access." if self._sandbox.isolated else ""
        return (
            f"{purpose}\n\n"
            "When you send a message containing Python code to python, it will be executed in a "
            "fresh process: no variables, imports or files are kept from one message to the next. "
            "python will respond with what was printed and the value of a last expression, or time "
            f"out after {self._bounds.timeout_s} seconds. {network}"
        ).rstrip()

    def call(self, name: str, arguments: str) -> str:
        """Run `arguments` as code; raises ToolError for a run that had to be stopped."""
        if name:
            raise ToolError(f"python has no function {name}: send the code to python itself")
        ended = self._run(arguments.encode("utf-8", "replace"))
        if ended.reason == "time":
            self._fail(ended, f"timed out after {self._bounds.timeout_s} seconds")
        if ended.reason == "output":
            self._fail(ended, "stopped: it printed without end")
        if killer := self._killed_by(ended.returncode):
            self._fail(ended, f"killed by {killer}")
        if ended.output:
            return ended.output
        if ended.returncode:
            return f"[it ended with exit code {ended.returncode} and printed nothing]"
        return "[it printed nothing]"

    def _run(self, code: bytes) -> Ended:
        # In a sandbox the folder is not seen; the command has to start somewhere.
        folder = Path(tempfile.mkdtemp(prefix="gptoss-python-"))
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", **_THREADS}
        inside = "/tmp" if self._sandbox.isolated else str(folder)
        environment |= {"HOME": inside, "TMPDIR": inside}
        command = self._sandbox.command(self._bounds)
        kept = self._sandbox.passed_on
        environment |= {key: os.environ[key] for key in kept if key in os.environ}
        try:
            return run_child(
                command,
                stdin=code,
                folder=folder,
                environment=environment,
                timeout_s=self._bounds.timeout_s,
                output_bytes=self._output_bytes,
            )
        except OSError as error:
            raise ToolError(f"python cannot be started: {error.strerror}") from error
        finally:
            self._clean_up(command, folder)

    def _clean_up(self, command: list[str], folder: Path) -> None:
        try:
            self._sandbox.stop(command)
            shutil.rmtree(folder, ignore_errors=True)
        except (subprocess.TimeoutExpired, RecursionError):
            # Of docker that hangs, or folders nested deeper than Python can walk.
            return

    def _killed_by(self, returncode: int) -> str | None:
        # A sandbox reports a signal as a shell does, above 128.
        number = -returncode
        if self._sandbox.isolated and returncode > 0:
            number = returncode - 128
        try:
            return signal.Signals(number).name
        except ValueError:
            return None

    @staticmethod
    def _fail(ended: Ended, what: str) -> None:
        raise ToolError(f"{ended.output}\n[{what}]".lstrip())
