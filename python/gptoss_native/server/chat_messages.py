"""A request of /v1/chat/completions -> harmony's messages, and the engine's words."""

from collections.abc import Iterable, Sequence
from typing import Any

from ..chat import ToolCall
from ..harmony import DeveloperContent, Message, ResponseFormat, ToolDescription
from ..sampling import Sampling
from ..structured import json_schema
from .errors import ApiError, invalid
from .schemas import chat as shapes
from .schemas.common import Choosing, Penalties
from .settings import Settings
from .wanted import Tool, Wanted


def wanted_of(body: shapes.ChatRequest, settings: Settings) -> Wanted:
    """Return what a request asks for. Raises ApiError naming what cannot be."""
    instructions, messages = conversation(body.messages)
    tools = [Tool(_described(one.function), one.function.strict) for one in body.tools or ()]
    options: dict[str, Any] = {
        "sampling": sampling_of(body, body, top_logprobs(body)),
        "max_new_tokens": most_tokens(body.max_completion_tokens or body.max_tokens, settings),
        "max_reasoning_tokens": body.max_reasoning_tokens,
        "stop": stops(body.stop),
        "tool_choice": choice_of(body.tool_choice, tools),
        "parallel_tool_calls": bool(body.parallel_tool_calls),
        "response_format": _format_of(body.response_format),
    }
    return Wanted(
        messages=messages,
        instructions=instructions,
        effort=body.reasoning_effort or "medium",
        tools=tools,
        options=options,
    )


# What other endpoints need, too


def sampling_of(how: Choosing, held: Penalties | None, logprobs: int) -> Sampling:
    """Return how tokens are chosen. Raises InvalidArgument, ApiError."""
    given = {name: getattr(how, name) for name in ("temperature", "top_p", "top_k", "min_p")}
    if held is not None:
        names = ("frequency_penalty", "presence_penalty", "repetition_penalty")
        given |= {name: getattr(held, name) for name in names}
        given["logit_bias"] = _bias(held.logit_bias)
        given["seed"] = None if held.seed is None else held.seed % 2**64
    set_ = {name: value for name, value in given.items() if value is not None}
    return Sampling(**set_, logprobs=logprobs)


def _bias(given: dict[str, float] | None) -> dict[int, float] | None:
    if given is None:
        return None
    out = {}
    for key, value in given.items():
        if not (key.isascii() and key.isdigit() and len(key) < 10):
            raise invalid("logit_bias", f"logit_bias has the key {key[:40]!r}, wanted token ids")
        out[int(key)] = value
    return out


def most_tokens(asked: int | None, settings: Settings) -> int | None:
    """Return how long an answer may get; None: as long as the context lasts."""
    both = [most for most in (asked, settings.max_output_tokens) if most is not None]
    return min(both, default=None)


def stops(given: str | list[str] | None) -> Sequence[str]:
    strings = [given] if isinstance(given, str) else list(given or ())
    if "" in strings:
        raise invalid("stop", "stop has an empty string, wanted texts")
    return strings


def choice_of(given: Any, tools: Sequence[Tool]) -> str:
    """Return a chat's tool_choice: a name stands for a function, whatever it is."""
    if given is None or given == "none":
        return given or "auto"
    if not tools:
        if given == "auto":
            return "auto"
        raise invalid("tool_choice", "tool_choice asks for a call, and there are no tools")
    if isinstance(given, str):
        return given
    name = given.function.name if isinstance(given, shapes.ToolChoice) else given.name
    if name not in [tool.description.name for tool in tools]:
        raise invalid("tool_choice", f"tool_choice is {name!r}, wanted the name of one of tools")
    return f"functions.{name}"


def top_logprobs(body: shapes.ChatRequest) -> int:
    if body.top_logprobs is not None and not body.logprobs:
        raise invalid("top_logprobs", "top_logprobs is given, wanted logprobs: true with it")
    return body.top_logprobs or 0


def any_json() -> Any:
    return json_schema({"type": "object"})


# Messages


def text_of(content: Any) -> str:
    """Return the text of a content, whatever its parts are called."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.refusal if part.type == "refusal" else part.text for part in content)


def conversation(given: Sequence[Any]) -> tuple[str | None, list[Message]]:
    """Return what the developer says before all else, and the messages after it."""
    leading = 0
    while leading < len(given) and isinstance(given[leading], shapes.Told):
        leading += 1
    told = [text_of(one.content) for one in given[:leading]]
    calls = Calls()
    messages: list[Message] = []
    for number, one in enumerate(given[leading:], leading):
        calls.where = f"messages[{number}]"
        messages += _harmony(one, calls)
    calls.where = "messages"
    calls.check_answered()
    if not messages:
        raise invalid("messages", "messages has instructions alone, wanted one of the user")
    return "\n\n".join(told) if told else None, messages


def _harmony(one: Any, calls: "Calls") -> Iterable[Message]:
    if isinstance(one, shapes.Result):
        return [calls.answered(one.tool_call_id, text_of(one.content))]
    calls.check_answered()
    if isinstance(one, shapes.Told):
        return [Message("developer", DeveloperContent(instructions=text_of(one.content)))]
    if isinstance(one, shapes.Asked):
        return [Message("user", text_of(one.content), name=one.name)]
    made = [calls.made(c.id, c.function.name, c.function.arguments) for c in one.tool_calls or ()]
    text = text_of(one.content) or one.refusal or ""
    return said(reasoning=one.reasoning_content or one.reasoning or "", text=text, called=made)


def said(*, reasoning: str, text: str, called: Sequence[Message]) -> list[Message]:
    """Return what the assistant said as its messages; what it says before calls is a preamble."""
    out = []
    if reasoning:
        out.append(Message("assistant", reasoning, channel="analysis"))
    if text or not (reasoning or called):
        out.append(Message("assistant", text, channel="commentary" if called else "final"))
    return [*out, *called]


class Calls:
    """The calls of a conversation, and which of them have an answer."""

    def __init__(self) -> None:
        self.where = "messages"  # what is read
        self._open: dict[str, ToolCall] = {}

    def made(self, call_id: str, name: str, arguments: str) -> Message:
        if call_id in self._open:
            raise self._wrong(f"has the call {call_id[:80]!r} twice, wanted an id for each")
        recipient = f"functions.{name}"
        self._open[call_id] = ToolCall(call_id, recipient, arguments, "commentary", "json")
        return Message.tool_call(recipient, arguments)

    def reopen(self, call_id: str, call: ToolCall) -> None:
        """Take a call of an earlier response."""
        self._open[call_id] = call

    def answered(self, call_id: str, text: str) -> Message:
        call = self._open.pop(call_id, None)
        if call is None:
            what = f"answers the call {call_id[:80]!r}"
            raise self._wrong(f"{what}, wanted one that was made before and has no answer yet")
        return call.answer(text)

    def check_answered(self) -> None:
        """Refuse a call that something else follows than its answer."""
        if self._open:
            lacking = ", ".join(repr(call_id[:80]) for call_id in self._open)
            raise self._wrong(
                f"leaves the calls {lacking} without an answer, wanted a result of each"
            )

    def _wrong(self, what: str) -> ApiError:
        return invalid(self.where, f"{self.where} {what}")


def _described(function: shapes.Function) -> ToolDescription:
    return ToolDescription(function.name, function.description or "", function.parameters)


def _format_of(given: Any) -> Any:
    if given is None or given.type == "text":
        return None
    if given.type == "json_object":
        return any_json()
    named = given.json_schema
    if named.schema_ is None:
        raise invalid("response_format", "response_format.json_schema has no schema, wanted one")
    return ResponseFormat(named.name, named.schema_, named.description)
