"""Time harmony: rendering messages, and parsing ids one at a time, in tokens a second of one core.

python bench/harmony.py [CHECKPOINT] [--turns 200] [--json]

Without a checkpoint the bundled model's tokenizer is used, whose tokens are short. A turn is a
thought, a call of a function, its result and an answer; `random` is any ids of the vocabulary.
Each figure is the median of nine, by processor time.
"""

import argparse
import functools
import statistics
import time

import gptoss_native as gn
import numpy as np
from gptoss_native.harmony import Message, Parser, Renderer
from gptoss_native.model import demo_path
from measure import tell, text_header

TEXTS = {
    "English": "The quick brown fox jumps over the lazy dog, and then it rests for a while. ",
    "Japanese": "素早い茶色の狐がのろまな犬を飛び越え、それからしばらく休む。",
    "emoji": "\U0001f98a\U0001f43e\U0001f415 \U0001f634 ",
}


def turn(text):
    return [
        Message("user", text),
        Message("assistant", text * 4, channel="analysis"),
        Message.tool_call("functions.look_up", '{"place": "Rome", "days": 3}'),
        Message.tool_result("functions.look_up", '{"sunny": true}'),
        Message("assistant", text * 8, channel="final"),
    ]


def median_s(work, repeats=9):
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        work()
        times.append(time.thread_time() - start)
    return statistics.median(times)


def parse(tokenizer, ids):
    parser = Parser(tokenizer, None)
    for token_id in ids:
        parser.push(token_id)
    parser.finish()


def measure(tokenizer, turns):
    """Yield a figure for each text, rendered and parsed, and for random ids."""
    renderer = Renderer(tokenizer)

    def figure(what, text, ids, work):
        rate = len(ids) / median_s(work)
        return {"what": what, "text": text, "tokens": len(ids), "tokens_per_s": rate}

    for text, sentence in TEXTS.items():
        render = functools.partial(renderer.render, turn(sentence) * turns, analysis="all")
        ids = render()
        yield figure("render", text, ids, render)
        yield figure("parse", text, ids, functools.partial(parse, tokenizer, ids))
    ids = np.random.default_rng(0).integers(0, tokenizer.vocab_size, 100 * turns).tolist()
    yield figure("parse", "random", ids, functools.partial(parse, tokenizer, ids))


def print_line(line):
    rate = f"{line['tokens_per_s'] / 1e3:7.0f} k tokens/s"
    print(f"{line['what']:6}  {line['text']:8}  tokens={line['tokens']:<7} {rate}")


def main():
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("checkpoint", nargs="?", default=demo_path(), help="a folder")
    options.add_argument("--turns", type=int, default=200, help="turns a conversation (200)")
    options.add_argument("--json", action="store_true", help="print JSON instead of lines")
    arguments = options.parse_args()
    tokenizer = gn.Tokenizer.from_checkpoint(arguments.checkpoint)
    tell(text_header(tokenizer), measure(tokenizer, arguments.turns), print_line, arguments.json)


if __name__ == "__main__":
    main()
