"""gptoss-native generate: check everything, load, stream the answer, say how fast it was."""

import argparse
import dataclasses
import json
import time
from typing import Any

from .. import (
    Checkpoint,
    InvalidArgument,
    Model,
    Stats,
    Stream,
    StreamDecoder,
    Token,
    Tokenizer,
    read_checkpoint,
)
from ..harmony import render_user
from .loading import check_options, load, model_path, sampling_of, say_what_runs
from .terminal import say

_DEFAULT_NEW_TOKENS = 256
# A smaller model decodes from the processor's caches, which the rate of memory does not limit.
_LEAST_MEASURED_BYTES = 1 << 30


def generate(args: argparse.Namespace) -> None:
    """Run the command. All that can be refused is refused before the weights are read."""
    path = model_path(args)
    checkpoint = read_checkpoint(path)
    tokenizer = None if checkpoint.tokenizer is None else Tokenizer.from_file(checkpoint.tokenizer)
    prompt = _prompt_ids(args, tokenizer)
    sampling = sampling_of(args)
    max_new_tokens = _check_fit(args, checkpoint, prompt)
    start = time.perf_counter()
    model = load(args)
    load_s = time.perf_counter() - start
    with model, model.session(max_context=args.max_context) as session:
        stream = session.generate(
            prompt,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop_ids=[] if args.no_stop else args.stop_ids,
        )
        say_what_runs(args, model)
        tokens, text = _follow(stream, tokenizer, show=not args.json)
        stats = stream.stats
        speed = _measure(model, stats, len(prompt))
    if not args.json:
        say(_summary(stats, **speed))
        return
    answer = {
        "model": str(path),
        "prompt_ids": prompt,
        "ids": [token.id for token in tokens],
        "text": text,
        "logprobs": [token.logprob for token in tokens],
        "top_logprobs": [token.top_logprobs for token in tokens] if args.logprobs else None,
        "finish_reason": stats.finish_reason,
        "seed": stats.seed,
        "stats": dataclasses.asdict(stats),
        "load_s": load_s,
        **speed,
    }
    print(json.dumps(answer))


def _prompt_ids(args: argparse.Namespace, tokenizer: Tokenizer | None) -> list[int]:
    if args.ids is not None:
        return args.ids
    if tokenizer is None:
        raise InvalidArgument("this checkpoint has no tokenizer.json; give token ids with --ids")
    if args.user is None:
        return tokenizer.encode(args.prompt, allow_special=True)
    return render_user(tokenizer, args.user, effort=args.effort or "medium", date=args.date)


def _check_fit(args: argparse.Namespace, checkpoint: Checkpoint, prompt: list[int]) -> int:
    """Refuse what the session would refuse after loading; return how many tokens to generate."""
    context = check_options(args, checkpoint, {"the prompt": prompt})
    vocab_size = checkpoint.config["vocab_size"]
    if (args.logprobs or 0) > vocab_size:
        raise InvalidArgument(f"--logprobs is {args.logprobs}, the model has {vocab_size} tokens")
    room = context - len(prompt)
    if (args.max_new_tokens or 1) > room:
        asked = f" and {args.max_new_tokens} more are asked for" if args.max_new_tokens else ""
        raise InvalidArgument(
            f"the context holds {context} tokens: the prompt has {len(prompt)}{asked}"
        )
    return args.max_new_tokens or min(_DEFAULT_NEW_TOKENS, room)


def _text_of(decoder: StreamDecoder, token_id: int) -> str:
    try:
        return decoder.push(token_id)
    except InvalidArgument:  # published vocabularies are padded with ids that name no text
        return f"{decoder.flush()}<|{token_id}|>"


def _follow(
    stream: Stream, tokenizer: Tokenizer | None, *, show: bool
) -> tuple[list[Token], str | None]:
    """Return the tokens and their text; print the text, or else the ids, as they come."""
    decoder = tokenizer.stream() if tokenizer else None
    tokens: list[Token] = []
    pieces: list[str] = []

    def put(piece: str) -> None:
        pieces.append(piece)
        if show:
            print(piece, end="", flush=True)

    try:
        for token in stream:
            if decoder:
                put(_text_of(decoder, token.id))
            else:
                put(f" {token.id}" if tokens else str(token.id))
            tokens.append(token)
        put(decoder.flush() if decoder else "")
    finally:
        if show:
            print(flush=True)
    return tokens, "".join(pieces) if decoder else None


def _measure(model: Model, stats: Stats, prompt_tokens: int) -> dict[str, Any]:
    """Return the bytes a second that decoding read, and those this machine can read."""
    if not stats.tokens_per_s:
        return {"decode_bytes_per_s": None, "read_bytes_per_s": None}
    middle = prompt_tokens + (stats.generated_tokens - 1) // 2
    decode = stats.tokens_per_s * model.decode_bytes(middle)
    large = model.info()["weight_bytes"] >= _LEAST_MEASURED_BYTES
    read = max(model.read_rate() for _ in range(3)) if large else None
    return {"decode_bytes_per_s": decode, "read_bytes_per_s": read}


def _summary(stats: Stats, decode_bytes_per_s: float | None, read_bytes_per_s: float | None) -> str:
    plural = "s" * (stats.generated_tokens != 1)
    parts = [
        f"{stats.generated_tokens} token{plural} ({stats.finish_reason})",
        f"first after {stats.ttft_s:.2f} s",
    ]
    if decode_bytes_per_s is not None:
        parts += [f"{stats.tokens_per_s:.1f} tokens/s", f"{decode_bytes_per_s / 1e9:.1f} GB/s"]
        if read_bytes_per_s is None:
            parts.append("in cache")
        else:
            share = 100 * decode_bytes_per_s / read_bytes_per_s
            parts.append(f"{share:.0f} % of this machine's {read_bytes_per_s / 1e9:.1f} GB/s")
    return ", ".join(parts)
