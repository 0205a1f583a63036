"""The examples run as they are, on the bundled model."""

import ast
import os
import socket
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def start(name, **environment):
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.Popen(
        [sys.executable, str(EXAMPLES / name)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path} | environment,
    )


def test_the_agent_loop_computes_only_what_is_new():
    with start("agent_loop.py") as process:
        lines = process.communicate(timeout=120)[0].splitlines()
    assert process.returncode == 0
    assert len(lines) == 11
    for line in lines[2:]:
        _, context, cached, computed, answer = line.split(maxsplit=4)
        assert int(cached) + int(computed) == int(context)
        assert int(computed) <= 30 + 128
        assert "=" in answer


def test_the_service_answers_many_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with start("service.py", PORT=str(port)) as process:
        try:
            assert process.stdout.readline() == f"listening on 127.0.0.1:{port}\n"
            clients = [socket.create_connection(("127.0.0.1", port), 60) for _ in range(8)]
            clients[3].sendall(b"What is 12 + 30?\n")
            clients[3].close()  # one that does not wait for its answer
            for number, client in enumerate(clients):
                if number != 3:
                    client.sendall(f"What is 1{number} + 25?\n".encode())
            for number, client in enumerate(clients):
                if number != 3:
                    with client, client.makefile() as answer:
                        assert str(35 + number) in answer.read()
        finally:
            process.kill()


def run(name):
    with start(name) as process:
        shown = process.communicate(timeout=120)[0]
    assert process.returncode == 0
    return shown


def test_the_agent_calls_its_tools_and_shows_the_counters():
    shown = run("agent.py")
    assert 'functions.calculator({"expression":"34*27"}) -> {"result": 918}' in shown
    assert "34 * 27 = 918" in shown
    assert "It is 21 degrees and sunny in Zurich." in shown
    assert shown.count("tokens from the cache") == 6


def test_reasoning_is_shown_apart_and_ended_in_time():
    shown = run("streaming_reasoning.py")
    assert shown.count("[analysis]") == shown.count("[final]") == 3
    assert "[final] 314 + 271 = 585" in shown
    assert "(20 tokens of reasoning; stop, reasoning_limit)" in shown


def test_extraction_gives_documents_of_the_schema():
    with start("structured_extraction.py") as process:
        lines = process.communicate(timeout=120)[0].splitlines()
    assert process.returncode == 0
    assert len(lines) == 12
    for person in map(ast.literal_eval, map(str.strip, lines[2:9:3])):
        assert list(person) == ["name", "age", "city"]
        assert person["name"] in ("Alice", "Sam")
    assert lines[-1].strip() == "17 + 25 = 42"
