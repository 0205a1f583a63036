"""Which tokens a stream may go on with, decided by the caller one token at a time."""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from . import _core


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

    What either method raises ends its stream alone, and comes out of the stream's `next` as it is
    (StopIteration as the cause of a RuntimeError); the session holds the tokens accepted until
    then. Neither may use the session or its model, which raises InvalidArgument, or wait for a
    thread that does.
    """

    def mask(self, out: npt.NDArray[np.int32]) -> None:
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
        token.
        """


def checked_constraint(constraint: Constraint | None) -> Constraint | None:
    """Return it if it has the methods of one. Raises InvalidArgument."""
    if constraint is None:
        return None
    methods = (getattr(constraint, name, None) for name in ("mask", "accept"))
    if isinstance(constraint, type) or not all(callable(method) for method in methods):
        raise _core.InvalidArgument(
            f"constraint is {constraint!r}, wanted an object with methods mask and accept"
        )
    return constraint
