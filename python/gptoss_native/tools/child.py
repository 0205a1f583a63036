"""A process run to its end within a time and an amount of output, whatever it does."""

import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_CHUNK = 1 << 16
# Of what is left out nothing is kept, so this only ends a process that writes for ever.
_MAX_WRITTEN = 64 << 20


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    output: standard output and error as they came, the middle left out where it was too long.
    returncode: as of subprocess. reason: "time" or "output" where it was stopped, else None.
    """

    output: str
    returncode: int
    reason: str | None = None


class _Output:
    """The first and the last bytes of a stream."""

    def __init__(self, most: int) -> None:
        self._half = most // 2
        self._head = bytearray()
        self._tail = bytearray()
        self.written = 0

    def add(self, data: bytes) -> None:
        self.written += len(data)
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > self._half + _CHUNK:
            del self._tail[: -self._half]

    def text(self) -> str:
        tail = self._tail[-self._half :]
        head = self._head.decode("utf-8", "replace")
        if left_out := self.written - len(self._head) - len(tail):
            return f"{head}\n[{left_out} bytes left out]\n{tail.decode('utf-8', 'replace')}"
        return (self._head + tail).decode("utf-8", "replace")


def _drain(stream: int, output: _Output, most: int) -> bool:
    """Take what is there, at most `most` bytes; False where the stream has ended."""
    while most > 0:
        try:
            data = os.read(stream, _CHUNK)
        except BlockingIOError:
            return True
        if not data:
            return False
        output.add(data)
        most -= len(data)
    return True


def _follow(process: "subprocess.Popen[bytes]", output: _Output, timeout_s: float) -> str | None:
    """Read until the process ends or must be stopped; return the reason for the latter."""
    stream = process.stdout.fileno()
    os.set_blocking(stream, False)
    deadline = time.monotonic() + timeout_s
    ended = os.pidfd_open(process.pid)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            selector.register(ended, selectors.EVENT_READ)
            while (left := deadline - time.monotonic()) > 0:
                ready = {key.fd for key, _ in selector.select(left)}
                # A child that was left behind may hold the stream open: the process is what counts.
                if ended in ready:
                    return None
                if stream in ready and not _drain(stream, output, _CHUNK):
                    selector.unregister(stream)
                if output.written > _MAX_WRITTEN:
                    return "output"
            return "time"
    finally:
        os.close(ended)


def run_child(
    command: Sequence[str],
    *,
    stdin: bytes,
    folder: Path | None = None,
    environment: Mapping[str, str],
    timeout_s: float,
    output_bytes: int,
) -> Ended:
    """Run a command in a session of its own and kill its process group when it ends.

    output_bytes: how much of its output is kept. Raises OSError if it cannot be started.
    """
    output = _Output(output_bytes)
    # A file, not a pipe: writing to a process that does not read would never end.
    with tempfile.TemporaryFile() as source:
        source.write(stdin)
        source.seek(0)
        process = subprocess.Popen(
            command,
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=dict(environment),
            start_new_session=True,
        )
    with process.stdout:
        try:
            reason = _follow(process, output, timeout_s)
        finally:
            # Not waited for yet, so that its id is still its own.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        _drain(process.stdout.fileno(), output, _MAX_WRITTEN)
    return Ended(output.text(), process.returncode, reason)
