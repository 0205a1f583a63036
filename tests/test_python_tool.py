"""The python tool under code that means harm; where a sandbox is absent its tests are skipped."""

import os
import sys
import time
from pathlib import Path

import gptoss_native as gn
import pytest
from gptoss_native.harmony import PYTHON
from gptoss_native.tools.child import run_child
from gptoss_native.tools.python import PythonTool
from gptoss_native.tools.sandbox import Unusable
from gptoss_native.tools.tool import ToolError

# Long enough for a busy machine; what sleeps for ever has a shorter one.
LIMITS = {"timeout_s": 60.0, "memory_bytes": 1 << 30, "disk_bytes": 8 << 20, "processes": 16}
FOR_EVER = 1000


@pytest.fixture(scope="module", params=["none", "bwrap", "docker"])
def sandbox(request):
    """Each sandbox; skipped where it does not work."""
    try:
        PythonTool(sandbox=request.param)
    except Unusable as error:
        pytest.skip(str(error))
    return request.param


@pytest.fixture(scope="module")
def isolated(sandbox):
    """The sandboxes that keep the host apart."""
    if sandbox == "none":
        pytest.skip("nothing is isolated")
    return sandbox


@pytest.fixture
def run(sandbox):
    return lambda code: PythonTool(sandbox=sandbox, **LIMITS).call("", code)


def answer(tool, code):
    """What the model is told, whether the run had to be stopped or not."""
    try:
        return tool.call("", code)
    except ToolError as error:
        return str(error)


def failed(tool, code):
    with pytest.raises(ToolError) as raised:
        tool.call("", code)
    return str(raised.value)


def test_output_is_what_was_printed_and_the_last_value(run):
    assert run("x = 20\nprint('printed')\nx + 1") == "printed\n21\n"
    assert run("x = 20") == "[it printed nothing]"
    assert run("None") == "[it printed nothing]"
    assert run("") == "[it printed nothing]"
    assert run("import sys; sys.exit(3)") == "[it ended with exit code 3 and printed nothing]"


def test_errors_are_tracebacks_of_the_code_alone(run):
    said = run("def f():\n    return 1 / 0\nprint('before')\nf()")
    assert said.startswith("before\nTraceback")
    assert said.endswith("ZeroDivisionError: division by zero\n")
    assert said.count("File ") == said.count('File "<code>"') == 2
    assert "return 1 / 0" in said
    assert "SyntaxError" in run("if")
    assert "null bytes" in run("1\0")


@pytest.mark.parametrize("code", ["(" * 100_000, "-" * 100_000 + "1", "\ud800", "é\r\n\t\f"])
def test_source_that_no_parser_takes_is_answered(sandbox, code):
    assert answer(PythonTool(sandbox=sandbox, **LIMITS), code)


def test_nothing_is_kept_between_calls(run):
    assert run("kept = open('kept', 'w').write('x')") == "[it printed nothing]"
    assert "NameError" in run("kept")
    assert run("import os; os.listdir('.')") == "[]\n"


def test_classes_of_the_code_can_be_pickled(run):
    assert run("import pickle\nclass A: x = 5\npickle.loads(pickle.dumps(A())).x") == "5\n"


def test_input_is_closed_and_the_environment_scrubbed(run, monkeypatch):
    monkeypatch.setenv("GPTOSS_SECRET", "secret")
    assert "EOFError" in run("input()")
    assert run("import os; 'GPTOSS_SECRET' in os.environ") == "False\n"


def test_a_sleeper_is_stopped_and_what_it_printed_is_told(sandbox):
    tool = PythonTool(sandbox=sandbox, timeout_s=5.0)
    said = failed(tool, f"import time; print('began'); time.sleep({FOR_EVER})")
    assert said.endswith("[timed out after 5.0 seconds]")
    if sandbox != "docker":  # a container may take that long to start
        assert said.startswith("began\n")


def is_alive(group):
    """Whether a process group has a member that is neither dead nor waits to be reaped."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it ended in between
            continue
        if int(pgrp) == group and state not in "ZX":
            return True
    return False


def test_children_end_with_the_call():
    code = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        f"    time.sleep({FOR_EVER})\n"
        "    os._exit(0)\n"
        "print(os.getpgid(0))"
    )
    group = int(PythonTool(sandbox="none").call("", code))
    for _ in range(1000):  # a signal takes its time
        if not is_alive(group):
            return
        time.sleep(0.05)
    pytest.fail("the child is still alive")


def test_output_without_end_is_stopped(sandbox):
    tool = PythonTool(sandbox=sandbox, output_bytes=1000, **LIMITS)
    said = failed(tool, "print('first')\nwhile True: print('x' * 10000)")
    assert said.startswith("first\n")
    assert said.endswith("[stopped: it printed without end]")
    assert len(said) < 1200


def test_of_long_output_both_ends_are_kept(sandbox):
    tool = PythonTool(sandbox=sandbox, output_bytes=1000, **LIMITS)
    said = tool.call("", "print('first'); print('é' * 300_000); print('last')")
    assert said.startswith("first\n")
    assert said.endswith("last\n")
    assert "[599012 bytes left out]" in said


@pytest.mark.parametrize("length", [0, 1, 999, 1000, 1001, 65_536, 70_000, 140_000])
def test_output_is_cut_only_where_it_is_too_long(length):
    code = f"import os\ndata = b'ab' * {length}\nos.write(1, data[:{length}])"
    command = [sys.executable, "-c", code]
    ended = run_child(command, stdin=b"", environment={}, timeout_s=60, output_bytes=1000)
    whole = ("ab" * length)[:length]
    cut = f"{whole[:500]}\n[{length - 1000} bytes left out]\n{whole[-500:]}"
    assert ended.output == (whole if length <= 1000 else cut)
    assert (ended.returncode, ended.reason) == (0, None)


def test_binary_output_is_text(run):
    said = run("import os; n = os.write(1, bytes(range(256)))")
    assert "ABC" in said
    assert "\N{REPLACEMENT CHARACTER}" in said
    said.encode()


def test_memory_is_limited(run):
    assert "MemoryError" in run("x = bytearray(2 << 30)")


def test_files_are_limited(run):
    assert "OSError" in run("open('x', 'wb').write(bytes(16 << 20))")


def test_a_folder_is_limited_where_it_is_isolated(run, isolated):
    code = "for i in range(10): open(str(i), 'wb').write(bytes(4 << 20))"
    assert "No space left on device" in run(code)


def test_deep_recursion_is_an_error(sandbox):
    tool = PythonTool(sandbox=sandbox, **LIMITS)
    assert "RecursionError" in tool.call("", "def f(): f()\nf()")
    deeper = "def f(): return [*map(lambda x: f(), [1])]\nf()"
    said = answer(tool, f"import sys; sys.setrecursionlimit(10**9)\n{deeper}")
    assert any(end in said for end in ("killed by SIGSEGV", "RecursionError", "MemoryError"))


def test_endless_files_can_be_read_within_the_limits(run):
    assert "MemoryError" in run("open('/dev/zero', 'rb').read()")


def test_a_killed_group_is_told(sandbox):
    tool = PythonTool(sandbox=sandbox, **LIMITS)
    assert "[killed by SIGKILL]" in failed(tool, "import os; os.killpg(0, 9)")
    assert tool.call("", "1") == "1\n"


def test_a_fork_bomb_stays_inside(run, isolated):
    assert "BlockingIOError" in run("import os\nwhile True: os.fork()")


@pytest.mark.skipif(os.geteuid() == 0, reason="root has no limit on processes")
def test_a_fork_bomb_is_limited_without_a_sandbox():
    tool = PythonTool(sandbox="none", **LIMITS)
    assert "BlockingIOError" in tool.call("", "import os\nwhile True: os.fork()")


def test_killing_everything_in_sight_ends_nothing_outside(isolated):
    tool = PythonTool(sandbox=isolated, **LIMITS)
    for target in ("-1", "os.getppid()", "1"):
        assert answer(tool, f"import os; os.kill({target}, 9)")
    assert tool.call("", "1") == "1\n"


def test_a_sandbox_has_no_network_no_host_files_and_no_rights(run, isolated, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    assert "Errno" in run("import socket; socket.create_connection(('192.0.2.1', 80), 5)")
    assert "Errno" in run(f"open({str(secret)!r})")
    for path in ("/x", "/usr/x", "/etc/x", "/dev/x"):
        assert "Errno" in run(f"open({path!r}, 'w')")
    assert run("import os; os.getuid()") != "0\n"
    assert "Errno" in run("import os; os.chroot('/tmp')")


def test_the_description_told_is_true(sandbox):
    tool = PythonTool(sandbox=sandbox, timeout_s=7)
    said = tool.namespace.description
    assert tool.namespace.name == PYTHON.name
    assert not tool.namespace.tools
    assert "stateful" not in said
    assert "/mnt/data" not in said
    assert "no variables, imports or files are kept" in said
    assert "after 7.0 seconds" in said
    assert ("There is no Internet access." in said) == (sandbox != "none")


def test_functions_of_python_are_unknown():
    with pytest.raises(ToolError, match="has no function exec"):
        PythonTool(sandbox="none").call("exec", "1")


def test_auto_refuses_where_there_is_no_sandbox(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(gn.Error, match=r'there is no bwrap.*there is no docker.*sandbox="none"'):
        PythonTool()
    for kind in ("bwrap", "docker"):
        with pytest.raises(gn.Error, match=f"there is no {kind}"):
            PythonTool(sandbox=kind)


def test_a_sandbox_that_fails_is_not_taken(monkeypatch, tmp_path):
    for name in ("bwrap", "docker"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\necho no namespaces here >&2; exit 1\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(Unusable, match=r"no namespaces here.*no namespaces here"):
        PythonTool()


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("sandbox", "chroot"),
        ("sandbox", None),
        ("timeout_s", 0),
        ("timeout_s", float("nan")),
        ("timeout_s", "1"),
        ("memory_bytes", 1000),
        ("disk_bytes", 0.5),
        ("processes", 0),
        ("processes", True),
        ("output_bytes", -1),
    ],
)
def test_wrong_arguments_are_refused(argument, value):
    with pytest.raises(gn.InvalidArgument, match=f"{argument} is "):
        PythonTool(**{"sandbox": "none", argument: value})
