"""gptoss-native serve: the model behind a port, for OpenAI's clients."""

import argparse
import importlib
import os
import re
import socket
from pathlib import Path
from typing import Any

from .. import InvalidArgument, Limits, Tokenizer, read_checkpoint
from ..harmony import Renderer
from .loading import load, model_path, say_what_runs

_KEYS = "GPTOSS_API_KEYS"


def serve(args: argparse.Namespace) -> None:
    """Run the command. All that can be refused is refused before the weights are read."""
    server = importlib.import_module("..server", __package__)  # it needs the extra
    checkpoint = read_checkpoint(model_path(args))
    if checkpoint.tokenizer is None:
        raise InvalidArgument("this checkpoint has no tokenizer.json; serve needs one")
    Renderer(Tokenizer.from_file(checkpoint.tokenizer))
    longest = checkpoint.config["max_context"]
    if args.max_context is not None and args.max_context > longest:
        raise InvalidArgument(
            f"--max-context is {args.max_context}, the model's limit is {longest}"
        )
    settings = server.Settings(
        model_name=args.model_name or _name(args),
        api_keys=_keys(args),
        max_context=args.max_context,
        allowed_hosts=_hosts(args),
        cors_origins=tuple(args.cors_origin),
        # All named, as published examples do; the bundled model knows the other form too.
        all_channels=args.checkpoint is None,
        page=not args.no_page,
        log_prompts=args.log_prompts,
        **_given(args, "max_output_tokens", "request_timeout_s", "shutdown_s", "max_body_bytes"),
        **_given(args, "stored_responses"),
    )
    limits = Limits(**_given(args, "max_streams", "max_waiting"), kv_bytes=_bytes(args.kv_gib))
    _check_address(args.host, args.port)
    log = importlib.import_module("..server.log", __package__)
    with load(args, limits=limits) as model:
        say_what_runs(args, model)
        log.log_to_stderr()
        app = server.create_app(model, settings)
        server.favour_event_loop()
        server.serve(app, host=args.host, port=args.port)


def _given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def _bytes(gibibytes: float | None) -> int | None:
    if gibibytes is not None and not 0 < gibibytes < 2**20:
        raise InvalidArgument(f"--kv-gib is {gibibytes}, wanted GiB above 0")
    return None if gibibytes is None else int(gibibytes * 2**30)


def _name(args: argparse.Namespace) -> str:
    """Return what requests call the model: its folder's name."""
    if args.checkpoint is None:
        return "demo"
    folder = Path(args.checkpoint).resolve()
    name = folder.parent.name if folder.name == "original" else folder.name
    return re.sub(r"[^\w.-]", "-", name, flags=re.A) or "model"


def _hosts(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the names to be called by: on this machine alone a browser must not lend it others."""
    own = ("localhost", "127.0.0.1", "[::1]")
    if not args.allowed_host and args.host not in (*own, "::1"):
        return ()
    return (*own, args.host, *args.allowed_host)


def _keys(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the keys of file and environment: on a command line others could see them."""
    lines = os.environ.get(_KEYS, "").split(",")
    if args.api_keys_file is not None:
        try:
            lines += Path(args.api_keys_file).read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"--api-keys-file {args.api_keys_file}: {error}") from error
    keys = tuple(line.strip() for line in lines if line.strip())
    if args.api_keys_file is not None and not keys:
        raise InvalidArgument(f"--api-keys-file {args.api_keys_file} is empty, wanted a key a line")
    if not all(re.fullmatch(r"[!-~]+", key) for key in keys):
        named = f"{_KEYS} or --api-keys-file"
        raise InvalidArgument(
            f"a key of {named} has a space or a letter beyond ASCII, wanted none of them"
        )
    return keys


def _check_address(host: str, port: int) -> None:
    """Refuse an address that cannot be had, before minutes of loading."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, number) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise InvalidArgument(f"--host {host} --port {port}: {error.strerror or error}") from error
