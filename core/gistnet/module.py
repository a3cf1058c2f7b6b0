"""GistNet: K child embeddings in, one embedding in the base model's input space out.

Shapes: N nodes, K children, C left context, T = C + K, D width of the base model, V key_dim.

The output starts as the mean of the children (the control), because the head starts at zero and
its output is added to that mean; training can only move away from it for a reason. Its root mean
square is fixed to that of the token embeddings: a frozen model's input norms must not change.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from megacontext.core.gistnet.encoder import Encoder, EncoderShape, rms_normalized
from megacontext.core.gistnet.keys import KeyConfig, KeyTower
from megacontext.traces.errors import ConfigError

__all__ = ["GistNet", "GistNetConfig"]

_LEVELS = 24  # rows of the level embedding; the tree allows no more


@dataclass(frozen=True)
class GistNetConfig:
    """Sizes and kinds of a GistNet.

    Attributes:
        dim: width D of the base model's input embeddings.
        block_size: K.
        left_context: raw tokens C before a block that the encoder sees (level 1 only).
        layers, heads, kv_heads, ffn, rope_theta, norm_eps: of the encoder; equal to the base
            model's where its lower layers are the start.
        pooling: ``mean`` of the block's states, a learned ``query`` that attends to them, the
            state of an appended ``cls`` vector, or ``mean_query``, the first two added.
        head: ``linear`` or ``mlp`` from the pooled state to the gist.
        gist_rms: root mean square of every gist.
        keys: the retriever behind the index keys.
    """

    dim: int
    block_size: int = 32
    left_context: int = 32
    layers: int = 3
    heads: int = 6
    kv_heads: int = 3
    ffn: int = 896
    rope_theta: float = 500_000.0
    norm_eps: float = 1e-5
    pooling: Literal["mean", "query", "cls", "mean_query"] = "mean_query"
    head: Literal["linear", "mlp"] = "linear"
    gist_rms: float = 0.02
    keys: KeyConfig = field(default_factory=KeyConfig)

    def __post_init__(self) -> None:
        for name, allowed in (
            ("pooling", ("mean", "query", "cls", "mean_query")),
            ("head", ("linear", "mlp")),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"gistnet.{name}: {getattr(self, name)!r} is unknown; use one of"
                    f" {', '.join(allowed)}."
                )
        if self.left_context < 0 or self.block_size < 2 or self.gist_rms <= 0:
            raise ConfigError(
                f"gistnet: left_context {self.left_context}, block_size {self.block_size} and"
                f" gist_rms {self.gist_rms} must be >= 0, >= 2 and > 0."
            )

    def encoder_shape(self) -> EncoderShape:
        return EncoderShape(
            self.dim,
            self.layers,
            self.heads,
            self.kv_heads,
            self.ffn,
            self.rope_theta,
            self.norm_eps,
        )

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


class GistNet(nn.Module):
    """The trained gister; see :class:`~megacontext.core.gistnet.gister.NetGister`."""

    def __init__(self, config: GistNetConfig) -> None:
        super().__init__()
        dim = config.dim
        self.config = config
        self.encoder = Encoder(config.encoder_shape())
        self.level_embedding = nn.Parameter(torch.zeros(_LEVELS, dim))
        self.pad = nn.Parameter(torch.zeros(dim))  # before the start of the history
        self.rec = nn.Parameter(torch.zeros(dim))  # asks the base model to spell a gist out
        if config.pooling in ("query", "mean_query"):
            self.pool = nn.Linear(dim, config.heads, bias=False)
        if config.pooling == "cls":
            self.cls = nn.Parameter(torch.zeros(dim))
        if config.head == "mlp":
            self.inner = nn.Linear(dim, 2 * dim, bias=False)
        self.head = nn.Linear(2 * dim if config.head == "mlp" else dim, dim, bias=False)
        self.keys = KeyTower(dim, config.keys)

    def init_weights(self, seed: int) -> None:
        """Random weights from ``seed``; gists are the children's mean until the head is trained."""
        source = torch.Generator().manual_seed(seed)
        self.encoder.init_weights(source)
        self.keys.init_weights(source)
        with torch.no_grad():
            for vector in (self.level_embedding, self.pad, self.rec):
                vector.copy_(torch.randn(vector.shape, generator=source) * self.config.gist_rms)
            self.level_embedding.mul_(0.1)
            if self.config.pooling in ("query", "mean_query"):
                self.pool.weight.copy_(torch.randn(self.pool.weight.shape, generator=source) * 0.02)
            if self.config.pooling == "cls":
                self.cls.copy_(torch.randn(self.cls.shape, generator=source) * self.config.gist_rms)
            if self.config.head == "mlp":
                std = self.config.dim**-0.5
                self.inner.weight.copy_(
                    torch.randn(self.inner.weight.shape, generator=source) * std
                )
            self.head.weight.zero_()

    def adapter_parameters(self) -> list[nn.Parameter]:
        """What the first training stage may change: all but the encoder and the retriever."""
        frozen = {id(p) for part in (self.encoder, self.keys) for p in part.parameters()}
        return [p for p in self.parameters() if id(p) not in frozen]

    def gist_parameters(self) -> list[nn.Parameter]:
        """All parameters that a gist depends on."""
        frozen = {id(p) for p in self.keys.parameters()}
        return [p for p in self.parameters() if id(p) not in frozen]

    def forward(self, x_NTD: Tensor, level: int) -> Tensor:
        """Gists [N, D] of one level.

        Args:
            x_NTD: child embeddings; at level 1 with C left-context embeddings before them.
            level: 1 for blocks, 2 and more for groups of gists.
        """
        own = self.config.block_size
        mark = self.level_embedding[level].to(x_NTD.dtype)
        h_NTD = x_NTD + mark
        if self.config.pooling == "cls":
            cls = self.cls.to(x_NTD.dtype).expand(len(x_NTD), 1, -1)
            state_ND = self.encoder(torch.cat((h_NTD, cls), dim=1))[:, -1]
        else:
            state_ND = self._pooled(self.encoder(h_NTD)[:, -own:])
        if self.config.head == "mlp":
            state_ND = functional.gelu(self.inner(state_ND))
        # The head's output is measured in units of the embeddings' RMS, like its input.
        mean_ND = rms_normalized(x_NTD[:, -own:].float().mean(dim=1))
        return rms_normalized(mean_ND + self.head(state_ND).float()) * self.config.gist_rms

    def _pooled(self, h_NKD: Tensor) -> Tensor:
        mean_ND = h_NKD.mean(dim=1)
        if self.config.pooling == "mean":
            return mean_ND
        rows, length, dim = h_NKD.shape
        share_NKH = self.pool(h_NKD).float().softmax(dim=1).to(h_NKD.dtype)
        heads = share_NKH.shape[-1]
        split = h_NKD.view(rows, length, heads, dim // heads)
        query_ND = torch.einsum("nkh,nkhe->nhe", share_NKH, split).reshape(rows, dim)
        return query_ND if self.config.pooling == "query" else mean_ND + query_ND
