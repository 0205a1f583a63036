"""A request of /v1/responses -> harmony's messages, and the engine's words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..chat import Entry
from ..harmony import DeveloperContent, Message, ResponseFormat, ToolDescription
from .chat_messages import Calls, any_json, choice_of, most_tokens, said, sampling_of, text_of
from .errors import invalid
from .schemas import responses as shapes
from .settings import Settings
from .store import Store, Stored
from .wanted import Tool, Wanted, new_id


@dataclass(frozen=True)
class Asked:
    """What a request asks for, and what is kept of it for those that go on from here."""

    wanted: Wanted
    told: tuple[str, ...]  # instructions that later requests keep
    items: list[dict[str, Any]]  # its input


def asked_of(body: shapes.ResponseRequest, settings: Settings, store: Store, owner: str) -> Asked:
    """Return it. Raises ApiError naming what cannot be."""
    before = _before(body, store, owner)
    items = [_found(item, store, owner) for item in _listed(body.input)]
    calls = Calls()
    for call_id, call in before.pending.items() if before else ():
        calls.reopen(call_id, call)
    told = list(before.told) if before else []
    leading = 0
    # As a conversation's first messages they are the developer's, as later ones they stay in place.
    while before is None and leading < len(items) and _is_told(items[leading]):
        told.append(text_of(items[leading].content))
        leading += 1
    messages: list[Message | Entry] = list(before.entries) if before else []
    messages += _messages(items, leading, calls)
    if not messages:
        raise invalid("input", "input has instructions alone, wanted a message of the user")
    tools = [Tool(_described(one), one.strict) for one in body.tools or ()]
    logprobs = body.top_logprobs or 0
    if logprobs and not wants_logprobs(body):
        wanted = "wanted 'message.output_text.logprobs' in include with it"
        raise invalid("top_logprobs", f"top_logprobs is {logprobs}, {wanted}")
    options: dict[str, Any] = {
        "sampling": sampling_of(body, None, logprobs),
        "max_new_tokens": most_tokens(body.max_output_tokens, settings),
        "tool_choice": choice_of(body.tool_choice, tools),
        "parallel_tool_calls": bool(body.parallel_tool_calls),
        "response_format": _format_of(body.text),
    }
    spoken = [text for text in (body.instructions, *told) if text]
    wanted = Wanted(
        messages=messages,
        instructions="\n\n".join(spoken) or None,
        effort=(body.reasoning and body.reasoning.effort) or "medium",
        tools=tools,
        options=options,
    )
    return Asked(wanted, tuple(told), [_kept(item) for item in items])


def wants_logprobs(body: shapes.ResponseRequest) -> bool:
    return "message.output_text.logprobs" in (body.include or ())


def _before(body: shapes.ResponseRequest, store: Store, owner: str) -> Stored | None:
    if body.previous_response_id is None:
        return None
    return store.get(body.previous_response_id, owner, "previous_response_id")


def _listed(given: str | list[Any]) -> list[Any]:
    if isinstance(given, str):
        return [shapes.MessageItem(role="user", content=given)]
    return given


def _found(item: Any, store: Store, owner: str) -> Any:
    """Return the item, or the one that it refers to."""
    if not isinstance(item, shapes.Reference):
        return item
    kinds = {
        "message": shapes.MessageItem,
        "function_call": shapes.CallItem,
        "function_call_output": shapes.ResultItem,
        "reasoning": shapes.ReasoningItem,
    }
    found = store.item(item.id, owner)
    return kinds[found["type"]].model_validate(found)


def _is_told(item: Any) -> bool:
    return isinstance(item, shapes.MessageItem) and item.role in ("system", "developer")


def _messages(items: Sequence[Any], first: int, calls: Calls) -> list[Message]:
    out: list[Message] = []
    followed = _followed_by_calls(items)
    for number in range(first, len(items)):
        item = items[number]
        calls.where = f"input[{number}]"
        if isinstance(item, shapes.ResultItem):
            out.append(calls.answered(item.call_id, text_of(item.output)))
        elif isinstance(item, shapes.CallItem):
            out.append(calls.made(item.call_id, item.name, item.arguments))
        elif isinstance(item, shapes.ReasoningItem):
            text = "\n".join(part.text for part in item.content or ())
            out += said(reasoning=text, text="", called=()) if text else []
        else:
            calls.check_answered()
            out.append(_message(item, followed[number]))
    calls.where = "input"
    calls.check_answered()
    return out


def _followed_by_calls(items: Sequence[Any]) -> list[bool]:
    """Return of each item whether a call comes next, reasoning aside."""
    out, call = [], False
    for item in reversed(items):
        out.append(call)
        if not isinstance(item, shapes.ReasoningItem):
            call = isinstance(item, shapes.CallItem)
    return out[::-1]


def _message(item: shapes.MessageItem, before_call: bool) -> Message:
    text = text_of(item.content)
    if item.role == "user":
        return Message("user", text)
    if item.role in ("system", "developer"):
        return Message("developer", DeveloperContent(instructions=text))
    preamble = before_call if item.phase is None else item.phase == "commentary"
    return Message("assistant", text, channel="commentary" if preamble else "final")


def _kept(item: Any) -> dict[str, Any]:
    """Return an item as it is listed later."""
    out: dict[str, Any] = item.model_dump(exclude_none=True)
    if isinstance(item, shapes.MessageItem) and isinstance(item.content, str):
        kind = "output_text" if item.role == "assistant" else "input_text"
        extra = {"annotations": []} if item.role == "assistant" else {}
        out["content"] = [{"type": kind, "text": item.content} | extra]
    if isinstance(item, shapes.ReasoningItem):
        out["summary"] = []
    out["id"] = item.id or new_id({"message": "msg", "reasoning": "rs"}.get(item.type, "fc"))
    return out | {"status": "completed"}


def _described(tool: shapes.FunctionTool) -> ToolDescription:
    return ToolDescription(tool.name, tool.description or "", tool.parameters)


def _format_of(text: shapes.TextOptions | None) -> Any:
    given = text.format if text is not None else None
    if given is None or isinstance(given, shapes.TextFormat):
        return None
    if isinstance(given, shapes.ObjectFormat):
        return any_json()
    return ResponseFormat(given.name, given.schema_, given.description)
