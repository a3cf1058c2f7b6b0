"""LensNet: scores every frontier entry in the light of the newest tokens.

Shapes: B states, N frontier entries, Q tail queries, D base width, E lens width, H heads,
F features, V key_dim.

Dual cross-attention: the tail queries read the frontier, then every entry reads the enriched
queries. Nothing is causal: an old entry's score depends on the newest tokens. Both attentions
cost O(N * Q * E); no entry attends to another entry.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from megacontext.core.lensnet.features import FEATURES, HIGHEST_TRAINED
from megacontext.traces.errors import ConfigError

__all__ = ["LensNet", "LensNetConfig", "TailQueries", "attend_in_parts"]

_TOKEN, _HIDDEN, _NEAR_GIST, _COVER_GIST, _KEY = range(5)
_PART = 256


@dataclass(frozen=True)
class LensNetConfig:
    """Sizes of a LensNet.

    Attributes:
        dim: width D of the base model's input embeddings and hidden states.
        key_dim: length of the gister's index keys.
        block_size: K of the trees it reads.
        width: E; at most 512.
        heads, layers: of the dual cross-attention.
        query_tokens: newest raw tokens among the tail queries.
        hidden_states: newest last hidden states of the base model among them.
        near_gists: newest level-1 gists among them.
    """

    dim: int
    key_dim: int
    block_size: int = 32
    width: int = 96
    heads: int = 4
    layers: int = 1
    query_tokens: int = 32
    hidden_states: int = 4
    near_gists: int = 4

    def __post_init__(self) -> None:
        if self.width > 512 or self.width % self.heads:
            raise ConfigError(
                f"lensnet.width: {self.width} must be at most 512 and a multiple of heads"
                f" {self.heads}."
            )

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True)
class TailQueries:
    """What the newest part of the history asks with; a kind that is missing has length 0.

    Attributes:
        tokens: [B, q, D] embeddings of the newest raw tokens.
        hidden: [B, h, D] last hidden states of the base model.
        near: [B, g, E] newest level-1 gists, as :meth:`LensNet.read_gists` has them.
        cover: [B, c, E] the level-2 gist before the cursor, as it has it, too.
        keys: [B, m, V] query vectors in key space.
        valid: bool [B, q + h + g + c + m]; False where one is only a placeholder.
    """

    tokens: Tensor
    hidden: Tensor
    near: Tensor
    cover: Tensor
    keys: Tensor
    valid: Tensor | None = None


def rms_normalized(x: Tensor) -> Tensor:
    """``x`` [..., D] with root mean square 1 along D, computed in float32 in one kernel."""
    normalized: Tensor = functional.rms_norm(x, x.shape[-1:], None, 1e-12)
    return normalized


def attend_in_parts(
    q_BHXE: Tensor, k_BHYE: Tensor, v_BHYE: Tensor, mask_B11Y: Tensor | None = None
) -> Tensor:
    """``scaled_dot_product_attention`` for few queries over many entries.

    The fused kernels give each query's row to one multiprocessor, which then walks over all
    entries alone; here entries are summed in parts side by side, in float32. Y is a multiple of
    256.
    """
    rows, heads, questions, each = q_BHXE.shape
    parts = k_BHYE.shape[2] // _PART
    with torch.autocast(q_BHXE.device.type, enabled=False):
        weight = (q_BHXE.float() * each**-0.5) @ k_BHYE.float().transpose(-1, -2)
        if mask_B11Y is not None:
            weight = weight.masked_fill(~mask_B11Y, -1e30)
        shares = weight.softmax(-1).view(rows, heads, questions, parts, _PART).transpose(2, 3)
        sums = shares @ v_BHYE.float().reshape(rows, heads, parts, _PART, each)
    seen: Tensor = sums.sum(2).to(q_BHXE.dtype)
    return seen


class _Cross(nn.Module):
    """Pre-norm cross-attention and a feed-forward layer, residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.norm_other = nn.LayerNorm(width)
        self.norm_inner = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.read = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.inner = nn.Linear(width, 2 * width)
        self.outer = nn.Linear(2 * width, width)

    def forward(self, x_BXE: Tensor, other_BYE: Tensor, valid_BY: Tensor | None) -> Tensor:
        rows, length, width = x_BXE.shape
        each = width // self.heads
        q = self.query(self.norm(x_BXE)).view(rows, length, self.heads, each).transpose(1, 2)
        kv = self.read(self.norm_other(other_BYE)).view(rows, -1, 2, self.heads, each)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        mask = None if valid_BY is None else valid_BY[:, None, None, :]
        if kv.is_cuda and k.shape[2] > _PART and k.shape[2] % _PART == 0:
            seen = attend_in_parts(q, k, v, mask)
        else:
            seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x_BXE = x_BXE + self.out(seen.transpose(1, 2).reshape(rows, length, width))
        inner: Tensor = self.outer(functional.gelu(self.inner(self.norm_inner(x_BXE))))
        return x_BXE + inner


class LensNet(nn.Module):
    """The trained lens; see :class:`~megacontext.core.lensnet.lens.NetLens`."""

    def __init__(self, config: LensNetConfig) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.node_input = nn.Linear(config.dim, width, bias=False)
        self.token_input = nn.Linear(config.dim, width, bias=False)
        self.hidden_input = nn.Linear(config.dim, width, bias=False)
        self.key_input = nn.Linear(config.key_dim, width, bias=False)
        self.feature_input = nn.Linear(len(FEATURES), width)
        self.level_embedding = nn.Parameter(torch.zeros(HIGHEST_TRAINED + 1, width))
        self.kind_embedding = nn.Parameter(torch.zeros(5, width))
        self.reading = nn.ModuleList(_Cross(width, config.heads) for _ in range(config.layers))
        self.answering = nn.ModuleList(_Cross(width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, 1)
        self.retrieval = nn.Linear(len(FEATURES), 1)

    def init_weights(self, seed: int) -> None:
        """Random weights from ``seed``; the score starts as a function of the similarity alone."""
        source = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    std = 0.7 * module.weight.shape[1] ** -0.5
                    module.weight.copy_(torch.randn(module.weight.shape, generator=source) * std)
                    if module.bias is not None:
                        module.bias.zero_()
            for table in (self.level_embedding, self.kind_embedding):
                table.copy_(torch.randn(table.shape, generator=source) * 0.02)
            self.score.weight.zero_()
            self.retrieval.weight.zero_()
            self.retrieval.weight[0, FEATURES.index("outlier")] = 1.5
            self.retrieval.weight[0, FEATURES.index("log_rank")] = -0.7
            self.retrieval.bias.fill_(-0.6)

    def read_gists(self, gists: Tensor) -> Tensor:
        """[..., D] to [..., E]: all that the net reads of a gist.

        It depends on the gist alone, so a session does it once for each node and not once a pass.
        """
        read: Tensor = self.node_input(rms_normalized(gists))
        return read

    def forward(
        self,
        gists_BNE: Tensor,
        levels_BN: Tensor,
        features_BNF: Tensor,
        tail: TailQueries,
        valid_BN: Tensor | None = None,
    ) -> Tensor:
        """Scores [B, N] in [-1, 1]; rows where ``valid_BN`` is False are not read.

        Args:
            gists_BNE: an entry's gist, as :meth:`read_gists` has it; for a raw block the level-1
                gist of that block.
            levels_BN: int, 0 for raw blocks.
            features_BNF: see :mod:`megacontext.core.lensnet.features`.
        """
        return torch.tanh(self.logits(gists_BNE, levels_BN, features_BNF, tail, valid_BN))

    def logits(
        self,
        gists_BNE: Tensor,
        levels_BN: Tensor,
        features_BNF: Tensor,
        tail: TailQueries,
        valid_BN: Tensor | None = None,
    ) -> Tensor:
        """The scores before the final tanh, [B, N]."""
        nodes = gists_BNE + self.feature_input(features_BNF)
        nodes = nodes + self.level_embedding[levels_BN.clamp(max=HIGHEST_TRAINED)]
        questions = self._queries(tail)
        for read, answer in zip(self.reading, self.answering, strict=True):
            questions = read(questions, nodes, valid_BN)
            nodes = answer(nodes, questions, tail.valid)
        learned = self.score(self.norm(nodes)) + self.retrieval(features_BNF)
        result: Tensor = learned.squeeze(-1).float()
        return result

    def _queries(self, tail: TailQueries) -> Tensor:
        kind = self.kind_embedding
        # One normalization for both: a GPU counts kernels, not rows.
        sizes = [tail.tokens.shape[1], tail.hidden.shape[1]]
        both = rms_normalized(torch.cat((tail.tokens, tail.hidden), 1))
        tokens, hidden = torch.split(both, sizes, dim=1)
        return torch.cat(
            (
                self.token_input(tokens) + kind[_TOKEN],
                self.hidden_input(hidden) + kind[_HIDDEN],
                tail.near + kind[_NEAR_GIST],
                tail.cover + kind[_COVER_GIST],
                self.key_input(tail.keys) + kind[_KEY],
            ),
            dim=1,
        )
