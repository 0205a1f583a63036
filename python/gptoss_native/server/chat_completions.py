"""/v1/chat/completions: one answer, or several, whole or as they are written."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from ..chat import ChatEvent, TextDelta, TokenEvent
from ..harmony import MessageStart
from ..tokenizer import Tokenizer
from .answers import Answers, Usage
from .chat_messages import wanted_of
from .endpoint import answered, engine_of, to_the_end
from .parts import function_name, kind_of, logprob_of
from .responding import encoded
from .schemas.chat import ChatRequest
from .sources import chat_sources
from .wanted import new_id

router = APIRouter()
_ENDS = {"tool_calls": "tool_calls", "length": "length"}


@router.post("/v1/chat/completions", response_class=Response)
async def create(body: ChatRequest, request: Request) -> Response:
    """Go on with a conversation."""
    engine = engine_of(request, body.model)
    n = engine.checked_count("n", body.n or 1)
    engine.note_prompt(request, body)
    wanted = wanted_of(body, engine.settings)
    sources = chat_sources(engine.model, engine.settings, wanted, n)
    tokens = bool(body.logprobs)
    answers = Answers(engine, sources, request.state.begun, per_prompt=n, tokens=tokens)
    completion = _Completion(answers, body, n)
    return await answered(request, answers, completion, stream=bool(body.stream))


class _Choice:
    """One answer so far."""

    def __init__(self, tokenizer: Tokenizer, *, logprobs: bool, wants_json: bool) -> None:
        self._tokenizer = tokenizer
        self._logprobs = logprobs
        self._wants_json = wants_json
        self._kind = "answer"
        self._gap = ""  # between a preamble and the answer
        self.reasoning: list[str] = []
        self.content: list[str] = []
        self.calls: list[dict[str, Any]] = []
        self.tokens: list[dict[str, Any]] = []
        self._told = 0  # of tokens

    def take(self, event: ChatEvent) -> dict[str, Any] | None:
        """Take an event; return the delta that tells of it, if it has something to tell."""
        if isinstance(event, TokenEvent):
            if self._logprobs and event.channel == "final" and not event.forced:
                self.tokens.append(logprob_of(self._tokenizer, event))
        elif isinstance(event, MessageStart):
            return self._begin(event)
        elif isinstance(event, TextDelta):
            return self._text(event.text)
        return None

    def untold_tokens(self) -> list[dict[str, Any]]:
        """Return the log-probabilities of what was not told yet."""
        new, self._told = self.tokens[self._told :], len(self.tokens)
        return new

    def _begin(self, event: MessageStart) -> dict[str, Any] | None:
        kind = kind_of(event.message)
        self._kind = kind
        # A document with something before it is none.
        if kind == "preamble" and self._wants_json:
            self._kind = "reasoning"
        if self._kind == "reasoning":
            self._gap = "\n" if self.reasoning else ""
        elif kind != "call":
            self._gap = "\n\n" if self.content else ""
        if kind != "call":
            return None
        function = {"name": function_name(event.message), "arguments": ""}
        call = {"id": new_id("call"), "type": "function", "function": function}
        self.calls.append(call)
        return {"tool_calls": [{"index": len(self.calls) - 1} | call | {"function": {**function}}]}

    def _text(self, text: str) -> dict[str, Any]:
        if self._kind == "call":
            self.calls[-1]["function"]["arguments"] += text
            function = {"arguments": text}
            return {"tool_calls": [{"index": len(self.calls) - 1, "function": function}]}
        text, self._gap = self._gap + text, ""
        if self._kind == "reasoning":
            self.reasoning.append(text)
            return {"reasoning_content": text}
        self.content.append(text)
        return {"content": text}

    def message(self) -> dict[str, Any]:
        content = "".join(self.content)
        out = {"role": "assistant", "content": content if content or not self.calls else None}
        out |= {"refusal": None, "annotations": []}
        if self.reasoning:
            out["reasoning_content"] = "".join(self.reasoning)
        if self.calls:
            out["tool_calls"] = self.calls
        return out


class _Completion:
    """What a request gets."""

    def __init__(self, answers: Answers, body: ChatRequest, n: int) -> None:
        self._answers = answers
        self._body = body
        engine = answers.engine
        wants_json = body.response_format is not None and body.response_format.type != "text"
        self._choices = [
            _Choice(engine.model.tokenizer, logprobs=bool(body.logprobs), wants_json=wants_json)
            for _ in range(n)
        ]
        self._head = {
            "id": new_id("chatcmpl"),
            "object": "chat.completion.chunk" if body.stream else "chat.completion",
            "created": int(time.time()),
            "model": body.model,
            "system_fingerprint": engine.fingerprint,
        }

    async def whole(self, request: Request) -> dict[str, Any]:
        for number, event in await self._answers.rest():
            self._choices[number].take(event)
        choices = [self._whole_choice(number) for number in range(len(self._choices))]
        self._answers.note(request)
        return self._head | {"choices": choices, "usage": usage_of(self._answers.usage())}

    def _whole_choice(self, number: int) -> dict[str, Any]:
        choice = self._choices[number]
        logprobs = {"content": choice.tokens, "refusal": None} if self._body.logprobs else None
        return {
            "index": number,
            "message": choice.message(),
            "logprobs": logprobs,
            "finish_reason": _end_of(self._answers.finish_reason(number)),
        }

    def chunks(self, request: Request) -> AsyncIterator[bytes]:
        return to_the_end(request, self._events(request))

    async def _events(self, request: Request) -> AsyncIterator[bytes]:
        """Yield server-sent events, several at a time where several have come."""
        answers, choices = self._answers, self._choices
        options = self._body.stream_options
        with_usage = bool(options and options.include_usage)
        begin, end = self._frame(with_usage)

        def chunk(number: int, delta: dict[str, Any], reason: str | None = None) -> bytes:
            choice: dict[str, Any] = {"index": number, "delta": delta, "finish_reason": reason}
            choice["logprobs"] = None
            if self._body.logprobs and (tokens := choices[number].untold_tokens()):
                choice["logprobs"] = {"content": tokens, "refusal": None}
            return begin + encoded(choice) + end

        yield b"".join(chunk(n, {"role": "assistant"}) for n in range(len(choices)))
        async for batch in answers.batches():
            out = []
            for number, event in batch:
                if (delta := choices[number].take(event)) is not None:
                    out.append(chunk(number, delta))
            if out:
                yield b"".join(out)
        for number in range(len(choices)):
            yield chunk(number, {}, _end_of(answers.finish_reason(number)))
        if with_usage:
            yield usage_chunk(self._head, answers.usage())
        answers.note(request)

    def _frame(self, with_usage: bool) -> tuple[bytes, bytes]:
        """Return what stands before a chunk's one choice, and after it."""
        head = json.dumps(self._head, separators=(",", ":")).encode()[:-1]
        usage = b',"usage":null' if with_usage else b""
        return b"data: " + head + b',"choices":[', b"]" + usage + b"}\n\n"


def _end_of(reason: str | None) -> str:
    return _ENDS.get(reason or "stop", "stop")


def usage_chunk(head: dict[str, Any], usage: Usage) -> bytes:
    return b"data: " + encoded(head | {"choices": [], "usage": usage_of(usage)}) + b"\n\n"


def usage_of(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
