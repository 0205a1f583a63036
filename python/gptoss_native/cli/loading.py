"""What the commands that run a model have in common: options checked first, then loading."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from .. import Checkpoint, InvalidArgument, Limits, Model, Sampling
from ..model import demo_path
from .terminal import LoadingBar, say


def model_path(args: argparse.Namespace) -> Path:
    return demo_path() if args.checkpoint is None else Path(args.checkpoint)


def check_options(
    args: argparse.Namespace, checkpoint: Checkpoint, ids: Mapping[str, Sequence[int]]
) -> int:
    """Refuse ids and a context that the model cannot have; return how long the context is."""
    vocab_size, longest = checkpoint.config["vocab_size"], checkpoint.config["max_context"]
    biased = [token for token, _ in args.logit_bias]
    for name, some in {**ids, "--stop-ids": args.stop_ids or [], "--logit-bias": biased}.items():
        if max(some, default=0) >= vocab_size:
            raise InvalidArgument(
                f"{name}: the model has no token {max(some)}; its ids are 0 to {vocab_size - 1}"
            )
    context = args.max_context or longest
    if context > longest:
        raise InvalidArgument(f"--max-context is {context}, the model's limit is {longest}")
    return context


def sampling_of(args: argparse.Namespace) -> Sampling:
    return Sampling(
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
        repetition_penalty=args.repetition_penalty,
        presence_penalty=args.presence_penalty,
        frequency_penalty=args.frequency_penalty,
        logit_bias=dict(args.logit_bias),
        seed=args.seed,
        logprobs=args.logprobs or 0,
    )


def load(args: argparse.Namespace, limits: Limits | None = None) -> Model:
    """Load the model as the options have it, with a bar on a terminal."""
    with LoadingBar() as bar:
        return Model.load(
            model_path(args),
            device=args.device,
            dense=args.dense,
            precision=args.precision,
            kv=args.kv,
            threads=args.threads,
            limits=limits,
            progress=bar.draw,
        )


def say_what_runs(args: argparse.Namespace, model: Model) -> None:
    """Say on stderr what was chosen for the user, and what requantising has lost."""
    if args.checkpoint is None:
        say("no checkpoint named: using the small bundled model")
    if args.dense == "int8":
        errors = model.info()["dense_errors"]
        worst = max(errors, key=errors.__getitem__)
        say(f"dense weights rounded to int8: at most {errors[worst]:.2%} lost ({worst})")
