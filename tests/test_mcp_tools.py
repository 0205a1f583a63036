"""MCP servers as tools: real servers in processes of their own, over stdio and HTTP."""

import asyncio
import json
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import gptoss_native as gn
import pytest
from gptoss_native.tools.mcp import McpTools
from gptoss_native.tools.tool import ToolError

SERVER = str(Path(__file__).with_name("mcp_server.py"))
NAMES = ["add", "fail", "sleep", "die", "mixed", "nothing", "environment"]


def test_without_mcp_the_extra_is_named():
    code = """
        import sys
        sys.modules["mcp"] = None
        import gptoss_native as gn
        from gptoss_native.tools.mcp import McpTools
        for make in (lambda: McpTools.stdio("x"), lambda: McpTools.http("http://localhost/")):
            try:
                make()
            except gn.Error as error:
                print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert said.count("pip install 'gptoss-native[tools]'") == 2


@pytest.fixture
def stdio():
    """Makes the tools of a server of its own."""
    pytest.importorskip("mcp")
    return lambda **options: McpTools.stdio(sys.executable, [SERVER, "stdio"], **options)


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture
def http():
    """Makes the tools of a server that listens."""
    pytest.importorskip("mcp")
    port = free_port()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, SERVER, "http", str(port)], **quiet)
    try:
        while process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield lambda **options: McpTools.http(f"http://127.0.0.1:{port}/mcp", **options)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(params=["stdio", "http"])
def server(request):
    return request.getfixturevalue(request.param)


def refusal(tools, name, arguments="{}"):
    with pytest.raises(ToolError) as raised:
        tools.call(name, arguments)
    return str(raised.value)


def test_a_servers_tools_are_told_and_called(server):
    with server() as tools:
        namespace = tools.namespace
        assert (namespace.name, namespace.description) == ("Test_server", "Tools for tests.")
        assert [tool.name for tool in namespace.tools] == NAMES
        add = namespace.tools[0]
        assert add.description == "Add two numbers."
        assert add.parameters["required"] == ["a"]
        assert tools.call("add", '{"a": 1, "b": 40}') == "41"
        assert tools.call("add", '{"a": 1}') == "3"
        assert tools.call("nothing", "") == "[it answered nothing]"
        assert tools.call("mixed", "{}").split("\n") == [
            "words",
            "[image image/png: not shown]",
            "inside",
            "[resource elsewhere: test://link]",
        ]


def test_errors_are_told_and_end_nothing(server):
    with server(name="own") as tools:
        assert tools.namespace.name == "own"
        assert "Error executing tool fail" in refusal(tools, "fail", '{"text": "x"}')
        assert "Unknown tool: gone" in refusal(tools, "gone")
        assert "valid integer" in refusal(tools, "add", '{"a": "one"}')
        for wrong in ("{", "[1]", "3", '{"a": NaN}', '{"a": "\\ud800"}', "[" * 100_000):
            assert "the arguments" in refusal(tools, "add", wrong)
        assert tools.call("add", json.dumps({"a": 1, "b": 10**15})) == str(10**15 + 1)


def test_a_server_that_hangs_is_told_and_others_are_answered(server):
    with server(timeout_s=2) as tools:
        hung = []
        thread = threading.Thread(target=lambda: hung.append(refusal(tools, "sleep")))
        thread.start()
        thread.join()
        assert hung == ["sleep did not answer within 2 s"]
    with server() as tools:
        assert tools.call("add", '{"a": 1}') == "3"


def test_a_server_that_dies_is_told(server):
    with server(timeout_s=30) as tools:
        assert "die failed" in refusal(tools, "die")
        said = refusal(tools, "add", '{"a": 1}')
        assert "add failed" in said or "is not connected" in said
    assert "is not connected" in refusal(tools, "add", '{"a": 1}')


def test_tools_serve_an_event_loop(server):
    async def main():
        async with server() as tools:
            calls = [tools.call("add", json.dumps({"a": n, "b": n})) for n in range(20)]
            assert await asyncio.gather(*calls) == [str(2 * n) for n in range(20)]
            with pytest.raises(ToolError, match="Unknown tool"):
                await tools.call("gone", "{}")
            task = asyncio.ensure_future(tools.call("sleep", "{}"))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(tools.call, "add", '{"a": 1}') == "3"

    asyncio.run(main())


def test_closing_answers_calls_that_wait(stdio):
    tools = stdio().open()
    waiting = []
    thread = threading.Thread(target=lambda: waiting.append(refusal(tools, "sleep")))
    thread.start()
    time.sleep(0.2)
    tools.close()
    thread.join()
    assert waiting[0]
    tools.close()


def test_tools_can_be_opened_again(stdio):
    tools = stdio(env={"GPTOSS_TEST": "told"})
    for _ in range(2):
        with tools:
            assert tools.call("environment", '{"name": "GPTOSS_TEST"}') == "told"
            with pytest.raises(gn.InvalidArgument, match="open already"):
                tools.open()


def test_the_environment_is_not_passed_on(stdio, monkeypatch):
    monkeypatch.setenv("GPTOSS_SECRET", "secret")
    with stdio() as tools:
        assert tools.call("environment", '{"name": "GPTOSS_SECRET"}') == "none"


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import time; time.sleep(1000)", "no answer within 2 s"),
        ("pass", "cannot be used"),
        ("print('rubbish', flush=True); import time; time.sleep(1000)", "cannot be used"),
        ("while True: print('x' * 1000)", "cannot be used"),
    ],
)
def test_what_is_no_server_is_an_error(code, why):
    pytest.importorskip("mcp")
    tools = McpTools.stdio(sys.executable, ["-c", code], start_timeout_s=2)
    with pytest.raises(gn.Error, match=why), tools:
        pass
    with pytest.raises(gn.Error, match=why):
        asyncio.run(tools.__aenter__())


def test_a_server_that_cannot_be_reached_is_an_error():
    pytest.importorskip("mcp")
    with pytest.raises(gn.Error, match="cannot be used"):
        McpTools.stdio("/no/such/program").open()
    with pytest.raises(gn.Error, match="cannot be used"):
        McpTools.http(f"http://127.0.0.1:{free_port()}/mcp").open()


@pytest.mark.parametrize("name", ["timeout_s", "start_timeout_s"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), None, "1"])
def test_wrong_limits_are_refused(stdio, name, value):
    with pytest.raises(gn.InvalidArgument, match=f"{name} is "):
        stdio(**{name: value})
