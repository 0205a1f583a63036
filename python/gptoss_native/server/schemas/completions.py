"""The body of /v1/completions."""

from typing import Annotated, ClassVar

from pydantic import Field

from .common import Choosing, Count, Named, Penalties, Refused, Stop, StreamOptions

Id = Annotated[int, Field(ge=0, le=2**31 - 1)]


class CompletionRequest(Named, Choosing, Penalties):
    """Go on with a text, or with token ids, as they are."""

    prompt: str | list[str] | list[Id] | list[list[Id]]
    max_tokens: Count | None = 16
    n: Annotated[int, Field(ge=1)] | None = None
    stop: Stop | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    refused: ClassVar[Refused] = {"best_of": (1,), "suffix": ("",)}
