"""Which tokens a stream may go on with, decided by the caller one token at a time."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from . import _core

Words = npt.NDArray[np.int32]


class FixedMask(_core.FixedMask):
    """A mask that holds for the next token, and again after any token of `stays`.

    allowed, stays: int32 [words], with bits as in `Constraint.mask`; fewer words than the
    vocabulary needs stand for zeros. Both are copied. Raises InvalidArgument for other arrays.
    """

    def __init__(self, allowed: Words, stays: Words) -> None:
        super().__init__(allowed, stays)


class Constraint(Protocol):
    """What `Session.generate` takes as `constraint`: any object with these two methods.

    A grammar, for instance. With a matcher of llguidance, whose bit masks have this layout::

        class Grammar:
            def __init__(self, matcher):
                self.matcher = matcher

            def mask(self, out):
                self.matcher.unsafe_compute_mask_ptr(out.ctypes.data, out.nbytes)

            def accept(self, token_id):
                self.matcher.consume_token(token_id)

    Nothing is copied on the Python side: what computes masks natively writes to `out.ctypes.data`.

    What a method raises ends its stream alone, and comes out of the stream's `next` as it is
    (StopIteration as the cause of a RuntimeError); the session holds the tokens accepted until
    then. None may use the session or its model, which raises InvalidArgument, or wait for a
    thread that does.

    A constraint may have the methods of `LookAhead` too: then several of its tokens can be computed
    in one step.
    """

    def mask(self, out: Words) -> None:
        """Set the bits of the tokens that may come next: bit t % 32 of out[t // 32] for token t.

        out is int32 [ceil(vocab_size / 32)], C-contiguous and zero; bits past the vocabulary are
        ignored. At least one token must be allowed, or the stream raises Error. Called before each
        token, the first one after the prompt too, while the device computes the logits; on any
        thread that computes a step for several streams, never on two at a time for one stream. It
        may be called again for the same token, and must then allow the same: state changes in
        `accept`.
        """

    def accept(self, token_id: int) -> Any:
        """Go on to the next token. Its result is ignored.

        Called once for each generated token, in order, before the token is given out and before
        the next `mask`; for a stop id too, not for the prompt. On the thread that asked for the
        token; for an event loop on another one, or, under a FixedMask that holds on, on the
        loop's own.
        """


class LookAhead(Constraint, Protocol):
    """A constraint that knows more than the next token's mask. Tokens are the same as without.

    Neither method may change what the others answer.
    """

    def ahead(self, guess: list[int]) -> FixedMask | tuple[Sequence[int], int]:
        """Say what may come next, before a step that is not the stream's first.

        guess: ids that seem likely (`lookup`), not looked at yet. Return a FixedMask, where the
        next token's mask is one: then neither `mask` nor `mask_after` is called for the tokens
        under it, nor this again while tokens of its `stays` come. Otherwise ids, each one allowed
        after those before it, and how many of them must come, since their masks have no other bit:
        as those of `guess` that may. None of them may end the stream; ([], 0) is always right. On
        the thread that asked for the token.
        """

    def mask_after(self, ids: list[int], out: Words) -> None:
        """Do as `mask`, for the token after `ids`, which `ahead` gave and are not accepted.

        Where they do not come nobody hears of what it raised.
        """


def checked_constraint(constraint: Constraint | None) -> Constraint | None:
    """Return it if it has the methods of one. Raises InvalidArgument."""
    if constraint is None:
        return None
    names = ["mask", "accept"]
    if hasattr(constraint, "ahead"):
        names += ["ahead", "mask_after"]
    methods = (getattr(constraint, name, None) for name in names)
    if isinstance(constraint, type) or not all(callable(method) for method in methods):
        *first, last = names
        raise _core.InvalidArgument(
            f"constraint is {constraint!r}, wanted an object with methods "
            f"{', '.join(first)} and {last}"
        )
    return constraint
