"""MXFP4: blocks of 32 along the last axis, 4-bit floats with one power of two each.

Source of the format: OCP Microscaling Formats (MX) v1.0. The power is the one of two candidates
with the smaller squared error.
"""

import torch

BLOCK = 32
VALUES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
# Half way between neighbours.
_EDGES = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])


def _rounded(blocks: torch.Tensor, power: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scaled = torch.ldexp(blocks, -power)
    codes = torch.bucketize(scaled.abs(), _EDGES)
    return codes, torch.ldexp(VALUES[codes] * scaled.sign(), power)


def quantise(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return codes uint8 [..., n / 32, 32] (bit 3: sign), powers int [..., n / 32], values of w."""
    blocks = w.detach().float().unflatten(-1, (-1, BLOCK))
    largest = blocks.abs().amax(-1, keepdim=True).clamp(min=2.0**-100)
    # Either the largest value fits below 6 * 2**power, or it is cut to it for finer steps.
    low = torch.floor(torch.log2(largest)).to(torch.int32) - 2
    best = None
    for power in (low, low + 1):
        codes, values = _rounded(blocks, power)
        error = (values - blocks).square().sum(-1, keepdim=True)
        if best is None:
            best = codes, values, power, error
        else:
            better = error < best[3]
            best = (
                torch.where(better, codes, best[0]),
                torch.where(better, values, best[1]),
                torch.where(better, power, best[2]),
                error,
            )
    codes, values, power, _ = best
    codes = codes.to(torch.uint8) | ((values < 0).to(torch.uint8) << 3)
    return codes, power.squeeze(-1), values.flatten(-2)


def straight_through(w: torch.Tensor) -> torch.Tensor:
    """Return the quantised values; gradients pass as if nothing were rounded."""
    return w + (quantise(w)[2] - w).detach()
