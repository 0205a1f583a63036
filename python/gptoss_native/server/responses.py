"""/v1/responses: answers as items, which later requests may go on from."""

import itertools
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from .answers import Answers, Usage
from .endpoint import answered, engine_of, told_failure
from .engine import Engine
from .errors import ApiError, invalid, unsupported
from .responding import JsonAnswer, encoded
from .response_events import Output, Told
from .response_items import Asked, asked_of, wants_logprobs
from .schemas.responses import ResponseRequest
from .settings import Settings
from .sources import ChatSource
from .store import Stored, compact
from .wanted import new_id

router = APIRouter()


@router.post("/v1/responses", response_class=Response)
async def create(body: ResponseRequest, request: Request) -> Response:
    """Go on with items, and with those of an earlier response."""
    engine = engine_of(request, body.model)
    engine.note_prompt(request, body)
    asked = asked_of(body, engine.settings, engine.store, request.state.owner)
    source = ChatSource(engine.model, engine.settings, asked.wanted)
    tokens = wants_logprobs(body)
    answers = Answers(engine, [source], request.state.begun, tokens=tokens)
    writing = _Writing(answers, source, asked, body)
    return await answered(request, answers, writing, stream=bool(body.stream))


@router.get("/v1/responses/{response_id}", response_class=Response)
async def read(response_id: str, request: Request, stream: bool = False) -> Response:
    """Return a stored response."""
    if stream:
        raise unsupported("stream", stream, "false: only responses in the background have it")
    return JsonAnswer(_stored(request, response_id).response)


@router.delete("/v1/responses/{response_id}", response_class=Response)
async def delete(response_id: str, request: Request) -> Response:
    """Forget a stored response."""
    engine: Engine = request.app.state.engine
    engine.store.delete(response_id, request.state.owner)
    return JsonAnswer({"id": response_id, "object": "response", "deleted": True})


@router.post("/v1/responses/{response_id}/cancel", response_class=Response)
async def cancel(response_id: str, request: Request) -> Response:
    """Refuse: responses are not written in the background; closing the connection ends one."""
    _stored(request, response_id)
    raise invalid(None, "only responses in the background can be cancelled, and none is")


@router.get("/v1/responses/{response_id}/input_items", response_class=Response)
async def input_items(
    response_id: str,
    request: Request,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
    after: str | None = None,
) -> Response:
    """List what a stored response was asked with."""
    items = list(_stored(request, response_id).items)
    if order == "desc":
        items.reverse()
    if after is not None:
        ids = [item["id"] for item in items]
        if after not in ids:
            raise invalid("after", f"after is {after[:100]!r}, wanted the id of one of the items")
        items = items[ids.index(after) + 1 :]
    page = items[:limit]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {}
    more = len(items) > len(page)
    empty = {"first_id": None, "last_id": None}
    return JsonAnswer({"object": "list", "data": page, "has_more": more} | empty | ends)


def _stored(request: Request, response_id: str) -> Stored:
    engine: Engine = request.app.state.engine
    stored: Stored = engine.store.get(response_id, request.state.owner)
    return stored


class _Writing:
    """A response while it is written."""

    def __init__(
        self,
        answers: Answers,
        source: ChatSource,
        asked: Asked,
        body: ResponseRequest,
    ) -> None:
        self._answers = answers
        self._source = source
        self._asked = asked
        self._body = body
        tokenizer = answers.engine.model.tokenizer
        self._output = Output(tokenizer, logprobs=wants_logprobs(body))
        self._numbers = itertools.count()
        self._response: dict[str, Any] = {}

    async def whole(self, request: Request) -> dict[str, Any]:
        self._begin()
        for _, event in await self._answers.rest():
            for _ in self._output.take(event):
                pass
        return self._finished(request)

    async def chunks(self, request: Request) -> AsyncIterator[bytes]:
        """Yield server-sent events, several at a time where several have come."""
        try:
            self._begin()
            yield self._sent({"type": "response.created", "response": self._response})
            yield self._sent({"type": "response.in_progress", "response": self._response})
            async for batch in self._answers.batches():
                told = [one for _, event in batch for one in self._output.take(event)]
                if told:
                    yield b"".join(map(self._sent, told))
            finished = self._finished(request)
            yield self._sent({"type": f"response.{finished['status']}", "response": finished})
        except Exception as error:
            yield self._sent(self._failed(told_failure(request, error)))

    def _sent(self, told: Told) -> bytes:
        kind = told["type"].encode()
        numbered = told | {"sequence_number": next(self._numbers)}
        return b"event: " + kind + b"\ndata: " + encoded(numbered) + b"\n\n"

    def _begin(self) -> None:
        self._response = _begun(self._body, self._source.strict, self._answers.engine.settings)

    def _finished(self, request: Request) -> dict[str, Any]:
        """Return the response as it is at its end, and keep it where that was asked for."""
        answers, output = self._answers, self._output
        cut = answers.finish_reason(0) == "length"
        response = self._response | {
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "completed_at": None if cut else int(time.time()),
            "output": output.items,
            "usage": usage_of(answers.usage()),
        }
        answers.note(request)
        if self._body.store is not False:
            entries = compact(self._source.entries)
            owner = request.state.owner
            asked, pending = self._asked, output.pending
            stored = Stored(owner, response, asked.items, asked.told, entries, pending)
            answers.engine.store.put(stored)
        return response

    def _failed(self, error: ApiError) -> Told:
        limited = error.status_code == 429
        code = "rate_limit_exceeded" if limited else "server_error"
        failed = {"status": "failed", "error": {"code": code, "message": error.message}}
        response = self._response | failed | {"output": self._output.items}
        return {"type": "response.failed", "response": response}


def _begun(body: ResponseRequest, strict: Sequence[bool], settings: Settings) -> dict[str, Any]:
    """Return a response before anything is written, which says what it was asked for."""
    tools = [
        one.model_dump(exclude={"strict"}) | {"strict": held}
        for one, held in zip(body.tools or (), strict, strict=True)
    ]
    choice = body.tool_choice or "auto"
    text = body.text.model_dump(by_alias=True, exclude_none=True) if body.text else {}
    stored = body.store is not False and settings.stored_responses > 0
    return {
        "id": new_id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": None,
        "metadata": body.metadata or {},
        "model": body.model,
        "output": [],
        "parallel_tool_calls": bool(body.parallel_tool_calls),
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {
            "effort": (body.reasoning and body.reasoning.effort) or "medium",
            "summary": None,
        },
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": stored,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": text.get("format", {"type": "text"}), "verbosity": "medium"},
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
        "tools": tools,
        "top_logprobs": body.top_logprobs or 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": body.user,
    }


def usage_of(usage: Usage) -> dict[str, Any]:
    cached = {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0}
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": cached,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }
