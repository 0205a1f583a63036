"""The body of /v1/completions."""

from typing import Annotated, Any, ClassVar

from pydantic import Field, PlainValidator

from .common import Choosing, Count, Named, Penalties, Refused, Stop, StreamOptions

_Id = Annotated[int, Field(ge=0, le=2**31 - 1)]
_MOST_IDS = 2**20  # of a prompt; a context is shorter
_MOST_PROMPTS = 2**10


def _is_ids(given: Any) -> bool:
    return (
        isinstance(given, list)
        and len(given) <= _MOST_IDS
        and all(type(one) is int and 0 <= one < 2**31 for one in given)
    )


def _prompt(given: Any) -> Any:
    """Check a prompt by hand: a union of four kinds tells of each element once for each kind."""
    if isinstance(given, str) or _is_ids(given):
        return given
    if isinstance(given, list) and len(given) <= _MOST_PROMPTS:
        texts = all(isinstance(one, str) for one in given)
        if texts or all(map(_is_ids, given)):
            return given
    raise ValueError("wanted a text, token ids, or a list of either")


class CompletionRequest(Named, Choosing, Penalties):
    """Go on with a text, or with token ids, as they are."""

    prompt: Annotated[
        Any,
        PlainValidator(
            _prompt, json_schema_input_type=str | list[str] | list[_Id] | list[list[_Id]]
        ),
    ]
    max_tokens: Count | None = 16
    n: Annotated[int, Field(ge=1)] | None = None
    stop: Stop | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    refused: ClassVar[Refused] = {"best_of": (1,), "suffix": ("",)}
