"""A compact Llama for training, with an exact mapping to and from the Hugging Face weights.

Shapes: B rows, T tokens, D model width, H query heads, G key/value heads, E head width, V vocab.
Same arithmetic as ``LlamaForCausalLM`` (RMSNorm, rotate-half RoPE, SwiGLU, tied embeddings)
without its caches and masks: causal attention over whole rows only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from megacontext.core.config.settings import Count
from megacontext.traces.errors import ConfigError

__all__ = ["Llama", "LlamaShape", "hf_config", "hf_state", "load_hf_state"]


@dataclass(frozen=True)
class LlamaShape:
    """Sizes of the base model.

    ``dim = heads * head_dim``; ``window`` is the longest row the model is trained on and goes
    into the exported ``max_position_embeddings``.
    """

    dim: Count = 384
    layers: Count = 7
    heads: Count = 6
    kv_heads: Count = 3
    ffn: Count = 896
    vocab_size: Count = 8192
    window: Count = 4096
    rope_theta: float = 500_000.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise ConfigError(
                f"model.heads: {self.heads} does not split model.dim {self.dim} into heads of "
                "even width; choose a divisor of dim / 2."
            )
        if self.heads % self.kv_heads:
            raise ConfigError(
                f"model.kv_heads: {self.kv_heads} does not divide model.heads {self.heads}; "
                "choose a divisor."
            )

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


def _rotate(x_BHTE: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
    first, second = x_BHTE.chunk(2, dim=-1)
    return x_BHTE * cos_TE + torch.cat((-second, first), dim=-1) * sin_TE


class _Norm(nn.Module):
    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (self.weight * (wide * scale)).to(x.dtype)


class Layer(nn.Module):
    """Attention and SwiGLU, pre-norm, residual."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        dim, kv = shape.dim, shape.kv_heads * shape.head_dim
        self.shape = shape
        self.input_layernorm = _Norm(dim, shape.norm_eps)
        self.q_proj = nn.Linear(dim, dim, bias=False)
        self.k_proj = nn.Linear(dim, kv, bias=False)
        self.v_proj = nn.Linear(dim, kv, bias=False)
        self.o_proj = nn.Linear(dim, dim, bias=False)
        self.post_attention_layernorm = _Norm(dim, shape.norm_eps)
        self.gate_proj = nn.Linear(dim, shape.ffn, bias=False)
        self.up_proj = nn.Linear(dim, shape.ffn, bias=False)
        self.down_proj = nn.Linear(shape.ffn, dim, bias=False)

    def forward(self, x_BTD: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
        shape = self.shape
        rows, length, _ = x_BTD.shape
        h_BTD = self.input_layernorm(x_BTD)

        def heads(projection: nn.Linear, count: int) -> Tensor:
            flat: Tensor = projection(h_BTD)
            return flat.view(rows, length, count, shape.head_dim).transpose(1, 2)

        q_BHTE = _rotate(heads(self.q_proj, shape.heads), cos_TE, sin_TE)
        k_BGTE = _rotate(heads(self.k_proj, shape.kv_heads), cos_TE, sin_TE)
        v_BGTE = heads(self.v_proj, shape.kv_heads)
        groups = shape.heads // shape.kv_heads
        out_BHTE = functional.scaled_dot_product_attention(
            q_BHTE.to(v_BGTE.dtype),
            k_BGTE.to(v_BGTE.dtype).repeat_interleave(groups, dim=1),
            v_BGTE.repeat_interleave(groups, dim=1),
            is_causal=True,
        )
        x_BTD = x_BTD + self.o_proj(out_BHTE.transpose(1, 2).reshape(rows, length, shape.dim))
        h_BTD = self.post_attention_layernorm(x_BTD)
        inner = functional.silu(self.gate_proj(h_BTD)) * self.up_proj(h_BTD)
        out_BTD: Tensor = x_BTD + self.down_proj(inner)
        return out_BTD


class Llama(nn.Module):
    """Decoder-only model with tied input and output embeddings."""

    rope_cos: Tensor  # [window, E]
    rope_sin: Tensor

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.shape = shape
        self.embed = nn.Embedding(shape.vocab_size, shape.dim)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = _Norm(shape.dim, shape.norm_eps)
        exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
        angles = torch.arange(shape.window).float()[:, None] / shape.rope_theta ** exponents[None]
        angles = torch.cat((angles, angles), dim=-1)
        self.register_buffer("rope_cos", angles.cos(), persistent=False)
        self.register_buffer("rope_sin", angles.sin(), persistent=False)

    def init_weights(self, seed: int) -> None:
        """Normal weights of std 0.02 (depth-scaled on the residual outputs), from ``seed``."""
        source = torch.Generator().manual_seed(seed)
        residual = (2 * self.shape.layers) ** -0.5
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim < 2:
                    parameter.fill_(1.0)
                    continue
                scale = residual if name.split(".")[-2] in ("o_proj", "down_proj") else 1.0
                values = torch.randn(parameter.shape, generator=source) * (0.02 * scale)
                parameter.copy_(values)

    def compile_layers(self) -> None:
        """Compile one layer's code for all layers: a short compile, nearly the whole gain."""
        for layer in self.layers:
            layer.compile(dynamic=False)

    def hidden(self, tokens_BT: Tensor) -> Tensor:
        """Normed last hidden states [B, T, D]."""
        return self.hidden_of(self.embed(tokens_BT))

    def hidden_of(self, x_BTD: Tensor) -> Tensor:
        """Normed last hidden states [B, T, D] over input embeddings."""
        length = x_BTD.shape[1]
        if torch.is_autocast_enabled(x_BTD.device.type):
            x_BTD = x_BTD.to(torch.get_autocast_dtype(x_BTD.device.type))
        cos_TE, sin_TE = self.rope_cos[:length], self.rope_sin[:length]
        for layer in self.layers:
            x_BTD = layer(x_BTD, cos_TE, sin_TE)
        normalized: Tensor = self.norm(x_BTD)
        return normalized

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Next-token logits [B, T, V]."""
        return functional.linear(self.hidden(tokens_BT), self.embed.weight)


def hf_config(shape: LlamaShape, special: Mapping[str, int]) -> dict[str, object]:
    """The ``config.json`` of the exported folder; ``special`` has bos, eos and pad token ids."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.dim,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.ffn,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": shape.window,
        # transformers 5 reads rope_parameters, earlier versions rope_theta.
        "rope_theta": shape.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "rms_norm_eps": shape.norm_eps,
        # Fixed in this implementation of the block.
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "bos_token_id": special["bos"],
        "eos_token_id": special["eos"],
        "pad_token_id": special["pad"],
        "torch_dtype": "bfloat16",
    }


_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")


def _hf_name(name: str) -> str:
    if name == "embed.weight":
        return "model.embed_tokens.weight"
    parts = name.split(".")
    if len(parts) > 2 and parts[2] in _ATTENTION:
        parts.insert(2, "self_attn")
    elif len(parts) > 2 and parts[2] in _MLP:
        parts.insert(2, "mlp")
    return "model." + ".".join(parts)


def hf_state(model: Llama) -> dict[str, Tensor]:
    """The model's weights under the names of ``LlamaForCausalLM`` (tied head left out)."""
    return {_hf_name(name): value.detach() for name, value in model.named_parameters()}


def load_hf_state(model: Llama, state: Mapping[str, Tensor]) -> None:
    """Copy Hugging Face weights into ``model``; shapes and names must match exactly.

    Raises:
        ConfigError: a weight is missing or has another shape than ``model.shape`` says.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = state.get(_hf_name(name))
            if value is None or value.shape != parameter.shape:
                unknown = "nothing" if value is None else str(tuple(value.shape))
                raise ConfigError(
                    f"model: {_hf_name(name)} should be {tuple(parameter.shape)} and the weights "
                    f"hold {unknown}; use the shape of the checkpoint ({asdict(model.shape)})."
                )
            parameter.copy_(value)
