"""The body of /v1/responses: items in place of messages."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from .common import (
    Choosing,
    Count,
    Effort,
    Few,
    Filled,
    FunctionName,
    Listed,
    Named,
    Refused,
    Shape,
)

Include = Literal["message.output_text.logprobs", "reasoning.encrypted_content"]
Status = Literal["in_progress", "completed", "incomplete"]


class InputText(Shape):
    type: Literal["input_text", "text"]
    text: str
    refused: ClassVar[Refused] = {"prompt_cache_breakpoint": ()}


class OutputText(Shape):
    type: Literal["output_text"]
    text: str
    # What an answer had, and need not be said again.
    annotations: Listed[Any] | None = None
    logprobs: Listed[Any] | None = None
    parsed: Any = None


class Refusal(Shape):
    type: Literal["refusal"]
    refusal: str


Part = Annotated[InputText | OutputText | Refusal, Field(discriminator="type")]


class MessageItem(Shape):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Listed[Part]
    id: str | None = None
    status: Status | None = None
    phase: Literal["commentary", "final_answer"] | None = None


class CallItem(Shape):
    type: Literal["function_call"]
    call_id: str
    name: FunctionName
    arguments: str
    id: str | None = None
    status: Status | None = None
    parsed_arguments: Any = None
    refused: ClassVar[Refused] = {"namespace": (), "async": (False,), "caller": ()}


class ResultItem(Shape):
    type: Literal["function_call_output"]
    call_id: str
    output: str | Listed[InputText]
    id: str | None = None
    status: Status | None = None
    refused: ClassVar[Refused] = {"caller": ()}


class ReasoningText(Shape):
    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(Shape):
    type: Literal["reasoning"]
    id: str | None = None
    content: Listed[ReasoningText] | None = None
    status: Status | None = None
    # This server writes neither; what another has hidden cannot be read here.
    refused: ClassVar[Refused] = {"summary": ([],), "encrypted_content": ()}


class Reference(Shape):
    type: Literal["item_reference"]
    id: str


def _kind(item: Any) -> str | None:
    kind = item.get("type") if isinstance(item, dict) else getattr(item, "type", None)
    return "message" if kind is None else str(kind)


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[ResultItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[Reference, Tag("item_reference")],
    Discriminator(_kind),
]


class FunctionTool(Shape):
    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    refused: ClassVar[Refused] = {
        "allowed_callers": (["direct"],),
        "async": (False,),
        "defer_loading": (False,),
        "output_schema": (),
    }


class ToolChoice(Shape):
    type: Literal["function"]
    name: FunctionName


class TextFormat(Shape):
    type: Literal["text"]


class ObjectFormat(Shape):
    type: Literal["json_object"]


class SchemaFormat(Shape):
    type: Literal["json_schema"]
    name: FunctionName
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


Format = Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")]


class TextOptions(Shape):
    format: Format | None = None
    refused: ClassVar[Refused] = {"verbosity": ("medium",)}


class Reasoning(Shape):
    effort: Effort | None = None
    # "auto" asks for what there is: the reasoning itself, and no summary.
    summary: Literal["auto"] | None = None
    refused: ClassVar[Refused] = {"generate_summary": ("auto",)}


class StreamOptions(Shape):
    refused: ClassVar[Refused] = {"include_obfuscation": (False,)}


class ResponseRequest(Named, Choosing):
    """Go on with items, and with those of an earlier response."""

    input: str | Filled[Item]
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # The reasoning's text is always there; its item has no encrypted form.
    include: Few[Include] | None = None
    max_output_tokens: Count | None = None
    reasoning: Reasoning | None = None
    text: TextOptions | None = None
    tools: Few[FunctionTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    refused: ClassVar[Refused] = {
        "access_programs": (),
        "background": (False,),
        "background_options": (),
        "context_management": (),
        "conversation": (),
        "image": (),
        "max_tool_calls": (),
        "moderation": (),
        "prompt": (),
        "prompt_cache_options": (),
        "truncation": ("disabled",),
    }
