"""Downloads: the pinned commit, the files that are read, resumption, refusals in one line."""

import json
import os
import random
import shutil
import subprocess
import sys

import gptoss_native as gn
import pytest
from gptoss_native.hub import REVISIONS
from gptoss_native.model import demo_path
from hub_server import COMMIT, Hub

NAME = "openai/gpt-oss-20b"


@pytest.fixture
def hub(tmp_path):
    folder = shutil.copytree(demo_path(), tmp_path / "served")
    for unread in ("original/model.safetensors", "metal/model.bin", "README.md"):
        (folder / unread).parent.mkdir(exist_ok=True)
        (folder / unread).write_bytes(b"not asked for")
    served = Hub(NAME, folder)
    yield served
    served.close()


def pull(hub, tmp_path, *words):
    # The hub's address is read when huggingface_hub is imported: a process of its own.
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "gptoss_native", "pull", *words]
    return subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )


def test_what_is_read_comes_at_the_pinned_commit_and_answers(hub, tmp_path):
    done = pull(hub, tmp_path, NAME, "--json")
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert (got["folder"], got["commit"]) == ("gpt-oss-20b", COMMIT)
    assert REVISIONS[NAME] == COMMIT
    folder = tmp_path / "gpt-oss-20b"
    here = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    wanted = {"config.json", "generation_config.json", "tokenizer.json", "model.safetensors"}
    assert {name for name in here if not name.startswith(".cache")} == wanted
    paths = [path for _, path in hub.requests if "/resolve/" in path]
    assert paths
    assert all(f"/resolve/{COMMIT}/" in path for path in paths)
    with gn.Model.load(folder) as model:
        assert gn.Chat(model, sampling=gn.Sampling(temperature=0.0)).ask("17 + 25").text


def test_a_download_goes_on_where_it_was_cut_off(hub, tmp_path):
    whole = random.Random(0).randbytes(24 << 20)
    (hub.folder / "LICENSE").write_bytes(whole)
    hub.cut_after = 15 << 20
    done = pull(hub, tmp_path, NAME)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "gpt-oss-20b\n"
    assert hub.ranges == [f"bytes={10 << 20}-"]  # it writes so much at a time
    assert (tmp_path / "gpt-oss-20b" / "LICENSE").read_bytes() == whole


def test_a_second_time_downloads_nothing(hub, tmp_path):
    assert pull(hub, tmp_path, NAME).returncode == 0
    hub.requests.clear()
    assert pull(hub, tmp_path, NAME).returncode == 0
    assert not [path for method, path in hub.requests if method == "GET" and "/resolve/" in path]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no/such-model"], "no/such-model"),
        (["not-a-repository"], "wanted OWNER/NAME"),
        (["../../etc/passwd"], "wanted OWNER/NAME"),
        ([NAME, "--to", "/proc/nowhere"], "has 0.0 GB free"),
        ([NAME, "--to", "/dev/null/x"], "could not be downloaded"),
    ],
)
def test_refusals_are_one_line(hub, tmp_path, words, said):
    done = pull(hub, tmp_path, *words)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert said in last
    assert "Traceback" not in done.stderr


def test_a_hub_that_is_not_there_is_said(hub, tmp_path):
    hub.close()
    done = pull(hub, tmp_path, NAME)
    assert done.returncode == 2
    assert "could not be downloaded" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_the_disk_can_not_hold_is_not_begun(hub, tmp_path):
    whole = hub.info()
    whole["siblings"][0]["size"] = 10**18
    whole["siblings"][0]["rfilename"] = "model-00001-of-00001.safetensors"
    hub.info = lambda: whole
    done = pull(hub, tmp_path, NAME)
    assert done.returncode == 2
    assert "GB free" in done.stderr
    assert not [path for _, path in hub.requests if "/resolve/" in path]
