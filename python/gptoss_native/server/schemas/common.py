"""What the requests of all endpoints have in common."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..errors import unsupported

# What an endpoint knows and does not do, and the values that ask for nothing.
Refused = Mapping[str, tuple[Any, ...]]
# Of requests that end up in the engine's own integers.
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
Effort = Literal["low", "medium", "high"]
Stop = str | Annotated[list[str], Field(max_length=4)]


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
        return {
            key: given[key] for key in given if key not in cls.refused and cls._asks(key, given)
        }

    @classmethod
    def _asks(cls, key: str, given: dict[str, Any]) -> bool:
        """Whether a key says something: clients send back what they got, with nulls for nothing."""
        names = {field.alias or name for name, field in cls.model_fields.items()}
        return given[key] is not None or key in names


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
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    seed: Seed | None = None


class Named(Shape):
    """What says who asks, or helps a cache: it changes no answer, and is not looked at."""

    model: str
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    service_tier: Literal["auto", "default"] | None = None
    metadata: dict[str, str] | None = None
