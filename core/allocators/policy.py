"""A small policy network in numpy, kept as ``policy.safetensors`` and ``policy.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from megacontext.core.focus.actions import F32
from megacontext.traces.errors import ConfigError

__all__ = ["FEATURES", "MlpPolicy"]

FEATURES = ("score", "level", "width", "distance", "raw", "room")


@dataclass(frozen=True)
class MlpPolicy:
    """tanh layers and a linear head of two outputs, the same for every frontier entry.

    Args:
        weights: F32[in, out] layer by layer; the first takes the features, the last gives 2.
        biases: F32[out] layer by layer.
    """

    weights: tuple[F32, ...]
    biases: tuple[F32, ...]

    def __post_init__(self) -> None:
        width = len(FEATURES)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if weight.ndim != 2 or weight.shape[0] != width or bias.shape != weight.shape[1:]:
                raise ConfigError(
                    f"policy: layer {layer} has shape {weight.shape} and bias {bias.shape}, "
                    f"expected ({width}, n) and (n,)."
                )
            width = weight.shape[1]
        if width != 2 or not self.weights:
            raise ConfigError(f"policy: the last layer has {width} outputs, expected 2.")

    def act(self, features: F32) -> F32:
        """F32[n, 2] from F32[n, features]; see :class:`~.learned.Policy`."""
        hidden = features
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = np.tanh(hidden @ weight + bias)
        out: F32 = hidden @ self.weights[-1] + self.biases[-1]
        return out

    def save(self, folder: Path) -> None:
        """Write both files into ``folder``, which is created."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"weight.{at}": weight for at, weight in enumerate(self.weights)}
        tensors |= {f"bias.{at}": bias for at, bias in enumerate(self.biases)}
        save_file(tensors, folder / "policy.safetensors")
        about = {"kind": "mlp", "features": list(FEATURES), "layers": len(self.weights)}
        (folder / "policy.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> MlpPolicy:
        """Read what :meth:`save` wrote.

        Raises:
            ConfigError: files are missing, damaged or made for other features.
        """
        try:
            about = json.loads((folder / "policy.json").read_text(encoding="utf-8"))
            tensors = load_file(folder / "policy.safetensors")
            features, layers = about["features"], int(about["layers"])
            weights = tuple(tensors[f"weight.{at}"].astype(np.float32) for at in range(layers))
            biases = tuple(tensors[f"bias.{at}"].astype(np.float32) for at in range(layers))
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"allocator.path: {folder} holds no usable policy ({error}); it needs "
                "policy.safetensors and policy.json."
            ) from error
        if tuple(features) != FEATURES:
            raise ConfigError(
                f"allocator.path: {folder} was trained on features {features}, this version "
                f"gives {list(FEATURES)}; train it again."
            )
        return cls(weights, biases)
