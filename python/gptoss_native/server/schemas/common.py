"""What the requests of all endpoints have in common."""

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ...json_fields import shown
from ..errors import unsupported

# What an endpoint knows and does not do, and the values that ask for nothing.
Refused = Mapping[str, tuple[Any, ...]]
# Of requests that end up in the engine's own integers.
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
# The first element that is wrong ends the reading: an error for each would take the event loop
# seconds and the process hundreds of megabytes.
One = TypeVar("One")
Listed = Annotated[list[One], Field(max_length=2**15, fail_fast=True)]
Filled = Annotated[list[One], Field(min_length=1, max_length=2**15, fail_fast=True)]
Few = Annotated[list[One], Field(max_length=128, fail_fast=True)]
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
Effort = Literal["low", "medium", "high"]
Stop = str | Annotated[list[str], Field(max_length=4, fail_fast=True)]


def _biases(given: Any) -> Any:
    """Check the numbers by hand: an object's values have no end at the first that is wrong."""
    for key, value in given.items() if isinstance(given, dict) else ():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not -100 <= value <= 100:
            raise ValueError(f"{shown(key)} is {shown(value)}, wanted numbers from -100 to 100")
    return given


def _few(given: Any) -> Any:
    if isinstance(given, dict) and len(given) > 1024:
        raise ValueError("wanted at most 1024 keys")
    return given


class Shape(BaseModel):
    """A JSON object of these keys and no others; no value is taken for one of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    # By key, values that are taken since they ask for nothing; others are refused by name.
    refused: ClassVar[Refused] = {}

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        for key, neutral in cls.refused.items():
            if key in given and given[key] is not None and given[key] not in neutral:
                wanted = " or ".join(map(repr, neutral)) or "no such key"
                raise unsupported(key, given[key], wanted)
        names = {field.alias or name for name, field in cls.model_fields.items()}
        out = {key: given[key] for key in names if key in given}
        # Clients send back what they got, with nulls for nothing. One key too many is enough to
        # refuse.
        unknown = (
            key
            for key, value in given.items()
            if value is not None and key not in names and key not in cls.refused
        )
        for key in itertools.islice(unknown, 1):
            out[key] = given[key]
        return out


class StreamOptions(Shape):
    include_usage: bool | None = None
    refused: ClassVar[Refused] = {"include_obfuscation": (False,)}


class Choosing(Shape):
    """How tokens are chosen. top_k, min_p and repetition_penalty are this engine's own."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None


class Penalties(Shape):
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    logit_bias: Annotated[dict[str, float], BeforeValidator(_biases)] | None = None
    seed: Seed | None = None


class Named(Shape):
    """What says who asks, or helps a cache: it changes no answer, and is not looked at."""

    model: str
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    service_tier: Literal["auto", "default"] | None = None
    metadata: Annotated[dict[str, str], BeforeValidator(_few)] | None = None
