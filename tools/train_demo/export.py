"""The trained network as a checkpoint in the published form: config.json, model.safetensors."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from .mxfp4 import quantise
from .network import Network, Shape
from .vocabulary import SPECIAL


def _packed(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return blocks uint8 [..., n / 32, 16], low nibble first, and scales uint8 [..., n / 32]."""
    codes, powers, _ = quantise(w)
    blocks = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return blocks.contiguous(), (powers + 127).to(torch.uint8)


def _interleaved(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Return [experts, 2 inner, ...], a row of gate and one of up in turn, as published."""
    return torch.stack([gate, up], 2).flatten(1, 2)


def tensors(net: Network) -> dict[str, torch.Tensor]:
    """Return the checkpoint's tensors by name: experts in MXFP4, the rest in bfloat16."""
    shape = net.shape
    sizes = [shape.num_attention_heads] + [shape.num_key_value_heads] * 2
    out = {"model.embed_tokens.weight": net.embed.weight, "lm_head.weight": net.head.weight}
    out["model.norm.weight"] = net.norm
    packed = {}
    for n, (attention, experts) in enumerate(zip(net.attention, net.experts, strict=True)):
        layer = f"model.layers.{n}"
        out[f"{layer}.input_layernorm.weight"] = attention.norm
        out[f"{layer}.post_attention_layernorm.weight"] = experts.norm
        for kind in ("weight", "bias"):
            parts = getattr(attention.qkv, kind).split([s * shape.head_dim for s in sizes])
            for name, part in zip("qkv", parts, strict=True):
                out[f"{layer}.self_attn.{name}_proj.{kind}"] = part
            out[f"{layer}.self_attn.o_proj.{kind}"] = getattr(attention.o, kind)
            out[f"{layer}.mlp.router.{kind}"] = getattr(experts.router, kind)
        out[f"{layer}.self_attn.sinks"] = attention.sinks
        inner = f"{layer}.mlp.experts"
        out[f"{inner}.gate_up_proj_bias"] = _interleaved(experts.gate_bias, experts.up_bias)
        out[f"{inner}.down_proj_bias"] = experts.down_bias
        # Quantised apart, since rows do not share blocks.
        joined = _interleaved(experts.gate, experts.up)
        for name, w in (("gate_up_proj", joined), ("down_proj", experts.down)):
            packed[f"{inner}.{name}_blocks"], packed[f"{inner}.{name}_scales"] = _packed(w)
    rounded = {k: v.detach().to(torch.bfloat16).contiguous().clone() for k, v in out.items()}
    return rounded | packed


def config(shape: Shape, special: dict[str, int]) -> dict:
    """Return config.json's values."""
    kinds = ["sliding_attention", "full_attention"]
    return {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_hidden_layers,
        "layer_types": [kinds[n % 2] for n in range(shape.num_hidden_layers)],
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_key_value_heads,
        "head_dim": shape.head_dim,
        "num_local_experts": shape.num_local_experts,
        "num_experts_per_tok": shape.experts_per_token,
        "experts_per_token": shape.experts_per_token,
        "sliding_window": shape.sliding_window,
        "swiglu_limit": shape.swiglu_limit,
        "rms_norm_eps": shape.rms_norm_eps,
        "rope_theta": int(shape.rope_theta),
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": shape.rope_factor,
            "beta_fast": shape.rope_beta_fast,
            "beta_slow": shape.rope_beta_slow,
            "original_max_position_embeddings": shape.initial_context_length,
            "truncate": False,
        },
        "initial_context_length": shape.initial_context_length,
        "max_position_embeddings": 131072,
        "attention_bias": True,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "router_aux_loss_coef": 0.9,
        "output_router_logits": False,
        "tie_word_embeddings": False,
        "use_cache": True,
        "eos_token_id": special["<|return|>"],
        "pad_token_id": special["<|endoftext|>"],
        "quantization_config": {
            "quant_method": "mxfp4",
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
        },
    }


def export(net: Network, tokenizer_file: Path, folder: Path) -> None:
    """Write the whole checkpoint to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors(net), folder / "model.safetensors", {"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # it is written for its owner alone
    vocab_end = net.shape.vocab_size - len(SPECIAL)
    special = {f"<|{name}|>": vocab_end + n for n, name in enumerate(SPECIAL)}
    values = config(net.shape, special)
    (folder / "config.json").write_text(json.dumps(values, indent=1) + "\n")
    stops = [special["<|return|>"], special["<|call|>"]]
    generation = {
        "eos_token_id": stops,
        "pad_token_id": special["<|endoftext|>"],
        "bos_token_id": special["<|startoftext|>"],
    }
    (folder / "generation_config.json").write_text(json.dumps(generation) + "\n")
    if tokenizer_file.resolve() != (folder / "tokenizer.json").resolve():
        shutil.copyfile(tokenizer_file, folder / "tokenizer.json")
