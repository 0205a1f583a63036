"""The network in PyTorch, for training: gpt-oss's architecture at a small size.

All experts are computed for all tokens, as two matrix products a layer, and weighted by the router
in between: at this size that is faster than sorting tokens by expert. A head's sink is a key of
its own, so that PyTorch's fused attention does the rest.
"""

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn

_PADDING = 16


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
        """x [batch, length, hidden]; rope [2, batch, 1, length, head_dim / 2]; mask [batch, 1,
        length, 1 + length], true where a key is seen; the first key is the sink."""
        s = self.shape
        batch, length, _ = x.shape
        qkv = self.qkv(norm(x, self.norm, s.rms_norm_eps))
        qkv = qkv.view(batch, length, -1, s.head_dim).transpose(1, 2)
        heads, groups = s.num_attention_heads, s.num_key_value_heads
        q, k, v = qkv.split([heads, groups, groups], 1)
        q, k = rotate(q, rope[0], rope[1]), rotate(k, rope[0], rope[1])
        k, v = (t.repeat_interleave(heads // groups, 1) for t in (k, v))
        # More dimensions: the first is 1 in every query, the sink's logit in its key, 0 in all
        # other keys. Sixteen of them, since odd sizes are slow.
        scale = 1 / math.sqrt(s.head_dim)
        q = F.pad(q, (0, _PADDING), value=1.0)
        sink = (self.sinks.to(k.dtype) / scale)[None, :, None, None].expand(batch, -1, 1, 1)
        sink = F.pad(sink, (s.head_dim, _PADDING - 1))
        k = torch.cat([sink, F.pad(k, (0, _PADDING))], 2)
        v = F.pad(v, (0, _PADDING, 1, 0))
        out = F.scaled_dot_product_attention(q, k.to(q.dtype), v.to(q.dtype), mask, scale=scale)
        out = out[..., : s.head_dim].transpose(1, 2).reshape(batch, length, -1)
        return self.o(out)


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
        distance = positions[:, :, None] - positions[:, None, :]
        sink = torch.ones_like(seen[:, :, :1])
        full = torch.cat([sink, seen], -1)[:, None]
        window = torch.cat([sink, seen & (distance < s.sliding_window)], -1)[:, None]
        rope = self.rope[:, positions][:, :, None]
        x = self.embed(ids)
        for n, (attention, experts) in enumerate(zip(self.attention, self.experts, strict=True)):
            x = x + attention(x, rope, window if n % 2 == 0 else full)
            x = x + experts(x, quantise)
        x = norm(x.flatten(0, 1)[rows], self.norm, s.rms_norm_eps)
        return self.head(x).float()
