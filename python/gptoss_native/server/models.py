"""/v1/models, and what watches a server asks: /health, /ready, /metrics."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from .endpoint import engine_of
from .engine import Engine
from .metrics import CONTENT_TYPE
from .responding import JsonAnswer

router = APIRouter()


def _described(engine: Engine) -> dict[str, Any]:
    return {
        "id": engine.settings.model_name,
        "object": "model",
        "created": engine.created,
        "owned_by": "gptoss-native",
        "max_model_len": engine.max_context,
    }


@router.get("/v1/models", response_class=Response)
async def listed(request: Request) -> Response:
    """List the one model."""
    return JsonAnswer({"object": "list", "data": [_described(engine_of(request))]})


@router.get("/v1/models/{model:path}", response_class=Response)
async def one(model: str, request: Request) -> Response:
    """Describe a model."""
    return JsonAnswer(_described(engine_of(request, model)))


@router.get("/health", response_class=Response)
async def health() -> Response:
    """Say that the process answers."""
    return PlainTextResponse("ok\n")


@router.get("/ready", response_class=Response)
async def ready(request: Request) -> Response:
    """Say whether requests are taken: not once the server shuts down."""
    engine: Engine = request.app.state.engine
    if engine.leaving or engine.model.closed:
        return PlainTextResponse("shutting down\n", 503)
    return PlainTextResponse("ready\n")


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Give the counters in Prometheus' text form."""
    engine: Engine = request.app.state.engine
    # What the caches hold is read between two steps, for which the event loop can not wait.
    text = await asyncio.to_thread(engine.metrics.text)
    return Response(text, headers={"content-type": CONTENT_TYPE})
