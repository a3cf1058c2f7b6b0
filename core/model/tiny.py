"""Tiny random models of every causal language model class that transformers has."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from megacontext.core.model.loading import attention_kind

__all__ = ["architectures", "parameter_count", "tiny_config", "tiny_module"]

_LAYERS = 4
_SIZES: Mapping[str, Any] = {
    # widths
    "vocab_size": 512, "hidden_size": 64, "d_model": 64, "n_embd": 64, "emb_dim": 64,
    "embedding_size": 64, "word_embed_proj_dim": 64, "attention_hidden_size": 64,
    "intermediate_size": 96, "ffn_dim": 96, "ffn_hidden_size": 96, "dff": 96, "d_ff": 96,
    "n_inner": 96, "dim_ff": 96, "d_inner": 96, "intermediate_size_mlp": 96,
    "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
    "shared_intermediate_size": 32, "expert_ffn_hidden_size": 32, "dense_intermediate_size": 96,
    # depth and heads
    "num_hidden_layers": _LAYERS, "num_layers": _LAYERS, "n_layer": _LAYERS, "n_layers": _LAYERS,
    "num_attention_heads": 4, "num_heads": 4, "n_head": 4, "n_heads": 4, "attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "global_head_dim": 16, "attention_head_dim": 16,
    "dim_head": 16, "kv_channels": 16, "rotary_dim": 8, "qk_layernorm": False,
    # experts
    "num_local_experts": 4, "num_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "num_experts_per_token": 2, "moe_topk": 2, "n_group": 1, "topk_group": 1,
    "n_shared_experts": 1, "num_shared_experts": 1, "first_k_dense_replace": 1,
    "moe_num_experts": 4, "moe_k": 2, "zero_expert_num": 0,
    # latent attention
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    # recurrent layers
    "state_size": 8, "mamba_d_state": 8, "mamba_n_heads": 8, "mamba_d_head": 16,
    "mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 8, "lru_width": 64,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16,
    "linear_value_head_dim": 16, "use_mamba_kernels": False, "mamba_d_ssm": 128,
    # positions and tokens
    "max_position_embeddings": 1024, "n_positions": 1024, "max_seq_len": 1024, "n_ctx": 1024,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "initializer_range": 0.15, "init_std": 0.15,
    "vocab_size_per_layer_input": 512, "hidden_size_per_layer_input": 16,
    "num_kv_shared_layers": 0, "laurel_rank": 8, "altup_num_inputs": 2,
    "sliding_window": 40, "attention_chunk_size": 40, "window_size": 40,
    "num_nextn_predict_layers": 0, "is_decoder": True,
}  # fmt: skip
"""What every configuration gets of this that it knows. Local layers reach 40 rows."""

_CONV = ["conv", "full_attention", "conv", "full_attention"]
_LOCAL = ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]
_OWN: Mapping[str, Mapping[str, Any]] = {
    "dots3_note": {"num_key_value_heads": 4},
    "dots3_note_text": {"num_key_value_heads": 4},
    "gemma3_text": {"layer_types": _LOCAL},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "lfm2": {"layer_types": _CONV},
    "lfm2_moe": {"layer_types": _CONV},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 1},
    "roc_bert": {"pronunciation_vocab_size": 64, "shape_vocab_size": 64},
    "zamba": {"num_hidden_layers": 8},
    "zamba2": {"layer_types": ["mamba", "hybrid", "mamba", "hybrid"]},
    "zaya": {"num_experts_per_tok": 1},
}
"""What single model types need beside :data:`_SIZES`; None leaves a key at its default."""


def architectures() -> list[str]:
    """The model types of every class behind ``AutoModelForCausalLM``."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(model_type: str) -> Any:
    """A configuration of ``model_type`` with a few thousand parameters a layer.

    Raises whatever transformers raises for sizes that do not go together.
    """
    kind = CONFIG_MAPPING[model_type]
    given = _sizes(kind) | dict(_OWN.get(model_type, {}))
    return kind(**{key: value for key, value in given.items() if value is not None})


def parameter_count(config: Any) -> int:
    """Parameters of the model of a configuration, without making it."""
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(config)
    return sum(value.numel() for value in module.parameters())


def tiny_module(config: Any, seed: int = 0) -> torch.nn.Module:
    """A frozen float32 model with random weights, biases and norms that are not neutral."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module: torch.nn.Module = AutoModelForCausalLM.from_config(
            config, attn_implementation=attention_kind(config)
        )
        with torch.no_grad():
            for value in module.parameters():
                if value.ndim == 1:
                    value.add_(torch.randn_like(value) * 0.1)
    return module.float().eval()


def _sizes(kind: Any) -> dict[str, Any]:
    """The sizes that a configuration class knows, also those of its parts."""
    known = _known(kind)
    given: dict[str, Any] = {key: value for key, value in _SIZES.items() if key in known}
    if "kv_lora_rank" in known:  # latent attention has one key for all heads, or one for each
        given["num_key_value_heads"] = given["num_attention_heads"]
    for name, part in getattr(kind, "sub_configs", {}).items():
        if name in known and hasattr(part, "model_type") and part.model_type:
            given[name] = _sizes(part) | {"model_type": part.model_type}
    return given


def _known(kind: Any) -> set[str]:
    names = set(inspect.signature(kind.__init__).parameters)
    names |= set(getattr(kind, "__dataclass_fields__", {}))
    return names | set(getattr(kind, "attribute_map", {}))
