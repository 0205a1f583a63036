"""A turn's events -> the items of a response, and the events that tell of them."""

from collections.abc import Iterator
from typing import Any

from ..chat import ChatEvent, TextDelta, TokenEvent, ToolCall
from ..harmony import Message, MessageEnd, MessageStart
from ..tokenizer import Tokenizer
from .parts import Kind, function_name, kind_of, logprob_of
from .wanted import new_id

Told = dict[str, Any]
_PHASES = {"preamble": "commentary", "answer": "final_answer"}


class Output:
    """A response's items as they are written. `pending` are the calls, by id."""

    def __init__(self, tokenizer: Tokenizer, *, logprobs: bool) -> None:
        self._tokenizer = tokenizer
        self._logprobs = logprobs
        self._untold: list[dict[str, Any]] = []  # log-probabilities
        self._kind: Kind = "answer"
        self._text: list[str] = []
        self.items: list[dict[str, Any]] = []
        self.pending: dict[str, ToolCall] = {}

    def take(self, event: ChatEvent) -> Iterator[Told]:
        """Take an event; yield what it makes known, without sequence numbers."""
        if isinstance(event, TokenEvent):
            if self._logprobs and event.channel == "final" and not event.forced:
                self._untold.append(logprob_of(self._tokenizer, event))
        elif isinstance(event, MessageStart):
            yield from self._begin(event.message)
        elif isinstance(event, TextDelta):
            yield self._delta(event.text)
        elif isinstance(event, MessageEnd):
            yield from self._end(event)
        elif isinstance(event, ToolCall):
            self.pending[self.items[-1]["call_id"]] = event

    def _begin(self, message: Message) -> Iterator[Told]:
        self._kind, self._text = kind_of(message), []
        if self._kind == "call":
            item = {"type": "function_call", "id": new_id("fc"), "call_id": new_id("call")}
            item |= {"name": function_name(message), "arguments": ""}
        elif self._kind == "reasoning":
            item = {"type": "reasoning", "id": new_id("rs"), "summary": [], "content": []}
            item["encrypted_content"] = None
        else:
            item = {"type": "message", "id": new_id("msg"), "role": "assistant", "content": []}
            item["phase"] = _PHASES[self._kind]
        item["status"] = "in_progress"
        self.items.append(item)
        yield self._of_output("response.output_item.added", item=_copied(item))
        if self._kind != "call":
            yield self._of_item("response.content_part.added", part=self._part(""))

    def _delta(self, text: str) -> Told:
        self._text.append(text)
        if self._kind == "call":
            return self._of_item("response.function_call_arguments.delta", delta=text)
        if self._kind == "reasoning":
            return self._of_item("response.reasoning_text.delta", delta=text)
        self._tokens = [*self._tokens_so_far(), *self._untold]
        told = self._of_item("response.output_text.delta", delta=text, logprobs=self._untold)
        self._untold = []
        return told

    def _tokens_so_far(self) -> list[dict[str, Any]]:
        return self._tokens if len(self._text) > 1 else []

    def _end(self, event: MessageEnd) -> Iterator[Told]:
        item, text = self.items[-1], "".join(self._text)
        item["status"] = "incomplete" if event.ended_by is None else "completed"
        if self._kind == "call":
            item["arguments"] = text
            name = item["name"]
            kind = "response.function_call_arguments.done"
            yield self._of_item(kind, arguments=text, name=name)
        else:
            part = self._part(text)
            item["content"] = [part]
            if self._kind == "reasoning":
                yield self._of_item("response.reasoning_text.done", text=text)
            else:
                logprobs = part["logprobs"]
                yield self._of_item("response.output_text.done", text=text, logprobs=logprobs)
            yield self._of_item("response.content_part.done", part=part)
        yield self._of_output("response.output_item.done", item=_copied(item))

    def _part(self, text: str) -> dict[str, Any]:
        if self._kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        tokens = self._tokens if self._text else []
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": tokens}

    def _of_output(self, kind: str, **fields: Any) -> Told:
        return {"type": kind, "output_index": len(self.items) - 1, **fields}

    def _of_item(self, kind: str, **fields: Any) -> Told:
        told = self._of_output(kind, item_id=self.items[-1]["id"])
        if self._kind != "call":
            told["content_index"] = 0
        return told | fields


def _copied(item: dict[str, Any]) -> dict[str, Any]:
    return {**item, "content": list(item["content"])} if "content" in item else dict(item)
