"""What a turn has brought so far, from which its reply is made at any time."""

import json
from collections import Counter
from typing import Any

from ..harmony import CHANNELS, Anomaly, Message
from ..session import Usage
from .events import ToolCall, ToolResult
from .history import is_call, text_of
from .reply import Reply, TurnUsage


class Record:
    """Collects ids, messages, calls and costs of a turn."""

    def __init__(self, effort: str, *, json_text: bool = False) -> None:
        self._effort = effort
        self._json_text = json_text  # the answer is to be a JSON document
        self.ids: list[int] = []
        self.messages: list[Message] = []
        self.written: list[Message] = []  # of those, by the model in its own name
        self.anomalies: list[Anomaly] = []
        self.calls: list[ToolCall] = []
        self.results: list[ToolResult] = []
        self.by_channel: Counter[str] = Counter()
        self.forced = 0
        self.rounds: list[Usage] = []
        self.tool_rounds = 0
        self.reason: str | None = None
        self.detail: str | None = None
        self.stop_string: str | None = None

    @property
    def generated(self) -> int:
        return len(self.ids) - self.forced

    def end(self, reason: str, detail: str | None = None) -> None:
        """Say why the turn ends; the first reason stands."""
        if self.reason is None:
            self.reason = reason
            self.detail = self.detail or detail

    def _text(self) -> str:
        said = [m for m in self.written if not is_call(m)]
        final = [text_of(m) for m in said if m.channel == "final" and m.content]
        return "".join(final or [text_of(m) for m in said if m.channel not in CHANNELS])

    def _parsed(self, text: str) -> Any:
        """Return the answer's document, None for none: one that was cut may look like another."""
        if not self._json_text or self.reason != "stop" or self.stop_string is not None:
            return None
        try:
            return json.loads(text)
        except (ValueError, RecursionError):  # a free model's text, or digits without end
            return None

    def _of(self, channel: str) -> str:
        said = [text_of(m) for m in self.written if m.channel == channel and not is_call(m)]
        return "\n".join(said)

    def reply(self) -> Reply:
        """Return what there is."""
        usage = TurnUsage(
            cached_tokens=sum(one.cached_tokens for one in self.rounds),
            prefilled_tokens=sum(one.prefilled_tokens for one in self.rounds),
            generated_tokens=self.generated,
            forced_tokens=self.forced,
            by_channel=dict(self.by_channel),
            rounds=tuple(self.rounds),
            tool_rounds=self.tool_rounds,
        )
        text = self._text()
        return Reply(
            text=text,
            parsed=self._parsed(text),
            reasoning=self._of("analysis"),
            commentary=self._of("commentary"),
            tool_calls=tuple(self.calls),
            tool_results=tuple(self.results),
            messages=tuple(self.messages),
            ids=tuple(self.ids),
            anomalies=tuple(self.anomalies),
            usage=usage,
            reasoning_effort=self._effort,
            finish_reason=self.reason or "cancelled",
            finish_detail=self.detail,
            stop_string=self.stop_string,
        )
