"""What a server allows: keys, sizes, times, how many; what it logs; and how it ends."""

import concurrent.futures
import json
import logging
import re
import signal
import socket
import threading
import time

import gptoss_native as gn
import httpx
import openai
import pytest
from gptoss_native.server import Settings, create_app, serve
from gptoss_native.server.log import JsonLines
from gptoss_native.server.run import bound
from served import SUM, chat_tools, demo, process, serving

BODY = {"model": "demo", "messages": SUM, "temperature": 0}
# Never over by itself, and never the end of a turn.
ENDLESS = BODY | {"reasoning_effort": "high", "stream": True, "temperature": 1}
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def model():
    with demo() as made:
        yield made


@pytest.fixture(scope="module")
def served(model):
    with serving(model) as ready:
        yield ready


def endless(served):
    """Return a request that goes on until it is ended: what would end a message is forbidden."""
    tokenizer = served.app.state.engine.model.tokenizer
    ends = [tokenizer.special[f"<|{name}|>"] for name in ("return", "end", "call")]
    return ENDLESS | {"logit_bias": {str(token): -100 for token in ends}}


def eventually(condition, what, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_health_models_and_the_request_id(served):
    assert served.http.get("/health").text == "ok\n"
    assert served.http.get("/ready").status_code == 200
    (listed,) = served.http.get("/v1/models").json()["data"]
    assert listed == served.http.get("/v1/models/demo").json()
    assert listed["max_model_len"] == 131072
    assert served.http.get("/v1/models/none").status_code == 404
    assert served.http.get("/v1/nothing").json()["error"]["type"] == "not_found_error"
    given = served.http.get("/health", headers={"x-request-id": "my-id.1"})
    assert given.headers["x-request-id"] == "my-id.1"
    made = served.http.get("/health", headers={"x-request-id": "not an id"})
    assert re.fullmatch("req_[0-9a-f]{32}", made.headers["x-request-id"])


def test_metrics_tell_of_the_engine_and_the_answers(served):
    before = served.metric('gptoss_generated_tokens_total{kind="reasoning"}')
    served.post(CHAT, BODY)
    assert served.metric('gptoss_generated_tokens_total{kind="reasoning"}') > before
    for name in (
        "running",
        "queue",
        "time_to_first_token_seconds_count",
        "inter_token_seconds_sum",
    ):
        served.metric(f"gptoss_{name}")
    assert served.metric('gptoss_kv_bytes{kind="limit"}') > 0
    assert served.metric("gptoss_prefilled_tokens_total") > 0
    path = 'gptoss_requests_total{path="/v1/chat/completions",status="200"}'
    assert served.metric(path) >= 1
    served.http.get("/none/of/these")
    assert "/none" not in served.http.get("/metrics").text


def test_a_key_is_wanted_where_there_are_keys(model):
    with serving(model, api_keys=("first-key", "second-key")) as served:
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "Basic first-key"},
        ):
            answer = served.post(CHAT, BODY, headers=headers)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
        assert served.http.get("/metrics").status_code == 401
        assert served.http.get("/health").status_code == 200
        with pytest.raises(openai.AuthenticationError):
            served.client().chat.completions.create(model="demo", messages=SUM)
        clients = [served.client(api_key=key) for key in ("first-key", "second-key")]
        replies = [one.responses.create(model="demo", input="What is 2 + 3?") for one in clients]
        # What one has stored is not there for the other.
        with pytest.raises(openai.NotFoundError):
            clients[1].responses.retrieve(replies[0].id)
        assert clients[0].responses.retrieve(replies[0].id).id == replies[0].id


def test_bodies_have_a_size_and_a_time(model):
    with serving(model, max_body_bytes=1000, body_timeout_s=1) as served:
        long = BODY | {"messages": [{"role": "user", "content": "a" * 1000}]}
        assert served.post(CHAT, long).status_code == 413

        def pieces():
            for _ in range(100):
                yield b" " * 100

        headers = {"content-type": "application/json"}
        assert served.http.post(CHAT, content=pieces(), headers=headers).status_code == 413
        with socket.create_connection(("127.0.0.1", served.port), 30) as slow:
            head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            slow.sendall(f"{head}content-length: 100\r\n\r\n{{".encode())
            assert b" 408 " in slow.recv(4096).splitlines()[0]
        assert served.post(CHAT, BODY).status_code == 200


def test_a_client_that_goes_ends_its_answer_within_a_step(served):
    with served.http.stream("POST", CHAT, json=endless(served)) as answer:
        lines = answer.iter_lines()
        for _ in range(9):
            next(lines)
        assert served.metric("gptoss_running") == 1
    eventually(lambda: served.metric("gptoss_running") == 0, "the stream goes on")
    generated = served.metric('gptoss_generated_tokens_total{kind="reasoning"}')
    time.sleep(0.2)
    assert served.metric('gptoss_generated_tokens_total{kind="reasoning"}') == generated
    assert not served.app.state.engine.open
    # The same for one who waits for the whole.
    body = endless(served) | {"stream": False, "n": 2}
    with pytest.raises(httpx.ReadTimeout):
        served.post(CHAT, body, timeout=0.5)
    eventually(lambda: served.metric("gptoss_running") == 0, "the answer goes on")
    eventually(lambda: not served.app.state.engine.open, "an answer is left")


def test_a_client_that_does_not_read_is_gone_after_a_while(model):
    with serving(model, send_buffer=4096, write_timeout_s=1) as served:
        body = json.dumps(endless(served) | {"logprobs": True, "top_logprobs": 20, "n": 4}).encode()
        with socket.socket() as idle:
            idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            idle.connect(("127.0.0.1", served.port))
            head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            idle.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            eventually(lambda: served.app.state.engine.open, "the answer does not begin")
            eventually(lambda: not served.app.state.engine.open, "the answer goes on", 60)
            assert served.post(CHAT, BODY).status_code == 200


@pytest.fixture
def narrow():
    """A server of one answer at a time, where one more may wait."""
    limits = gn.Limits(max_streams=1, max_waiting=1)
    with demo(limits=limits) as model, serving(model, retry_after_s=3) as ready:
        yield ready


def test_who_is_too_many_is_turned_away_with_a_time_to_come_back(narrow):
    with narrow.http.stream("POST", CHAT, json=endless(narrow)) as first:
        lines = first.iter_lines()
        next(lines)
        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(narrow.post, CHAT, BODY)
            eventually(lambda: narrow.metric("gptoss_queue") == 1, "nobody waits")
            turned_away = narrow.post(CHAT, BODY | {"stream": True})
            assert turned_away.status_code == 429
            assert turned_away.headers["retry-after"] == "3"
            assert turned_away.json()["error"]["code"] == "engine_busy"
            with pytest.raises(openai.RateLimitError):
                narrow.client().chat.completions.create(model="demo", messages=SUM)
            first.close()
            assert waiting.result().json()["choices"][0]["message"]["content"]


def test_an_answer_has_its_time(model):
    with serving(model, request_timeout_s=0.5) as served:
        body = endless(served)
        late = served.post(CHAT, body | {"stream": False})
        assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
        with pytest.raises(openai.APIError, match=r"longer than 0\.5 s"):
            for _ in served.client().chat.completions.create(**body):
                pass
        bias = body["logit_bias"]
        assert served.post(
            "/v1/completions",
            {"model": "demo", "prompt": "a", "max_tokens": 10**6, "logit_bias": bias},
        ).status_code in (400, 504)


def test_limits_of_an_answer_hold(model):
    with serving(model, max_output_tokens=4, max_context=100, max_choices=2) as served:
        reply = served.post(CHAT, BODY | {"max_completion_tokens": 50}).json()
        assert reply["usage"]["completion_tokens"] == 4
        long = BODY | {"messages": [{"role": "user", "content": "a b c " * 60}]}
        answer = served.post(CHAT, long)
        assert (answer.status_code, answer.json()["error"]["code"]) == (
            400,
            "context_length_exceeded",
        )
        assert served.post(CHAT, BODY | {"n": 3}).json()["error"]["param"] == "n"
        prompts = {"model": "demo", "prompt": ["a", "b", "c"]}
        assert served.post("/v1/completions", prompts).status_code == 400


def test_other_origins_may_ask_where_they_are_named(served, model):
    wanted = {"origin": "https://page.example", "access-control-request-method": "POST"}
    refused = served.http.options(CHAT, headers=wanted)
    assert "access-control-allow-origin" not in refused.headers
    with serving(model, cors_origins=("https://page.example",), api_keys=("k",)) as open_to_one:
        allowed = open_to_one.http.options(CHAT, headers=wanted)
        assert allowed.headers["access-control-allow-origin"] == "https://page.example"
        answer = open_to_one.post(CHAT, BODY, headers=wanted | {"authorization": "Bearer k"})
        assert answer.headers["access-control-allow-origin"] == "https://page.example"
        refused = open_to_one.post(CHAT, BODY, headers=wanted)
        assert refused.status_code == 401
        assert "access-control-allow-origin" in refused.headers
        other = open_to_one.http.options(CHAT, headers=wanted | {"origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers


def test_names_that_the_server_is_not_called_by_are_refused(model):
    with serving(model, allowed_hosts=("localhost", "127.0.0.1", "[::1]")) as served:
        for host, status in (
            (f"127.0.0.1:{served.port}", 200),
            ("LocalHost", 200),
            (f"[::1]:{served.port}", 200),
            ("evil.example", 403),
            ("127.0.0.1.evil.example:80", 403),
        ):
            assert served.http.get("/v1/models", headers={"host": host}).status_code == status


class Lines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.setFormatter(JsonLines())
        self.lines = []

    def emit(self, record):
        self.lines.append(self.format(record))


@pytest.fixture
def lines():
    handler, logger = Lines(), logging.getLogger("gptoss_native.server")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler.lines
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_a_line_is_logged_without_what_was_asked(served, model, lines):
    secret = "What is 17 + 25, zxcvbn?"
    tools = chat_tools({"name": "zxcvbn_tool", "description": "zxcvbn", "parameters": {}})
    body = BODY | {"messages": [{"role": "user", "content": secret}], "tools": tools}
    served.post(CHAT, body | {"max_completion_tokens": 5}, headers={"x-request-id": "abc"})
    served.post(CHAT, body | {"response_format": {"type": "zxcvbn"}})
    served.post("/v1/responses", {"model": "demo", "input": secret, "zxcvbn": 1})
    assert "zxcvbn" not in "".join(lines)
    (line,) = [json.loads(one) for one in lines if '"abc"' in one]
    assert (line["event"], line["status"], line["path"]) == ("request", 200, CHAT)
    assert (line["completion_tokens"], line["ends"]) == (5, ["length"])
    assert line["first_token_ms"] > 0
    with serving(model, log_prompts=True) as telling:
        telling.post(CHAT, body | {"max_completion_tokens": 5})
    assert "zxcvbn" in "".join(lines)


def test_a_failure_is_an_error_with_an_id_and_is_logged(served, lines, monkeypatch):
    def fail(*_, **__):
        raise gn.DeviceError("zxcvbn")

    monkeypatch.setattr(gn.Session, "generate", fail)
    answer = served.post(CHAT, BODY)
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    assert "zxcvbn" not in answer.text
    failure = next(json.loads(one) for one in lines if '"failure"' in one)
    assert failure["request_id"] == answer.headers["x-request-id"]
    assert failure["exception"]["type"] == "DeviceError"
    assert "zxcvbn" not in "".join(lines)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model_name": "a b"}, "model_name is 'a b'"),
        ({"max_choices": 0}, "max_choices is 0, wanted an integer from 1"),
        ({"request_timeout_s": float("nan")}, "request_timeout_s is nan"),
        ({"api_keys": ("",)}, "api_keys is 'tuple', wanted texts"),
        ({"api_keys": ("schlüssel",)}, "one of api_keys has other characters, wanted letters"),
        ({"api_keys": ("a b",)}, "one of api_keys has other characters, wanted letters"),
        ({"api_keys": "secret"}, "api_keys is 'str', wanted texts"),
    ],
)
def test_settings_are_checked(given, said):
    with pytest.raises(gn.InvalidArgument, match=said):
        Settings(**given)


def test_a_context_that_the_model_has_not_is_refused(model):
    with pytest.raises(gn.InvalidArgument, match="max_context is 999999, wanted at most"):
        create_app(model, Settings(max_context=999999))


# Where it listens


def test_an_address_that_is_taken_is_an_oserror(model):
    taken = socket.create_server(("127.0.0.1", 0))
    with taken, pytest.raises(OSError, match="in use"):
        serve(create_app(model), port=taken.getsockname()[1])
    with pytest.raises(OSError, match="assign"):
        serve(create_app(model), host="192.0.2.1", port=0)


def test_all_addresses_of_a_host_have_one_port():
    sockets = bound("localhost", 0)
    try:
        assert len({one.getsockname()[1] for one in sockets}) == 1
        sockets[0].listen()
        with pytest.raises(OSError, match="in use"):
            bound(sockets[0].getsockname()[0], sockets[0].getsockname()[1])
    finally:
        for one in sockets:
            one.close()


# As a process


def test_told_to_stop_it_lets_answers_end_and_takes_no_more():
    with process("--shutdown-s", "20") as served:
        body = BODY | {"stream": True, "reasoning_effort": "high"}
        with served.http.stream("POST", CHAT, json=body) as answer:
            pieces = answer.iter_text()
            text = next(pieces)
            served.process.send_signal(signal.SIGTERM)
            text += "".join(pieces)
        assert text.endswith("data: [DONE]\n\n")
        served.process.wait(30)
        assert any('"shutting down"' in line for line in served.lines)


def test_answers_that_do_not_end_in_time_are_ended_with_an_error(model):
    tokenizer = model.tokenizer
    ends = [tokenizer.special[f"<|{name}|>"] for name in ("return", "end", "call")]
    with process("--shutdown-s", "1") as served:
        body = ENDLESS | {"logit_bias": {str(token): -100 for token in ends}}
        with served.http.stream("POST", CHAT, json=body) as answer:
            pieces = answer.iter_text()
            text = next(pieces)
            served.process.send_signal(signal.SIGTERM)
            text += "".join(pieces)
        assert '"code":"shutting_down"' in text.split("\n\n")[-2]
        served.process.wait(30)


def test_killed_its_clients_know_at_once_and_the_next_start_serves():
    with process() as served:
        port = served.port
        failed = threading.Event()

        def follow():
            try:
                with served.client() as client:
                    for _ in client.chat.completions.create(**ENDLESS):
                        begun.set()
            except (openai.APIError, httpx.HTTPError):
                failed.set()

        begun = threading.Event()
        thread = threading.Thread(target=follow)
        thread.start()
        assert begun.wait(30)
        served.process.send_signal(signal.SIGKILL)
        thread.join(10)
        # Whatever it had told until then, it had not ended by itself.
        assert failed.is_set() or not thread.is_alive()
    with process(port=port) as again:
        assert again.port == port
        assert again.post(CHAT, BODY).json()["choices"][0]["message"]["content"] == "17 + 25 = 42"


def test_it_listens_on_one_address_of_this_machine_unless_told_otherwise():
    with process() as served:
        assert served.http.get("/health").status_code == 200
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", served.port), 30).close()
    with process("--host", "0.0.0.0") as served:
        socket.create_connection(("127.0.0.2", served.port), 30).close()


def test_keys_come_from_a_file_or_the_environment(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("one\n\n two \n")
    with process("--api-keys-file", str(keys), GPTOSS_API_KEYS="three") as served:
        for key, status in (("one", 200), ("two", 200), ("three", 200), ("four", 401)):
            headers = {"authorization": f"Bearer {key}"}
            assert served.http.get("/v1/models", headers=headers).status_code == status
