"""Write a random checkpoint in either published form of gpt-oss.

Every number is a function of (seed, tensor name, index) through an integer hash, so the same bytes
come out on every platform and numpy version, both forms of one seed are the same model, and a
golden file needs to store only a shape, a seed and the overrides. Nothing here may change without
making the goldens again.

The weights are scaled so that activations stay of order one: products have standard deviation
1/sqrt(fan in), norms are near 1, biases near 0.1, the router's scores spread enough to choose.
"""

import json
import math
import pathlib
import zlib

import numpy as np

SHAPE_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_local_experts",
    "head_dim",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "sliding_window",
)
SHAPES = {
    name: dict(zip(SHAPE_KEYS, values, strict=True))
    for name, values in {
        "tiny": (96, 160, 4, 8, 32, 8, 2, 517, 8),
        "odd": (160, 96, 3, 12, 64, 6, 3, 331, 5),
        "wide": (256, 320, 4, 32, 64, 16, 2, 1031, 128),
    }.items()
}

# What the published models share; a shape or an override may give another value.
COMMON = {
    "num_experts_per_tok": 4,
    "swiglu_limit": 7.0,
    "rope_theta": 150000,
    "rope_scaling_factor": 32.0,
    "initial_context_length": 4096,
}

OUTER_NAMES = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.scale": "model.norm.weight",
    "unembedding.weight": "lm_head.weight",
}

# OpenAI's name in a block -> Hugging Face's name in a layer; qkv, which OpenAI fuses, apart.
LAYER_NAMES = {
    "attn.norm.scale": "input_layernorm.weight",
    "attn.sinks": "self_attn.sinks",
    "attn.out.weight": "self_attn.o_proj.weight",
    "attn.out.bias": "self_attn.o_proj.bias",
    "mlp.norm.scale": "post_attention_layernorm.weight",
    "mlp.gate.weight": "mlp.router.weight",
    "mlp.gate.bias": "mlp.router.bias",
    "mlp.mlp1_weight.blocks": "mlp.experts.gate_up_proj_blocks",
    "mlp.mlp1_weight.scales": "mlp.experts.gate_up_proj_scales",
    "mlp.mlp1_bias": "mlp.experts.gate_up_proj_bias",
    "mlp.mlp2_weight.blocks": "mlp.experts.down_proj_blocks",
    "mlp.mlp2_weight.scales": "mlp.experts.down_proj_scales",
    "mlp.mlp2_bias": "mlp.experts.down_proj_bias",
}


def _mix(z):
    """Return the splitmix64 output function of uint64 states: products wrap on purpose."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def random_bits(seed, name, count):
    """Return [count] uint64, the splitmix64 stream of (seed, name)."""
    step = np.uint64(0x9E3779B97F4A7C15)
    start = _mix(np.array([seed], np.uint64) * step + np.uint64(zlib.crc32(name.encode())))
    return _mix(start + np.arange(1, count + 1, dtype=np.uint64) * step)


def random_normal(seed, name, count, std, mean=0.0):
    """Return [count] float32, about normal: the sum of the four 16-bit parts of each hash.

    Integers up to the last line, then one exactly rounded float64 operation at a time: no libm.
    """
    bits = random_bits(seed, name, count)
    total = sum((bits >> np.uint64(shift)) & np.uint64(0xFFFF) for shift in (0, 16, 32, 48))
    centred = total.astype(np.int64) - 2 * 0xFFFF
    unit = math.sqrt(4 * (2**32 - 1) / 12)  # the sum's standard deviation
    return (centred * (std / unit) + mean).astype(np.float32)


def to_bf16(x):
    """Round float32 to the nearest bfloat16, ties to even; return its bits as uint16."""
    bits = x.view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype("<u2")


def _dense(seed, name, shape, std, mean=0.0, dtype="BF16"):
    x = random_normal(seed, name, math.prod(shape), std, mean).reshape(shape)
    return to_bf16(x) if dtype == "BF16" else x.astype("<f4")


def _mxfp4(seed, name, experts, rows, columns):
    """Yield blocks [experts, rows, columns / 32, 16] and scales [experts, rows, columns / 32]."""
    groups = (experts, rows, columns // 32)
    blocks = random_bits(seed, name + "_blocks", 2 * math.prod(groups)).astype("<u8")
    yield name + "_blocks", blocks.view(np.uint8).reshape(*groups, 16)
    # The 16 FP4 values have mean square 8.58, so 2**-round(log2(8.58 columns) / 2) brings a product
    # back to order one; frexp gives that exactly. Each scale varies by one either way.
    exponent = 127 - math.frexp(8.58 * columns)[1] // 2
    third = (random_bits(seed, name + "_scales", math.prod(groups)) >> np.uint64(32)) % np.uint64(3)
    yield name + "_scales", (exponent - 1 + third.astype(np.int64)).astype(np.uint8).reshape(groups)


def _outer(c, seed, norm_dtype):
    hidden, vocab = c["hidden_size"], c["vocab_size"]
    for name, shape, std, mean in (
        ("model.embed_tokens.weight", (vocab, hidden), 1.0, 0.0),
        ("model.norm.weight", (hidden,), 0.1, 1.0),
        ("lm_head.weight", (vocab, hidden), 2 / math.sqrt(hidden), 0.0),
    ):
        dtype = norm_dtype if "norm" in name else "BF16"
        yield name, _dense(seed, name, shape, std, mean, dtype)


def _layer(c, seed, layer, norm_dtype):
    hidden, intermediate = c["hidden_size"], c["intermediate_size"]
    experts, heads = c["num_local_experts"], c["num_attention_heads"]
    q_rows, kv_rows = heads * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
    prefix = f"model.layers.{layer}."
    std = 1 / math.sqrt(hidden)
    for suffix, shape, scale, mean in (
        ("input_layernorm.weight", (hidden,), 0.1, 1.0),
        ("self_attn.q_proj.weight", (q_rows, hidden), std, 0.0),
        ("self_attn.q_proj.bias", (q_rows,), 0.1, 0.0),
        ("self_attn.k_proj.weight", (kv_rows, hidden), std, 0.0),
        ("self_attn.k_proj.bias", (kv_rows,), 0.1, 0.0),
        ("self_attn.v_proj.weight", (kv_rows, hidden), std, 0.0),
        ("self_attn.v_proj.bias", (kv_rows,), 0.1, 0.0),
        ("self_attn.o_proj.weight", (hidden, q_rows), 1 / math.sqrt(q_rows), 0.0),
        ("self_attn.o_proj.bias", (hidden,), 0.1, 0.0),
        ("self_attn.sinks", (heads,), 1.0, 0.0),
        ("post_attention_layernorm.weight", (hidden,), 0.1, 1.0),
        ("mlp.router.weight", (experts, hidden), 2 * std, 0.0),
        ("mlp.router.bias", (experts,), 0.5, 0.0),
        ("mlp.experts.gate_up_proj_bias", (experts, 2 * intermediate), 0.1, 0.0),
        ("mlp.experts.down_proj_bias", (experts, hidden), 0.1, 0.0),
    ):
        dtype = norm_dtype if "layernorm" in suffix else "BF16"
        yield prefix + suffix, _dense(seed, prefix + suffix, shape, scale, mean, dtype)
    yield from _mxfp4(seed, prefix + "mlp.experts.gate_up_proj", experts, 2 * intermediate, hidden)
    yield from _mxfp4(seed, prefix + "mlp.experts.down_proj", experts, hidden, intermediate)


def random_tensors(shape, seed, form="huggingface", norm_dtype="BF16"):
    """Return {name: array} of a full config (shape and COMMON); uint16 arrays hold bfloat16."""
    tensors = dict(_outer(shape, seed, norm_dtype))
    for layer in range(shape["num_hidden_layers"]):
        tensors.update(_layer(shape, seed, layer, norm_dtype))
    if form == "huggingface":
        return tensors
    openai = {name: tensors[theirs] for name, theirs in OUTER_NAMES.items()}
    for layer in range(shape["num_hidden_layers"]):
        block, prefix = f"block.{layer}.", f"model.layers.{layer}."
        for name, theirs in LAYER_NAMES.items():
            openai[block + name] = tensors[prefix + theirs]
        for kind in ("weight", "bias"):
            parts = [tensors[f"{prefix}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            openai[f"{block}attn.qkv.{kind}"] = np.concatenate(parts)
    return openai


def _huggingface_config(c):
    layers, vocab = c["num_hidden_layers"], c["vocab_size"]
    attention_and_router = ["model.layers.*.self_attn", "model.layers.*.mlp.router"]
    same = (*SHAPE_KEYS, "num_experts_per_tok", "swiglu_limit", "rope_theta")
    return {key: c[key] for key in same} | {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "eos_token_id": min(200002, vocab - 1),
        "experts_per_token": c["num_experts_per_tok"],
        "hidden_act": "silu",
        "initial_context_length": c["initial_context_length"],
        "initializer_range": 0.02,
        "layer_types": (["sliding_attention", "full_attention"] * layers)[:layers],
        "max_position_embeddings": 131072,
        "model_type": "gpt_oss",
        "output_router_logits": False,
        "pad_token_id": min(199999, vocab - 2),
        "quantization_config": {
            "modules_to_not_convert": [*attention_and_router, "model.embed_tokens", "lm_head"],
            "quant_method": "mxfp4",
        },
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": c["rope_scaling_factor"],
            "original_max_position_embeddings": c["initial_context_length"],
            "rope_type": "yarn",
            "truncate": False,
        },
        "router_aux_loss_coef": 0.9,
        "tie_word_embeddings": False,
        "use_cache": True,
    }


def _openai_config(c):
    renamed = {"num_local_experts": "num_experts", "num_experts_per_tok": "experts_per_token"}
    config = {renamed.get(key, key): value for key, value in c.items()}
    return config | {"rope_ntk_alpha": 1, "rope_ntk_beta": 32}


def write_safetensors(path, tensors):
    """Write {name: array}, widest type first so that every tensor is aligned to its type."""
    dtypes = {"<f4": "F32", "<u2": "BF16", "|u1": "U8"}
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0]))
    for name, array in ordered:
        header[name] = {
            "dtype": dtypes[array.dtype.newbyteorder("<").str],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, array in ordered:
            file.write(array.tobytes())


def write_checkpoint(
    path,
    shape,
    seed,
    form="huggingface",
    shards=2,
    index=True,
    norm_dtype="BF16",
    **overrides,
):
    """Write config.json and the shards into the folder `path`; return it as a pathlib.Path.

    `shape` is a name in SHAPES or a dict with the same keys; `overrides` replace keys of it or of
    COMMON. `norm_dtype="F32"` stores unrounded gains. Tensors are dealt to shards round robin, so
    a layer, and even the blocks and the scales of one matrix, lie in different files.
    """
    if form not in ("huggingface", "openai"):
        raise ValueError(f"form is {form!r}; it must be 'huggingface' or 'openai'")
    config = COMMON | (SHAPES[shape] if isinstance(shape, str) else shape)
    unknown = overrides.keys() - config.keys()
    if unknown:
        raise ValueError(f"unknown overrides {sorted(unknown)}; known: {sorted(config)}")
    config |= overrides
    path = pathlib.Path(path)
    path.mkdir(parents=True, exist_ok=True)
    tensors = random_tensors(config, seed, form, norm_dtype)
    names, weight_map = list(tensors), {}
    for shard in range(shards):
        # As published: Hugging Face counts shards from 0 and names the last, OpenAI counts from 1.
        if shards == 1:
            file = "model.safetensors"
        elif form == "huggingface":
            file = f"model-{shard:05d}-of-{shards - 1:05d}.safetensors"
        else:
            file = f"model--{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[shard::shards]}
        write_safetensors(path / file, part)
        weight_map |= dict.fromkeys(part, file)
    written = _huggingface_config(config) if form == "huggingface" else _openai_config(config)
    (path / "config.json").write_text(json.dumps(written, indent=2) + "\n")
    if index:
        total = sum(array.nbytes for array in tensors.values())
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2)
        (path / "model.safetensors.index.json").write_text(text + "\n")
    return path
