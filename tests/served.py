"""A server for tests: in this process, on a thread of its own, or as a process."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time

import gptoss_native as gn
import httpx
import openai
import uvicorn
from gptoss_native.server import Settings, create_app
from gptoss_native.server.run import bound
from pydantic import BaseModel

SUM = [{"role": "user", "content": "What is 17 + 25?"}]
WEATHER = {
    "name": "get_weather",
    "description": "Get the current weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "The name of the city."}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
CALCULATOR = {
    "name": "calculator",
    "description": "Evaluate an arithmetic expression.",
    "parameters": {
        "type": "object",
        "properties": {
            "expression": {"type": "string", "description": "The expression to evaluate."}
        },
        "required": ["expression"],
        "additionalProperties": False,
    },
}
SUNNY = '{"temperature": 21, "condition": "sunny"}'
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def chat_tools(*functions, **extra):
    return [{"type": "function", "function": one | extra} for one in functions]


def response_tools(*functions, **extra):
    return [{"type": "function"} | one | extra for one in functions]


class Served:
    """Where a server listens, and clients of it."""

    def __init__(self, port, key="none"):
        self.url = f"http://127.0.0.1:{port}"
        self.port = port
        self.key = key
        self.http = httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def client(self, **options):
        options = {"api_key": self.key, "max_retries": 0, "timeout": 60} | options
        return openai.OpenAI(base_url=f"{self.url}/v1", **options)

    def async_client(self, **options):
        options = {"api_key": self.key, "max_retries": 0, "timeout": 60} | options
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", **options)

    def post(self, path, body, **options):
        return self.http.post(path, json=body, **options)

    def metric(self, name):
        """Return the value of a line of /metrics."""
        for line in self.http.get("/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[-1])
        raise AssertionError(f"no metric {name}")


@contextlib.contextmanager
def serving(model, send_buffer=None, **settings):
    """Serve a model from a thread of this process; send_buffer: bytes that the system may hold."""
    settings = {"model_name": "demo", "all_channels": True} | settings
    app = create_app(model, Settings(**settings))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    sockets = bound("127.0.0.1", 0)
    if send_buffer is not None:  # those of its connections inherit it
        sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    thread = threading.Thread(target=server.run, args=(sockets,))
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    served = Served(sockets[0].getsockname()[1])
    served.app = app
    try:
        with served.http:
            yield served
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@contextlib.contextmanager
def process(*arguments, port=0, **environment):
    """Run `gptoss-native serve` as a process; its lines of log are read as they come."""
    command = [sys.executable, "-m", "gptoss_native", "serve", "--port", str(port), *arguments]
    path = os.pathsep.join(filter(None, sys.path))
    env = os.environ | {"PYTHONPATH": path} | environment
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as started:
        try:
            served = Served(_port_of(started))
            served.process = started
            # Nobody waits for a full pipe.
            served.lines = []
            reader = threading.Thread(target=_collect, args=(started.stderr, served.lines))
            reader.start()
            with served.http:
                yield served
        finally:
            started.kill()
            started.wait()
    reader.join()


def _port_of(started):
    for line in started.stderr:
        if line.startswith("{") and json.loads(line)["event"] == "listening":
            return int(json.loads(line)["url"].rsplit(":", 1)[1])
    raise AssertionError(f"the server ended with {started.wait()}")


def _collect(stream, lines):
    with contextlib.suppress(ValueError):
        lines += stream


def demo(**options):
    return gn.Model.demo(threads=1, **options)


def events_of(response):
    """Return the data of server-sent events, the last one as it is where that is no JSON."""
    out = []
    for block in response.text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        if lines:
            data = lines["data"]
            out.append(json.loads(data) if data.startswith("{") else data)
            if "event" in lines:
                assert lines["event"] == out[-1]["type"]
    return out


def known(value, allowed=()):
    """Check that the official client's types know all of a validated object but `allowed`."""
    if isinstance(value, BaseModel):
        unknown = set(value.model_extra or ()) - set(allowed)
        assert not unknown, f"{type(value).__name__} does not know {unknown}"
        for name in type(value).model_fields:
            known(getattr(value, name), allowed)
    elif isinstance(value, list):
        for one in value:
            known(one, allowed)
    return value
