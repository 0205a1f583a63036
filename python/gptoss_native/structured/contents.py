"""What may come in a message's content: free text, or a text that follows a grammar."""

import copy
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .._core import InvalidArgument
from ..constraint import FixedMask
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

    def ahead(self, guess: Sequence[int]) -> FixedMask | Sequence[int]:
        """Return the mask of all that comes next, or tokens of the text that are likely to come."""


class FreeText:
    """Any text of whole characters. A mask is one copy of an array."""

    def __init__(self, tokens: TextTokens, end_id: int) -> None:
        self._tokens = tokens
        self._state = WHOLE
        self._between, whole = tokens.ending(end_id)
        self._masks = [whole if n == WHOLE else mask for n, mask in enumerate(tokens.masks)]

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

    def ahead(self, guess: Sequence[int]) -> FixedMask | Sequence[int]:
        return self._between if self._state == WHOLE else ()


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

    def ahead(self, guess: Sequence[int]) -> Sequence[int]:
        """Return what the grammar spells out next, or as much of the guess as it allows.

        Neither must come: the mask may have another spelling of the same text.
        """
        spelled = self._text_of(self._matcher.compute_ff_tokens())
        if guess[: len(spelled)] == spelled:
            guess = self._text_of(guess)
            spelled = guess[: self._matcher.validate_tokens(guess)] if guess else guess
        check(self._matcher)
        return spelled

    def _text_of(self, ids: Sequence[int]) -> list[int]:
        return list(itertools.takewhile(self._tokens.has, ids))
