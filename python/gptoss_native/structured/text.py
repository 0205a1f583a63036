"""Which tokens may come in free text: all that keep it UTF-8, so that no character is ever broken.

What a text may go on with depends on the character it is in, of which UTF-8 has eight states; each
has its mask, made once a tokenizer. All but a few tokens are whole characters by themselves.
"""

import threading
import weakref

import numpy as np
import numpy.typing as npt

from .._core import InvalidArgument
from ..constraint import FixedMask
from ..tokenizer import Tokenizer

Bits = npt.NDArray[np.int32]

WHOLE = 0  # between characters
# States 1 to 3 lack so many bytes. Others lack some after a byte that not every one may follow:
# first byte -> (state, range of the next byte, state after it).
_NARROW = {0xE0: (4, 0xA0, 0xBF, 1), 0xED: (5, 0x80, 0x9F, 1)}
_NARROW |= {0xF0: (6, 0x90, 0xBF, 2), 0xF4: (7, 0x80, 0x8F, 2)}
_AFTER_NARROW = {state: rest for state, *rest in _NARROW.values()}
STATES = 8


def _step(state: int, byte: int) -> int | None:
    """Return the state after one more byte, None if no UTF-8 has it there."""
    if state in _AFTER_NARROW:
        low, high, after = _AFTER_NARROW[state]
        return after if low <= byte <= high else None
    if state != WHOLE:
        return state - 1 if 0x80 <= byte <= 0xBF else None
    if byte in _NARROW:
        return _NARROW[byte][0]
    for first, last, after in ((0, 0x7F, 0), (0xC2, 0xDF, 1), (0xE1, 0xEF, 2), (0xF1, 0xF3, 3)):
        if first <= byte <= last:
            return after
    return None


def _run(state: int | None, data: bytes) -> int | None:
    for byte in data:
        if state is None:
            return None
        state = _step(state, byte)
    return state


def packed(allowed: npt.NDArray[np.bool_]) -> Bits:
    """Return bool [vocab] as bits: int32 [ceil(vocab / 32)]."""
    padded = np.zeros(-(-allowed.size // 32) * 32, bool)
    padded[: allowed.size] = allowed
    return np.packbits(padded, bitorder="little").view("<i4").astype(np.int32)


class TextTokens:
    """A tokenizer's text tokens: `masks` by state of the text, `every` is those of any state.

    `whole`: those that are whole characters by themselves.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        special = set(tokenizer.special.values())
        allowed = np.zeros((STATES, tokenizer.vocab_size), bool)
        # Of the tokens that are not whole characters: the state after each state.
        self._after: dict[int, tuple[int | None, ...]] = {}
        self._whole = np.zeros(tokenizer.vocab_size, bool)
        for token_id in range(tokenizer.vocab_size):
            try:
                data = tokenizer.token_bytes(token_id)
            except InvalidArgument:  # an id of no token
                continue
            if token_id in special or not data:
                continue
            try:
                data.decode()
                self._whole[token_id] = True
            except UnicodeDecodeError:
                after = tuple(_run(state, data) for state in range(STATES))
                self._after[token_id] = after
                allowed[:, token_id] = [state is not None for state in after]
        allowed[WHOLE] |= self._whole
        self.masks = [packed(row) for row in allowed]
        self.whole = packed(self._whole)
        self.every = packed(allowed.any(0))
        self.words = self.every.size
        self._ending: dict[int, tuple[FixedMask, Bits]] = {}

    def ending(self, end_id: int) -> tuple[FixedMask, Bits]:
        """Return what may come between characters: text, and the token that ends it.

        The same object each time: a device that has a mask need not be given it again.
        """
        if end_id not in self._ending:
            mask = self.masks[WHOLE].copy()
            mask.view(np.uint32)[end_id >> 5] |= np.uint32(1 << (end_id & 31))
            self._ending[end_id] = FixedMask(mask, self.whole), mask
        return self._ending[end_id]

    def has(self, token_id: int) -> bool:
        """Whether the id is one of text."""
        known = 0 <= token_id < self._whole.size
        return known and bool(self.every[token_id >> 5] >> (token_id & 31) & 1)

    def after(self, state: int, token_id: int) -> int | None:
        """Return the state after a token, None if it may not come."""
        if token_id in self._after:
            return self._after[token_id][state]
        may = state == WHOLE and 0 <= token_id < self._whole.size and self._whole[token_id]
        return WHOLE if may else None


_known: "weakref.WeakKeyDictionary[Tokenizer, TextTokens]" = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def text_tokens(tokenizer: Tokenizer) -> TextTokens:
    """Return the tokenizer's text tokens, found once (0.2 s for 201,088 tokens)."""
    with _lock:
        if tokenizer not in _known:
            _known[tokenizer] = TextTokens(tokenizer)
        return _known[tokenizer]
