"""What an architecture has that a working context cannot hold, in words.

This only explains: whether a model is refused is measured (see :mod:`.parity`).
"""

from __future__ import annotations

import inspect
from typing import Any

__all__ = ["unusual"]

_ATTENTION = {"full_attention", "attention", "sliding_attention", "chunked_attention", "full", "*"}
_LAYER_LISTS = ("layer_types", "block_types", "layers_block_type", "hybrid_override_pattern")
_STATE_MODULES = ("Mamba", "Mixer2", "RwkvSelf", "xLSTM", "mLSTM", "GatedDeltaNet", "ShortConv")
_NEEDED = ("inputs_embeds", "position_ids", "past_key_values", "attention_mask")


def unusual(module: Any) -> str | None:
    """One clause on the first such thing; None if nothing is known."""
    config = module.config.get_text_config()
    for trait in (_not_a_decoder, _state_layers, _more_inputs, _positions, _attention, _forward):
        clause = trait(module, config)
        if clause is not None:
            return clause
    return None


def _not_a_decoder(module: Any, config: Any) -> str | None:
    if getattr(config, "is_decoder", None) is False and "is_decoder" in vars(config):
        return "it is an encoder, which reads in both directions (is_decoder is false)"
    if getattr(config, "add_cross_attention", False) or hasattr(config, "encoder_layers"):
        return "it is the decoder half of an encoder-decoder model"
    return None


def _state_layers(module: Any, config: Any) -> str | None:
    for name in _LAYER_LISTS:
        kinds = getattr(config, name, None) or ()
        other = sorted({str(kind) for kind in kinds} - _ATTENTION)
        if other and not all(kind in ("-", "mlp", "moe", "E") for kind in other):
            return (
                f"it has layers of type {', '.join(other)}, which do not keep keys and values of "
                "single rows"
            )
    parts = {type(part).__name__ for part in module.modules()}
    state = sorted(part for part in parts if any(word in part for word in _STATE_MODULES))
    return f"it has recurrent layers ({state[0]})" if state else None


def _more_inputs(module: Any, config: Any) -> str | None:
    if getattr(config, "hidden_size_per_layer_input", 0):
        return "every layer reads a second embedding of each token (per-layer inputs)"
    if getattr(config, "use_langs", False) or hasattr(config, "n_langs"):
        return "it reads a language embedding beside each token"
    return None


def _positions(module: Any, config: Any) -> str | None:
    if getattr(config, "alibi", False) or config.model_type in ("bloom", "mpt"):
        return "its positions are ALiBi biases, computed from a mask without slots"
    if getattr(config, "position_embedding_type", "") in ("relative_key", "relative_key_query"):
        return "its positions are learned relative biases"
    if config.model_type in _OFFSET:
        return "its learned positions start behind the padding id"
    return None


_OFFSET = (
    "camembert",
    "data2vec-text",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)


def _attention(module: Any, config: Any) -> str | None:
    for name, clause in (
        ("num_kv_shared_layers", "layers share the keys of earlier layers"),
        ("index_topk", "its attention is sparse by an index of its own"),
        ("attention_layers", "it has local layers that count cache slots, not rows"),
    ):
        value = getattr(config, name, None)
        if value and (name != "attention_layers" or "local" in value):
            return clause
    return None


def _forward(module: Any, config: Any) -> str | None:
    taken = inspect.signature(module.forward).parameters
    missing = [name for name in _NEEDED if name not in taken]
    return f"its forward takes no {missing[0]}" if missing else None
