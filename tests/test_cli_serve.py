"""gptoss-native serve: what is refused before anything is loaded."""

import socket

import pytest
from program import complaint, run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/no/such/folder"], "/no/such/folder"),
        (["--port", "70000"], "is no integer from 0 to 65535"),
        (["--max-context", "999999"], "--max-context is 999999, the model's limit is 131072"),
        (["--model-name", "a b"], "model_name is 'a b'"),
        (["--api-keys-file", "/no/such/keys"], "--api-keys-file /no/such/keys"),
        (["--host", "no.such.host.invalid"], "--host no.such.host.invalid"),
        (["--kv-gib", "0"], "--kv-gib is 0.0, wanted GiB above 0"),
        (["--request-timeout-s", "-1"], "request_timeout_s is -1.0"),
        (["--json"], "--json"),
    ],
)
def test_what_cannot_be_is_refused_before_loading(arguments, said):
    assert said in complaint(run("serve", *arguments))


def test_a_port_that_is_taken_is_told_at_once():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"--port {port}: Address already in use" in complaint(run("serve", "--port", port))


def test_an_empty_file_of_keys_is_no_open_door(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("\n")
    assert "is empty, wanted a key a line" in complaint(run("serve", "--api-keys-file", str(keys)))


def test_keys_that_no_header_carries_are_refused(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("schl\u00fcssel\n", encoding="utf-8")
    said = complaint(run("serve", "--api-keys-file", str(keys)))
    assert "a space or a letter beyond ASCII" in said
    assert "schl" not in said
