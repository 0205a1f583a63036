"""/v1/completions: texts and token ids that are gone on with as they are, without a chat's form."""

import asyncio
import dataclasses
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from ..chat import ChatEvent, TextDelta, TokenEvent
from ..tokenizer import Tokenizer
from .answers import Answers
from .chat_completions import usage_chunk, usage_of
from .chat_messages import most_tokens, sampling_of, stops
from .endpoint import answered, engine_of, to_the_end
from .engine import Engine
from .errors import invalid
from .parts import token_bytes
from .responding import encoded
from .schemas.completions import CompletionRequest
from .sources import RawSource
from .wanted import new_id

router = APIRouter()


@router.post("/v1/completions", response_class=Response)
async def create(body: CompletionRequest, request: Request) -> Response:
    """Go on with texts, in which special tokens have their names, or with token ids."""
    engine = engine_of(request, body.model)
    engine.note_prompt(request, body)
    if body.echo and body.logprobs is not None:
        raise invalid("echo", "echo is true with logprobs, wanted one of them")
    n = body.n or 1
    prompts = await asyncio.to_thread(_prompts, body, engine.model.tokenizer)
    engine.checked_count("n times the number of prompts", n * len(prompts))
    sources = [source for ids in prompts for source in _sources(engine, body, ids, n)]
    answers = Answers(engine, sources, request.state.begun, per_prompt=n)
    tokenizer = engine.model.tokenizer
    echoed = [_text(tokenizer, ids) if body.echo else "" for ids in prompts for _ in range(n)]
    completion = _Completion(answers, body, echoed)
    return await answered(request, answers, completion, stream=bool(body.stream))


def _prompts(body: CompletionRequest, tokenizer: Tokenizer) -> list[list[int]]:
    given: Any = body.prompt
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        given = [given]
    prompts = [
        tokenizer.encode(one, allow_special=True) if isinstance(one, str) else list(one)
        for one in given
    ]
    if not prompts or not all(prompts):
        raise invalid("prompt", "prompt is empty, wanted a text or token ids")
    return prompts


def _text(tokenizer: Tokenizer, ids: list[int]) -> str:
    """Return the text of ids, among which may be some of no token."""
    return b"".join(token_bytes(tokenizer, one) for one in ids).decode(errors="replace")


def _sources(engine: Engine, body: CompletionRequest, ids: list[int], n: int) -> list[RawSource]:
    sampling = sampling_of(body, body, body.logprobs or 0)
    most, strings = most_tokens(body.max_tokens, engine.settings), stops(body.stop)
    out = []
    for number in range(n):
        mine = sampling
        if sampling.seed is not None:
            mine = dataclasses.replace(sampling, seed=(sampling.seed + number) % 2**64)
        options = {"sampling": mine, "max_new_tokens": most}
        out.append(RawSource(engine.model, engine.settings, ids, strings, options))
    return out


class _Choice:
    """One text so far."""

    def __init__(self, tokenizer: Tokenizer, echoed: str) -> None:
        self._tokenizer = tokenizer
        self._untold = echoed
        self._offset = len(echoed)  # of the next token in the text
        self._tokens: list[TokenEvent] = []

    def take(self, event: ChatEvent) -> None:
        if isinstance(event, TokenEvent):
            self._tokens.append(event)
        elif isinstance(event, TextDelta):
            self._untold += event.text

    def told(self, logprobs: int | None) -> dict[str, Any]:
        """Return the text that was not told yet, with its tokens."""
        text, self._untold = self._untold, ""
        tokens, self._tokens = self._tokens, []
        if logprobs is None:
            return {"text": text, "logprobs": None}
        names = [self._name(token.id) for token in tokens]
        offsets = []
        for name in names:
            offsets.append(self._offset)
            self._offset += len(name)
        tops = [{self._name(i): p for i, p in token.top_logprobs} for token in tokens]
        told = {"tokens": names, "token_logprobs": [token.logprob for token in tokens]}
        return {"text": text, "logprobs": told | {"top_logprobs": tops, "text_offset": offsets}}

    def _name(self, token_id: int) -> str:
        return token_bytes(self._tokenizer, token_id).decode(errors="replace")


class _Completion:
    """What a request gets."""

    def __init__(self, answers: Answers, body: CompletionRequest, echoed: list[str]) -> None:
        self._answers = answers
        self._body = body
        tokenizer = answers.engine.model.tokenizer
        self._choices = [_Choice(tokenizer, text) for text in echoed]
        self._head = {
            "id": new_id("cmpl"),
            "object": "text_completion",
            "created": int(time.time()),
            "model": body.model,
            "system_fingerprint": answers.engine.fingerprint,
        }

    def _choice(self, number: int, ended: bool) -> dict[str, Any]:
        reason = self._answers.finish_reason(number) if ended else None
        told = self._choices[number].told(self._body.logprobs)
        return {"index": number, **told, "finish_reason": reason}

    async def whole(self, request: Request) -> dict[str, Any]:
        for number, event in await self._answers.rest():
            self._choices[number].take(event)
        self._answers.note(request)
        choices = [self._choice(number, True) for number in range(len(self._choices))]
        return self._head | {"choices": choices, "usage": usage_of(self._answers.usage())}

    def chunks(self, request: Request) -> AsyncIterator[bytes]:
        return to_the_end(request, self._events(request))

    async def _events(self, request: Request) -> AsyncIterator[bytes]:
        """Yield server-sent events, several at a time where several have come."""
        answers, options = self._answers, self._body.stream_options
        head = json.dumps(self._head, separators=(",", ":")).encode()[:-1]

        def chunk(number: int, ended: bool = False) -> bytes:
            choice = encoded(self._choice(number, ended))
            return b"data: " + head + b',"choices":[' + choice + b"]}\n\n"

        async for batch in answers.batches():
            out = []
            for number, event in batch:
                self._choices[number].take(event)
                if isinstance(event, TextDelta):
                    out.append(chunk(number))
            if out:
                yield b"".join(out)
        yield b"".join(chunk(number, True) for number in range(len(self._choices)))
        if options and options.include_usage:
            yield usage_chunk(self._head, answers.usage())
        answers.note(request)
