"""The application: endpoints, errors and what surrounds them, as ASGI."""

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from .. import __version__
from .._core import Error, InvalidArgument
from ..harmony import Renderer
from ..model import Model
from . import chat_completions, completions, models, responses
from .engine import Engine
from .errors import as_api_error
from .gateway import Gateway
from .metrics import Metrics
from .pages import add_page
from .responding import JsonAnswer
from .settings import Settings


def create_app(model: Model, settings: Settings | None = None) -> FastAPI:
    """Return the application that serves a model. The model stays the caller's, to close.

    Raises CheckpointError for a model without a tokenizer, InvalidArgument for one that is not
    made for harmony.
    """
    settings = settings or Settings()
    Renderer(model.tokenizer)
    longest = model.info()["max_context"]
    if settings.max_context is not None and settings.max_context > longest:
        given = f"max_context is {settings.max_context}"
        raise InvalidArgument(f"{given}, wanted at most the model's own, {longest}")
    metrics = Metrics(model)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with metrics.watching():
            yield
        engine.close()

    app = FastAPI(
        title="gptoss-native",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # it would load scripts from elsewhere
        redoc_url=None,
    )
    app.state.engine = engine = Engine(model, settings, metrics)
    for kind in (HTTPException, RequestValidationError, Error):
        app.add_exception_handler(kind, _failed)
    for module in (chat_completions, completions, responses, models):
        app.include_router(module.router)
    if settings.page:
        add_page(app)
    app.add_middleware(Gateway, settings=settings, metrics=metrics)
    if settings.cors_origins:  # around the gateway, so that pages can read its errors, too
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["authorization", "content-type", "x-request-id"],
            expose_headers=["x-request-id"],
        )
    return app


async def _failed(request: Request, error: Exception) -> Response:
    engine: Engine = request.app.state.engine
    told = as_api_error(error, retry_after_s=engine.settings.retry_after_s)
    if told.status_code == 500:
        raise error  # the gateway logs it
    if told.status_code == 499:
        request.state.note(gone=True)
    return JsonAnswer.of(told)
