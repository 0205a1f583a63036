"""What the endpoints have in common."""

from collections.abc import AsyncIterator
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from .answers import Answers
from .engine import Engine
from .errors import ApiError, as_api_error
from .log import logger
from .responding import EventStream, JsonAnswer, encoded, unless_gone


class Writing(Protocol):
    """What a client gets of answers that have begun: one document, or events."""

    async def whole(self, request: Request) -> dict[str, Any]: ...
    def chunks(self, request: Request) -> AsyncIterator[bytes]: ...


def engine_of(request: Request, model: str | None = None) -> Engine:
    """Return the application's engine. Raises ApiError for another model, and while it stops."""
    engine: Engine = request.app.state.engine
    engine.check_taking()
    if model is not None:
        engine.check_model(model)
    return engine


async def answered(
    request: Request, answers: Answers, writing: Writing, *, stream: bool
) -> Response:
    """Begin the answers and return what is sent of them; they are closed however that ends."""
    try:
        await unless_gone(request, answers.begin())
        if stream:
            timeout_s = answers.engine.settings.write_timeout_s
            chunks = writing.chunks(request)
            return EventStream(chunks, write_timeout_s=timeout_s, close=answers.close)
        whole = JsonAnswer(await unless_gone(request, writing.whole(request)))
    except BaseException:
        # A cancellation may come in the very moment in which they have begun.
        await answers.close()
        raise
    await answers.close()
    return whole


async def to_the_end(request: Request, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield events, then the one that says they are all; or one that says what ended them."""
    try:
        async for some in events:
            yield some
        yield b"data: [DONE]\n\n"
    except Exception as error:
        yield b"data: " + encoded(told_failure(request, error).body()) + b"\n\n"


def told_failure(request: Request, error: Exception) -> ApiError:
    """Return what is told of a failure within a stream, whose status is sent already."""
    told = as_api_error(error)
    if told.status_code == 500:
        fields = {"request_id": request.state.request_id}
        logger.error("failure", exc_info=error, extra={"fields": fields})
    request.state.note(failure=told.code or told.status_code)
    return told
