"""The network in PyTorch, for training: gpt-oss's architecture at a small size.

All experts are computed for all tokens, as two matrix products a layer, and weighted by the router
in between: at this size that is faster than sorting tokens by expert. Attention is written out, a
block of queries at a time against the keys before its end: 43 ms a layer, forward and backward,
where PyTorch's fused attention with a masked key for the sink took 298 (13 x 384 positions).
"""

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn

_BLOCK = 128


@dataclass(frozen=True)
class Shape:
    """Sizes of the model; the names are config.json's."""

    vocab_size: int
    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 8
    num_key_value_heads: int = 2
    head_dim: int = 32
    num_local_experts: int = 8
    experts_per_token: int = 4
    intermediate_size: int = 96
    sliding_window: int = 128
    rms_norm_eps: float = 1e-5
    swiglu_limit: float = 7.0
    rope_theta: float = 150000.0
    rope_factor: float = 32.0
    rope_beta_fast: float = 32.0
    rope_beta_slow: float = 1.0
    initial_context_length: int = 4096

    def to_dict(self) -> dict:
        return asdict(self)


def rope_table(shape: Shape, positions: int) -> torch.Tensor:
    """Return cosines and sines, float32 [2, positions, head_dim / 2], YaRN's as published."""
    half = shape.head_dim // 2
    power = torch.arange(half, dtype=torch.float64) / half
    inverse = shape.rope_theta**-power

    def dimension(turns: float) -> float:
        length = shape.initial_context_length / (turns * 2 * math.pi)
        return half * math.log(length) / math.log(shape.rope_theta)

    low, high = dimension(shape.rope_beta_fast), dimension(shape.rope_beta_slow)
    ramp = ((torch.arange(half) - low) / (high - low)).clamp(0, 1)
    inverse = inverse / shape.rope_factor * ramp + inverse * (1 - ramp)
    angles = torch.arange(positions, dtype=torch.float64)[:, None] * inverse
    concentration = 0.1 * math.log(shape.rope_factor) + 1.0
    return (torch.stack([angles.cos(), angles.sin()]) * concentration).float()


def rotate(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Rotate x [batch, heads, length, head_dim], first half against second."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], -1)


def norm(x: torch.Tensor, gain: torch.Tensor, eps: float) -> torch.Tensor:
    """Return x / rms(x) * gain in float32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * gain


@torch.compiler.disable
def masks(
    positions: torch.Tensor, seen: torch.Tensor, window: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what is added to the scores, 0 or so much that the weight is 0, float32 like `seen`:
    of layers with a window, and of those without. Compiled into the layers it would be computed
    again in each of them, and integers are slow there."""
    places = positions.to(torch.int16)
    near = places[:, :, None] - places[:, None, :] < window
    return tuple((~m).float().mul_(-1e30) for m in (seen & near, seen))


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        queries = shape.num_attention_heads * shape.head_dim
        keys = shape.num_key_value_heads * shape.head_dim
        self.norm = nn.Parameter(torch.ones(shape.hidden_size))
        self.qkv = nn.Linear(shape.hidden_size, queries + 2 * keys)
        self.o = nn.Linear(queries, shape.hidden_size)
        self.sinks = nn.Parameter(torch.zeros(shape.num_attention_heads))

    def forward(self, x: torch.Tensor, rope: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """x [batch, length, hidden]; rope [2, batch, 1, length, head_dim / 2]; mask [batch,
        length, length], true where a query (second axis) sees a key (third)."""
        s = self.shape
        batch, length, _ = x.shape
        qkv = self.qkv(norm(x, self.norm, s.rms_norm_eps))
        qkv = qkv.view(batch, length, -1, s.head_dim).transpose(1, 2)
        heads, groups = s.num_attention_heads, s.num_key_value_heads
        q, k, v = qkv.split([heads, groups, groups], 1)
        q, k = rotate(q, rope[0], rope[1]), rotate(k, rope[0], rope[1])
        q = (q / math.sqrt(s.head_dim)).to(v.dtype)
        k = k.to(v.dtype)
        sinks = self.sinks.float().view(1, groups, heads // groups, 1, 1)
        parts = [
            self._block(q[:, :, n : n + _BLOCK], k[:, :, :e], v[:, :, :e], sinks, mask[:, n:e, :e])
            for n in range(0, length, _BLOCK)
            for e in (min(n + _BLOCK, length),)
        ]
        return self.o(torch.cat(parts, 2).transpose(1, 2).reshape(batch, length, -1))

    def _block(self, q, k, v, sinks, mask) -> torch.Tensor:
        """Attend from the queries of one block to the keys up to its end; all heads of a group
        are rows of one product."""
        batch, heads, count, size = q.shape
        groups, end = k.shape[1], k.shape[2]
        q = q.reshape(batch * groups, -1, size)
        k, v = k.reshape(batch * groups, end, size), v.reshape(batch * groups, end, size)
        scores = torch.bmm(q, k.mT).view(batch, groups, -1, count, end).float()
        scores = scores + mask[:, None, None]
        largest = torch.maximum(scores.amax(-1, keepdim=True), sinks).detach()
        weights = (scores - largest).exp()
        weights = weights / (weights.sum(-1, keepdim=True) + (sinks - largest).exp())
        weights = weights.to(v.dtype).view(batch * groups, -1, end)
        return torch.bmm(weights, v).view(batch, heads, count, size)


class Experts(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        experts, hidden, inner = (
            shape.num_local_experts,
            shape.hidden_size,
            shape.intermediate_size,
        )
        self.norm = nn.Parameter(torch.ones(hidden))
        self.router = nn.Linear(hidden, experts)
        self.gate = nn.Parameter(torch.empty(experts, inner, hidden))
        self.up = nn.Parameter(torch.empty(experts, inner, hidden))
        self.down = nn.Parameter(torch.empty(experts, hidden, inner))
        self.gate_bias = nn.Parameter(torch.zeros(experts, inner))
        self.up_bias = nn.Parameter(torch.zeros(experts, inner))
        self.down_bias = nn.Parameter(torch.zeros(experts, hidden))

    def forward(self, x: torch.Tensor, quantise=None) -> torch.Tensor:
        s = self.shape
        h = norm(x, self.norm, s.rms_norm_eps)
        scores = F.linear(h, self.router.weight, self.router.bias).float()
        best, chosen = scores.topk(s.experts_per_token, -1)
        weights = torch.zeros_like(scores).scatter(-1, chosen, best.softmax(-1))
        gate, up, down = self.gate, self.up, self.down
        if quantise is not None:
            gate, up, down = quantise(gate), quantise(up), quantise(down)
        g = F.linear(h, gate.flatten(0, 1), self.gate_bias.flatten())
        u = F.linear(h, up.flatten(0, 1), self.up_bias.flatten())
        g = g.clamp(max=s.swiglu_limit)
        u = u.clamp(-s.swiglu_limit, s.swiglu_limit)
        inner = g * torch.sigmoid(1.702 * g) * (u + 1)
        inner = inner.unflatten(-1, (s.num_local_experts, -1)) * weights[..., None].to(inner.dtype)
        # [experts, hidden, inner] -> [hidden, experts * inner]: the product sums over experts.
        joined = down.transpose(0, 1).flatten(1)
        return F.linear(inner.flatten(-2), joined) + weights @ self.down_bias


class Network(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.attention = nn.ModuleList(Attention(shape) for _ in range(shape.num_hidden_layers))
        self.experts = nn.ModuleList(Experts(shape) for _ in range(shape.num_hidden_layers))
        self.norm = nn.Parameter(torch.ones(shape.hidden_size))
        self.head = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)
        self.register_buffer("rope", rope_table(shape, 4096), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """Fan-in everywhere; what adds to the residual is divided by sqrt(2 layers) too."""
        shape, deep = self.shape, math.sqrt(2 * self.shape.num_hidden_layers)
        nn.init.normal_(self.embed.weight, std=0.5)
        nn.init.normal_(self.head.weight, std=shape.hidden_size**-0.5)
        for attention, experts in zip(self.attention, self.experts, strict=True):
            for linear, by in ((attention.qkv, 1.0), (attention.o, deep)):
                nn.init.normal_(linear.weight, std=linear.in_features**-0.5 / by)
                nn.init.zeros_(linear.bias)
            nn.init.normal_(experts.router.weight, std=0.02)
            nn.init.zeros_(experts.router.bias)
            nn.init.normal_(experts.gate, std=shape.hidden_size**-0.5)
            nn.init.normal_(experts.up, std=shape.hidden_size**-0.5)
            nn.init.normal_(experts.down, std=shape.intermediate_size**-0.5 / deep)

    def forward(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        seen: torch.Tensor,
        rows: torch.Tensor,
        quantise=None,
    ) -> torch.Tensor:
        """Return float32 logits [rows, vocab] of the chosen rows.

        ids, positions: int64 [batch, length]. seen: bool [batch, length, length], true where a
        query (second axis) may look at a key (third). rows: int64 indices into batch * length.
        """
        s = self.shape
        window, full = masks(positions, seen, s.sliding_window)
        rope = self.rope[:, positions][:, :, None]
        x = self.embed(ids)
        for n, (attention, experts) in enumerate(zip(self.attention, self.experts, strict=True)):
            x = x + attention(x, rope, window if n % 2 == 0 else full)
            if n == s.num_hidden_layers - 1:
                x = x.flatten(0, 1)[rows]  # from here on no token sees another
            x = x + experts(x, quantise)
        return self.head(norm(x, self.norm, s.rms_norm_eps)).float()
