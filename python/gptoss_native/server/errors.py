"""What went wrong, as HTTP statuses and OpenAI's form of an error."""

from collections.abc import Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from .._core import EngineBusy, Error, InvalidArgument
from ..json_fields import shown

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}

_LONGEST = 2000  # characters of a message, which may name what a request made up


class ApiError(HTTPException):
    """An answer that is an error. param: what of the request is wrong; code: for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.message = message if len(message) <= _LONGEST else f"{message[:_LONGEST]}..."
        self.param = param
        self.code = code

    @property
    def type(self) -> str:
        fallback = "invalid_request_error" if self.status_code < 500 else "server_error"
        return _TYPES.get(self.status_code, fallback)

    def body(self) -> dict[str, Any]:
        """Return what is sent."""
        error = {"message": self.message, "type": self.type, "param": self.param}
        return {"error": error | {"code": self.code}}


def unsupported(param: str, value: object, wanted: str) -> ApiError:
    """Return the error for something that this server does not do."""
    what = f"{param} is {shown(value)}, which this server does not support; wanted {wanted}"
    return ApiError(400, what, param=param, code="unsupported_parameter")


def invalid(param: str | None, message: str, code: str | None = "invalid_value") -> ApiError:
    return ApiError(400, message, param=param, code=code)


def as_api_error(error: BaseException, *, retry_after_s: int = 1) -> ApiError:
    """Return what a client is told of an exception."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestValidationError):
        return _of_validation(error)
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, str(error.detail), headers=dict(error.headers or {}))
    if isinstance(error, EngineBusy):
        wait = {"retry-after": str(retry_after_s)}
        return ApiError(429, str(error), code="engine_busy", headers=wait)
    if isinstance(error, InvalidArgument):
        # Chat and session name it where a conversation does not fit.
        long = "max_context" in str(error) or "context of" in str(error)
        return invalid(None, str(error), "context_length_exceeded" if long else "invalid_value")
    if isinstance(error, MemoryError):
        return ApiError(503, "there is no memory left for this request", code="out_of_memory")
    what = "the engine failed" if isinstance(error, Error) else "the server failed"
    return ApiError(500, f"{what}; the log has more under this request's id", code="internal_error")


def _of_validation(error: RequestValidationError) -> ApiError:
    """Return the error of a body that is not as its schema has it: the first that is wrong."""
    errors = error.errors()
    # What is wrong deepest is what the client meant to write.
    first = max(errors, key=lambda one: len(one["loc"])) if errors else {}
    kind = first.get("type", "")
    if kind == "json_invalid":
        return invalid(None, f"the body is no JSON: {first['ctx']['error']}", "invalid_json")
    where = _keys(first.get("loc", ())[1:], error.body)
    param = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in where).lstrip(".")
    if kind == "extra_forbidden":
        return invalid(param, f"there is no parameter {shown(param)}", "unknown_parameter")
    if kind == "missing":
        named = param or "the body"
        return invalid(param or None, f"{named} is missing", "missing_required_parameter")
    given = shown(first.get("input"))
    said = str(first.get("msg", "it is invalid")).removeprefix("Value error, ")
    said = said[:1].lower() + said[1:]
    return invalid(param or None, f"{param or 'the body'} is {given}: {said}")


def _keys(where: Sequence[str | int], body: Any) -> list[str | int]:
    """Return a place within the body, without the branches of unions that pydantic names."""
    out = []
    for number, part in enumerate(where):
        if (isinstance(part, int) and isinstance(body, list)) or (
            isinstance(body, dict) and part in body
        ):
            body = body[part]
        elif number < len(where) - 1 or not isinstance(body, dict):
            continue
        out.append(part)
    return out
