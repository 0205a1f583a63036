"""gptoss-native as a program, for tests of it."""

import contextlib
import json
import os
import re
import subprocess
import sys

PROGRAM = [sys.executable, "-m", "gptoss_native"]
QUESTION = ["generate", "--user", "What is 17 + 25?"]
ENDLESS = ["generate", "--ids", "1,2,3", "--no-stop", "--max-new-tokens", "100000"]
# As most users have it: where output is buffered, only a flush brings it out.
BUFFERED = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
NOTE = "no checkpoint named: using the small bundled model"
SUMMARY = r"\d+ tokens \(\w+\), first after \d+\.\d\d s, [\d.]+ tokens/s, [\d.]+ GB/s, in cache"


def run(*arguments, **options):
    options = {
        "capture_output": True,
        "encoding": "utf-8",
        "timeout": 60,
        "env": BUFFERED,
    } | options
    return subprocess.run([*PROGRAM, *arguments], **options)


def answer(*arguments, **options):
    done = run(*arguments, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def answer_json(*arguments):
    return json.loads(answer(*arguments, "--json"))


def complaint(done, status=2):
    """Return the message of a failed run: one line on stderr, nothing else anywhere."""
    assert (done.returncode, done.stdout) == (status, "")
    prefix, message, rest = re.fullmatch(r"(gptoss-native: )(.+)\n(.*)", done.stderr, re.S).groups()
    assert (prefix, rest) == ("gptoss-native: ", "")
    assert "\n" not in message
    assert message.isprintable()
    assert len(message) < 1100
    return message


@contextlib.contextmanager
def started(*arguments):
    """Yield a running process whose first four characters of the answer have come."""
    pipe = subprocess.PIPE
    command = [*PROGRAM, *arguments]
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=BUFFERED) as process:
        try:
            assert len(process.stdout.read(4)) == 4
            yield process
        finally:
            process.kill()
