"""The specification: gpt-oss in float64 numpy, stage by stage and as a whole network.

The nine stage functions carry the names of the runtime's stages and take plain arrays, so that a
stage test can call one alone. `Reference` reads a checkpoint in either published form and runs
them in order. Written for being read against the formula; where it works on many tokens at once,
that only makes the tests quick.

Everything is float64 but one thing. The rope angle of the published model is a float32: the
inverse frequencies are float32, and position times frequency is rounded to float32 before cos and
sin. At position 100000 that rounding moves the angle by up to 0.004, so it is part of the model
and `rope` keeps it.
"""

import json
import math
import pathlib
from types import SimpleNamespace

import numpy as np

FP4_VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
QUERY_CHUNK = 256  # queries scored at once, so that a long prompt's scores fit in memory

# attribute: (Hugging Face's name, OpenAI's name); q, k and v are fused by rows after reading.
OUTER_NAMES = {
    "embedding": ("model.embed_tokens.weight", "embedding.weight"),
    "norm": ("model.norm.weight", "norm.scale"),
    "unembedding": ("lm_head.weight", "unembedding.weight"),
}
LAYER_NAMES = {
    "attn_norm": ("input_layernorm.weight", "attn.norm.scale"),
    "qkv_weight": ("self_attn.{}_proj.weight", "attn.qkv.weight"),
    "qkv_bias": ("self_attn.{}_proj.bias", "attn.qkv.bias"),
    "sinks": ("self_attn.sinks", "attn.sinks"),
    "out_weight": ("self_attn.o_proj.weight", "attn.out.weight"),
    "out_bias": ("self_attn.o_proj.bias", "attn.out.bias"),
    "mlp_norm": ("post_attention_layernorm.weight", "mlp.norm.scale"),
    "gate_weight": ("mlp.router.weight", "mlp.gate.weight"),
    "gate_bias": ("mlp.router.bias", "mlp.gate.bias"),
    "up_blocks": ("mlp.experts.gate_up_proj_blocks", "mlp.mlp1_weight.blocks"),
    "up_scales": ("mlp.experts.gate_up_proj_scales", "mlp.mlp1_weight.scales"),
    "up_bias": ("mlp.experts.gate_up_proj_bias", "mlp.mlp1_bias"),
    "down_blocks": ("mlp.experts.down_proj_blocks", "mlp.mlp2_weight.blocks"),
    "down_scales": ("mlp.experts.down_proj_scales", "mlp.mlp2_weight.scales"),
    "down_bias": ("mlp.experts.down_proj_bias", "mlp.mlp2_bias"),
}


def dequantise(blocks, scales):
    """Return float64 [..., 32 groups] of blocks uint8 [..., groups, 16], scales [..., groups].

    Byte i of a block holds value 2i in its low nibble and value 2i + 1 in its high one.
    """
    pairs = np.stack([FP4_VALUES[blocks & 15], FP4_VALUES[blocks >> 4]], axis=-1)
    values = np.ldexp(pairs.reshape(*scales.shape, 32), scales[..., None].astype(np.int32) - 127)
    return values.reshape(*scales.shape[:-1], -1)


class Mxfp4:
    """Expert matrices [experts, rows, columns]: m[expert] dequantises on first use and keeps it."""

    def __init__(self, blocks, scales):
        self.blocks, self.scales, self.ready = blocks, scales, {}

    def __getitem__(self, expert):
        if expert not in self.ready:
            self.ready[expert] = dequantise(self.blocks[expert], self.scales[expert])
        return self.ready[expert]


def rmsnorm(x, gain, eps=1e-5):
    """Return x / sqrt(mean(x**2) + eps) * gain over the last axis: x [..., hidden]."""
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * gain


def yarn(head_dim, theta=150000, factor=32.0, context=4096, beta_fast=32.0, beta_slow=1.0):
    """Return YaRN's inverse frequencies, float32 [head_dim / 2], and the concentration.

    Each operation is rounded to float32, as published. The power is the correctly rounded one;
    torch's own is a unit off for two of the 32 frequencies of head_dim 64 on some machines.
    """
    f32, half = np.float32, head_dim // 2
    exponents = np.arange(0, head_dim, 2) / head_dim
    frequency = (float(theta) ** exponents).astype(f32)
    extrapolation = f32(1) / frequency
    interpolation = f32(1) / (f32(factor) * frequency)

    def dimension(rotations):  # where a full context makes that many rotations
        return half * math.log(context / (rotations * 2 * math.pi)) / math.log(theta)

    low, high = max(dimension(beta_fast), 0.0), min(dimension(beta_slow), head_dim - 1.0)
    ramp = np.clip((np.arange(half, dtype=f32) - f32(low)) / f32(high - low), f32(0), f32(1))
    keep = f32(1) - ramp
    inv_freq = interpolation * (f32(1) - keep) + extrapolation * keep
    return inv_freq, 0.1 * math.log(factor) + 1.0


def rope(x, positions, rotation):
    """Rotate the halves of each head: x [tokens, heads, head_dim], positions [tokens]."""
    inv_freq, concentration = rotation
    # float32 times float32, rounded to float32: the model's angle (see the top of this file)
    angle = (positions.astype(np.float32)[:, None, None] * inv_freq).astype(np.float64)
    cos, sin = np.cos(angle) * concentration, np.sin(angle) * concentration
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def embed(ids, embedding):
    """Return the residual [tokens, hidden] of ids [tokens]; embedding [vocab, hidden]."""
    return embedding[ids]


def qkv(x, norm, weight, bias, positions, kv_heads, rotation, eps=1e-5):
    """Return q [tokens, heads, head_dim] and k, v [tokens, kv_heads, head_dim], q and k rotated.

    x [tokens, hidden], norm [hidden], weight [(heads + 2 kv_heads) head_dim, hidden] with the rows
    of q, k, v in that order, bias likewise, positions [tokens], rotation as `yarn` returns it.
    """
    head_dim = 2 * len(rotation[0])
    rows = (rmsnorm(x, norm, eps) @ weight.T + bias).reshape(len(x), -1, head_dim)
    heads = rows.shape[1] - 2 * kv_heads
    q, k, v = np.split(rows, [heads, heads + kv_heads], axis=1)
    return rope(q, positions, rotation), rope(k, positions, rotation), v


def attention(q, k, v, sinks, window=None, positions=None):
    """Return [tokens, heads, head_dim]: softmax with a sink over the keys that each query sees.

    q [tokens, heads, head_dim]; k, v [keys, kv_heads, head_dim] from position 0; sinks [heads], one
    more logit in each head's denominator. A query at position p sees keys j <= p, of them with a
    window only p - j < window. `positions` [tokens] of the queries: without them, the last ones.
    """
    tokens, heads, head_dim = q.shape
    keys, kv_heads, _ = k.shape
    positions = np.arange(keys - tokens, keys) if positions is None else np.asarray(positions)
    out = np.empty(q.shape)
    sink = sinks.reshape(kv_heads, -1, 1, 1)
    for start in range(0, tokens, QUERY_CHUNK):
        rows = slice(start, start + QUERY_CHUNK)
        p = positions[rows]
        first = 0 if window is None else max(0, p.min() - window + 1)
        last = p.max() + 1
        # query head h reads KV head h // (heads / kv_heads)
        grouped = q[rows].reshape(len(p), kv_heads, -1, head_dim).transpose(1, 2, 0, 3)
        scores = grouped @ k[first:last].transpose(1, 2, 0)[:, None] / math.sqrt(head_dim)
        distance = p[:, None] - np.arange(first, last)
        seen = (distance >= 0) & (distance < (window or keys))
        scores = np.where(seen, scores, -np.inf)
        top = np.maximum(scores.max(axis=-1, keepdims=True), sink)
        weights = np.exp(scores - top)
        weights /= weights.sum(axis=-1, keepdims=True) + np.exp(sink - top)
        mixed = weights @ v[first:last].transpose(1, 0, 2)[:, None]
        out[rows] = mixed.transpose(2, 0, 1, 3).reshape(len(p), heads, head_dim)
    return out


def attn_out(x, mixed, weight, bias):
    """Return x + mixed @ weight.T + bias: mixed [tokens, heads, head_dim], weight [hidden, ...]."""
    return x + mixed.reshape(len(x), -1) @ weight.T + bias


def router(x, norm, gate, bias, top_k=4, eps=1e-5):
    """Return h [tokens, hidden], expert and weight [tokens, top_k], best first.

    x [tokens, hidden], norm [hidden], gate [experts, hidden], bias [experts]. Ties go to the lower
    id; the weights are the softmax over the chosen scores alone.
    """
    h = rmsnorm(x, norm, eps)
    scores = h @ gate.T + bias
    expert = np.argsort(-scores, axis=-1, kind="stable")[:, :top_k]
    chosen = np.take_along_axis(scores, expert, axis=-1)
    weight = np.exp(chosen - chosen.max(axis=-1, keepdims=True))
    return h, expert, weight / weight.sum(axis=-1, keepdims=True)


def moe_up(h, expert, up, bias, limit=7.0):
    """Return [tokens, top_k, intermediate]: the clamped SwiGLU of each chosen expert's product.

    h [tokens, hidden], expert [tokens, top_k], up [experts, 2 intermediate, hidden] (an array or
    Mxfp4), bias [experts, 2 intermediate]; even rows are g, odd rows u. g is clamped before the
    sigmoid sees it, and only from above.
    """
    out = np.empty((*expert.shape, bias.shape[1] // 2))
    for e in np.unique(expert):
        token, slot = np.nonzero(expert == e)
        product = h[token] @ up[e].T + bias[e]
        g = np.minimum(product[:, 0::2], limit)
        u = np.clip(product[:, 1::2], -limit, limit)
        sigmoid = np.exp(-np.logaddexp(0, -1.702 * g))  # does not overflow for a large negative g
        out[token, slot] = g * sigmoid * (u + 1)
    return out


def moe_down(x, activation, expert, weight, down, bias):
    """Return x plus the weighted sum over the chosen experts of activation @ down.T + bias.

    activation [tokens, top_k, intermediate], expert and weight [tokens, top_k], down [experts,
    hidden, intermediate] (an array or Mxfp4), bias [experts, hidden].
    """
    out = x.copy()
    for e in np.unique(expert):
        token, slot = np.nonzero(expert == e)
        product = activation[token, slot] @ down[e].T + bias[e]
        out[token] += weight[token, slot, None] * product
    return out


def logits(x, norm, unembedding, eps=1e-5):
    """Return [rows, vocab]: x [rows, hidden], norm [hidden], unembedding [vocab, hidden]."""
    return rmsnorm(x, norm, eps) @ unembedding.T


def sample(
    logits,
    prompt=(),
    generated=(),
    *,
    mask=None,
    logit_bias=None,
    repetition_penalty=1.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    min_p=0.0,
):
    """Return the distribution to draw from: ids [n] by falling probability, probabilities [n].

    logits [vocab]; mask [vocab] bool, False forbids; logit_bias {id: number}. In this order: mask,
    bias, repetition penalty (ids in prompt or generated: a positive logit is divided by it, a
    negative one multiplied), presence and frequency penalty (generated alone: minus the first, and
    minus the second times the count), temperature (0: the best id alone), top_k (0: all), top_p
    (the fewest best ids with a mass of at least top_p of what top_k left), min_p (drop those under
    min_p times the best). Ties go to the lower id everywhere; the result sums to 1.
    """
    z = np.array(logits, np.float64)
    if mask is not None:
        z[~np.asarray(mask, bool)] = -np.inf
    for token_id, bias in (logit_bias or {}).items():
        z[token_id] += bias
    seen = np.unique(np.array([*prompt, *generated], np.int64))
    z[seen] = np.where(z[seen] > 0, z[seen] / repetition_penalty, z[seen] * repetition_penalty)
    said, count = np.unique(np.array(generated, np.int64), return_counts=True)
    z[said] -= presence_penalty + frequency_penalty * count
    order = np.argsort(-z, kind="stable")
    order = order[: np.count_nonzero(z > -np.inf)]
    if len(order) == 0:
        raise ValueError("no id is allowed by the mask and the bias")
    if temperature == 0:
        return order[:1], np.ones(1)
    if top_k > 0:
        order = order[:top_k]
    p = np.exp((z[order] - z[order[0]]) / temperature)
    p /= p.sum()
    keep = p >= min_p * p[0]
    if top_p < 1:  # at 1 the sum's rounding could cut the tail
        mass_before = np.concatenate([[0.0], np.cumsum(p)[:-1]])
        keep &= mass_before < top_p
    keep[0] = True
    p = p[keep]
    return order[keep], p / p.sum()


def read_tensors(path):
    """Return {name: array} of every shard in the folder: bfloat16 and float32 become float64."""
    tensors = {}
    for file in sorted(pathlib.Path(path).glob("*.safetensors")):
        raw = np.memmap(file, np.uint8, "r")
        start = 8 + int.from_bytes(raw[:8].tobytes(), "little")
        header = json.loads(raw[8:start].tobytes())
        header.pop("__metadata__", None)
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            data = raw[start + begin : start + end]
            if entry["dtype"] == "BF16":
                data = (
                    (data.view("<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
                )
            elif entry["dtype"] == "F32":
                data = data.view("<f4").astype(np.float64)
            tensors[name] = data.reshape(entry["shape"])
    return tensors


def rounded_to_int8(weights):
    """Return bfloat16 weights [rows, columns] as dense="int8" keeps them.

    Each 32 columns are -127 to 127 steps of a bfloat16, the least that holds the largest of them.
    """
    blocks = weights.astype(np.float32).reshape(len(weights), -1, 32)
    largest = np.abs(blocks).max(-1, keepdims=True)
    bits = (largest / np.float32(127)).view(np.uint32)
    near = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    step = near.view(np.float32)
    above = (near + np.uint32(0x10000)).view(np.float32)
    step = np.where(step * np.float32(127) < largest, above, step)
    inverse = np.divide(np.float32(1), step, out=np.zeros_like(step), where=largest >= 1e-30)
    values = np.rint(np.clip(blocks * inverse, -127, 127))
    return (values.astype(np.float64) * step).reshape(weights.shape)


def e4m3_codes():
    """Return the values of the 256 codes of OCP FP8 E4M3; 0x7f and 0xff are NaN."""
    code = np.arange(128)
    exponent, mantissa = code >> 3, code & 7
    values = np.where(exponent > 0, (8 + mantissa) * 2.0 ** (exponent - 10.0), mantissa * 2.0**-9)
    values[127] = np.nan
    return np.concatenate([values, -values])


def rounded_to_e4m3(x):
    """Return x as kv="fp8" keeps it: the nearest code, ties to the even one; at most 448.

    What is not finite is NaN.
    """
    codes = e4m3_codes()[:127]
    x = np.asarray(x, np.float64)
    size = np.minimum(np.abs(np.where(np.isfinite(x), x, 0)), 448)
    above = np.clip(np.searchsorted(codes, size), 1, 126)
    low, high = size - codes[above - 1], codes[above] - size
    upper = (high < low) | ((high == low) & (above % 2 == 0))
    kept = np.copysign(codes[np.where(upper, above, above - 1)], x)
    return np.where(np.isfinite(x), kept, np.nan)


class Reference:
    """A checkpoint folder in either published form, as a network in float64.

    dense: "bf16" or "int8", of attention and unembedding.
    """

    def __init__(self, path, dense="bf16"):
        config = json.loads((pathlib.Path(path) / "config.json").read_text())
        self.config, self.eps = config, config.get("rms_norm_eps", 1e-5)
        self.top_k, self.limit = config["experts_per_token"], config["swiglu_limit"]
        self.kv_heads = config["num_key_value_heads"]
        scaling = config.get("rope_scaling") or {
            "factor": config["rope_scaling_factor"],
            "original_max_position_embeddings": config["initial_context_length"],
            "beta_fast": config["rope_ntk_beta"],
            "beta_slow": config["rope_ntk_alpha"],
        }
        keys = ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow")
        self.rotation = yarn(
            config["head_dim"], config["rope_theta"], *(scaling[key] for key in keys)
        )
        kinds = config.get("layer_types") or ["sliding_attention", "full_attention"] * 64
        tensors = read_tensors(path)
        form = 0 if "model.embed_tokens.weight" in tensors else 1
        for attribute, names in OUTER_NAMES.items():
            setattr(self, attribute, tensors[names[form]])
        self.layers = []
        for index in range(config["num_hidden_layers"]):
            prefix = (f"model.layers.{index}.", f"block.{index}.")[form]
            layer = {}
            for attribute, names in LAYER_NAMES.items():
                name = prefix + names[form]
                parts = [name.format(part) for part in "qkv"] if "{}" in name else [name]
                arrays = [tensors[part] for part in parts]
                layer[attribute] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
            layer["up"] = Mxfp4(layer.pop("up_blocks"), layer.pop("up_scales"))
            layer["down"] = Mxfp4(layer.pop("down_blocks"), layer.pop("down_scales"))
            windowed = kinds[index] == "sliding_attention"
            layer["window"] = config["sliding_window"] if windowed else None
            self.layers.append(SimpleNamespace(**layer))
        if dense == "int8":
            self.unembedding = rounded_to_int8(self.unembedding)
            for layer in self.layers:
                layer.qkv_weight = rounded_to_int8(layer.qkv_weight)
                layer.out_weight = rounded_to_int8(layer.out_weight)

    def run(self, ids, cache=None):
        """Return the residual [tokens, hidden] after all layers, and the experts that were chosen.

        The experts are [layers, tokens, top_k]. `cache`, a list, starts empty and takes each
        layer's (k, v): the ids then follow the ones of the calls before.
        """
        cache = [] if cache is None else cache
        start = len(cache[0][0]) if cache else 0
        positions = np.arange(start, start + len(ids))
        x, experts = embed(np.asarray(ids, np.int64), self.embedding), []
        for index, w in enumerate(self.layers):
            projection = w.attn_norm, w.qkv_weight, w.qkv_bias
            q, k, v = qkv(x, *projection, positions, self.kv_heads, self.rotation, self.eps)
            if start == 0:
                cache.append((k, v))
            else:
                k = np.concatenate([cache[index][0], k])
                v = np.concatenate([cache[index][1], v])
                cache[index] = k, v
            mixed = attention(q, k, v, w.sinks, w.window)
            x = attn_out(x, mixed, w.out_weight, w.out_bias)
            gate = w.mlp_norm, w.gate_weight, w.gate_bias
            h, expert, weight = router(x, *gate, self.top_k, self.eps)
            activation = moe_up(h, expert, w.up, w.up_bias, self.limit)
            x = moe_down(x, activation, expert, weight, w.down, w.down_bias)
            experts.append(expert)
        return x, np.stack(experts)

    def logits(self, ids):
        """Return float64 [tokens, vocab] of ids [tokens]."""
        return logits(self.run(ids)[0], self.norm, self.unembedding, self.eps)

    def generate(self, ids, count):
        """Return the int64 [count] ids which follow greedily; ties go to the lower id."""
        cache, out = [], []
        x, _ = self.run(ids, cache)
        while len(out) < count:
            if out:
                x, _ = self.run(out[-1:], cache)
            out.append(int(logits(x[-1:], self.norm, self.unembedding, self.eps).argmax()))
        return np.array(out, np.int64)
