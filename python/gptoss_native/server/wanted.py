"""What a request asks of the model, in the engine's words; both endpoints for chats end here."""

import datetime
import hashlib
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


def open_chat(
    model: Model, settings: Settings, wanted: Wanted, strict: Sequence[bool], timeout_s: float
) -> Chat:
    """Return a chat for one answer; `strict` is that of each tool.

    Takes some milliseconds: not for an event loop's thread.
    Raises InvalidArgument for what cannot be followed.
    """
    held = [tool.description.name for tool, one in zip(wanted.tools, strict, strict=True) if one]
    system = SystemContent(
        date=datetime.date.today(), channels=CHANNELS if settings.all_channels else None
    )
    return Chat(
        model,
        reasoning_effort=wanted.effort,
        instructions=wanted.instructions,
        tools=[tool.description for tool in wanted.tools],
        strict=[f"functions.{name}" for name in held],
        system=system,
        max_context=settings.max_context,
        run_tools=False,
        timeout=timeout_s,
        **wanted.options,
    )


def is_strict(tokenizer: Tokenizer, tool: Tool) -> bool:
    """Whether the arguments are held to the schema: where nothing is said, if they can be.

    May compile a grammar: not for an event loop's thread.
    """
    if tool.strict is not None:
        return tool.strict
    one = tool.description
    return _can_be_held(tokenizer, json.dumps(one.parameters or {}))


# By the schema's digest: the texts themselves may be large.
_held: "weakref.WeakKeyDictionary[Tokenizer, dict[bytes, bool]]" = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def _can_be_held(tokenizer: Tokenizer, parameters: str) -> bool:
    key = hashlib.sha256(parameters.encode()).digest()
    with _lock:
        found = _held.setdefault(tokenizer, {}).get(key)
    if found is not None:
        return found
    # Two threads may do the same work; neither waits for the other's.
    try:
        tool = ToolDescription("x", "", json.loads(parameters))
        Envelope(tokenizer, tools=[tool], strict=True)
        found = True
    except InvalidArgument:
        found = False
    with _lock:
        known = _held[tokenizer]
        if len(known) >= _MOST_KNOWN:
            del known[next(iter(known))]
        known[key] = found
    return found


def new_id(prefix: str) -> str:
    """Return an id that nobody can guess."""
    return f"{prefix}_{uuid.uuid4().hex}"
