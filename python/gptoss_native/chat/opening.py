"""What the model is told before a conversation, and of the format that its answer is to have."""

import dataclasses
import json
from collections.abc import Mapping, Sequence

from .._core import InvalidArgument
from ..harmony import DeveloperContent, Message, ResponseFormat, SystemContent, ToolDescription
from ..json_fields import shown
from ..structured import Format

_NAME = "answer"


class Opening:
    """The system message, and the developer's if there is something to say."""

    def __init__(
        self, system: SystemContent, instructions: str | None, functions: Sequence[ToolDescription]
    ) -> None:
        self._system = Message("system", system)
        self._developer = DeveloperContent(instructions=instructions, tools=tuple(functions))

    def messages(self, form: ResponseFormat | Format | None) -> list[Message]:
        """Return the messages that tell of this format, if it is one of JSON."""
        told = told_of(form)
        formats = () if told is None else (told,)
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
    named = isinstance(title, str) and title and not any(map(str.isspace, title))
    return ResponseFormat(title if named else _NAME, given)


def told_of(form: ResponseFormat | Format | None) -> ResponseFormat | None:
    """Return what the model is told of a format: the format itself knows no other than JSON's."""
    if not isinstance(form, Format):
        return form
    return ResponseFormat(_NAME, json.loads(form.source)) if form.is_json else None
