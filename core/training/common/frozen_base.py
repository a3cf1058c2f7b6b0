"""The frozen base model as the trainers of GistNet and LensNet use it.

Shapes: R rows, T history tokens, L window entries, S scored entries, D width, V vocabulary.
Nothing here needs more of the base than Hugging Face's ``inputs_embeds`` and an output head.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from megacontext.core.gistnet.module import GistNet
from megacontext.core.model.base import BaseModel
from megacontext.core.training.common.llama import Llama, LlamaShape, load_hf_state
from megacontext.core.training.common.output_head import HeadMath
from megacontext.traces.errors import ModelError

__all__ = [
    "FrozenBase",
    "block_inputs",
    "kl_divergence",
    "llama_hidden",
    "plain_llama",
    "question_inputs",
]


class FrozenBase:
    """A base model whose inputs receive gradients and whose weights do not.

    Args:
        compiled: on a GPU, inputs of this shape [R, T] run through compiled layers if the model is
            a plain Llama; other shapes and models run eagerly.
    """

    def __init__(self, base: BaseModel, compiled: tuple[int, int] | None = None) -> None:
        self.module: Any = base.module
        self.base = base
        self.embedding: Tensor = base.embedding_matrix
        self._body: Any = base.module.base_model
        self._head = HeadMath.of(base)
        self._compiled = compiled
        self._llama: Llama | None = None
        if self.embedding.is_cuda:
            _fuse_norms(base.module)
            if compiled is not None:
                self._llama = plain_llama(base)
        if self._llama is not None:
            self._llama.compile_layers()
        self._check_logits()

    @torch.no_grad()
    def _check_logits(self) -> None:
        """Compares the logits computed here with those of the whole model.

        Raises:
            ModelError: they differ, since the head computes more than :class:`HeadMath` knows.
        """
        first = self.base.vocab_size // 2
        ids = torch.arange(first, first + min(16, self.base.vocab_size - first))[None]
        expected = self.module(input_ids=ids.to(self.device), use_cache=False).logits.float()
        computed = self.logits(self.hidden(self.embed(ids.to(self.device))))
        kl = float(kl_divergence(expected, computed).mean())
        if not kl < (1e-4 if self.embedding.dtype == torch.float32 else 5e-2):
            raise ModelError(
                f"model '{self.base.name}' ({type(self.module).__name__}) cannot be trained for: "
                f"its logits are not those of its last hidden states and its head ({kl:.2g} nats "
                "apart); choose another base model."
            )

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    def precision(self) -> AbstractContextManager[Any]:
        """bfloat16 arithmetic around a float32 network where the base itself is bfloat16."""
        if self.embedding.dtype != torch.bfloat16:
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def gist_rms(self) -> float:
        """Root mean square of the token embeddings, the norm that gists are given."""
        return float(self.embedding.float().square().mean().sqrt())

    def embed(self, tokens: Tensor) -> Tensor:
        """Input embeddings [..., D] of int tokens."""
        return functional.embedding(tokens.long(), self.embedding)

    def hidden(self, x_RLD: Tensor) -> Tensor:
        """Last hidden states [R, L, D] after the final norm, causal over each row."""
        x_RLD = x_RLD.to(self.embedding.dtype)
        # The base has its own precision; autocast would only add casts.
        with torch.autocast(x_RLD.device.type, enabled=False):
            if self._llama is not None and tuple(x_RLD.shape[:2]) == self._compiled:
                return llama_hidden(self._llama, x_RLD)
            out = self._body(inputs_embeds=x_RLD, use_cache=False)
        hidden: Tensor = out.last_hidden_state
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 logits [..., V]."""
        return self._head.logits(hidden)

    def logits_at(self, x_RLD: Tensor, index_RS: Tensor) -> Tensor:
        """Logits [R, S, V] of the entries ``index_RS`` of each row."""
        hidden = self.hidden(x_RLD)
        index = index_RS[..., None].expand(-1, -1, hidden.shape[-1])
        return self.logits(hidden.gather(1, index))


def llama_hidden(model: Llama, x_RLD: Tensor) -> Tensor:
    """Last hidden states [R, L, D] after the final norm, from input embeddings."""
    length = x_RLD.shape[1]
    cos_TE, sin_TE = model.rope_cos[:length], model.rope_sin[:length]
    for layer in model.layers:
        x_RLD = layer(x_RLD, cos_TE, sin_TE)
    normalized: Tensor = model.norm(x_RLD)
    return normalized


def plain_llama(base: BaseModel) -> Llama | None:
    """The same model without caches and masks, or None where it is more than a plain Llama."""
    config: Any = base.config
    rope = getattr(config, "rope_parameters", None) or {}
    head_dim = getattr(config, "head_dim", None) or 0
    if (
        getattr(config, "model_type", "") != "llama"
        or rope.get("rope_type", "default") != "default"
        or getattr(config, "attention_bias", False)
        or getattr(config, "mlp_bias", False)
        or getattr(config, "hidden_act", "silu") != "silu"
        or head_dim * config.num_attention_heads not in (0, config.hidden_size)
    ):
        return None
    shape = LlamaShape(
        dim=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        ffn=config.intermediate_size,
        vocab_size=config.vocab_size,
        window=config.max_position_embeddings,
        rope_theta=float(rope.get("rope_theta", 10_000.0)),
        norm_eps=config.rms_norm_eps,
    )
    model = Llama(shape)
    load_hf_state(model, base.module.state_dict())
    model.to(base.embedding_matrix.device, base.embedding_matrix.dtype)
    # Angles need the full precision that the weights do not have.
    fresh = Llama(LlamaShape(**{**vars(shape), "layers": 0}))
    model.rope_cos, model.rope_sin = (
        rope.to(base.embedding_matrix.device) for rope in (fresh.rope_cos, fresh.rope_sin)
    )
    return model.eval().requires_grad_(False)


def _fuse_norms(module: Any) -> None:
    """Run RMS norms as one kernel each; eager ones take most of a small model's time."""
    for part in module.modules():
        if hasattr(part, "variance_epsilon") and hasattr(part, "weight"):
            part.forward = partial(_rms_norm, part.weight, part.variance_epsilon)


def _rms_norm(weight: Tensor, epsilon: float, hidden_states: Tensor) -> Tensor:
    return functional.rms_norm(hidden_states, weight.shape, weight, epsilon)


def kl_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher || student) in nats [...], from logits [..., V]."""
    teacher_log_probs = functional.log_softmax(teacher, dim=-1)
    student_log_probs = functional.log_softmax(student, dim=-1)
    return (teacher_log_probs.exp() * (teacher_log_probs - student_log_probs)).sum(-1)


def block_inputs(
    base: FrozenBase, net: GistNet, tokens_RT: Tensor, blocks_RN: Tensor
) -> tuple[Tensor, Tensor]:
    """GistNet's inputs for some blocks: embeddings [R, N, C + K, D] and tokens [R, N, K].

    Left context before the start of a row is the network's learned padding.
    """
    size, left = net.config.block_size, net.config.left_context
    pad = len(base.embedding)
    padded = functional.pad(tokens_RT.long(), (left, 0), value=pad)
    offset = torch.arange(left + size, device=padded.device)
    position = (blocks_RN[..., None] * size + offset).flatten(1)
    picked = padded.gather(1, position).view(*blocks_RN.shape, left + size)
    x = base.embed(picked.clamp(max=pad - 1))
    x = torch.where((picked == pad)[..., None], net.pad.to(x.dtype), x)
    return x, picked[..., left:]


def question_inputs(base: FrozenBase, net: GistNet, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """(embeddings [N, q, D], real bool [N, q]) of questions padded with negative ids."""
    real = tokens >= 0
    x = base.embed(tokens.clamp(min=0))
    return torch.where(real[..., None], x, net.pad.to(x.dtype)), real
