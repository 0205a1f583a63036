"""Time each stage over a model's weights: time, bytes and share of the measured read rate.

python bench/stages.py [CHECKPOINT|20b|120b|tiny] [--tokens 1,2,8,64] [--context 0,4096] [--json]

A line is the median of many calls, each of another layer, so that weights come from memory. The
read rate is measured in the same run, over the same weights, by the same loop without arithmetic.
"""

from gptoss_native import _core
from measure import header, open_model, parser, print_header, print_json


def numbers(text):
    return [int(part) for part in text.split(",")]


def time_stages(arguments, model, read_rate):
    """Yield a line for each stage, number of rows and, for attention, context."""
    for stage in _core.timed_stages():
        for tokens in arguments.tokens:
            if stage in ("logits", "sample") and tokens > 8:
                continue  # a decode step's
            for context in arguments.context if stage.startswith("attention") else [0]:
                calls = max(arguments.calls // tokens, 24)
                timing = _core.time_stage(
                    model._core,
                    stage,
                    tokens=tokens,
                    context=context,
                    calls=calls,
                    decode=tokens <= 8,
                )
                rate = timing["bytes"] / timing["seconds"]
                yield {
                    "stage": stage,
                    "tokens": tokens,
                    "context": context,
                    "calls": calls,
                    **timing,
                    "bytes_per_s": rate,
                    "operations_per_s": timing["operations"] / timing["seconds"],
                    "share_of_read": rate / read_rate,
                }


def print_line(line):
    context = f"context={line['context']}" if line["stage"].startswith("attention") else ""
    print(
        f"{line['stage']:17} tokens={line['tokens']:<4} {context:15} "
        f"{line['seconds'] * 1e6:10.1f} us {line['bytes_per_s'] / 1e9:8.2f} GB/s "
        f"{line['share_of_read'] * 100:4.0f} % of read "
        f"{line['operations_per_s'] / 1e9:8.1f} GFLOP/s"
    )


def main():
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--tokens", type=numbers, default=[1, 8, 64], help="rows a call (1,8,64)")
    options.add_argument("--context", type=numbers, default=[512, 4096], help="keys before them")
    options.add_argument("--calls", type=int, default=96, help="calls of one row (96)")
    arguments = options.parse_args()
    with open_model(arguments) as model:
        read_rate = max(model.read_rate() for _ in range(5))
        report = header(arguments, model, read_rate)
        if not arguments.json:
            print_header(report)
        report["lines"] = []
        for line in time_stages(arguments, model, read_rate):
            report["lines"].append(line)
            if not arguments.json:
                print_line(line)
    if arguments.json:
        print_json(report)


if __name__ == "__main__":
    main()
