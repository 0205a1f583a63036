"""The options of gptoss-native serve."""

import argparse

from .values import count, count_or_zero, integer, number, text


def add_serving(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        nargs="?",
        type=text,
        metavar="CHECKPOINT",
        help="folder; default: the small bundled model",
    )
    group = parser.add_argument_group("the port")
    group.add_argument(
        "--host",
        default="127.0.0.1",
        help="default: 127.0.0.1, for this machine alone; 0.0.0.0 for all",
    )
    group.add_argument("--port", type=integer(0, 65535), default=8000, help="default: 8000")
    group.add_argument(
        "--api-keys-file",
        metavar="FILE",
        help="a key a line, one of which requests must have; also in GPTOSS_API_KEYS, by commas",
    )
    group.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="that requests may call this server by, besides localhost; repeatable; default: any, "
        "but none where --host is this machine alone",
    )
    group.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        metavar="URL",
        help="of pages elsewhere that may ask; repeatable; default: none",
    )
    group.add_argument("--no-page", action="store_true", help="no chat page at /")
    group.add_argument("--model-name", metavar="NAME", help="default: the folder's name")
    group.add_argument(
        "--log-prompts", action="store_true", help="write what is asked into the log, too"
    )
    _add_serving_limits(parser)


def _add_serving_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    for name, what in (
        ("max-streams", "answers that go on at a time"),
        ("max-waiting", "answers that may wait; more are turned away with 429"),
        ("max-output-tokens", "of an answer"),
        ("max-body-bytes", "of a request"),
        ("stored-responses", "kept for previous_response_id"),
    ):
        kind = count_or_zero if name in ("max-waiting", "stored-responses") else count
        group.add_argument(f"--{name}", type=kind, metavar="N", help=what)
    for name, what in (
        ("request-timeout", "for one answer"),
        ("shutdown", "for answers to end, once told to stop"),
    ):
        group.add_argument(f"--{name}-s", type=number, metavar="SECONDS", help=what)
    group.add_argument("--kv-gib", type=number, metavar="GIB", help="for all conversations' caches")
