"""What a turn tells while it goes on."""

from dataclasses import dataclass

from ..harmony import Anomaly, Message, MessageEnd, MessageStart


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """A token of the turn, before what it made known. `channel` is where its text stands.

    channel: None for control tokens and what stands in headers. logprob: natural; None of a token
    that was put there, as where reasoning is ended.
    """

    id: int
    logprob: float | None
    top_logprobs: tuple[tuple[int, float], ...]
    channel: str | None
    forced: bool = False


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text of the open message; never part of a character, never a control token.

    channel: None where the model named none. recipient: who is called, if it is a call's arguments.
    """

    text: str
    channel: str | None
    recipient: str | None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model has written to its end; one that was cut off is not there."""

    id: str  # of this chat, "call_1" and on
    recipient: str  # as "functions.get_weather", or "python"
    arguments: str  # as written
    channel: str | None = None
    content_type: str | None = None

    def answer(self, text: str) -> Message:
        """Return the message that answers the call, for `Chat.send`. Raises InvalidArgument."""
        return answer_to(self, text)


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What the model is told a call gave.

    error: None, "raised", "timeout", "not_text", "cancelled", "undeclared" or "too_many".
    cut: whether the text was longer than `ToolLimits.output_bytes`.
    """

    call: ToolCall
    text: str
    error: str | None = None
    cut: bool = False


ChatEvent = TokenEvent | TextDelta | MessageStart | MessageEnd | ToolCall | ToolResult | Anomaly


def safe_name(recipient: str) -> str:
    """Return the name under which a call is answered: what the model called, but never a role.

    A tool's message begins with its name where others have their role, so that the answer to a call
    of "system" would be read as the system's.
    """
    role = recipient.split(":")[0]
    taken = ("system", "developer", "user", "assistant", "tool")
    return f"functions.{recipient}" if role in taken else recipient


def answer_to(call: ToolCall | Message, text: str) -> Message:
    """Return the message that answers a call."""
    name = safe_name(call.recipient or "")
    return Message.tool_result(name, text, call.channel or "commentary")
