"""gptoss-native as a program: its exit status, how it fails and is ended."""

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from gptoss_native.cli import main
from gptoss_native.model import demo_path
from program import (
    ENDLESS,
    NOTE,
    PROGRAM,
    QUESTION,
    SUMMARY,
    complaint,
    run,
    started,
)


@pytest.fixture
def default_interrupts():
    """A child would ignore Ctrl-C where whatever runs these tests does; not so with a handler."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


# How it fails


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("", ["COMMAND"]),
        ("train", ["'train'"]),
        ("generate", ["--prompt", "--ids", "--user", "required"]),
        ("generate --prompt a --user b", ["--user", "not allowed with", "--prompt"]),
        ("generate --ids 1 --nonsense", ["--nonsense"]),
        ("generate --id 1", ["--prompt"]),
        ("generate --ids 1 --effort low", ["--effort", "--user"]),
        ("generate --ids 1 --date 2025-01-01", ["--date", "--user"]),
        ("generate --user hi --effort extreme", ["'extreme'", "low, medium, high"]),
        ("generate --user hi --date 2025-02-30", ["'2025-02-30'", "YYYY-MM-DD"]),
        ("generate --user hi --date 20250228", ["'20250228'", "YYYY-MM-DD"]),
        ("generate --prompt ", ["--prompt", "empty"]),
        ("generate --user ", ["--user", "empty"]),
        ("generate  --ids 1", ["CHECKPOINT", "empty"]),
        ("generate --ids ", ["--ids", "no ids"]),
        ("generate --ids 1,x", ["--ids", "'x'"]),
        ("generate --ids=-1", ["--ids", "'-1'"]),
        ("generate --ids 5,1024", ["no token 1024", "0 to 1023"]),
        ("generate --ids 1 --stop-ids 1024", ["--stop-ids", "no token 1024"]),
        ("generate --ids 1 --stop-ids 3 --no-stop", ["--no-stop", "--stop-ids"]),
        ("generate --ids 1,2,3 --max-context 3", ["holds 3 tokens", "has 3"]),
        ("generate --ids 1 --max-new-tokens 131072", ["holds 131072", "131072 more"]),
        ("generate --ids 1 --max-context 131073", ["--max-context", "131072"]),
        ("generate --ids 1 --max-new-tokens 0", ["--max-new-tokens", "'0'", "from 1"]),
        ("generate --ids 1 --threads 0", ["--threads", "'0'", "from 1"]),
        ("generate --ids 1 --threads 1000000", ["threads is 1000000"]),
        ("generate --ids 1 --seed -1", ["--seed", "'-1'", "from 0"]),
        ("generate --ids 1 --seed 18446744073709551616", ["--seed", "18446744073709551615"]),
        ("generate --ids 1 --top-k " + "9" * 5000, ["--top-k", "from 0"]),
        ("generate --ids 1 --max-context 99999999999999999999", ["--max-context", "from 1"]),
        ("generate --ids 1 --temperature warm", ["--temperature", "'warm'"]),
        ("generate --ids 1 --temperature nan", ["temperature is nan"]),
        ("generate --ids 1 --top-p 0", ["top_p is 0"]),
        ("generate --ids 1 --min-p 1e400", ["min_p is inf"]),
        ("generate --ids 1 --logit-bias 5", ["--logit-bias", "'5'", "ID=VALUE"]),
        ("generate --ids 1 --logit-bias 5=1 --logit-bias 5=2", ["--logit-bias", "twice"]),
        ("generate --ids 1 --logit-bias 1024=1", ["--logit-bias", "no token 1024"]),
        ("generate --ids 1 --logprobs 1", ["--logprobs", "--json"]),
        ("generate --ids 1 --logprobs 1025 --json", ["logprobs is 1025", "1024"]),
        ("generate --ids 1 --dense int4", ["dense is 'int4'"]),
        ("generate --ids 1 --kv fp8 --precision exact", ['kv is "fp8"', 'precision "exact"']),
        ("generate --ids 1 --device tpu", ["device is 'tpu'"]),
        ("generate nowhere --ids 1", ["nowhere", "no such folder"]),
        ("generate no\nwhere --ids 1", ["no\\nwhere"]),
        ("generate --user a b c", ["unrecognized arguments: c"]),
        ("plan 70b", ["70b", "no such folder"]),
        ("plan tiny --max-context 131073", ["max_context is 131073"]),
    ],
)
def test_a_bad_option_is_one_line_and_exit_status_2(arguments, parts):
    message = complaint(run(*(arguments.split(" ") if arguments else [])))
    for part in parts:
        assert part in message


def test_arguments_that_are_no_text_are_refused(capsys):
    for option in ("--prompt", "--user"):
        assert "no str of whole characters" in complaint(run("generate", option, b"a\xff"))
    assert "\\udcff" in complaint(run("generate", b"no\xffwhere", "--ids", "1"))
    # No process can be given a NUL, but main() can.
    assert main(["generate", "a\0b", "--ids", "1"]) == 2
    assert "a\\x00b: no such folder\n" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_one_line_naming_the_file(tmp_path):
    path = shutil.copytree(demo_path(), tmp_path / "model")
    (path / "tokenizer.json").write_text("{")
    assert f"{path}/tokenizer.json: " in complaint(run("generate", path, "--prompt", "x"))
    with (path / "model.safetensors").open("r+b") as file:
        file.truncate(1_000_000)
    assert f"{path}/model.safetensors: is truncated" in complaint(
        run("generate", path, "--ids", "1")
    )


# Terminals, pipes and Ctrl-C


def on_terminal(command):
    """Return what a command prints on stderr when that is a terminal, and the seconds it took."""
    master, slave = pty.openpty()
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=slave) as process:
        os.close(slave)
        seen = b""
        with contextlib.suppress(OSError):  # as Linux says that the other end is closed
            while part := os.read(master, 65536):
                seen += part
        assert process.wait(60) == 0
    os.close(master)
    return seen.decode(), time.monotonic() - start


def test_a_loading_bar_is_drawn_on_a_terminal_only_and_removed():
    seen, _ = on_terminal([*PROGRAM, *QUESTION])
    bar, note, summary = re.fullmatch(r"(.*\r)(.+)\r\n(.+)\r\n", seen, re.S).groups()
    assert re.match(r"\rloading \[#*-*\] +\d+ % of [\d.]+ GiB", bar)
    drawn, blank = re.search(r"\r([^\r]+)\r( +)\r$", bar).groups()
    assert len(blank) >= len(drawn)
    assert note == NOTE
    assert re.fullmatch(SUMMARY, summary)
    assert "loading" not in run(*QUESTION).stderr


def test_the_loading_bar_is_redrawn_at_most_twenty_times_a_second():
    code = """
from time import monotonic
from gptoss_native.cli.terminal import LoadingBar
start = monotonic()
with LoadingBar() as bar:
    while monotonic() < start + 0.5:
        bar.draw(int(1000 * (monotonic() - start)), 500)
"""
    seen, took = on_terminal([sys.executable, "-c", code])
    assert 2 <= seen.count("loading") <= 1 + 20 * took


def test_ctrl_c_ends_a_generation_with_130(default_interrupts):
    with started(*ENDLESS) as process:
        assert process.poll() is None  # the answer came while it was being made
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert stderr.decode() == f"{NOTE}\ngptoss-native: interrupted\n"


def test_a_reader_that_leaves_early_ends_it_quietly():
    with started(*ENDLESS) as process:
        process.stdout.close()
        assert process.wait(20) == 141
        assert process.stderr.read().decode() == NOTE + "\n"
    for arguments in (["info"], ["--help"], [*QUESTION, "--json"]):
        read_end, write_end = os.pipe()
        os.close(read_end)
        done = run(*arguments, capture_output=False, stdout=write_end, stderr=subprocess.PIPE)
        os.close(write_end)
        assert done.returncode == 141
        assert done.stderr.removeprefix(NOTE + "\n") == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_an_output_that_cannot_be_written_is_one_line():
    with open("/dev/full", "w") as full:
        done = run("info", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert re.fullmatch("gptoss-native: .*No space left on device\n", done.stderr)


def test_closed_standard_streams_change_nothing_else():
    for closed in (1, 2):
        done = subprocess.run(
            ["sh", "-c", f'"$@" {closed}>&-', "sh", *PROGRAM, *QUESTION, "--json"],
            capture_output=True,
            encoding="utf-8",
            timeout=60,
        )
        assert done.returncode == 0
        if closed == 1:
            assert (done.stdout, done.stderr) == ("", NOTE + "\n")
        else:
            assert json.loads(done.stdout)["finish_reason"] == "stop"
