"""The examples run as they stand, on the bundled model."""

import pathlib
import subprocess
import sys

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


def run(name):
    done = subprocess.run(
        [sys.executable, EXAMPLES / name], capture_output=True, encoding="utf-8", timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_the_agent_calls_its_tools_and_shows_the_counters():
    shown = run("agent.py")
    assert 'functions.calculator({"expression": "34*27"}) -> {"result": 918}' in shown
    assert "34 * 27 = 918" in shown
    assert "It is 21 degrees and sunny in Zurich." in shown
    assert shown.count("tokens from the cache") == 6


def test_reasoning_is_shown_apart_and_ended_in_time():
    shown = run("streaming_reasoning.py")
    assert shown.count("[analysis]") == shown.count("[final]") == 3
    assert "[final] 314 + 271 = 585" in shown
    assert "(20 tokens of reasoning; stop, reasoning_limit)" in shown
