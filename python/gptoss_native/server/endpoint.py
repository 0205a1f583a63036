"""What the endpoints have in common."""

from starlette.requests import Request

from .engine import Engine
from .errors import ApiError, as_api_error
from .log import logger


def engine_of(request: Request, model: str | None = None) -> Engine:
    """Return the application's engine. Raises ApiError for another model, and while it stops."""
    engine: Engine = request.app.state.engine
    engine.check_taking()
    if model is not None:
        engine.check_model(model)
    return engine


def told_failure(request: Request, error: Exception) -> ApiError:
    """Return what is told of a failure within a stream, whose status is sent already."""
    told = as_api_error(error)
    if told.status_code == 500:
        fields = {"request_id": request.state.request_id}
        logger.error("failure", exc_info=error, extra={"fields": fields})
    request.state.note(failure=told.code or told.status_code)
    return told
