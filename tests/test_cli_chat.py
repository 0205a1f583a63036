"""gptoss-native chat: answers on stdout, reasoning apart, one question or a conversation."""

import json
import os
import pty
import subprocess
import time

import pytest
from program import BUFFERED, NOTE, PROGRAM, complaint, run

QUESTION = "What is 17 + 25?"
REASONING = "17+25: 7+5=12 [2], 1+2+1=4 [42]."
SUMMARY = "48 tokens (stop); 28 of reasoning; context: 83 computed, 0 from the cache"


def test_a_question_is_answered_on_stdout_and_reasoned_on_stderr():
    done = run("chat", QUESTION)
    assert (done.returncode, done.stdout) == (0, "17 + 25 = 42\n")
    assert done.stderr.splitlines() == [NOTE, REASONING, SUMMARY]


def test_a_new_machine_without_a_network_answers(tmp_path):
    """Nothing is read from a home folder, or left there."""
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    done = run("chat", QUESTION, env=BUFFERED | nowhere | {"HOME": str(tmp_path)})
    assert (done.returncode, done.stdout) == (0, "17 + 25 = 42\n")
    assert REASONING in done.stderr
    assert not list(tmp_path.iterdir())


def test_effort_and_limits_reach_the_model():
    low = run("chat", "--effort", "low", QUESTION)
    assert "17+25: 7+5=12, 1+2+1=4.\n" in low.stderr
    cut = run("chat", "--max-reasoning-tokens", "10", QUESTION)
    assert "(stop, reasoning_limit); 10 of reasoning" in cut.stderr
    short = run("chat", "--max-new-tokens", "5", QUESTION)
    assert "5 tokens (length, max_new_tokens)" in short.stderr


def test_json_has_the_reply():
    done = run("chat", QUESTION, "--json")
    reply = json.loads(done.stdout)
    assert (reply["text"], reply["reasoning"]) == ("17 + 25 = 42", REASONING)
    assert (reply["finish_reason"], reply["anomalies"]) == ("stop", [])
    assert reply["usage"]["generated_tokens"] == len(reply["ids"]) == 48


def test_answers_are_of_a_schema(tmp_path):
    schema = tmp_path / "schema.json"
    schema.write_text('{"enum": ["17 + 25 = 42", "no"]}')
    done = run("chat", QUESTION, "--json-schema", str(schema), "--max-reasoning-tokens", "60")
    assert json.loads(done.stdout) in ("17 + 25 = 42", "no")
    assert run("chat", QUESTION, "--no-envelope").stdout == "17 + 25 = 42\n"
    schema.write_text('{"minProperties": 7}')
    said = complaint(run("chat", "/no/such/folder", QUESTION, "--json-schema", str(schema)))
    assert "/no/such/folder" in said
    assert "minProperties is 7" in complaint(run("chat", QUESTION, "--json-schema", str(schema)))
    schema.write_text("{")
    assert str(schema) in complaint(run("chat", QUESTION, "--json-schema", str(schema)))


def test_lines_of_the_input_are_a_conversation():
    done = run("chat", input=f"{QUESTION}\n\n  \nWhat is 2 + 3?")
    assert done.stdout == "17 + 25 = 42\n2 + 3 = 5\n"
    first, second = [line for line in done.stderr.splitlines() if "of reasoning" in line]
    assert first == SUMMARY
    assert int(second.rsplit("computed, ")[1].split()[0]) > 60


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/no/such/folder"], "/no/such/folder: no such folder"),
        (["nothing", "really"], "nothing: no such folder"),
        (["a", "b", "c"], "3 words, wanted [CHECKPOINT] [QUESTION]: quote the question"),
        (["--json"], "--json goes with a question only"),
        (["--effort", "extreme", "x"], "--effort is extreme, wanted one of low, medium, high"),
        (["--max-context", "999999", "x"], "--max-context is 999999, the model's limit is 131072"),
        (["--logit-bias", "1024=1", "x"], "--logit-bias: the model has no token 1024"),
        (["--temperature", "-1", "x"], "temperature"),
    ],
)
def test_what_cannot_be_is_refused_before_loading(arguments, said):
    assert said in complaint(run("chat", *arguments))


def read_until(master, wanted, before=b""):
    out, deadline = before, time.monotonic() + 60
    while wanted not in out:
        assert time.monotonic() < deadline, out
        out += os.read(master, 4096)
    return out


def test_on_a_terminal_the_reasoning_is_dimmed():
    master, slave = pty.openpty()
    command = [*PROGRAM, "chat"]
    env = {key: value for key, value in BUFFERED.items() if key != "NO_COLOR"}
    streams = {"stdin": slave, "stdout": slave, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **streams, env=env) as process:
        try:
            read_until(master, b"> ")
            os.write(master, QUESTION.encode() + b"\n")
            shown = read_until(master, b"17 + 25 = 42\r\n")
            assert f"\x1b[2m{REASONING}\x1b[0m".encode() in shown
            read_until(master, b"> ", shown.rsplit(b"42\r\n")[1])
            os.write(master, b"\x04")
            assert process.wait(60) == 0
        finally:
            process.kill()
            os.close(master)
            os.close(slave)
