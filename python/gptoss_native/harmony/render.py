"""Messages -> token ids, as openai-harmony 0.0.8 renders them, over any tokenizer of the format.

Only the renderer itself writes special tokens: their names in a content, a name, a recipient, a
description or a schema are plain text. Pieces of a header are encoded each by itself, since that is
how the models have seen them. What differs from openai-harmony, on purpose:

- A message has one content, and what a header holds (names, recipients, channels, content types) is
  one word each: white space there would read as further fields. No names are empty or twice there.
- Which channels are valid follows from the tools, unless `channels` says: commentary is for calls
  of functions, and told of it without any a model may answer there.
- <|constrain|> is written where `constrained` says so, never for its name in a text.
- `# Response Formats` is rendered from `response_formats` (there only as part of instructions).
- `analysis="current"` is there besides (see Renderer.render).
- Schemas must be JSON of at most 100 levels, and a number's last digit is never lost.
"""

import datetime
from collections.abc import Iterable, Sequence

from .._core import InvalidArgument
from ..json_fields import shown
from ..tokenizer import Tokenizer
from .messages import (
    CHANNELS,
    ROLES,
    DeveloperContent,
    Message,
    ResponseFormat,
    SystemContent,
    ToolNamespace,
)
from .typescript import json_text, tools_text

# Which of the chain of thought is rendered; Renderer.render says what each means.
ANALYSIS = ("auto", "current", "all")
_TO_FUNCTIONS = "\nCalls to these tools must go to the commentary channel: 'functions'."


def special_id(tokenizer: Tokenizer, name: str) -> int:
    """Return the id of <|name|>; InvalidArgument if the tokenizer has none."""
    try:
        return tokenizer.special[f"<|{name}|>"]
    except KeyError:
        lacking = f"the tokenizer has no <|{name}|>: it is not made for harmony"
        raise InvalidArgument(lacking) from None


def _has_functions(message: Message) -> bool:
    return isinstance(message.content, DeveloperContent) and bool(message.content.tools)


def _system_text(content: SystemContent, functions: bool) -> str:
    top = [] if content.identity is None else [content.identity]
    if content.knowledge_cutoff is not None:
        top.append(f"Knowledge cutoff: {content.knowledge_cutoff}")
    if content.date is not None:
        top.append(f"Current date: {content.date}")
    sections = ["\n".join(top)] if top else []
    if content.effort is not None:
        sections.append(f"Reasoning: {content.effort}")
    if content.tools:
        sections.append(tools_text(content.tools))
    channels = content.channels
    if channels is None:
        channels = [name for name in CHANNELS if functions or name != "commentary"]
    if channels:
        valid = f"# Valid channels: {', '.join(channels)}."
        sections.append(f"{valid} Channel must be included for every message.")
        sections[-1] += _TO_FUNCTIONS * functions
    return "\n\n".join(sections)


def _format_text(form: ResponseFormat) -> str:
    comment = "" if form.description is None else f"// {form.description}\n"
    return f"## {form.name}\n\n{comment}{json_text(form.schema)}"


def _developer_text(content: DeveloperContent) -> str:
    sections = []
    if content.instructions is not None:
        sections += ["# Instructions", content.instructions]
    if content.tools:
        sections.append(tools_text([ToolNamespace("functions", None, content.tools)]))
    if content.response_formats:
        sections += ["# Response Formats", *map(_format_text, content.response_formats)]
    return "\n\n".join(sections)


def analysis_dropped_before(messages: Sequence[Message], analysis: str) -> int:
    """Return before which message the analysis is left out; `analysis` as in Renderer.render."""
    finals = [n for n, message in enumerate(messages) if message.channel == "final"]
    if analysis == "all" or not finals:
        return 0
    if analysis == "current":
        return finals[-1]
    last = next((m for m in reversed(messages) if m.role == "assistant"), None)
    return finals[0] if last is not None and last.channel == "final" else 0


class Renderer:
    """Renders conversations with one tokenizer. Safe to share by threads.

    Raises InvalidArgument for a tokenizer that lacks a token of the format. All methods raise it
    for what is no Message, and for a text that the tokenizer refuses, as one with a lone surrogate.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        names = ("start", "message", "end", "channel", "call", "return")
        self._start, self._message, self._end, self._channel, self._call, self._return = (
            special_id(tokenizer, name) for name in names
        )

    def render(self, messages: Iterable[Message], *, analysis: str = "auto") -> list[int]:
        """Return the ids of the messages.

        analysis: "auto" leaves out messages of the channel analysis before the first `final`, if
        the assistant's last message is a `final`, as openai-harmony does; "current" leaves out
        those before the last `final`, whatever follows, so that a turn keeps its own chain of
        thought, and no earlier one comes back while it calls tools; "all" leaves out none.
        """
        if analysis not in ANALYSIS:
            known = ", ".join(ANALYSIS)
            raise InvalidArgument(f"analysis is {shown(analysis)}, wanted one of {known}")
        messages = list(messages)
        for message in messages:
            if not isinstance(message, Message):
                raise InvalidArgument(f"one of messages is {shown(message)}, wanted a Message")
        functions = any(map(_has_functions, messages))
        dropped = analysis_dropped_before(messages, analysis)
        ids: list[int] = []
        for n, message in enumerate(messages):
            if n >= dropped or message.channel != "analysis":
                self._render_into(ids, message, functions)
        return ids

    def render_for_completion(
        self, messages: Iterable[Message], *, role: str = "assistant", analysis: str = "auto"
    ) -> list[int]:
        """Return the ids of the messages and of the start of the next one, which `role` writes."""
        if role not in ROLES:
            known = ", ".join(ROLES)
            raise InvalidArgument(f"role is {shown(role)}, wanted one of {known}")
        ids = self.render(messages, analysis=analysis)
        return [*ids, self._start, *self._tokenizer.encode_ordinary(role)]

    def render_for_training(
        self, messages: Iterable[Message], *, analysis: str = "auto"
    ) -> list[int]:
        """Return the ids of the messages; <|return|> ends the last if it is a `final` answer."""
        messages = list(messages)
        ids = self.render(messages, analysis=analysis)
        if messages and (messages[-1].role, messages[-1].channel) == ("assistant", "final"):
            ids[-1] = self._return
        return ids

    def _render_into(self, ids: list[int], message: Message, functions: bool) -> None:
        encode = self._tokenizer.encode_ordinary
        ids.append(self._start)
        if message.role == "tool":
            ids += encode(message.name)
        else:
            ids += encode(message.role)
            ids += encode(f":{message.name}") if message.name is not None else ()
        # "all" is who hears a message that is addressed to nobody.
        if message.recipient not in (None, "all"):
            ids += encode(f" to={message.recipient}")
        if message.channel is not None:
            ids += [self._channel, *encode(message.channel)]
        if message.constrained:
            constrain = special_id(self._tokenizer, "constrain")
            ids += [*encode(" "), constrain, *encode(message.content_type)]
        elif message.content_type is not None:
            ids += encode(f" {message.content_type}")
        content = message.content
        if isinstance(content, SystemContent):
            content = _system_text(content, functions)
        elif isinstance(content, DeveloperContent):
            content = _developer_text(content)
        ids += [self._message, *encode(content)]
        called = message.role == "assistant" and message.recipient is not None
        ids.append(self._call if called else self._end)


def render_user(
    tokenizer: Tokenizer, text: str, *, effort: str = "medium", date: datetime.date | None = None
) -> list[int]:
    """Return the ids up to where the assistant begins to answer the user's text.

    Names of special tokens in the text stay plain text. effort: "low", "medium" or "high".
    date: what the system message calls the current date; today if None. Raises InvalidArgument,
    also for a tokenizer that has no harmony tokens.
    """
    today = date or datetime.date.today()
    # All three, as in published examples.
    system = SystemContent(effort=effort, date=today, channels=CHANNELS)
    messages = [Message("system", system), Message("user", text)]
    return Renderer(tokenizer).render_for_completion(messages)
