"""What the model is told before a conversation, and of the format that its answer is to have."""

import dataclasses
from collections.abc import Mapping, Sequence

from .._core import InvalidArgument
from ..harmony import DeveloperContent, Message, ResponseFormat, SystemContent, ToolDescription
from ..json_fields import shown
from ..structured import Format


class Opening:
    """The system message, and the developer's if there is something to say."""

    def __init__(
        self, system: SystemContent, instructions: str | None, functions: Sequence[ToolDescription]
    ) -> None:
        self._system = Message("system", system)
        self._developer = DeveloperContent(instructions=instructions, tools=tuple(functions))

    def messages(self, form: object) -> list[Message]:
        """Return the messages. They tell of a ResponseFormat; harmony has no words for others."""
        formats = (form,) if isinstance(form, ResponseFormat) else ()
        developer = dataclasses.replace(self._developer, response_formats=formats)
        if developer == DeveloperContent():
            return [self._system]
        return [self._system, Message("developer", developer)]


def response_format_of(given: object) -> ResponseFormat | Format | None:
    """Return what was given, a JSON schema with a name. Raises InvalidArgument."""
    if given is None or isinstance(given, ResponseFormat | Format):
        return given
    if not isinstance(given, Mapping):
        wanted = "a ResponseFormat, a JSON schema, a structured.Format or None"
        raise InvalidArgument(f"response_format is {shown(given)}, wanted {wanted}")
    title = given.get("title")
    if not isinstance(title, str) or not title or any(map(str.isspace, title)):
        title = "answer"
    return ResponseFormat(title, given)
