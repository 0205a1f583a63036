"""A model as the endpoints of one application share it."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request

from .. import __version__
from ..model import Model
from .answers import Answers
from .errors import ApiError, invalid
from .log import logger
from .metrics import Metrics
from .settings import Settings
from .store import Store


class Engine:
    """A model, what the server allows, and the answers that are being written."""

    def __init__(self, model: Model, settings: Settings, metrics: Metrics) -> None:
        self.model = model
        self.settings = settings
        self.metrics = metrics
        self.store = Store(settings)
        longest = model.info()["max_context"]
        self.max_context = min(settings.max_context or longest, longest)
        # Opening is Python's own work: more threads would only be in the event loop's way.
        self.workers = ThreadPoolExecutor(2, "gptoss-open")
        self.open: set[Answers] = set()
        # What the device runs and lets wait. Before that a request is rendered, and its schemas are
        # compiled: more than these would only fill the memory.
        self.most_open = model.limits.max_streams + model.limits.max_waiting
        self.leaving = False  # no new requests: the server shuts down
        self.fingerprint = f"gptoss-native-{__version__}"
        self.created = int(time.time())

    def check_model(self, name: str) -> None:
        """Raise ApiError for a model that is not this one."""
        if name != self.settings.model_name:
            what = f"there is no model {name[:100]!r}; this server has {self.settings.model_name}"
            raise ApiError(404, what, param="model", code="model_not_found")

    def check_taking(self) -> None:
        """Raise ApiError where the server takes no more requests."""
        if self.leaving:
            wait = {"retry-after": str(self.settings.retry_after_s)}
            what = "the server is shutting down"
            raise ApiError(503, what, code="shutting_down", headers=wait)

    def take(self, answers: Answers) -> None:
        """Count answers as open. Raises ApiError where there are as many as the engine takes."""
        if len(self.open) >= self.most_open:
            wait = {"retry-after": str(self.settings.retry_after_s)}
            what = f"{self.most_open} requests are open, which is all this server takes"
            raise ApiError(429, what, code="engine_busy", headers=wait)
        self.open.add(answers)

    def checked_count(self, name: str, count: int) -> int:
        most = self.settings.max_choices
        if count > most:
            raise invalid(name, f"{name} is {count}, wanted at most {most}")
        return count

    def note_prompt(self, request: Request, body: BaseModel) -> None:
        """Log what was asked, where the server was told to."""
        if self.settings.log_prompts:
            try:
                asked: Any = body.model_dump(mode="json", exclude_none=True, by_alias=True)
            except ValueError:  # pydantic's own limit of depth: the request itself may be valid
                asked = "not shown: nested too deeply"
            fields = {"request_id": request.state.request_id, "body": asked}
            logger.info("prompt", extra={"fields": fields})

    def stop(self) -> None:
        """End all answers that still go on."""
        for answers in list(self.open):
            answers.stop()

    def close(self) -> None:
        self.leaving = True
        self.stop()
        self.workers.shutdown(wait=False)
