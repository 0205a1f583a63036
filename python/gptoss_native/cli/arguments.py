"""The command line: its options, and what each may hold."""

import argparse
import os
from collections.abc import Sequence
from typing import Any, NoReturn

from .. import InvalidArgument, __version__
from .serve_arguments import add_serving
from .values import bias, count, count_or_zero, date, ids, integer, number, text

# What the library's own integer can hold.
_SEED_MAX = 2**64 - 1
# Far above what an answer needs, and some minutes where a model repeats itself without end.
_ANSWER_TOKENS = 16384


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidArgument(f"{message} (see {self.prog} --help)")


def _add_placing(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how a model lies in memory."""
    group = parser.add_argument_group("the model in memory")
    group.add_argument("--device", default="auto", metavar="auto|cpu", help="default: auto")
    group.add_argument(
        "--dense",
        default="bf16",
        metavar="bf16|int8",
        help="attention and unembedding: as published (the default), or requantised, for speed",
    )
    group.add_argument(
        "--precision",
        default="fast",
        metavar="fast|exact",
        help="default: fast; exact computes with float32 activations",
    )
    group.add_argument(
        "--kv",
        default="f16",
        metavar="f16|fp8",
        help="keys and values: float16 (the default), or in half the memory, rounded more",
    )
    group.add_argument("--threads", type=count, metavar="N", help="default: all there are")
    group.add_argument(
        "--max-context",
        type=count,
        metavar="N",
        help="tokens; default: the model's own limit",
    )


def _add_prompt(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the prompt")
    one = group.add_mutually_exclusive_group(required=True)
    one.add_argument(
        "--prompt",
        type=text,
        metavar="TEXT",
        help="text as it is, special tokens by their names",
    )
    one.add_argument("--ids", type=ids, metavar="1,2,3", help="token ids; needs no tokenizer")
    one.add_argument(
        "--user",
        type=text,
        metavar="TEXT",
        help="a message to the assistant, in the published chat form",
    )
    group.add_argument(
        "--effort", metavar="low|medium|high", help="with --user: how long to think; default medium"
    )
    group.add_argument(
        "--date",
        type=date,
        metavar="YYYY-MM-DD",
        help="with --user: instead of today's date",
    )


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("choosing tokens")
    real: dict[str, Any] = {"type": number, "metavar": "X"}
    group.add_argument(
        "--temperature",
        default=0.0,
        help="default 0: always the most likely token; 1 is the model's own distribution",
        **real,
    )
    group.add_argument("--top-k", type=count_or_zero, default=0, metavar="N", help="0 keeps all")
    group.add_argument("--top-p", default=1.0, help="above 0, up to 1 (all)", **real)
    group.add_argument("--min-p", default=0.0, help="0 (all) to 1", **real)
    group.add_argument("--repetition-penalty", default=1.0, help="1 is none", **real)
    group.add_argument("--presence-penalty", default=0.0, help="0 is none", **real)
    group.add_argument("--frequency-penalty", default=0.0, help="0 is none", **real)
    group.add_argument(
        "--logit-bias",
        type=bias,
        action="append",
        default=[],
        metavar="ID=VALUE",
        help="added to the logit of a token; repeatable",
    )
    group.add_argument(
        "--seed",
        type=integer(0, _SEED_MAX),
        metavar="N",
        help="the same seed, the same text",
    )


def _add_logprobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--logprobs",
        type=count_or_zero,
        metavar="N",
        help="with --json: the N most likely tokens beside each",
    )


def _add_length(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("when to stop")
    group.add_argument(
        "--max-new-tokens",
        type=count,
        metavar="N",
        help="default: 256, or fewer if no more fit",
    )
    stop = group.add_mutually_exclusive_group()
    stop.add_argument(
        "--stop-ids",
        type=ids,
        metavar="1,2",
        help="instead of the checkpoint's own stop ids",
    )
    stop.add_argument("--no-stop", action="store_true", help="go on after the stop ids too")


def _add_conversation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        nargs="*",
        type=text,
        metavar="[CHECKPOINT] [QUESTION]",
        help="a folder, or without one the small bundled model; a question, or without one a "
        "conversation, a line each, to the end of the input",
    )
    group = parser.add_argument_group("the conversation")
    group.add_argument("--effort", default="medium", metavar="low|medium|high")
    group.add_argument("--instructions", type=text, metavar="TEXT", help="of the developer")
    group.add_argument("--date", type=date, metavar="YYYY-MM-DD", help="instead of today's date")
    group.add_argument(
        "--max-new-tokens",
        type=count,
        default=_ANSWER_TOKENS,
        metavar="N",
        help=f"for each answer; default {_ANSWER_TOKENS}",
    )
    group.add_argument(
        "--max-reasoning-tokens",
        type=count_or_zero,
        metavar="N",
        help="after so many the answer is begun; default: no limit",
    )
    group.add_argument(
        "--json-schema", type=text, metavar="FILE", help="answers are JSON of this schema"
    )
    group.add_argument(
        "--no-envelope",
        action="store_true",
        help="let the model write what it likes; a schema it is then only told of",
    )
    parser.set_defaults(stop_ids=None, logprobs=None)


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="gptoss-native",
        description="Run gpt-oss models in this process, with no torch.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"gptoss-native {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, summary: str, note: str = "") -> argparse.ArgumentParser:
        text = f"{summary[0].upper()}{summary[1:]}.{note}"
        command = commands.add_parser(name, help=summary, description=text, allow_abbrev=False)
        if name != "serve":
            command.add_argument("--json", action="store_true", help="print one JSON object")
        return command

    generate = add(
        "generate",
        "continue a prompt or answer a message",
        " The answer goes to stdout as it comes, a line on its speed to stderr.",
    )
    generate.add_argument(
        "checkpoint",
        nargs="?",
        type=text,
        metavar="CHECKPOINT",
        help="folder; default: the small bundled model",
    )
    for add_options in (_add_prompt, _add_length, _add_sampling, _add_placing):
        add_options(generate)
    _add_logprobs(generate)
    chat = add(
        "chat",
        "talk to a model; its reasoning apart from its answers",
        " Answers go to stdout. The reasoning goes there too, dimmed, if that is a terminal, else"
        " to stderr.",
    )
    for add_options in (_add_conversation, _add_sampling, _add_placing):
        add_options(chat)
    pull = add(
        "pull",
        "download a checkpoint, or what is lacking of it",
        " Needs the extra `hub`. Prints the folder; a download that was cut off goes on.",
    )
    pull.add_argument("repository", type=text, metavar="OWNER/NAME", help="as openai/gpt-oss-20b")
    pull.add_argument(
        "--to", type=text, metavar="FOLDER", help="default: the repository's own name, here"
    )
    pull.add_argument(
        "--revision",
        type=text,
        metavar="COMMIT",
        help="default: the pinned one of OpenAI's models, the newest of others",
    )
    serve = add(
        "serve",
        "answer OpenAI's clients over HTTP; a chat page at /",
        " Needs the extra `server`. The log goes to stderr, a line of JSON for each request.",
    )
    add_serving(serve)
    _add_placing(serve)
    add("info", "say what this machine offers and which kernel runs each stage")
    plan = add("plan", "say what a model would take and how fast it could be; loads nothing")
    plan.add_argument(
        "checkpoint",
        nargs="?",
        type=text,
        metavar="CHECKPOINT",
        help="folder, or 20b, 120b or tiny; default: the small bundled model",
    )
    _add_placing(plan)
    return parser


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; raises InvalidArgument, and SystemExit after --help or --version."""
    args = _make_parser().parse_args(argv)
    if args.command == "chat":
        _sort_words(args)
    if args.command == "generate":
        for name in ("effort", "date"):
            if getattr(args, name) is not None and args.user is None:
                raise InvalidArgument(f"--{name} goes with --user only")
        if args.logprobs and not args.json:
            raise InvalidArgument("--logprobs goes with --json only")
    biased = [token for token, _ in getattr(args, "logit_bias", [])]
    if len(set(biased)) < len(biased):
        raise InvalidArgument("--logit-bias names a token twice")
    return args


def _sort_words(args: argparse.Namespace) -> None:
    """Tell checkpoint and question apart: one word alone is what it looks like."""
    words = args.words
    if len(words) > 2:
        raise InvalidArgument(
            f"{len(words)} words, wanted [CHECKPOINT] [QUESTION]: quote the question"
        )
    args.checkpoint = args.question = None
    if len(words) == 2:
        args.checkpoint, args.question = words
    elif words:
        path = os.path.isdir(words[0]) or (os.sep in words[0] and len(words[0].split()) == 1)
        setattr(args, "checkpoint" if path else "question", words[0])
    if args.json and args.question is None:
        raise InvalidArgument("--json goes with a question only")
