"""What HTTP costs against the engine in the same process, and how the server takes a crowd.

python bench/server.py [CHECKPOINT] [--pairs 24] [--new-tokens 200] [--load SECONDS] [--clients 64]

CHECKPOINT is a folder with a tokenizer; the bundled model without one, of whose tokens HTTP is a
greater part than of any that is used. Costs: one stream of a question, in turns by `Chat.asend` in
this process and by a client process over HTTP, on one model; a large one wants `--new-tokens 40`.
Load (300 s; 0 leaves it out): `gptoss-native serve` as a process, streaming clients that also leave
in the middle, read slowly or send what is no request; each answer is compared with the same one
asked for alone before.
"""

import asyncio
import datetime
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time

import gptoss_native as gn
import uvicorn
from gptoss_native.chat import TokenEvent
from gptoss_native.harmony import CHANNELS, SystemContent
from gptoss_native.server import Settings, create_app
from measure import header, parser, print_header, print_json
from server_client import Client, Crowd, events

QUESTION = "What is {} + 25?"


def open_model(arguments):
    names = ("device", "precision", "kv", "threads")
    options = {name: getattr(arguments, name) for name in names}
    if arguments.model == "demo":
        return gn.Model.demo(**options)
    return gn.Model.load(arguments.model, dense=arguments.dense, **options)


def forbidden(model):
    """Return the biases under which no message ends, so that answers have the length asked for."""
    names = ("return", "end", "call")
    return {model.tokenizer.special[f"<|{name}|>"]: -100.0 for name in names}


async def in_process(model, number, new_tokens):
    """Return seconds to the first token, and between the first and the last."""
    sampling = gn.Sampling(temperature=0.0, logit_bias=forbidden(model))
    # What the server tells the model, to the day.
    system = SystemContent(date=datetime.date.today(), channels=CHANNELS)
    begun = time.perf_counter()
    times = []
    with gn.Chat(model, system=system, sampling=sampling, max_new_tokens=new_tokens) as chat:
        async for event in chat.asend(QUESTION.format(number)):
            if isinstance(event, TokenEvent):
                times.append(time.perf_counter())
    return times[0] - begun, times[-1] - times[0]


def over_http(client, model, number, new_tokens):
    """Return the same as the client process saw it."""
    body = {
        "model": "bench",
        "messages": [{"role": "user", "content": QUESTION.format(number)}],
        "temperature": 0,
        "stream": True,
        "max_completion_tokens": new_tokens,
        "logit_bias": {str(token): bias for token, bias in forbidden(model).items()},
    }
    client.stdin.write(json.dumps(body) + "\n")
    client.stdin.flush()
    told = json.loads(client.stdout.readline())
    return told["first_s"], told["rest_s"]


def costs(model, arguments):
    """Time pairs of streams, one in the process and one over HTTP."""
    app = create_app(model, Settings(model_name="bench", all_channels=True))
    config = uvicorn.Config(app, port=0, log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    command = [sys.executable, __file__, "--follow", str(port)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as client:
        count, size = arguments.pairs + 2, arguments.new_tokens
        pairs = [pair(client, model, number, size) for number in range(count)]
        client.stdin.close()
    server.should_exit = True
    thread.join()
    pairs = pairs[2:]  # the first ones warm up
    rest = arguments.new_tokens - 1
    rates = [[rest / one[1] for one in both] for both in zip(*pairs, strict=True)]
    firsts = [[one[0] for one in both] for both in zip(*pairs, strict=True)]
    ratios = [http[1] / own[1] for own, http in pairs]
    return {
        "engine_tokens_per_s": statistics.median(rates[0]),
        "http_tokens_per_s": statistics.median(rates[1]),
        "http_costs_share": statistics.median(ratios) - 1,
        "engine_first_token_s": statistics.median(firsts[0]),
        "http_first_token_s": statistics.median(firsts[1]),
        "http_costs_first_s": statistics.median(http[0] - own[0] for own, http in pairs),
    }


def pair(client, model, number, new_tokens):
    """Time both, in an order that changes."""
    own = lambda: asyncio.run(in_process(model, 100 + number, new_tokens))  # noqa: E731
    http = lambda: over_http(client, model, 100 + number, new_tokens)  # noqa: E731
    if number % 2:
        second = http()
        return own(), second
    return own(), http()


def follow(port):
    """Stream each request of the standard input, and print when its tokens came."""

    async def one(body):
        begun = time.perf_counter()
        times = []
        async with Client(port) as client:
            async for event in events(await client.post("/v1/chat/completions", body)):
                if event is not None:
                    times.append(time.perf_counter())
        return {"first_s": times[0] - begun, "rest_s": times[-1] - times[0]}

    for line in sys.stdin:
        print(json.dumps(asyncio.run(one(json.loads(line)))), flush=True)


def resident(pid):
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def load(arguments):
    """Let a crowd at a server for a while; return what it saw and what that took."""
    checkpoint = [] if arguments.model == "demo" else [arguments.model, "--dense", arguments.dense]
    placing = [f"--{name}={getattr(arguments, name)}" for name in ("device", "precision", "kv")]
    if arguments.threads is not None:
        placing += ["--threads", str(arguments.threads)]
    command = [sys.executable, "-m", "gptoss_native", "serve", *checkpoint, *placing]
    command += ["--port", "0", "--model-name", "bench"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            port = next(
                int(json.loads(line)["url"].rsplit(":", 1)[1])
                for line in process.stderr
                if line.startswith("{")
            )
            # Its log is read, as a service's is.
            reader = threading.Thread(target=lambda: process.stderr.read())
            reader.start()
            crowd = Crowd(port, arguments.clients, random.Random(1))
            # Heaps of many threads, and automata of regular expressions, grow at first.
            warm = min(100.0, arguments.load / 3)
            asyncio.run(crowd.run(warm))
            time.sleep(1)
            before = resident(process.pid)
            seen = asyncio.run(crowd.run(arguments.load))
            time.sleep(1)
            after = resident(process.pid)
        finally:
            process.terminate()
            process.wait()
    reader.join()
    memory = {"memory_begin_bytes": before, "memory_end_bytes": after}
    return seen | memory | {"memory_growth_share": after / before - 1}


def main():
    out = parser(__doc__.splitlines()[0])
    out.set_defaults(model="demo")
    out.add_argument("--pairs", type=int, default=24)
    out.add_argument("--new-tokens", type=int, default=200)
    out.add_argument("--load", type=float, default=300, metavar="SECONDS")
    out.add_argument("--clients", type=int, default=64)
    out.add_argument("--follow", type=int, metavar="PORT", help="be the client process")
    arguments = out.parse_args()
    if arguments.follow:
        follow(arguments.follow)
        return
    results = {}
    with open_model(arguments) as model:
        head = header(arguments, model, model.read_rate())
        if arguments.pairs:
            results["costs"] = costs(model, arguments)
    if arguments.load:
        results["load"] = load(arguments)
    if arguments.json:
        print_json(head | results)
        return
    print_header(head)
    for title, rows in results.items():
        print(title)
        for name, value in rows.items():
            text = f"{value:.2%}" if name.endswith("share") else f"{value:,.6g}"
            print(f"  {name:<28} {text}")


if __name__ == "__main__":
    main()
