"""The arguments of a call, as a model wrote them."""

import json
from typing import Any, NoReturn

from .tool import ToolError


def parse_arguments(arguments: str) -> dict[str, Any]:
    """Return a JSON object's values, none for an empty text; ToolError for what is no object."""
    try:
        values = json.loads(arguments or "{}", parse_constant=_refuse)
        # Half of a surrogate pair is no text: it would end an MCP connection, not the call.
        json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ToolError(f"the arguments are not valid JSON: {error}") from error
    if type(values) is not dict:
        raise ToolError("the arguments must be a JSON object")
    return values


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
