"""Responses that later requests go on from: in memory, the last used of them."""

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..chat import Entry, ToolCall
from .errors import ApiError
from .responding import encoded
from .settings import Settings


@dataclass(frozen=True)
class Stored:
    """A response, and the conversation up to its end as the model has seen it."""

    owner: str  # the key that it was asked for with
    response: dict[str, Any]
    items: list[dict[str, Any]]  # its own input
    told: tuple[str, ...]
    entries: Sequence[Entry]
    pending: dict[str, ToolCall]  # calls without an answer, by id


class Store:
    """Keeps responses within `Settings.stored_responses` and `stored_bytes`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kept: OrderedDict[str, tuple[Stored, int]] = OrderedDict()
        self._items: dict[tuple[str, str], dict[str, Any]] = {}
        self._bytes = 0

    def put(self, stored: Stored) -> None:
        """Keep a response; those used longest ago go where there are too many."""
        size = len(encoded(stored.response)) + len(encoded(stored.items))
        size += sum(4 * len(entry.ids) for entry in stored.entries)
        self._kept[stored.response["id"]] = stored, size
        self._bytes += size
        for item in _items(stored):
            self._items[stored.owner, item["id"]] = item
        most, most_bytes = self._settings.stored_responses, self._settings.stored_bytes
        while self._kept and (len(self._kept) > most or self._bytes > most_bytes):
            self._drop(next(iter(self._kept)))

    def get(self, response_id: str, owner: str, param: str | None = None) -> Stored:
        """Return a response of that owner. Raises ApiError."""
        stored = self._kept.get(response_id, (None, 0))[0]
        if stored is None or stored.owner != owner:
            what = f"there is no response {response_id[:100]!r}"
            why = "it was never stored, was deleted, or is no longer kept"
            raise ApiError(404, f"{what}: {why}", param=param, code="response_not_found")
        self._kept.move_to_end(response_id)
        return stored

    def item(self, item_id: str, owner: str) -> dict[str, Any]:
        """Return an item of a stored response. Raises ApiError."""
        if (owner, item_id) not in self._items:
            what = f"there is no item {item_id[:100]!r} of a stored response"
            raise ApiError(404, what, param="input", code="item_not_found")
        return self._items[owner, item_id]

    def delete(self, response_id: str, owner: str) -> None:
        self.get(response_id, owner)
        self._drop(response_id)

    def _drop(self, response_id: str) -> None:
        stored, size = self._kept.pop(response_id)
        self._bytes -= size
        for item in _items(stored):
            key = stored.owner, item["id"]
            if self._items.get(key) is item:  # a later response may have it, too
                del self._items[key]


def _items(stored: Stored) -> list[dict[str, Any]]:
    return [*stored.items, *stored.response["output"]]


def compact(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Return the entries with four bytes an id."""
    return tuple(
        one if isinstance(one.ids, array) else one._replace(ids=array("i", one.ids))
        for one in entries
    )
