"""The frozen base model: any decoder-only language model of Hugging Face transformers."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from transformers import DynamicCache

from megacontext.core.model import loading
from megacontext.core.model.adapter import merge_adapter, read_adapter
from megacontext.core.model.choice import Choice
from megacontext.core.model.files import ModelFiles, resolve_model
from megacontext.core.model.local import LocalLayers, WindowBound, local_layers, window_bound
from megacontext.core.model.tokenizer import TextRules, Tokenizer
from megacontext.core.stages import stage
from megacontext.traces.errors import ModelError

__all__ = ["BaseModel", "Forward"]


@dataclass(frozen=True)
class Forward:
    """What the model says about t rows: ``logits`` F32[t, V] and ``hidden`` [t, d].

    ``hidden`` is the last hidden state after the final norm, as the output head reads it.
    ``choice``: the likeliest token behind the last row, where the device chose it.
    """

    logits: Tensor
    hidden: Tensor
    choice: Choice | None = None


class BaseModel:
    """A frozen causal language model with its tokenizer.

    The parameters never change: they take no gradient and the module stays in eval mode.
    """

    def __init__(self, module: Any, tokenizer: Tokenizer | None, name: str) -> None:
        self.module = module.eval().requires_grad_(False)
        self.name = name
        self._tokenizer = tokenizer
        self.config = module.config.get_text_config()
        embedding = module.get_input_embeddings()
        head = module.get_output_embeddings()
        if not isinstance(embedding, nn.Embedding) or head is None:
            raise ModelError(
                f"model '{name}' is a {type(module).__name__} without an input embedding and an "
                "output head, choose a decoder-only language model"
            )
        self._embedding = embedding
        self._head = head
        # transformers 5.24 renamed the argument and warns at each use of the old name.
        named = inspect.signature(module.forward).parameters
        self._cache_argument = "cache" if "cache" in named else "past_key_values"
        self.local: LocalLayers | None = local_layers(module.config)
        self.splice_refusal: str | None = None  # a clause, where cached keys must not be moved
        self.graphs_refusal: str | None = None  # a clause, where CUDA graphs must not decode

    @classmethod
    def load(
        cls,
        path_or_id: str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        needed_window: int | None = None,
        adapter: str | None = None,
        rules: TextRules | None = None,
    ) -> Self:
        """Load a local folder, a GGUF file, an installed package or a hub id.

        Args:
            path_or_id: see :func:`megacontext.core.model.files.resolve_model`.
            device: ``auto`` (a GPU if there is one), ``cpu`` or ``cuda``.
            dtype: ``auto`` (bfloat16 on a GPU, float32 on a CPU), ``float32`` or ``bfloat16``.
            needed_window: rows that the model must hold, W_max.
            adapter: folder of a LoRA adapter to merge into the weights.
            rules: how text becomes tokens.

        Raises:
            ModelError: missing or unreadable files, another model's tokenizer, no decoder-only
                model, a trained window below ``needed_window``, too little memory, no GPU, or
                another model's adapter.
        """
        target = loading.pick_device(device)
        kind = loading.pick_dtype(dtype, target)

        # Everything that can be refused before the weights are read.
        stage(f"{path_or_id}: finding its files")
        files = resolve_model(path_or_id)
        config = loading.load_config(files)
        text = config.get_text_config()
        loading.check_window(path_or_id, window_bound(config), needed_window)
        hf_tokenizer = loading.load_tokenizer(files)
        loading.check_tokenizer(path_or_id, loading.text_tokens(hf_tokenizer), int(text.vocab_size))
        loading.check_memory(files, config, kind, target, loading.available_bytes(target))

        # The weights, and a check that a window gives the model's own logits.
        stage(f"{path_or_id}: reading its weights")
        module = loading.load_module(files, config, kind, target)
        if adapter is not None:
            merge_adapter(module, read_adapter(Path(adapter)))
        tokenizer = Tokenizer(hf_tokenizer, rules, loading.end_ids(module))
        base = cls(module, tokenizer, path_or_id)
        stage(f"{path_or_id}: checking that a window gives its own logits")
        base._check_graphs()
        base._check_parity(files, needed_window)
        stage("")
        return base

    def _check_graphs(self) -> None:
        """Decode in a slower way where CUDA graphs do not serve; see :mod:`.graph_check`."""
        if self.device.type == "cuda":
            from megacontext.core.model.graph_check import check_graphs  # it checks a BaseModel

            self.graphs_refusal = check_graphs(self)

    def _check_parity(self, files: ModelFiles, needed_window: int | None) -> None:
        """Refuse an architecture that a working context does not hold; see :mod:`.parity`."""
        if files.bundled:
            return
        from megacontext.core.model.verdicts import parity_of  # it checks a BaseModel

        verdict = parity_of(self, files, needed_window)
        if verdict.refusal is not None:
            raise ModelError(
                f"model '{self.name}' ({type(self.module).__name__}) is not supported: "
                f"{verdict.refusal}; choose another model"
            )
        self.splice_refusal = verdict.splice

    @classmethod
    def from_module(
        cls, module: nn.Module, tokenizer: Tokenizer | None = None, name: str = "module"
    ) -> Self:
        """Wrap a causal language model that is already in memory."""
        return cls(module, tokenizer, name)

    @property
    def has_tokenizer(self) -> bool:
        """False for a model that was wrapped without one."""
        return self._tokenizer is not None

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer.

        Raises:
            ModelError: a model wrapped without one.
        """
        if self._tokenizer is None:
            raise ModelError(f"model '{self.name}' was given no tokenizer, pass one to from_module")
        return self._tokenizer

    @property
    def dim(self) -> int:
        """Width d of the input embeddings."""
        return int(self._embedding.embedding_dim)

    @property
    def vocab_size(self) -> int:
        """Rows V of the embedding matrix; the tokenizer may have fewer."""
        return int(self._embedding.num_embeddings)

    @property
    def window(self) -> int:
        """Positions that the model can be given."""
        return self.bound.rows

    @property
    def bound(self) -> WindowBound:
        """The window and why it ends there."""
        return window_bound(self.module.config)

    @property
    def kv_shape(self) -> tuple[int, int, int]:
        """(layers, key/value heads, head dimension of the keys) of the model's cache."""
        return self._kv_widths[:3]

    @property
    def value_dim(self) -> int:
        """Head dimension of the values in the cache; mostly that of the keys."""
        return self._kv_widths[3]

    @cached_property
    def _kv_widths(self) -> tuple[int, int, int, int]:
        """What the layers write into a cache: a config may say something else.

        Raises:
            ModelError: a layer that caches nothing, or layers that differ.
        """
        cache = DynamicCache()
        rows = self.embed(np.zeros(2, np.int64))
        mask = torch.ones(2, 2, dtype=torch.bool, device=self.device).tril()
        self.forward_rows(rows, torch.arange(2, device=self.device), mask, cache, keep=1)
        widths = {
            (layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3])
            for layer in cache.layers
            if getattr(layer, "keys", None) is not None and layer.keys.ndim == 4
        }
        if len(widths) != 1 or any(getattr(layer, "keys", None) is None for layer in cache.layers):
            kinds = ", ".join(f"{h} heads of {k} and {v}" for h, k, v in sorted(widths))
            raise ModelError(
                f"model '{self.name}' is not supported: its layers cache keys and values of "
                f"different shapes ({kinds or 'none'}); choose a model whose layers are alike"
            )
        ((heads, key_dim, value_dim),) = widths
        return len(cache.layers), heads, key_dim, value_dim

    @property
    def device(self) -> torch.device:
        return self._embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self._embedding.weight.dtype

    @property
    def embedding_matrix(self) -> Tensor:
        """Input embeddings [V, d] of all tokens, frozen: what :meth:`embed` gives.

        A new tensor where the embedding module scales its weights.
        """
        weight, scale = self._embedding.weight, self._embedding_scale
        return weight if scale == 1.0 else weight * scale

    @cached_property
    def _embedding_scale(self) -> float:
        """What the embedding module multiplies its weights by."""
        if type(self._embedding) is nn.Embedding:
            return 1.0
        rows = self._embedding.weight[: min(64, self.vocab_size)].detach().float()
        given = self.embed(np.arange(len(rows))).float()
        scale = float((given * rows).sum() / rows.square().sum().clamp_min(1e-30))
        return 1.0 if abs(scale - 1.0) < 1e-3 else scale

    @torch.no_grad()
    def embed(self, tokens: ArrayLike) -> Tensor:
        """Input embeddings [t, d] of token ids [t]."""
        ids = torch.from_numpy(np.asarray(tokens, dtype=np.int64))
        embedded: Tensor = self._embedding(ids.to(self.device))
        return embedded

    @torch.no_grad()
    def forward_rows(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | dict[str, Tensor],
        cache: Any | None,
        keep: int,
    ) -> Forward:
        """One forward over rows of one sequence.

        Args:
            x: input embeddings [r, d].
            positions: I64[r].
            mask: bool [r, columns], True where a row sees a column of the cache (or of ``x``);
                by layer type where these differ.
            cache: a transformers ``Cache``, or None.
            keep: how many of the last rows get logits, >= 1.
        """
        hidden: list[Tensor] = []
        # The head's input is the last hidden state; logits come from the module itself, since
        # some models scale or cap them.
        hook = self._head.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0]))
        try:
            out = self.module(
                inputs_embeds=x[None],
                position_ids=positions[None],
                attention_mask=self._model_mask(mask),
                **{self._cache_argument: cache},
                use_cache=cache is not None,
                logits_to_keep=keep,
            )
        finally:
            hook.remove()
        return Forward(out.logits[0].float(), hidden[0][0])

    def _model_mask(self, mask: Tensor | dict[str, Tensor]) -> Any:
        """The mask [1, 1, r, columns] as the model's attention reads it.

        SDPA takes booleans. Eager attention adds its mask to the scores, where a boolean one would
        silently mask nothing.
        """
        if isinstance(mask, dict):
            return {kind: self._model_mask(part) for kind, part in mask.items()}
        if self.config._attn_implementation != "eager":
            return mask[None, None]
        lowest = torch.finfo(self.dtype).min
        added = torch.zeros(mask.shape, dtype=self.dtype, device=mask.device)
        return added.masked_fill_(~mask, lowest)[None, None]
