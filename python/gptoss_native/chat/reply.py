"""What a turn came to."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..harmony import Anomaly, Message
from ..session import Usage
from .events import ToolCall, ToolResult


@dataclass(frozen=True)
class TurnUsage:
    """What a turn has cost, in tokens. It may have several generations: after tools' results, and
    where reasoning was ended; `rounds` has each, the counts of context are sums over them."""

    cached_tokens: int  # of the contexts, found in the cache
    prefilled_tokens: int  # of the contexts, computed
    generated_tokens: int
    forced_tokens: int  # put there to end the reasoning; later contexts have them too
    by_channel: Mapping[str, int]  # generated: analysis, commentary, final, other, header
    rounds: tuple[Usage, ...]
    tool_rounds: int  # how often results of calls were given to the model

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the contexts, cached and computed."""
        return self.cached_tokens + self.prefilled_tokens

    @property
    def reasoning_tokens(self) -> int:
        return self.by_channel.get("analysis", 0)


@dataclass(frozen=True)
class Reply:
    """What the model answered, however the turn ended: nothing that it wrote is left out.

    text: of the channel `final`; where there is none, of messages without a channel or with one
    that does not exist, since models write their answers there too. parsed: the JSON document that
    the text is, where the response format is one of JSON and the answer came to its end, else None.
    commentary: what was said to
    the user before calls. messages: all of the turn, results of tools among them, the last as far
    as it got. ids: every token, forced ones too. anomalies: what was malformed, by offset in `ids`;
    besides those of `harmony.Parser`, "undeclared_tool" and, of messages that are not kept in the
    history, "foreign_role" (in the name of somebody else) and "repeated_call" (with
    `parallel_tool_calls` the same call as one before it, which ends them and is not run).

    finish_reason: "stop", "length", "timeout", "cancelled", "tool_calls" (calls wait for the
    caller), "tool_rounds" (`max_tool_rounds` is used up), "error" (an exception ended it; the
    caller has it). finish_detail: "reasoning_limit" or "cycle" where the reasoning was ended so,
    else "max_new_tokens" or "context" of a length, None otherwise. stop_string: that ended it.
    """

    text: str
    parsed: Any
    reasoning: str
    commentary: str
    tool_calls: tuple[ToolCall, ...]
    tool_results: tuple[ToolResult, ...]
    messages: tuple[Message, ...]
    ids: tuple[int, ...]
    anomalies: tuple[Anomaly, ...]
    usage: TurnUsage
    reasoning_effort: str
    finish_reason: str
    finish_detail: str | None
    stop_string: str | None

    @property
    def pending_calls(self) -> tuple[ToolCall, ...]:
        """Calls without a result, which the caller may answer: `chat.send([call.answer(text)])`."""
        answered = {result.call.id for result in self.tool_results}
        return tuple(call for call in self.tool_calls if call.id not in answered)
