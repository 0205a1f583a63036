"""Which headers a message of the assistant may have, as a tree of the tokens that spell them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .._core import InvalidArgument
from ..harmony.render import special_id
from ..json_fields import shown
from ..tokenizer import Tokenizer
from .contents import Content
from .declared import FUNCTIONS

# The parser takes a longer header for one that lacks its <|message|>.
_MAX_TOKENS = 120


class Message(NamedTuple):
    """What a header begins: `end_id` ends it, and the turn unless `goes_on`."""

    channel: str
    recipient: str | None
    end_id: int
    goes_on: bool
    content: Content


@dataclass(eq=False)
class Node:
    """What has been written of a header: what may come next; `message` once it is whole.

    `ends`: it is no header of the turn's: nothing more comes.
    """

    children: dict[int, "Node"] = field(default_factory=dict)
    message: Message | None = None
    ends: bool = False

    def only(self) -> int | None:
        """Return the one token that may come, None if there is a choice."""
        return next(iter(self.children)) if len(self.children) == 1 else None

    def ahead(self, guess: Sequence[int]) -> tuple[list[int], int]:
        """Return the ids that must come, up to a choice; else those of the guess that may.

        None of them ends the turn.
        """
        node = self
        forced: list[int] = []
        while (token_id := node.only()) is not None:
            forced.append(token_id)
            node = node.children[token_id]
        if forced:
            return forced, len(forced)
        out: list[int] = []
        for token_id in guess:
            after = node.children.get(token_id)
            if after is None or after.ends:
                break
            out.append(token_id)
            node = after
        return out, 0

    def after(self, ids: Iterable[int]) -> "Node | None":
        """Return the node that the ids lead to, if they lead anywhere."""
        node: Node | None = self
        for token_id in ids:
            node = None if node is None else node.children.get(token_id)
        return node

    def add(self, ids: Sequence[int], message: Message) -> None:
        node = self
        for token_id in ids:
            node = node.children.setdefault(token_id, Node())
        node.message = message


class Spelling:
    """The ids of headers, as the renderer writes them and as the models do."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._encode = tokenizer.encode_ordinary
        names = ("start", "channel", "message")
        self._start, self._channel, self._message = (special_id(tokenizer, n) for n in names)
        self._constrain = tokenizer.special.get("<|constrain|>")

    def json_type(self) -> list[str | int]:
        """Return the pieces that announce JSON."""
        return [" json"] if self._constrain is None else [" ", self._constrain, "json"]

    def start(self, header: Node) -> Node:
        """Return what leads to the header of one more message."""
        root = Node({self._start: Node()})
        node = root.children[self._start]
        *begun, last = self._encode("assistant")
        for token_id in begun:
            node = node.children.setdefault(token_id, Node())
        node.children[last] = header
        return root

    def more(self, header: Node, answered: Iterable[str]) -> Node:
        """Return what leads to the header of one more call, or ends the calls.

        They end where a tool's name begins in the place of the assistant's: its answer would.
        """
        root = self.start(header)
        for name in (*answered, FUNCTIONS):
            node = root.children[self._start]
            for token_id in self._encode(name):
                node = node.children.setdefault(token_id, Node(ends=True))
                if node.ends or node is header:
                    break
        return root

    def begun(self, channel: str) -> list[int]:
        """Return the ids of a whole header on a channel, from <|start|> on."""
        name = self._encode(channel)
        return [self._start, *self._encode("assistant"), self._channel, *name, self._message]

    def add(
        self, root: Node, message: Message, types: Iterable[Sequence[str | int]] = ((),)
    ) -> None:
        """Add the headers of a message: its recipient before or after the channel, each type."""
        channel: list[str | int] = [self._channel, message.channel]
        orders = [channel]
        if message.recipient is not None:
            to = f" to={message.recipient}"
            orders = [[to, *channel], [*channel, to]]
        for order in orders:
            for content_type in types:
                for ids in self._spellings([*order, *content_type, self._message]):
                    if len(ids) > _MAX_TOKENS:
                        what = f"the name {shown(message.recipient)} takes {len(ids)} tokens"
                        raise InvalidArgument(f"{what} in a header, wanted at most {_MAX_TOKENS}")
                    root.add(ids, message)

    def _spellings(self, pieces: Sequence[str | int]) -> Iterator[list[int]]:
        """Yield the ids with each text by itself, and with neighbouring ones encoded as one."""
        apart: list[int] = []
        joined: list[int] = []
        text = ""
        for piece in pieces:
            if isinstance(piece, str):
                apart += self._encode(piece)
                text += piece
            else:
                apart.append(piece)
                joined += [*self._encode(text), piece]
                text = ""
        yield apart
        yield joined
