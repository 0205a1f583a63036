"""How a turn goes: the model writes, tools answer, it writes on; and what the history keeps.

Written once for threads and event loops: `Play.steps` yields events, and requests for what takes
time, which the turn answers in its own way.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .._core import InvalidArgument
from ..tools.run import Outcome
from .events import ToolCall, ToolResult
from .history import Entry, History
from .options import TurnOptions
from .record import Record
from .reply import Reply
from .requests import RunCalls, Steps
from .writing import Writer

if TYPE_CHECKING:
    from .chat import Chat

# Of one round; whoever calls more often is told so.
_MOST_CALLS = 64
_TOO_MANY = Outcome(f"Error: not run: more than {_MOST_CALLS} calls at a time.", "too_many")
_INTERRUPTED = Outcome("Error: the call was interrupted; what it did is not known.", "cancelled")


class Play:
    """One turn of a chat: in its `history`, after the entries `before`, with what was sent."""

    def __init__(
        self,
        chat: "Chat",
        options: TurnOptions,
        history: History,
        before: Sequence[Entry],
        incoming: Sequence[Entry],
    ) -> None:
        self._chat = chat
        self._options = options
        self._history = history
        self._begun = [*before, *incoming]
        self._record = Record(chat.reasoning_effort, json_text=options.wants_json)
        self._writer = Writer(chat, options, self._record)
        self._running: list[ToolCall] = []

    def reply(self) -> Reply:
        return self._record.reply()

    def cancel(self) -> None:
        """End the turn before its next step; from any thread."""
        self._writer.cancel()

    def steps(self) -> Steps:
        """Yield what happens. However it is left, the history is left in order."""
        history, left = self._history, list(self._history.entries)
        if self._options.timeout is not None:
            self._writer.deadline = time.monotonic() + self._options.timeout
        try:
            history.entries[:] = self._begun
            yield from self._rounds()
        except Exception:
            self._record.end("error")
            raise
        except BaseException:  # the listener leaves, is interrupted, or is a task that is cancelled
            self._record.end("cancelled")
            raise
        finally:
            history.entries += self._writer.settle()
            for call in self._running:
                self._answered(call, _INTERRUPTED)
            if len(history.entries) <= len(self._begun):
                history.entries[:] = left
            self._chat.turn_over(self)

    def _rounds(self) -> Steps:
        record, history, writer = self._record, self._history, self._writer
        while record.reason is None:
            yield from writer.write(self._chat.context_for(self._options, history.entries))
            history.entries += writer.settle()
            if record.reason is None and not writer.calls:
                record.end("stop")
            elif record.reason is None:
                yield from self._answer(writer.calls)

    def _answer(self, calls: Sequence[ToolCall]) -> Steps:
        """Run the calls that are to be run here; end the turn where the caller must go on."""
        record, options = self._record, self._options
        if record.tool_rounds >= options.max_tool_rounds:
            record.end("tool_rounds")
            return
        jobs, outcomes = {}, {}
        for number, call in enumerate(calls):
            target = self._chat.toolbox.find(call.recipient)
            if target is None:
                outcomes[call.id] = self._undeclared(call)
            elif number >= _MOST_CALLS:
                outcomes[call.id] = _TOO_MANY
            elif target.tool is not None and options.run_tools:
                jobs[call.id] = target.job(call)
                self._running.append(call)
        if jobs:
            writer = self._writer
            limits = {"stop": writer.stop, "deadline": writer.deadline}
            ran = yield RunCalls(list(jobs.values()), limits=self._chat.tool_limits, **limits)
            outcomes |= zip(jobs, ran, strict=True)
            self._running.clear()
        results = [self._answered(call, outcomes[call.id]) for call in calls if call.id in outcomes]
        record.tool_rounds += bool(results)
        if len(results) < len(calls):
            record.end("tool_calls")
        yield from results

    def _undeclared(self, call: ToolCall) -> Outcome:
        names = ", ".join(self._chat.toolbox.names()) or "none"
        text = f"Error: there is no tool {call.recipient}. The tools are: {names}."
        return Outcome(text, "undeclared")

    def _answered(self, call: ToolCall, outcome: Outcome) -> ToolResult:
        """Put a call's outcome into the history and the record."""
        text = outcome.text
        try:
            entries = self._history.rendered([call.answer(text)])
        except InvalidArgument as error:  # as of text that no tokenizer takes
            text = f"Error: the result cannot be shown: {error}"
            entries = self._history.rendered([call.answer(text)])
        self._history.entries += entries
        self._record.messages += [entry.message for entry in entries]
        result = ToolResult(call, text, outcome.error, outcome.cut)
        self._record.results.append(result)
        return result
