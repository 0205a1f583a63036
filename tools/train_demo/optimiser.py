"""Muon for matrices, AdamW for the rest.

Muon (Jordan et al., 2024): the momentum of a matrix, made orthogonal by a Newton-Schulz iteration.
Whether it needs fewer steps than AdamW here has not been measured.
"""

from collections import defaultdict

import torch
from torch import nn


def orthogonal(g: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Return the nearest orthogonal matrices to g [..., rows, columns], roughly."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = g.shape[-2] > g.shape[-1]
    x = g.mT if tall else g
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Parameters are matrices, or stacks of matrices."""

    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.1):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            alike: dict[torch.Size, list[torch.Tensor]] = defaultdict(list)
            for p in group["params"]:
                alike[p.shape[-2:]].append(p)
            for ps in alike.values():
                self._step(ps, group)

    def _step(self, ps: list[torch.Tensor], group: dict) -> None:
        """Update matrices of one shape as one stack: many small products are slow."""
        means = []
        for p in ps:
            state = self.state[p]
            if "mean" not in state:
                state["mean"] = torch.zeros_like(p)
            means.append(state["mean"])
        grads = [p.grad for p in ps]
        torch._foreach_lerp_(means, grads, 1 - group["momentum"])
        ahead = torch._foreach_lerp(grads, means, group["momentum"])
        shape = ps[0].shape[-2:]
        counts = [p.numel() // shape.numel() for p in ps]
        stack = torch.cat([g.reshape(-1, *shape) for g in ahead])
        updates = orthogonal(stack.bfloat16()).float().split(counts)
        scale = max(1.0, shape[0] / shape[1]) ** 0.5
        torch._foreach_mul_(ps, 1 - group["lr"] * group["weight_decay"])
        updates = [u.view_as(p) for u, p in zip(updates, ps, strict=True)]
        torch._foreach_add_(ps, updates, alpha=-group["lr"] * scale)


def optimisers(net: nn.Module, muon_lr: float, adam_lr: float) -> list[torch.optim.Optimizer]:
    """Return Muon over the layers' matrices, AdamW over embeddings, router, gains and biases."""
    matrices, large, small = [], [], []
    for name, p in net.named_parameters():
        inner = name.endswith((".gate", ".up", ".down", "qkv.weight", ".o.weight"))
        if inner:
            matrices.append(p)
        else:
            (large if p.ndim > 1 else small).append(p)
    groups = [
        {"params": large, "weight_decay": 0.01},
        {"params": small, "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=adam_lr, betas=(0.9, 0.98), fused=True)
    return [Muon(matrices, lr=muon_lr), adam]
