"""Time many sessions on one model: tokens a second, stalls, forking, saving, an agent's turns.

python bench/engine.py [CHECKPOINT|20b|120b|tiny] [--sessions 1,2,4,8,16] [--new-tokens 16] [--json]

Each session is a thread that reads its stream. Latency is the time between two tokens of a stream.
The stall is the longest such time of one stream while another session's prompt comes in.
"""

import asyncio
import itertools
import statistics
import tempfile
import threading
import time
from pathlib import Path

import gptoss_native as gn
import numpy as np
from measure import header, open_model, parser, print_header, print_json


def numbers(text):
    return [int(part) for part in text.split(",")]


def ids(model, count, seed):
    vocab = model.info()["vocab_size"]
    return np.random.default_rng(seed).integers(0, vocab, count).tolist()


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def read(stream, times):
    for _ in stream:
        times.append(time.perf_counter())


def streams(model, count, new_tokens):
    """Time `count` streams that begin together, after their prompts."""
    sessions, threads, times = [], [], [[] for _ in range(count)]
    for number in range(count):
        session = model.session()
        session.prefill(ids(model, 8, number))
        sessions.append(session)
    for number, session in enumerate(sessions):
        options = {"max_new_tokens": new_tokens, "sampling": gn.Sampling(seed=number)}
        stream = session.generate(ids(model, 1, number), stop_ids=[], **options)
        threads.append(threading.Thread(target=read, args=(stream, times[number])))
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    for session in sessions:
        session.close()
    gaps = [after - before for one in times for before, after in itertools.pairwise(one)]
    return {
        "sessions": count,
        "tokens_per_s": count * new_tokens / seconds,
        "latency_p50_s": statistics.median(gaps),
        "latency_p99_s": percentile(gaps, 0.99),
    }


def stall(model, prompt_tokens):
    """Return the longest wait of a stream while a prompt of another session is computed."""
    times, stop = [], threading.Event()
    with model.session() as reader, model.session() as other:
        stream = reader.generate(ids(model, 8, 0), max_new_tokens=20_000, stop_ids=[])

        def follow():
            for _ in stream:
                times.append(time.perf_counter())
                if stop.is_set():
                    return

        thread = threading.Thread(target=follow)
        thread.start()
        while len(times) < 4:
            time.sleep(0.001)
        begun = time.perf_counter()
        other.prefill(ids(model, prompt_tokens, 1))
        ended = time.perf_counter()
        stop.set()
        thread.join()
    marks = [begun, *(t for t in times if begun < t < ended), ended]
    return {
        "prompt_tokens": prompt_tokens,
        "prompt_s": ended - begun,
        "tokens_meanwhile": len(marks) - 2,
        "longest_wait_s": max(after - before for before, after in itertools.pairwise(marks)),
    }


def ticker(model, count, new_tokens):
    """Return how late a 1 ms ticker of the event loop is that reads so many streams."""
    late = []

    async def tick(stop):
        while not stop.is_set():
            start = time.perf_counter()
            await asyncio.sleep(0.001)
            late.append(time.perf_counter() - start - 0.001)

    async def read_all(stream):
        async for _ in stream:
            pass

    async def main():
        stop = asyncio.Event()
        ticking = asyncio.create_task(tick(stop))
        sessions = [model.session() for _ in range(count)]
        await asyncio.gather(
            *(
                read_all(s.generate(ids(model, 8, n), max_new_tokens=new_tokens, stop_ids=[]))
                for n, s in enumerate(sessions)
            )
        )
        stop.set()
        await ticking
        for session in sessions:
            session.close()

    start = time.perf_counter()
    asyncio.run(main())
    seconds = time.perf_counter() - start
    return {
        "streams": count,
        "tokens_per_s": count * new_tokens / seconds,
        "late_p50_s": statistics.median(late),
        "late_p99_s": percentile(late, 0.99),
        "late_most_s": max(late),
    }


def lookup(model, new_tokens):
    """Compare streams with and without guessed tokens, of text that repeats and of one that not."""
    out = {}
    repeat = gn.Sampling(temperature=0, logit_bias={7: 1000.0})
    for name, sampling in (("repeating", repeat), ("not repeating", gn.Sampling(seed=1))):
        for guess in (False, True):
            with model.session() as session:
                stream = session.generate(
                    ids(model, 16, 5),
                    max_new_tokens=new_tokens,
                    sampling=sampling,
                    stop_ids=[],
                    lookup=guess,
                )
                for _ in stream:
                    pass
                stats = stream.stats
                key = f"{name}, {'guessed' if guess else 'plain'}"
                out[key] = {
                    "tokens_per_s": stats.tokens_per_s,
                    "drafted_tokens": stats.drafted_tokens,
                    "accepted_tokens": stats.accepted_tokens,
                }
    return out


def copies(model, tokens):
    """Time forking, saving and loading a session of so many tokens."""
    out = {"tokens": tokens}
    with model.session() as session, tempfile.TemporaryDirectory() as folder:
        session.prefill(ids(model, tokens, 2))
        path = Path(folder) / "session"
        for name, work in (
            ("fork_s", session.fork),
            ("save_s", lambda: session.save(path)),
            ("load_s", lambda: model.load_session(path)),
        ):
            start = time.perf_counter()
            made = work()
            out[name] = time.perf_counter() - start
            if made is not None:
                made.close()
        out["file_bytes"] = path.stat().st_size
    return out


def agent(model, turns, question_tokens, thought_tokens):
    """Ten turns whose thoughts are dropped after each answer: what each computes of its prompt."""
    lines = []
    with model.session() as session:
        for turn in range(turns):
            start, question = session.position, ids(model, question_tokens, turn)
            stream = session.generate(question, max_new_tokens=thought_tokens, stop_ids=[])
            said = [token.id for token in stream]
            stats = stream.stats
            session.rewind(start + question_tokens)
            session.prefill(said[-8:])
            lines.append(
                {
                    "turn": turn + 1,
                    "prompt_tokens": stats.cached_tokens + stats.prefilled_tokens,
                    "prefilled_tokens": stats.prefilled_tokens,
                    "first_token_s": stats.ttft_s,
                }
            )
    return lines


def main():
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--sessions", type=numbers, default=[1, 2, 4, 8, 16])
    options.add_argument("--new-tokens", type=int, default=16, help="of each stream (16)")
    options.add_argument("--streams", type=int, default=64, help="of one event loop (64)")
    options.add_argument("--prompt", type=int, default=4096, help="that comes in meanwhile (4096)")
    options.add_argument("--turns", type=int, default=10, help="of the agent (10)")
    options.add_argument("--thoughts", type=int, default=32, help="tokens of its thoughts (32)")
    arguments = options.parse_args()
    with open_model(arguments) as model:
        report = header(arguments, model, max(model.read_rate() for _ in range(3)))
        if not arguments.json:
            print_header(report)
        report["streams"] = []
        for count in arguments.sessions:
            line = streams(model, count, arguments.new_tokens)
            report["streams"].append(line)
            if not arguments.json:
                print(
                    f"{count:3} sessions {line['tokens_per_s']:9.2f} tok/s   between two tokens "
                    f"{line['latency_p50_s'] * 1e3:8.1f} ms (p50) "
                    f"{line['latency_p99_s'] * 1e3:8.1f} ms (p99)"
                )
        report["lookup"] = lookup(model, 4 * arguments.new_tokens)
        report["event_loop"] = ticker(model, arguments.streams, arguments.new_tokens)
        report["copies"] = copies(model, 1000)
        report["stall"] = stall(model, arguments.prompt)
        report["agent"] = agent(model, arguments.turns, 40, arguments.thoughts)
    if arguments.json:
        print_json(report)
        return
    for name, line in report["lookup"].items():
        print(
            f"{name:22} {line['tokens_per_s']:9.2f} tok/s, {line['accepted_tokens']} of "
            f"{line['drafted_tokens']} guesses right"
        )
    loop = report["event_loop"]
    print(
        f"one event loop, {loop['streams']} streams: {loop['tokens_per_s']:.1f} tok/s, a 1 ms "
        f"ticker is late by {loop['late_p50_s'] * 1e3:.2f} ms (p50), "
        f"{loop['late_p99_s'] * 1e3:.2f} ms (p99), {loop['late_most_s'] * 1e3:.1f} ms at most"
    )
    c, s = report["copies"], report["stall"]
    print(
        f"1000 tokens: fork {c['fork_s'] * 1e3:.1f} ms, save {c['save_s'] * 1e3:.1f} ms, load "
        f"{c['load_s'] * 1e3:.1f} ms, file {c['file_bytes'] / 2**20:.1f} MiB"
    )
    print(
        f"while a prompt of {s['prompt_tokens']} tokens came in ({s['prompt_s']:.2f} s) another "
        f"stream had {s['tokens_meanwhile']} tokens; its longest wait was "
        f"{s['longest_wait_s']:.3f} s"
    )
    for line in report["agent"]:
        print(
            f"turn {line['turn']:2}: prompt {line['prompt_tokens']:5} tokens, computed "
            f"{line['prefilled_tokens']:4}, first token {line['first_token_s']:.3f} s"
        )


if __name__ == "__main__":
    main()
