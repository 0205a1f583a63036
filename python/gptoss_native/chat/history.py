"""A conversation as messages and as the ids that the model sees of it.

What the model wrote stays as it wrote it, id for id, if it was well-formed; all else is rendered.
The session is a cache of those ids: how a context differs from what it holds is found by comparing,
so that edits, dropped reasoning and interrupted turns need no bookkeeping.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .._core import InvalidArgument
from ..harmony import Message, Renderer
from ..harmony.render import analysis_dropped_before
from ..json_fields import shown
from ..session import Session
from .events import safe_name

# Recipients that are nobody to call.
_PEOPLE = (None, "all", "assistant", "user")


def is_call(message: Message) -> bool:
    """Whether the assistant's message calls a tool."""
    return message.role == "assistant" and message.recipient not in _PEOPLE


def text_of(message: Message) -> str:
    """Return the text of a message that is not the system's or the developer's."""
    assert isinstance(message.content, str)
    return message.content


class Entry(NamedTuple):
    """A message and its ids."""

    message: Message
    ids: Sequence[int]


def checked_messages(given: object) -> list[Message | Entry]:
    """Return what is sent to a chat: messages, with their ids or not. Raises InvalidArgument."""
    if isinstance(given, str):
        return [Message("user", given)]
    messages = [given] if isinstance(given, Message | Entry) else given
    if not isinstance(messages, Iterable):
        raise InvalidArgument(f"messages is {shown(given)}, wanted text, a Message or several")
    messages = list(messages)
    if not messages:
        raise InvalidArgument("messages is empty, wanted at least one Message")
    for one in messages:
        message = one.message if isinstance(one, Entry) else one
        if not isinstance(message, Message) or message.role == "system":
            wanted = "a Message that is not the system's"
            raise InvalidArgument(f"one of messages is {shown(message)}, wanted {wanted}")
    return messages


class History:
    """The opening messages and what followed."""

    def __init__(self, renderer: Renderer, opening: Sequence[Message]) -> None:
        self._renderer = renderer
        self.opening = tuple(opening)
        # Together: the system message tells of the developer message's functions.
        self._opening_ids = renderer.render(opening, analysis="all")
        self.entries: list[Entry] = []

    def copy(self) -> "History":
        """Return another history that begins with the same."""
        out = History(self._renderer, self.opening)
        out.entries = list(self.entries)
        return out

    def rendered(self, messages: Iterable[Message | Entry]) -> list[Entry]:
        """Return messages with their ids; InvalidArgument for text that no tokenizer takes."""
        return [
            m if isinstance(m, Entry) else Entry(m, self._renderer.render([m], analysis="all"))
            for m in messages
        ]

    def context(
        self, entries: Sequence[Entry], opening: Sequence[Message] | None = None
    ) -> list[int]:
        """Return the ids of the opening and the entries, up to where the assistant writes next.

        opening: in place of the conversation's own. Reasoning before the last answer is left out,
        as the models were trained to have it.
        """
        messages = [entry.message for entry in entries]
        dropped = analysis_dropped_before(messages, "current")
        if opening is None or tuple(opening) == self.opening:
            ids = list(self._opening_ids)
        else:
            ids = self._renderer.render(opening, analysis="all")
        for n, entry in enumerate(entries):
            if n >= dropped or entry.message.channel != "analysis":
                ids += entry.ids
        return ids + self._renderer.render_for_completion([])


def unanswered(entries: Iterable[Entry]) -> list[Message]:
    """Return the calls after the last user's message or answer that have no result."""
    calls: list[Message] = []
    for message, _ in entries:
        if is_call(message):
            calls.append(message)
        elif message.role == "tool":
            names = [safe_name(call.recipient or "") for call in calls]
            if message.name in names:
                del calls[names.index(message.name)]
        elif message.role == "user" or message.channel == "final":
            calls.clear()
    return calls


def shared_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many ids two sequences have in common at their beginning."""
    size = min(len(first), len(second))
    if first[:size] == second[:size]:
        return size
    return next(n for n in range(size) if first[n] != second[n])


def rewind_to(session: Session, wanted: Sequence[int]) -> list[int]:
    """Take the session back to where it holds a beginning of `wanted`; return what is lacking."""
    common = shared_prefix(session.tokens, wanted)
    if common < session.position:
        session.rewind(common)
    return list(wanted[common:])
