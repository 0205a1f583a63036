"""One time that the model writes, from the context to where it stops: tokens, and what ends them.

Reasoning that goes on too long is ended as the model would end it: the tokens that close it and
begin the answer, or lead to the call that is required, are put after what it wrote, and it goes on
from there.
"""

import math
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..harmony import Anomaly, Delta, Message, MessageEnd, MessageStart
from ..harmony.parse import Event
from ..session import Usage
from ..stream import Stream, Token
from ..structured import Turn
from ..tools.run import StopSignal
from .events import ChatEvent, TextDelta, TokenEvent, ToolCall
from .history import Entry, is_call, text_of
from .options import TurnOptions
from .record import Record
from .requests import NextToken, Steps
from .round import Round
from .watch import ReasoningWatch, StopWatch

if TYPE_CHECKING:
    from .chat import Chat

# Tokens that reasoning may go beyond its limit to end with a whole character.
_MOST_OVER = 8


class Switch(NamedTuple):
    """Why reasoning is ended, and the ids that end it."""

    why: str
    ids: Sequence[int]


class Writer:
    """Writes the rounds of one turn into its record. `calls` are those of the latest round."""

    def __init__(self, chat: "Chat", options: TurnOptions, record: Record) -> None:
        self._chat = chat
        self._options = options
        self._record = record
        self._reasoning = ReasoningWatch(options.max_reasoning_tokens, options.cycle_tokens)
        self._stops = StopWatch(options.stop, options.stop_scope)
        self._stream: Stream | None = None
        self._round: Round | None = None
        self._turn: Turn | None = None  # of the envelope, None: the model is free
        self._over = False  # whatever comes next is not of this round
        self._most = 0
        self.stop = StopSignal()
        self.deadline = math.inf
        self.calls: list[ToolCall] = []

    def cancel(self) -> None:
        """End before the next step; from any thread."""
        self.stop.set()
        if (stream := self._stream) is not None:
            stream.cancel()

    def write(self, context: list[int]) -> Steps:
        """Let the model write after the context until it stops, or the record has a reason.

        `settle` must follow, however this is left.
        """
        self._round = Round(self._chat.tokenizer, self._chat.renderer, len(self._record.ids))
        self._over, self.calls = False, []
        envelope = self._chat.envelopes.of(self._options, called=self._record.tool_rounds > 0)
        # Where the limit is used up, later rounds go straight to what they call or answer.
        reasoning = self._record.detail != "reasoning_limit"
        while (room := self._room(len(context) + len(self._round.ids))) is not None:
            wanted = context + self._round.ids
            if envelope is not None:
                self._turn = envelope.turn(self._round.ids, reasoning=reasoning)
            self._stream = self._chat.start_stream(wanted, self._options, self._turn, **room)
            if self.stop.is_set:  # while the stream was made, and nobody could cancel it
                self._stream.cancel()
            switch = yield from self._follow(self._stream)
            self._end_stream(switch is None and not self._over)
            if switch is None:
                break
            self._record.detail, reasoning = switch.why, False
            for token_id in switch.ids:
                yield from self._take(token_id, None)
        yield from self._finished()

    def settle(self) -> list[Entry]:
        """End what is open and return what the history keeps of the round."""
        if self._stream is not None:
            self._end_stream(False)
        if self._round is None:
            return []
        self._finished()
        kept, self._round = self._round.kept, None
        return kept

    def _room(self, size: int) -> dict[str, Any] | None:
        """Return how much may be written after so many ids, and how long; None: the turn ends."""
        left = self.deadline - time.monotonic()
        if self.stop.is_set or left <= 0:
            self._record.end("cancelled" if self.stop.is_set else "timeout")
            return None
        most, asked = self._chat.max_context - size, self._options.max_new_tokens
        self._most = most if asked is None else min(most, asked - self._record.generated)
        if self._most <= 0:
            self._record.end("length", self._why_length())
            return None
        return {"max_new_tokens": self._most, "timeout": None if left == math.inf else left}

    def _why_length(self) -> str:
        asked = self._options.max_new_tokens
        used_up = asked is not None and self._record.generated >= asked
        return "max_new_tokens" if used_up else "context"

    def _follow(self, stream: Stream) -> Steps:
        """Take tokens until the stream ends or is ended; return what ends the reasoning, if so."""
        begun, held = self._record.generated, list[Token]()
        while (token := (yield NextToken(stream))) is not None:
            held.append(token)
            # What may say that no further call comes waits until that is known.
            if self._turn is None or not self._turn.spare:
                for one in held:
                    yield from self._take(one.id, one.logprob, one.top_logprobs)
                held.clear()
            if self._over or (self._turn is not None and self._turn.finished):
                return None
            left = self._most - (self._record.generated - begun)
            if (switch := self._switch(left)) is not None:
                return switch
        return None

    def _end_stream(self, counts: bool) -> None:
        """Note what the stream has cost, and why it ended if that counts."""
        stream, self._stream = self._stream, None
        assert stream is not None
        stats = stream.stats
        stream.cancel()
        self._record.rounds.append(Usage(stats.cached_tokens, stats.prefilled_tokens))
        length = stats.finish_reason == "length"
        # Where a call may have been the last one, it was.
        whole = length and self._turn is not None and self._turn.may_finish
        if counts and not whole and stats.finish_reason not in ("stop", None):
            self._record.end(stats.finish_reason, self._why_length() if length else None)

    def _switch(self, left: int) -> Switch | None:
        """Return why the reasoning must end here, and what leads on, if it must and that fits."""
        assert self._round is not None
        message = self._round.open
        if message is None or message.channel != "analysis" or is_call(message):
            return None
        why = self._reasoning.fired()
        if why is None:
            return None
        over = self._reasoning.tokens - (self._options.max_reasoning_tokens or 0)
        if why == "reasoning_limit" and self._round.within_character and over < _MOST_OVER:
            return None
        # The envelope has none within a character.
        ids = self._chat.to_answer if self._turn is None else self._turn.end_reasoning()
        return Switch(why, ids) if 0 < len(ids) < left else None

    def _take(
        self, token_id: int, logprob: float | None, top: Sequence[tuple[int, float]] = ()
    ) -> Steps:
        """Take one id into all that counts and parses, then tell what it made known."""
        assert self._round is not None
        record, message = self._record, self._round.open
        where = self._round.counted_as(token_id)
        record.ids.append(token_id)
        if logprob is None:
            record.forced += 1
        else:
            record.by_channel[where] += 1
            if where == "analysis" and message is not None and not is_call(message):
                self._reasoning.push(token_id)
        # All is recorded before anything is told: the listener may leave at any event.
        told = self._told(self._round.push(token_id))
        channel = None if message is None or where == "header" else message.channel
        yield TokenEvent(token_id, logprob, tuple(top), channel, logprob is None)
        yield from told

    def _finished(self) -> list[ChatEvent]:
        assert self._round is not None
        found = self._stops.found is not None
        return self._told(self._round.finish(self._stops.shown if found else None), cut=True)

    # What the parser made known

    def _told(self, events: Iterable[Event], cut: bool = False) -> list[ChatEvent]:
        out: list[ChatEvent] = []
        for event in events:
            if isinstance(event, Delta):
                self._tell_text(event.text, event.channel, event.recipient, out)
                continue
            if isinstance(event, MessageEnd):
                self._tell_end(event, cut, out)
                continue
            if isinstance(event, MessageStart):
                self._begin(event.message)
            else:
                self._record.anomalies.append(event)
            out.append(event)
        return out

    def _begin(self, message: Message) -> None:
        self._message = message
        self._reasoning.begin()
        self._stops.begin(message)
        # An answer right after a call knows nothing of the result.
        goes_on = is_call(message) or message.channel in ("analysis", "commentary")
        self._over = self._over or bool(self.calls and not goes_on)

    def _tell_text(
        self, text: str, channel: str | None, recipient: str | None, out: list[ChatEvent]
    ) -> None:
        if self._message.role != "assistant":
            return
        if self._stops.found is None:
            text = self._stops.push(text)
            if self._stops.found is not None:
                self._over = True
                self._record.stop_string = self._stops.found
                self._record.end("stop")
            if text:
                out.append(TextDelta(text, channel, recipient))

    def _tell_end(self, event: MessageEnd, cut: bool, out: list[ChatEvent]) -> None:
        assert self._round is not None
        record, message = self._record, event.message
        if held := self._stops.end():
            out.append(TextDelta(held, message.channel, message.recipient))
        out.append(event)
        record.messages.append(message)
        if event.ended_by is not None and message.channel == "final":
            self._over = True
        if message.role != "assistant":
            self._note("foreign_role", event.offset, out)
            return
        record.written.append(message)
        if is_call(message) and not cut and self._repeats(message):
            self._over = True
            self._round.kept.pop()
            self._note("repeated_call", event.offset, out)
        elif is_call(message) and not cut:
            out.append(self._called(message))
            if self._chat.toolbox.find(message.recipient or "") is None:
                self._note("undeclared_tool", event.offset, out)

    def _repeats(self, message: Message) -> bool:
        """Whether a call stands in its round already: the model means no other one by it."""
        said = (message.recipient, text_of(message))
        repeated = any((call.recipient, call.arguments) == said for call in self.calls)
        return self._options.parallel_tool_calls and repeated

    def _called(self, message: Message) -> ToolCall:
        where = (message.channel, message.content_type)
        call = ToolCall(
            self._chat.next_call_id(), message.recipient or "", text_of(message), *where
        )
        self.calls.append(call)
        self._record.calls.append(call)
        return call

    def _note(self, kind: str, offset: int, out: list[ChatEvent]) -> None:
        anomaly = Anomaly(kind, offset, b"")
        self._record.anomalies.append(anomaly)
        out.append(anomaly)
