"""The two-tower retriever behind the index keys: blocks and questions in one key space.

One small encoder reads a block (behind its left context) or the newest tokens of the window; the
two differ by a learned mark and by their heads. A vector has two parts that are scaled to a joint
length of 1: a *contextual* one, pooled from the encoder's states, and a *lexical* one, the sum of
the projected token embeddings under weights that the encoder gives in context. The first carries
paraphrases and word order, the second keys that training never saw: it is a learned, dense
relative of BM25 (cf. Gao et al., "COIL", 2021; Formal et al., "SPLADE", 2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from megacontext.core.gistnet.encoder import Encoder, EncoderShape, rms_normalized
from megacontext.traces.errors import ConfigError

__all__ = ["KeyConfig", "KeyTower"]

_BLOCK, _QUERY = 0, 1


@dataclass(frozen=True)
class KeyConfig:
    """Sizes of the retriever.

    Attributes:
        width, layers, heads, ffn: of its encoder; 0 layers make a learned bag of words, which
            trains in minutes on a CPU.
        context_dim, lexical_dim: the two parts of a key; their sum is ``key_dim``.
        queries: vectors per question; a block's similarity is the largest over them.
        query_tokens: newest tokens that form a question; fewer are padded on the left.
        left_context: tokens before a block that its key sees, at most the GistNet's own.
    """

    width: int = 256
    layers: int = 2
    heads: int = 4
    ffn: int = 384
    context_dim: int = 128
    lexical_dim: int = 128
    queries: int = 2
    query_tokens: int = 32
    left_context: int = 16

    def __post_init__(self) -> None:
        for name in ("context_dim", "lexical_dim", "queries", "query_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"keys.{name}: {getattr(self, name)} is below 1; use a positive number."
                )

    @property
    def key_dim(self) -> int:
        return self.context_dim + self.lexical_dim


class KeyTower(nn.Module):
    """Maps token embeddings [N, T, dim] to unit vectors in key space.

    Shapes: N sequences, T tokens, D width, M vectors per sequence, V key_dim.
    """

    def __init__(self, dim: int, config: KeyConfig) -> None:
        super().__init__()
        self.config = config
        shape = EncoderShape(config.width, config.layers, config.heads, config.heads, config.ffn)
        self.input = nn.Linear(dim, config.width, bias=False)
        self.mark = nn.Parameter(torch.zeros(2, config.width))
        self.encoder = Encoder(shape)
        self.block_attention = nn.Linear(config.width, 1, bias=False)
        self.query_attention = nn.Linear(config.width, config.queries, bias=False)
        self.block_head = nn.Linear(2 * config.width, config.context_dim, bias=False)
        self.query_head = nn.Linear(2 * config.width, config.context_dim, bias=False)
        self.block_weight = nn.Linear(config.width, 1)
        self.query_weight = nn.Linear(config.width, config.queries)
        self.rarity = nn.Linear(dim, 1, bias=False)  # of a token, whatever its context
        self.lexical = nn.Linear(dim, config.lexical_dim, bias=False)
        self.balance = nn.Parameter(torch.zeros(()))
        self.sharpness = nn.Parameter(torch.tensor(3.0))  # log of the inverse temperature

    def init_weights(self, source: torch.Generator) -> None:
        """Random weights from ``source``; both halves start with equal say."""
        self.encoder.init_weights(source)
        with torch.no_grad():
            for module in (self.input, self.lexical, self.block_head):
                std = module.weight.shape[1] ** -0.5
                module.weight.copy_(torch.randn(module.weight.shape, generator=source) * std)
            self.query_head.weight.copy_(self.block_head.weight)
            for module in (self.block_attention, self.query_attention):
                module.weight.copy_(torch.randn(module.weight.shape, generator=source) * 0.02)
            for module in (self.block_weight, self.query_weight):
                module.weight.copy_(torch.randn(module.weight.shape, generator=source) * 0.02)
                module.bias.fill_(0.5)
            self.rarity.weight.zero_()

    def keys(self, x_NTD: Tensor, newest: int) -> Tensor:
        """Keys [N, V] of blocks of ``newest`` tokens, from embeddings of left context and block."""
        keys_NMV = self._vectors(
            x_NTD, newest, _BLOCK, self.block_attention, self.block_head, self.block_weight
        )
        return keys_NMV[:, 0]

    def queries(self, x_NTD: Tensor, real_NT: Tensor) -> Tensor:
        """Query vectors [N, M, V] of questions.

        Args:
            x_NTD: embeddings of the newest tokens.
            real_NT: bool, False where a short question is padded.
        """
        return self._vectors(
            x_NTD,
            x_NTD.shape[1],
            _QUERY,
            self.query_attention,
            self.query_head,
            self.query_weight,
            real_NT,
        )

    def logits(self, queries_QMV: Tensor, keys_NV: Tensor) -> Tensor:
        """Scaled similarities [Q, N]: the largest over a question's vectors."""
        # Half precision would blur the order of the best.
        with torch.autocast(keys_NV.device.type, enabled=False):
            best_QN = (queries_QMV.float() @ keys_NV.float().T).amax(dim=1)
        return best_QN * self.sharpness.clamp(max=4.6).exp()

    def _vectors(
        self,
        x_NTD: Tensor,
        newest: int,
        mark: int,
        attention: nn.Linear,
        head: nn.Linear,
        weigh: nn.Linear,
        real_NT: Tensor | None = None,
    ) -> Tensor:
        x_NTD = rms_normalized(x_NTD)
        h_NTD = self.encoder(self.input(x_NTD) + self.mark[mark].to(x_NTD.dtype), newest)

        # Padding of a question takes no part in attention, weights and mean.
        fraction_NTM = attention(h_NTD).float()
        weight_NTM = functional.softplus(weigh(h_NTD) + self.rarity(x_NTD[:, -newest:]))
        if real_NT is None:
            mean_ND = h_NTD.mean(dim=1)
        else:
            fraction_NTM = fraction_NTM.masked_fill(~real_NT[..., None], -1e9)
            weight_NTM = weight_NTM * real_NT[..., None]
            count_N1 = real_NT.sum(dim=1, keepdim=True).clamp(min=1)
            mean_ND = (h_NTD * real_NT[..., None]).sum(dim=1) / count_N1

        # The key's first part: what the block is about.
        fraction_NTM = fraction_NTM.softmax(dim=1).to(h_NTD.dtype)
        pooled_NMD = fraction_NTM.transpose(1, 2) @ h_NTD
        mean_NMD = mean_ND[:, None].to(h_NTD.dtype).expand_as(pooled_NMD)
        context_NMV = head(torch.cat((pooled_NMD, mean_NMD), dim=-1))

        # Its second part: which rare tokens it has.
        lexical_NMV = weight_NTM.transpose(1, 2) @ self.lexical(x_NTD[:, -newest:])
        balance = torch.sigmoid(self.balance)
        parts = (
            functional.normalize(context_NMV.float(), dim=-1) * balance.sqrt(),
            functional.normalize(lexical_NMV.float(), dim=-1) * (1 - balance).sqrt(),
        )
        return torch.cat(parts, dim=-1)
