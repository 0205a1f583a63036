"""What a request asks of the model, in the engine's words; both endpoints for chats end here."""

import datetime
import json
import threading
import uuid
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .._core import InvalidArgument
from ..chat import Chat, Entry
from ..harmony import CHANNELS, Message, SystemContent, ToolDescription
from ..model import Model
from ..structured import Envelope
from ..tokenizer import Tokenizer
from .settings import Settings

# Schemas of tools of which it is known whether they can be followed.
_MOST_KNOWN = 1000


@dataclass(frozen=True)
class Tool:
    """A function that the client runs. strict: None where the request does not say."""

    description: ToolDescription
    strict: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A conversation, and how the model is to go on: `options` are those of a chat's turn."""

    messages: Sequence[Message | Entry]
    instructions: str | None = None
    effort: str = "medium"
    tools: Sequence[Tool] = ()
    options: dict[str, Any] = field(default_factory=dict)


def open_chat(model: Model, settings: Settings, wanted: Wanted) -> Chat:
    """Return a chat for one answer. Takes some milliseconds: not for an event loop's thread.

    Raises InvalidArgument for what cannot be followed.
    """
    strict = [tool.description.name for tool in wanted.tools if is_strict(model.tokenizer, tool)]
    system = SystemContent(
        date=datetime.date.today(), channels=CHANNELS if settings.all_channels else None
    )
    return Chat(
        model,
        reasoning_effort=wanted.effort,
        instructions=wanted.instructions,
        tools=[tool.description for tool in wanted.tools],
        strict=[f"functions.{name}" for name in strict],
        system=system,
        max_context=settings.max_context,
        run_tools=False,
        timeout=settings.request_timeout_s,
        **wanted.options,
    )


def is_strict(tokenizer: Tokenizer, tool: Tool) -> bool:
    """Whether the arguments are held to the schema: where nothing is said, if they can be."""
    if tool.strict is not None:
        return tool.strict
    one = tool.description
    return _can_be_held(tokenizer, json.dumps(one.parameters or {}))


_held: "weakref.WeakKeyDictionary[Tokenizer, dict[str, bool]]" = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def _can_be_held(tokenizer: Tokenizer, parameters: str) -> bool:
    with _lock:
        known = _held.setdefault(tokenizer, {})
        if parameters not in known:
            if len(known) >= _MOST_KNOWN:
                del known[next(iter(known))]
            tool = ToolDescription("x", "", json.loads(parameters))
            try:
                Envelope(tokenizer, tools=[tool], strict=True)
                known[parameters] = True
            except InvalidArgument:
                known[parameters] = False
        return known[parameters]


def new_id(prefix: str) -> str:
    """Return an id that nobody can guess."""
    return f"{prefix}_{uuid.uuid4().hex}"
