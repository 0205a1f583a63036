"""The command lines that run Python code apart from the host: bubblewrap, docker, or nothing.

Each takes the text of `python_guest.py` and its settings; the code comes by standard input.
"""

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .._core import Error

_GUEST = Path(__file__).with_name("python_guest.py").read_text("utf-8")
_NOBODY = 65534
_PROBE_S = 30
# Not /tmp itself, which would show where an interpreter lies that is there.
_WORK = "/tmp/work"


@dataclass(frozen=True)
class Bounds:
    """What a run may take; bytes of address space hold for each process of it."""

    timeout_s: float
    memory_bytes: int
    disk_bytes: int
    processes: int


class Sandbox(Protocol):
    """A way to run code.

    isolated: there is no network, and of the host's files only the interpreter's, to read.
    passed_on: names of the host's environment that the command itself needs.
    """

    isolated: bool
    passed_on: tuple[str, ...]

    def command(self, bounds: Bounds) -> list[str]:
        """Return the command line of one run."""

    def stop(self, command: Sequence[str]) -> None:
        """End what killing the process of `command` would leave running."""


class Unusable(Error):
    """A sandbox that does not work here; says why."""


def _program(name: str) -> str:
    """Return where a program is, for it may be found by a PATH that the run has not."""
    if (path := shutil.which(name)) is None:
        raise Unusable(f"there is no {name}")
    return path


def _check_runs(what: str, command: Sequence[str], given: bytes = b"") -> str:
    """Return what a short command prints; Unusable if it fails."""
    try:
        options = {"capture_output": True, "timeout": _PROBE_S}
        done = subprocess.run(command, input=given, check=False, **options)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unusable(f"{what}: {error}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()[-300:]
        raise Unusable(f"{what}: {said or f'it ended with {done.returncode}'}")
    return done.stdout.decode("utf-8", "replace")


def _tasks_of(user: int) -> int:
    """Count a user's threads: RLIMIT_NPROC counts those that were there before, too."""
    count = 0
    for entry in os.scandir("/proc"):
        try:
            if entry.name.isdecimal() and entry.stat().st_uid == user:
                count += len(os.listdir(f"/proc/{entry.name}/task"))
        except OSError:  # it ended in between
            continue
    return count


def _is_in_view(folder: str) -> bool:
    """Whether a folder needs no mount; one at / would show the whole host."""
    return folder in ("", "/", "/usr") or folder.startswith("/usr/")


def _guest(interpreter: str, bounds: Bounds, user: int | None, tasks: int) -> list[str]:
    limits = {
        "RLIMIT_AS": bounds.memory_bytes,
        "RLIMIT_CORE": 0,
        # A process that got away from its group does not spin for ever.
        "RLIMIT_CPU": int(bounds.timeout_s) + 2,
        "RLIMIT_FSIZE": bounds.disk_bytes,
        "RLIMIT_NPROC": tasks + bounds.processes,
    }
    settings = json.dumps({"limits": limits, "user": user})
    # Isolated from the environment and the working folder; unbuffered, so that a run that is
    # stopped has shown what it printed.
    return [interpreter, "-I", "-u", "-X", "utf8", "-c", _GUEST, settings]


class Unconfined:
    """No sandbox: limits of the process alone, with the host's files, network and processes."""

    isolated = False
    passed_on = ()

    def __init__(self, interpreter: str) -> None:
        self._interpreter = interpreter

    def command(self, bounds: Bounds) -> list[str]:
        return _guest(self._interpreter, bounds, None, _tasks_of(os.getuid()))

    def stop(self, command: Sequence[str]) -> None:
        pass


class Bubblewrap:
    """Namespaces of its own for files, processes and network, by `bwrap`.

    The code sees /usr and the interpreter's folders, read-only, and an empty /tmp in memory. The
    kernel is the host's.
    """

    isolated = True
    passed_on = ()

    def __init__(self, interpreter: str) -> None:
        self._program = _program("bwrap")
        self._interpreter = interpreter
        asked = "import sys; print(sys.prefix, sys.base_prefix, sep='\\n')"
        prefixes = _check_runs("bubblewrap", [interpreter, "-I", "-c", asked]).split("\n")[:2]
        folders = [*prefixes, os.path.dirname(os.path.realpath(interpreter))]
        # A prefix of / would show the whole host.
        folders = [folder for folder in dict.fromkeys(folders) if not _is_in_view(folder)]
        self._folders = [part for folder in folders for part in self._interpreter_folder(folder)]
        # With root's rights bwrap needs no user namespace, and in one root would stay root for
        # RLIMIT_NPROC: the guest becomes nobody instead.
        self._is_root = os.geteuid() == 0
        try_out = Bounds(_PROBE_S, 1 << 30, 1 << 20, 16)
        # An import, for the interpreter's folders may be closed to others.
        _check_runs("bubblewrap", self.command(try_out), b"import socket")

    def command(self, bounds: Bounds) -> list[str]:
        size = str(bounds.disk_bytes)
        links = [f"/{name}" for name in ("bin", "lib", "lib32", "lib64", "sbin")]
        rights = ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"] if self._is_root else []
        user = _NOBODY if self._is_root else None
        return [
            *(self._program, "--die-with-parent", "--new-session"),
            *("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"),
            *("--unshare-cgroup-try", *([] if self._is_root else ["--unshare-user"])),
            *("--cap-drop", "ALL", *rights),
            *("--ro-bind", "/usr", "/usr", "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"),
            *(part for link in links for part in self._system_folder(link)),
            *("--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--size", size),
            *("--tmpfs", "/dev/shm", "--perms", "1777", "--size", size, "--tmpfs", "/tmp"),
            *self._folders,  # after /tmp, where they may be
            *("--perms", "1777", "--dir", _WORK, "--remount-ro", "/dev", "--remount-ro", "/"),
            *("--chdir", _WORK, "--"),
            *_guest(self._interpreter, bounds, user, _tasks_of(_NOBODY if user else os.getuid())),
        ]

    @staticmethod
    def _system_folder(path: str) -> list[str]:
        if os.path.islink(path):
            return ["--symlink", os.readlink(path), path]
        return ["--ro-bind-try", path, path]

    @staticmethod
    def _interpreter_folder(path: str) -> list[str]:
        # Parents that bwrap makes by itself are closed to others.
        parents = [str(parent) for parent in reversed(Path(path).parents)][1:]
        made = (part for parent in parents for part in ("--dir", parent))
        return [*made, "--ro-bind", path, path]

    def stop(self, command: Sequence[str]) -> None:
        pass  # --die-with-parent, and with its first process a namespace's others end


class Docker:
    """A container for each run, without network, of an image that is there already."""

    isolated = True
    # Where the client finds its daemon; nothing of it goes into the container.
    passed_on = ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "HOME")

    def __init__(self, image: str) -> None:
        self._program = _program("docker")
        self._image = image
        _check_runs("docker", [self._program, "image", "inspect", "--format", "{{.Id}}", image])

    def command(self, bounds: Bounds) -> list[str]:
        memory, size = str(bounds.memory_bytes), str(bounds.disk_bytes)
        return [
            *(self._program, "run", "--rm", "--interactive", "--init", "--pull", "never"),
            *("--name", f"gptoss-python-{uuid.uuid4().hex}", "--network", "none", "--read-only"),
            *("--tmpfs", f"/tmp:rw,exec,uid={_NOBODY},size={size}", "--workdir", "/tmp"),
            *("--memory", memory, "--memory-swap", memory),
            *("--pids-limit", str(bounds.processes), "--cap-drop", "ALL"),
            *("--security-opt", "no-new-privileges", "--user", f"{_NOBODY}:{_NOBODY}"),
            *("--env", "HOME=/tmp", "--log-driver", "none", self._image),
            *_guest("python3", bounds, None, _tasks_of(_NOBODY)),
        ]

    def stop(self, command: Sequence[str]) -> None:
        # The container is the daemon's child, not that of the client that was killed.
        name = command[command.index("--name") + 1]
        quiet = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": _PROBE_S}
        subprocess.run([self._program, "rm", "--force", name], check=False, **quiet)


def choose(kind: str, interpreter: str, image: str) -> Sandbox:
    """Return the sandbox named, for "auto" the first that works; Unusable if there is none."""
    if kind == "none":
        return Unconfined(interpreter)
    if kind == "bwrap":
        return Bubblewrap(interpreter)
    if kind == "docker":
        return Docker(image)
    reasons = []
    for make in (lambda: Bubblewrap(interpreter), lambda: Docker(image)):
        try:
            return make()
        except Unusable as error:
            reasons.append(str(error))
    raise Unusable(
        f"no sandbox works here ({'; '.join(reasons)}). Install bubblewrap, or have docker and the "
        f'image {image}; sandbox="none" runs a model\'s code with nothing isolated'
    )
