"""One line of JSON for each request, and for what goes wrong. Prompts only where asked for."""

import json
import logging
import sys
import time
import traceback
from typing import Any

logger = logging.getLogger("gptoss_native.server")


class JsonLines(logging.Formatter):
    """Formats records as JSON objects; `extra={"fields": {...}}` gives more than the message."""

    def format(self, record: logging.LogRecord) -> str:
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{now}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = described(record.exc_info[1])
        return json.dumps(line)


def described(error: BaseException) -> dict[str, Any]:
    """Return where an exception came from. Not its text: that may quote a prompt."""
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "type": type(error).__name__,
        "where": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }


def log_to_stderr(level: int = logging.INFO) -> None:
    """Write this server's lines, and uvicorn's, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, own in (("gptoss_native.server", level), ("uvicorn", logging.WARNING)):
        one = logging.getLogger(name)
        one.handlers, one.propagate = [handler], False
        one.setLevel(own)


def log_request(fields: dict[str, Any]) -> None:
    logger.info("request", extra={"fields": fields})
