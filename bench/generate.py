"""Time whole generations: load, time to first token, decode and prefill tokens a second.

python bench/generate.py [CHECKPOINT|20b|120b|tiny] [--prompts 16,128,512] [--json]

Prompts are random ids, decoding is greedy without stop ids. The decode rate is that of the tokens
after the first; its share is of the read rate measured in the same run.
"""

import resource
import time

import gptoss_native as gn
import numpy as np
from measure import header, open_model, parser, print_header, print_json


def numbers(text):
    return [int(part) for part in text.split(",")]


def time_generation(model, prompt_tokens, new_tokens, read_rate):
    vocab = model.info()["vocab_size"]
    prompt = np.random.default_rng(prompt_tokens).integers(0, vocab, prompt_tokens)
    with model.session() as session:
        greedy = gn.Sampling(temperature=0)
        stream = session.generate(prompt, max_new_tokens=new_tokens, sampling=greedy, stop_ids=[])
        for _ in stream:
            pass
    stats = stream.stats
    rate = stats.tokens_per_s * model.decode_bytes(prompt_tokens + new_tokens // 2)
    return {
        "prompt_tokens": prompt_tokens,
        "new_tokens": new_tokens,
        "ttft_s": stats.ttft_s,
        "prefill_tokens_per_s": prompt_tokens / stats.ttft_s,
        "decode_tokens_per_s": stats.tokens_per_s,
        "decode_bytes_per_s": rate,
        "decode_share_of_read": rate / read_rate,
    }


def print_line(line):
    print(
        f"prompt {line['prompt_tokens']:6}  first token {line['ttft_s']:7.3f} s  "
        f"prefill {line['prefill_tokens_per_s']:7.1f} tok/s  "
        f"decode {line['decode_tokens_per_s']:6.2f} tok/s  "
        f"{line['decode_bytes_per_s'] / 1e9:6.2f} GB/s, "
        f"{line['decode_share_of_read'] * 100:.0f} % of read"
    )


def main():
    options = parser(__doc__.partition("\n")[0])
    options.add_argument(
        "--prompts", type=numbers, default=[16, 128, 512], help="prompt lengths (16,128,512)"
    )
    options.add_argument("--new-tokens", type=int, default=32, help="tokens to decode (32)")
    arguments = options.parse_args()
    start = time.perf_counter()
    with open_model(arguments) as model:
        load_s = time.perf_counter() - start
        read_rate = max(model.read_rate() for _ in range(5))
        report = header(arguments, model, read_rate)
        report["load_s"] = load_s
        if not arguments.json:
            print_header(report)
        report["lines"] = []
        for prompt_tokens in arguments.prompts:
            line = time_generation(model, prompt_tokens, arguments.new_tokens, read_rate)
            report["lines"].append(line)
            if not arguments.json:
                print_line(line)
    report["peak_resident_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if arguments.json:
        print_json(report)
    else:
        peak = report["peak_resident_bytes"] / 2**30
        print(f"loaded in {load_s:.1f} s; peak resident memory {peak:.2f} GiB")


if __name__ == "__main__":
    main()
