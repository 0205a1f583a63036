"""Clients for bench/server.py, bare enough not to be what is measured."""

import asyncio
import json
import math
import time
from collections import Counter

HEAD = "POST {} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
PATH = "/v1/chat/completions"
METRICS = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
MALFORMED = (b"{", b"[]", b'{"model": "bench"}', b'{"model": "bench", "messages": 5}', b"\xff")


class Client:
    """One connection for one request."""

    def __init__(self, port):
        self._port = port

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_):
        self.writer.close()

    async def post(self, path, body):
        """Send a request; return its reader, whose status and headers are read."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"{HEAD.format(path)}content-length: {len(data)}\r\n\r\n"
        self.writer.write(head.encode() + data)
        lines = (await self.reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        self.status = int(lines[0].split()[1])
        return self.reader


async def events(reader):
    """Yield the data of each server-sent event, None for the last; the body comes in chunks."""
    rest = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        rest += (await reader.readexactly(size + 2))[:-2]
        *whole, rest = rest.split(b"\n\n")
        for event in whole:
            data = event.removeprefix(b"data: ")
            yield None if data == b"[DONE]" else json.loads(data)


class Crowd:
    """Clients that ask without end, in several ways."""

    def __init__(self, port, clients, random):
        self._port = port
        self._clients = clients
        self._random = random
        self._alone = {}  # question -> the answer without others
        self._seen = Counter()
        self._wrong = []

    async def run(self, seconds):
        """Let them ask for so long; return what they saw."""
        questions = [f"What is {n} + {2 * n}?" for n in range(10, 42)]
        for question in questions:
            if question not in self._alone:
                self._alone[question] = await self._answer(question)
        self._seen.clear()
        before, until = await self._metrics(), time.monotonic() + seconds
        await asyncio.gather(*(self._client(questions, until) for _ in range(self._clients)))
        after = await self._metrics()
        names = ("whole", "slow", "left", "malformed", "different", "failed")
        return {name: self._seen[name] for name in names} | {
            "tokens_per_s": (_generated(after) - _generated(before)) / seconds,
            "loop_delay_p99_s": _percentile(before, after, "gptoss_event_loop_delay_seconds", 0.99),
            "first_token_p50_s": _percentile(
                before, after, "gptoss_time_to_first_token_seconds", 0.5
            ),
            "first_token_p99_s": _percentile(
                before, after, "gptoss_time_to_first_token_seconds", 0.99
            ),
        }

    async def _client(self, questions, until):
        while time.monotonic() < until:
            kind = self._random.choices(("whole", "left", "slow", "malformed"), (7, 1, 1, 1))[0]
            question = self._random.choice(questions)
            try:
                if kind == "malformed":
                    await self._malformed()
                elif kind == "left":
                    await self._answer(question, leave=self._random.randrange(40))
                elif (
                    await self._answer(question, pause=0.02 * (kind == "slow"))
                    != (self._alone[question])
                ):
                    kind = "different"
            except (OSError, asyncio.IncompleteReadError, ValueError, AssertionError) as error:
                kind = "failed"
                print(f"{question} failed: {error!r}", flush=True)
            self._seen[kind] += 1

    async def _answer(self, question, leave=None, pause=0.0):
        body = {"model": "bench", "messages": [{"role": "user", "content": question}]}
        body |= {"temperature": 0, "stream": True, "max_completion_tokens": 400}
        said, ids, ended = [], set(), False
        async with Client(self._port) as client:
            reader = await client.post(PATH, body)
            assert client.status == 200, client.status
            async for event in events(reader):
                if event is None:
                    ended = True
                    break
                assert "error" not in event, event
                ids.add(event["id"])
                delta = event["choices"][0]["delta"]
                said.append(delta.get("reasoning_content", "") + delta.get("content", ""))
                if leave is not None and len(said) > leave:
                    return None
                if pause:
                    await asyncio.sleep(pause)
        assert ended, "no end"
        assert len(ids) == 1, ids
        return "".join(said)

    async def _malformed(self):
        async with Client(self._port) as client:
            await client.post(PATH, self._random.choice(MALFORMED))
            assert 400 <= client.status < 500, client.status

    async def _metrics(self):
        async with Client(self._port) as client:
            client.writer.write(
                b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
            )
            text = (await client.reader.read()).decode().partition("\r\n\r\n")[2]
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in lines}


def _generated(metrics):
    return sum(v for name, v in metrics.items() if name.startswith("gptoss_generated_tokens_total"))


def _percentile(before, after, name, share):
    """Return below what this share of the values in between was; within a bucket by its share."""
    counts = {
        float(key.split('le="')[1].rstrip('"}')): after[key] - before.get(key, 0)
        for key in after
        if key.startswith(f"{name}_bucket")
    }
    wanted = share * max(counts.values())
    low, below = 0.0, 0.0
    for bound, count in sorted(counts.items()):
        if count >= wanted:
            return (
                bound
                if bound == math.inf
                else low + (bound - low) * (wanted - below) / (count - below)
            )
        low, below = bound, count
    return math.inf
