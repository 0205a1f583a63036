"""A conversation as a file: its messages as JSON, and beside it the session, which is a cache.

Of a message the ids are kept where the renderer would write others, as the model may have: then
they have to spell it, so that a file cannot put anything else before the model.
"""

import contextlib
import dataclasses
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .._core import Error, InvalidArgument
from ..harmony import (
    DeveloperContent,
    Message,
    Renderer,
    ResponseFormat,
    SystemContent,
    ToolDescription,
    ToolNamespace,
    parse,
)
from ..json_fields import Fields, fail, read_object
from ..tokenizer import Tokenizer
from .history import Entry

_FORMAT, _VERSION = "gptoss-native chat", 1
_MOST_CALLS = 2**53


class SavedChat(NamedTuple):
    """What a file holds: how the conversation was opened, its entries, the next call's number."""

    opening: dict[str, Any]  # arguments of Chat: reasoning_effort, instructions, system
    entries: list[Entry]
    next_call: int


def session_path(path: str) -> str:
    """Return where the session of a conversation is kept."""
    return f"{path}.session"


def remove_session(path: str) -> None:
    """Take away one that an earlier conversation left there. Raises Error."""
    try:
        os.unlink(session_path(path))
    except FileNotFoundError:
        pass
    except OSError as error:
        raise Error(f"{session_path(path)}: cannot be removed: {error.strerror}") from error


def write_chat(path: str, saved: SavedChat, tokenizer: Tokenizer) -> None:
    """Write the file, which appears when it is whole. Raises Error if that cannot be done."""
    opening = saved.opening | {"system": dataclasses.asdict(saved.opening["system"])}
    renderer = Renderer(tokenizer)
    messages = [_entry_json(entry, tokenizer, renderer) for entry in saved.entries]
    values = {"format": _FORMAT, "version": _VERSION, **opening}
    values |= {"next_call": saved.next_call, "messages": messages}
    text = json.dumps(values, ensure_ascii=False, indent=1).encode()
    part = f"{path}.{secrets.token_hex(4)}.part"
    try:
        try:
            with open(part, "xb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise
    except OSError as error:
        raise Error(f"{path}: cannot be written: {error.strerror}") from error


def read_chat(path: str, tokenizer: Tokenizer) -> SavedChat:
    """Read such a file. Raises CheckpointError naming what is wrong with it."""
    fields = read_object(Path(path))
    fields.one_of("format", _FORMAT)
    fields.one_of("version", _VERSION)
    renderer = Renderer(tokenizer)
    effort = fields.one_of("reasoning_effort", "low", "medium", "high")
    instructions = _text(fields, "instructions", optional=True)
    with _refused(fields, "system and instructions"):
        system = _system_of(fields.object("system"))
        developer = DeveloperContent(instructions=instructions)
        # What no tokenizer takes shows here.
        renderer.render([Message("system", system), Message("developer", developer)])
    opening = {"reasoning_effort": effort, "instructions": instructions, "system": system}
    entries = []
    for number, one in enumerate(fields.objects("messages")):
        with _refused(fields, f"messages[{number}]"):
            entries.append(_entry_of(one, tokenizer, renderer))
    return SavedChat(opening, entries, fields.integer("next_call", 1, _MOST_CALLS))


@contextlib.contextmanager
def _refused(fields: Fields, where: str) -> Iterator[None]:
    """Say of what messages, contents and the renderer refuse that it is the file's."""
    try:
        yield
    except InvalidArgument as error:
        fail(fields.file, f"{where}: {error}", error)


def _text(fields: Fields, key: str, *, optional: bool = False) -> Any:
    value = fields.values.get(key)
    if type(value) is not str and not (optional and value is None):
        fields.wrong(key, "text or null" if optional else "text")
    return value


# Messages


def _spell(ids: Sequence[int], entry: Entry, tokenizer: Tokenizer) -> bool:
    """Whether the ids are another spelling of the assistant's message, with its end."""
    if entry.message.role != "assistant" or ids[-1:] != entry.ids[-1:]:
        return False
    return parse(tokenizer, ids, None) == ([entry.message], [])


def _entry_json(entry: Entry, tokenizer: Tokenizer, renderer: Renderer) -> dict[str, Any]:
    message, ids = entry
    out = {key: value for key, value in dataclasses.asdict(message).items() if value}
    rendered, own = Entry(message, renderer.render([message], analysis="all")), list(ids)
    if own != rendered.ids and _spell(own, rendered, tokenizer):
        out["ids"] = own
    return out


def _entry_of(fields: Fields, tokenizer: Tokenizer, renderer: Renderer) -> Entry:
    content: str | DeveloperContent = ""
    if type(fields.values.get("content")) is dict:
        content = _developer_of(fields.object("content"))
    elif "content" in fields.values:
        content = _text(fields, "content")
    words = ("channel", "recipient", "content_type", "name")
    message = Message(
        fields.one_of("role", "developer", "user", "assistant", "tool"),
        content,
        **{word: _text(fields, word, optional=True) for word in words},
        constrained=fields.one_of("constrained", None, True) is True,
    )
    rendered = Entry(message, renderer.render([message], analysis="all"))
    if not fields.has("ids"):
        return rendered
    ids = fields.sequence("ids")
    if not all(type(one) is int for one in ids) or not _spell(ids, rendered, tokenizer):
        fields.wrong("ids", "ids that spell this message of the assistant")
    return Entry(message, ids)


# Contents


def _tool_of(fields: Fields) -> ToolDescription:
    parameters = fields.object("parameters").values if fields.has("parameters") else None
    return ToolDescription(_text(fields, "name"), _text(fields, "description"), parameters)


def _space_of(fields: Fields) -> ToolNamespace:
    described = _text(fields, "description", optional=True)
    tools = tuple(map(_tool_of, fields.objects("tools")))
    return ToolNamespace(_text(fields, "name"), described, tools)


def _format_of(fields: Fields) -> ResponseFormat:
    described = _text(fields, "description", optional=True)
    return ResponseFormat(_text(fields, "name"), fields.object("schema").values, described)


def _system_of(fields: Fields) -> SystemContent:
    texts = ("identity", "knowledge_cutoff", "date", "effort")
    return SystemContent(
        **{text: _text(fields, text, optional=True) for text in texts},
        channels=tuple(fields.sequence("channels")) if fields.has("channels") else None,
        tools=tuple(map(_space_of, fields.objects("tools"))),
    )


def _developer_of(fields: Fields) -> DeveloperContent:
    return DeveloperContent(
        instructions=_text(fields, "instructions", optional=True),
        tools=tuple(map(_tool_of, fields.objects("tools"))),
        response_formats=tuple(map(_format_of, fields.objects("response_formats"))),
    )
