"""The body of /v1/chat/completions."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from .common import (
    Choosing,
    Count,
    Effort,
    Few,
    Filled,
    FunctionName,
    Listed,
    Named,
    Penalties,
    Refused,
    Shape,
    Stop,
    StreamOptions,
)


class TextPart(Shape):
    type: Literal["text"]
    text: str
    refused: ClassVar[Refused] = {"prompt_cache_breakpoint": ()}


class RefusalPart(Shape):
    type: Literal["refusal"]
    refusal: str


Text = str | Listed[TextPart]
AssistantPart = Annotated[TextPart | RefusalPart, Field(discriminator="type")]


class Told(Shape):
    """What the developer says; harmony knows no other system message."""

    role: Literal["system", "developer"]
    content: Text
    name: str | None = None


class Asked(Shape):
    role: Literal["user"]
    content: Text
    name: str | None = None


class CalledFunction(Shape):
    name: FunctionName
    arguments: str


class Call(Shape):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None  # of a stream's delta, which clients send back


class Said(Shape):
    role: Literal["assistant"]
    content: str | Listed[AssistantPart] | None = None
    # The chain of thought of a turn that is not over, as it was given out.
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: Listed[Call] | None = None
    name: str | None = None
    refused: ClassVar[Refused] = {"audio": (), "function_call": (), "annotations": ([],)}


class Result(Shape):
    role: Literal["tool"]
    content: Text
    tool_call_id: str
    name: str | None = None


Message = Annotated[Told | Asked | Said | Result, Field(discriminator="role")]


class Function(Shape):
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(Shape):
    type: Literal["function"]
    function: Function


class ChosenFunction(Shape):
    name: FunctionName


class ToolChoice(Shape):
    type: Literal["function"]
    function: ChosenFunction


class TextFormat(Shape):
    type: Literal["text"]


class ObjectFormat(Shape):
    type: Literal["json_object"]


class NamedSchema(Shape):
    name: FunctionName
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class SchemaFormat(Shape):
    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")]


class ChatRequest(Named, Choosing, Penalties):
    """Go on with a conversation."""

    messages: Filled[Message]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    reasoning_effort: Effort | None = None
    max_completion_tokens: Count | None = None
    max_tokens: Count | None = None
    max_reasoning_tokens: Annotated[int, Field(ge=0)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    stop: Stop | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Few[FunctionTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    refused: ClassVar[Refused] = {
        "audio": (),
        "function_call": (),
        "functions": (),
        "modalities": (["text"],),
        "moderation": (),
        "prediction": (),
        "prompt_cache_options": (),
        "store": (False,),
        "verbosity": ("medium",),
        "web_search_options": (),
    }
