"""gptoss-native chat: one question, or a conversation; the reasoning apart from the answers."""

import argparse
import dataclasses
import datetime
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from .. import InvalidArgument, Tokenizer, read_checkpoint
from ..chat import Chat, Reply, TextDelta, Turn
from ..harmony import CHANNELS, Renderer, SystemContent
from ..harmony.messages import EFFORTS
from ..json_fields import read_object
from ..structured import Envelope
from .loading import check_options, load, model_path, sampling_of, say_what_runs
from .terminal import one_line, say

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


def chat(args: argparse.Namespace) -> None:
    """Run the command. All that can be refused is refused before the weights are read."""
    checkpoint = read_checkpoint(model_path(args))
    if checkpoint.tokenizer is None:
        raise InvalidArgument("this checkpoint has no tokenizer.json; chat needs one")
    tokenizer = Tokenizer.from_file(checkpoint.tokenizer)
    Renderer(tokenizer)
    schema = _schema(args.json_schema)
    if schema is not None and not args.no_envelope:
        Envelope(tokenizer, response_format=schema)
    if args.effort not in EFFORTS:
        known = ", ".join(EFFORTS)
        raise InvalidArgument(f"--effort is {one_line(args.effort)}, wanted one of {known}")
    check_options(args, checkpoint, {})
    sampling = sampling_of(args)
    # All named, as published examples do; the bundled model knows the other form too.
    channels = CHANNELS if args.checkpoint is None else None
    system = SystemContent(date=args.date or datetime.date.today(), channels=channels)
    with load(args) as model:
        say_what_runs(args, model)
        talk = Chat(
            model,
            reasoning_effort=args.effort,
            instructions=args.instructions,
            system=system,
            max_context=args.max_context,
            sampling=sampling,
            max_new_tokens=args.max_new_tokens,
            max_reasoning_tokens=args.max_reasoning_tokens,
            response_format=schema,
            envelope=not args.no_envelope,
        )
        with talk:
            if args.json:
                print(_as_json(talk.ask(args.question)))
            elif args.question is not None:
                say(_summary(_show(talk.send(args.question))))
            else:
                _converse(talk)


def _schema(path: str | None) -> Mapping[str, Any] | None:
    return None if path is None else read_object(Path(path)).values


def _converse(talk: Chat) -> None:
    """Answer a line at a time; Ctrl-C ends an answer, or between answers the conversation."""
    if importlib.util.find_spec("readline"):
        importlib.import_module("readline")  # input() has editing and history with it
    for line in _lines():
        turn = talk.send(line)
        try:
            _show(turn)
        except KeyboardInterrupt:
            say("interrupted: what was written stays")
        say(_summary(turn.reply))


def _lines() -> Iterator[str]:
    prompt = "> " if sys.stdin.isatty() and sys.stdout.isatty() else ""
    while True:
        try:
            line = input(prompt)
        except EOFError:
            return
        if line.strip():
            yield line


def _show(turn: Turn) -> Reply:
    """Print the turn as it comes."""
    aside = sys.stdout if sys.stdout.isatty() else sys.stderr
    screen = _Screen(sys.stdout, aside)
    try:
        for event in turn:
            if isinstance(event, TextDelta):
                screen.put(event)
    finally:
        screen.close()
    return turn.reply


class _Screen:
    """Answers on one stream, all else aside on another, or dimmed on the same."""

    def __init__(self, answers: TextIO, aside: TextIO | None) -> None:
        self._answers, self._aside = answers, aside
        self._open: TextIO | None = None
        self._dimmed = False
        self._kind: tuple[str | None, str | None] | None = None

    def put(self, event: TextDelta) -> None:
        kind = (event.channel, event.recipient)
        if kind != self._kind:
            self.close()
            self._kind = kind
            answer = event.recipient is None and event.channel not in ("analysis", "commentary")
            self._open = self._answers if answer else self._aside
            shown = self._open is not None and self._open.isatty() and "NO_COLOR" not in os.environ
            self._dimmed = shown and not answer
            if self._dimmed:
                self._write(_DIM)
        text = event.text
        if self._open is not None and self._open.isatty():
            # What a model writes must not steer the terminal.
            text = "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
        self._write(text)

    def close(self) -> None:
        """End the line of what was last written."""
        if self._open is not None:
            self._write(_PLAIN * self._dimmed + "\n")
        self._open = self._kind = None

    def _write(self, text: str) -> None:
        if self._open is not None:
            print(text, end="", file=self._open, flush=True)


def _summary(reply: Reply) -> str:
    usage = reply.usage
    why = reply.finish_reason + f", {reply.finish_detail}" * (reply.finish_detail is not None)
    parts = [f"{usage.generated_tokens} tokens ({why})", f"{usage.reasoning_tokens} of reasoning"]
    parts.append(
        f"context: {usage.prefilled_tokens} computed, {usage.cached_tokens} from the cache"
    )
    if reply.anomalies:
        parts.append(f"malformed: {', '.join(sorted({one.kind for one in reply.anomalies}))}")
    return "; ".join(parts)


def _as_json(reply: Reply) -> str:
    fields = {
        name: getattr(reply, name)
        for name in (
            "text",
            "reasoning",
            "commentary",
            "ids",
            "reasoning_effort",
            "finish_reason",
            "finish_detail",
        )
    }
    anomalies = [{"kind": one.kind, "offset": one.offset} for one in reply.anomalies]
    return json.dumps(fields | {"anomalies": anomalies, "usage": dataclasses.asdict(reply.usage)})
