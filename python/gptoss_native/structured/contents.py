"""What may come in a message's content: free text, or a text that follows a grammar."""

import copy
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .._core import InvalidArgument
from .formats import check
from .text import WHOLE, Bits, TextTokens

if TYPE_CHECKING:
    from llguidance import LLMatcher


def set_bit(out: Bits, token_id: int) -> None:
    """Allow one more token."""
    out.view(np.uint32)[token_id >> 5] |= np.uint32(1 << (token_id & 31))


def only_bit(mask: Bits) -> int | None:
    """Return the token that is the only one allowed, None if there are others or none."""
    words = np.flatnonzero(mask)
    if words.size != 1:
        return None
    bits = int(mask[words[0]]) & 0xFFFFFFFF
    return None if bits & (bits - 1) else int(words[0]) * 32 + bits.bit_length() - 1


class Content(Protocol):
    """Where a content is."""

    def copied(self) -> "Content":
        """Return another that goes on from here by itself: a message begins with a copy."""

    def mask(self, out: Bits) -> None:
        """Allow what may come in out, which is zero: text, and the token that ends the message."""

    def accept(self, token_id: int) -> None:
        """Go on to the next token of the text. Raises InvalidArgument for one not allowed."""

    def may_end(self) -> bool:
        """Whether the token that ends the message may come."""

    def only(self) -> int | None:
        """Return the one token that may come, None if there is a choice."""


class FreeText:
    """Any text of whole characters. A mask is one copy of an array."""

    def __init__(self, tokens: TextTokens, end_id: int) -> None:
        self._tokens = tokens
        self._state = WHOLE
        self._masks = list(tokens.masks)
        self._masks[WHOLE] = tokens.masks[WHOLE].copy()
        set_bit(self._masks[WHOLE], end_id)

    def copied(self) -> "FreeText":
        return copy.copy(self)

    def mask(self, out: Bits) -> None:
        out[:] = self._masks[self._state]

    def accept(self, token_id: int) -> None:
        after = self._tokens.after(self._state, token_id)
        if after is None:
            raise InvalidArgument(f"the text goes on with {token_id}, wanted a token of text")
        self._state = after

    def may_end(self) -> bool:
        return self._state == WHOLE

    def only(self) -> None:
        return None


class Written:
    """A text that follows a grammar; it may end where the grammar accepts."""

    def __init__(self, tokens: TextTokens, end_id: int, matcher: "LLMatcher") -> None:
        self._tokens = tokens
        self._end_id = end_id
        self._matcher = matcher

    def copied(self) -> "Written":
        twin = copy.copy(self)
        twin._matcher = self._matcher.deep_copy()
        return twin

    def mask(self, out: Bits) -> None:
        self._matcher.unsafe_compute_mask_ptr(out.ctypes.data, out.nbytes)
        check(self._matcher)
        # An accepting grammar allows what llguidance takes for the end of all.
        np.bitwise_and(out, self._tokens.every, out=out)
        if self._matcher.is_accepting():
            set_bit(out, self._end_id)

    def accept(self, token_id: int) -> None:
        if not self._tokens.has(token_id) or not self._matcher.validate_tokens([token_id]):
            check(self._matcher)
            raise InvalidArgument(f"the text goes on with {token_id}, which its grammar forbids")
        self._matcher.consume_token(token_id)
        check(self._matcher)

    def may_end(self) -> bool:
        return self._matcher.is_accepting()

    def only(self) -> int | None:
        mask = np.zeros(self._tokens.words, np.int32)
        self.mask(mask)
        return only_bit(mask)
