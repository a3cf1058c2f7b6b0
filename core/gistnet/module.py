"""GistNet: K child embeddings in, one embedding in the base model's input space out.

Shapes: N nodes, K children, C left context, T = C + K, D width of the base model, V key_dim.

The head starts at zero and its output is added to a start that is already a gist: one of the
children (``start: token``) or their mean (``start: mean``). A frozen model has only ever seen token
embeddings, so one of them disturbs it far less than a mean of many. The root mean square is fixed
to that of the token embeddings: a frozen model's input norms must not change.
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
        start: what the head's output is added to: one ``token``, picked by a learned score with
            straight-through gradients (Bengio et al. 2013), or the children's ``mean``.
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
    start: Literal["token", "mean"] = "token"
    gist_rms: float = 0.02
    keys: KeyConfig = field(default_factory=KeyConfig)

    def __post_init__(self) -> None:
        for name, allowed in (
            ("pooling", ("mean", "query", "cls", "mean_query")),
            ("head", ("linear", "mlp")),
            ("start", ("token", "mean")),
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


def rarity_direction(embedding: Tensor, idf: Tensor, ridge: float = 1e-2) -> Tensor:
    """The direction [D] whose product with RMS-normalised embeddings best predicts
    ``idf`` [vocab] up to a constant (ridge regression, float64)."""
    x = rms_normalized(embedding.detach().cpu().double())
    y = idf.detach().cpu().double()
    x, y = x - x.mean(0), y - y.mean()
    gram = x.T @ x + ridge * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    direction: Tensor = torch.linalg.solve(gram, x.T @ y)
    return direction.float()


class GistNet(nn.Module):
    """The trained gister; see :class:`~megacontext.core.gistnet.gister.NetGister`."""

    def __init__(self, config: GistNetConfig) -> None:
        super().__init__()
        dim = config.dim
        self.config = config
        self.encoder = Encoder(config.encoder_shape())
        self.level_embedding = nn.Parameter(torch.zeros(_LEVELS, dim))
        # A level that was never trained makes plain starts: its gain is still 0.
        self.level_gain = nn.Parameter(torch.tensor([0.0, 1.0] + [0.0] * (_LEVELS - 2)))
        self.pad = nn.Parameter(torch.zeros(dim))  # before the start of the history
        self.rec = nn.Parameter(torch.zeros(dim))  # asks the base model to spell a gist out
        if config.pooling in ("query", "mean_query"):
            self.pool = nn.Linear(dim, config.heads, bias=False)
        if config.pooling == "cls":
            self.cls = nn.Parameter(torch.zeros(dim))
        if config.head == "mlp":
            self.inner = nn.Linear(dim, 2 * dim, bias=False)
        self.head = nn.Linear(2 * dim if config.head == "mlp" else dim, dim, bias=False)
        if config.start == "token":
            self.pick = nn.Linear(dim, 1, bias=False)
        self.keys = KeyTower(dim, config.keys)

    def init_weights(self, seed: int) -> None:
        """Random weights from ``seed``; gists are the plain start until the head is trained."""
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

            # A head of zeros changes nothing: the first gists are the plain start.
            self.head.weight.zero_()
            if self.config.start == "token":
                self.pick.weight.copy_(
                    torch.randn(self.pick.weight.shape, generator=source) * self.config.dim**-0.5
                )

    def fit_rarity(self, embedding: Tensor, idf: Tensor) -> None:
        """Let picks and key weights start from how rare a token is.

        Args:
            embedding: [vocab, D] input embeddings. idf: [vocab], e.g. BM25's idf in nats.
        """
        rare = rarity_direction(embedding, idf)
        with torch.no_grad():
            if self.config.start == "token":
                self.pick.weight.copy_(3 * rare[None])
            self.keys.rarity.weight.copy_(0.5 * rare[None])

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
        block_size = self.config.block_size
        mark = self.level_embedding[level].to(x_NTD.dtype)
        h_NTD = x_NTD + mark
        if self.config.pooling == "cls":
            cls = self.cls.to(x_NTD.dtype).expand(len(x_NTD), 1, -1)
            state_ND = self.encoder(torch.cat((h_NTD, cls), dim=1), 1)[:, -1]
        else:
            state_ND = self._pooled(self.encoder(h_NTD, block_size))
        if self.config.head == "mlp":
            state_ND = functional.gelu(self.inner(state_ND))
        # The head's output is measured in units of the embeddings' RMS, like its input.
        start_ND = rms_normalized(self._start(x_NTD[:, -block_size:].float()))
        moved_ND = start_ND + self.level_gain[level] * self.head(state_ND).float()
        return rms_normalized(moved_ND) * self.config.gist_rms

    def _start(self, x_NKD: Tensor) -> Tensor:
        if self.config.start == "mean":
            return x_NKD.mean(dim=1)
        fraction_NK1 = (
            self.pick(rms_normalized(x_NKD).to(self.pick.weight.dtype)).float().softmax(1)
        )
        best_NK1 = torch.zeros_like(fraction_NK1).scatter_(
            1, fraction_NK1.argmax(1, keepdim=True), 1.0
        )
        # Forward one child, backward all of them.
        picked: Tensor = ((best_NK1 + fraction_NK1 - fraction_NK1.detach()) * x_NKD).sum(dim=1)
        return picked

    def _pooled(self, h_NKD: Tensor) -> Tensor:
        mean_ND = h_NKD.mean(dim=1)
        if self.config.pooling == "mean":
            return mean_ND
        rows, length, dim = h_NKD.shape
        fraction_NKH = self.pool(h_NKD).float().softmax(dim=1).to(h_NKD.dtype)
        heads = fraction_NKH.shape[-1]
        split = h_NKD.view(rows, length, heads, dim // heads)
        query_ND = torch.einsum("nkh,nkhe->nhe", fraction_NKH, split).reshape(rows, dim)
        return query_ND if self.config.pooling == "query" else mean_ND + query_ND
