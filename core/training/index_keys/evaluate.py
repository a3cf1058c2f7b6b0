"""Gold-block recall: is the block of an asked fact among the first k of a long history?

Facts, keys, wordings and texts are those of the held-out split. The history is the sample with
its distractors (facts in the same words) among held-out filler blocks. Baselines of the trained
keys are the untrained lexical keys and BM25 over blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from megacontext.core.config.settings import Count
from megacontext.core.data.recall.writer import RecallOptions, RecallWriter
from megacontext.core.data.token_streams import TokenStreams
from megacontext.core.gistnet.lexical import LexicalKeys
from megacontext.core.gistnet.module import GistNet
from megacontext.core.rng import generator
from megacontext.core.training.common.frozen_base import FrozenBase, block_inputs, question_inputs
from megacontext.core.training.index_keys.dataset import question_tokens

__all__ = ["KeyEvalConfig", "KeyEvaluator"]

_TOP = (1, 4, 16)
_CONTENDERS = ("keys", "lexical", "bm25")


@dataclass(frozen=True)
class KeyEvalConfig:
    """``cases`` questions against ``pools`` blocks; each history of ``length`` tokens holds up
    to ``facts_max`` facts in the same words per scene."""

    cases: Count = 128
    pools: tuple[Count, ...] = (2048, 32_768)
    length: Count = 2048
    facts_max: int = 20
    seed: int = 0


@dataclass(frozen=True)
class _Case:
    blocks: np.ndarray  # [n, K]
    question: np.ndarray
    facts: list[np.ndarray]  # blocks that hold a part of each asked fact


class KeyEvaluator:
    """Fixed cases and filler, made once."""

    def __init__(
        self,
        config: KeyEvalConfig,
        base: FrozenBase,
        streams: TokenStreams,
        tokenizer: Tokenizer,
        idf: np.ndarray,
        *,
        block_size: int,
        query_tokens: int,
    ) -> None:
        self._config, self._base, self._idf, self._size = config, base, idf, block_size
        self._query = query_tokens
        self._lexical = LexicalKeys(len(idf))
        writer = RecallWriter(tokenizer, "heldout", config.seed, block_size)
        self._cases = [self._case(writer, streams, i) for i in range(config.cases)]
        parts = []
        chunks = -(-max(config.pools) * block_size // 16_384)
        for i in range(chunks):
            rng = generator(config.seed, "keys.judge.filler", i)
            domain = streams.domains[i % len(streams.domains)]
            parts.append(streams.window(rng, domain, 16_384).astype(np.int64))
        filler = np.concatenate(parts)
        self._filler = filler[: len(filler) // block_size * block_size].reshape(-1, block_size)
        self.names = [
            f"{who}_{pool}_top{k}" for who in _CONTENDERS for pool in config.pools for k in _TOP
        ] + ["keys_missed"]
        self._controls: dict[str, float] | None = None

    def _case(self, writer: RecallWriter, streams: TokenStreams, number: int) -> _Case:
        options = RecallOptions(
            facts_max=self._config.facts_max, scenes_max=2, canonical=True, asked_max=1
        )
        domain = streams.domains[number % len(streams.domains)]

        # Sample until there is a question whose facts all have a block before it.
        attempt = 0
        while True:
            rng = generator(self._config.seed, "keys.judge.case", number, attempt)
            text = streams.window(rng, domain, self._config.length)
            sample = writer.sample(text, self._config.length, options, number, attempt)
            attempt += 1
            if not sample.asked:
                continue
            span = sample.asked[-1]
            limit = span.start // self._size
            facts = [
                np.arange(a // self._size, min(limit, (b - 1) // self._size + 1))
                for a, b in (sample.facts[g] for g in span.gold)
            ]
            if facts and all(len(fact) for fact in facts):
                break

        tokens = sample.tokens.astype(np.int64)
        return _Case(
            tokens[: limit * self._size].reshape(-1, self._size),
            question_tokens(tokens, span.answer_start, self._query),
            facts,
        )

    def evaluate(self, net: GistNet) -> dict[str, float]:
        """Fraction of cases in which each asked fact has a block among the top k."""
        if self._controls is None:
            self._controls = {
                **self._top_k_recall("lexical", self._lexical_scores()),
                **self._top_k_recall("bm25", self._bm25_scores()),
            }
        metrics = {**self._top_k_recall("keys", self._key_scores(net)), **self._controls}
        largest = max(self._config.pools)
        metrics["keys_missed"] = 1 - metrics[f"keys_{largest}_top16"]
        return metrics

    def _top_k_recall(
        self, name: str, scores: list[tuple[np.ndarray, np.ndarray]]
    ) -> dict[str, float]:
        """From (scores of the case's blocks, scores of the filler's) of each case."""
        matches = {(pool, k): 0 for pool in self._config.pools for k in _TOP}
        for case, (case_scores, filler_scores) in zip(self._cases, scores, strict=True):
            for pool in self._config.pools:
                others = np.concatenate(
                    [case_scores, filler_scores[: max(0, pool - len(case_scores))]]
                )
                ranks = [int((others > case_scores[fact].max()).sum()) for fact in case.facts]
                for k in _TOP:
                    matches[pool, k] += all(rank < k for rank in ranks)
        return {f"{name}_{p}_top{k}": n / len(self._cases) for (p, k), n in matches.items()}

    @torch.no_grad()
    def _key_scores(self, net: GistNet) -> list[tuple[np.ndarray, np.ndarray]]:
        filler = self._keys(net, self._filler)
        result: list[tuple[np.ndarray, np.ndarray]] = []
        for case in self._cases:
            asked = torch.from_numpy(case.question)[None].to(self._base.device)
            vectors = net.keys.queries(*question_inputs(self._base, net, asked))[0].float()
            case_keys = self._keys(net, case.blocks)
            # Half precision would blur the order of the best.
            with torch.autocast(vectors.device.type, enabled=False):
                pair = [(keys @ vectors.T).amax(1).cpu().numpy() for keys in (case_keys, filler)]
            result.append((pair[0], pair[1]))
        return result

    def _keys(self, net: GistNet, blocks: np.ndarray) -> Tensor:
        """Keys [n, V] of consecutive blocks."""
        size, step = self._size, 256
        batches = []
        for start in range(0, len(blocks), step):
            # One block more in front gives the first one its left context.
            first = max(0, start - -(-net.config.left_context // size))
            part = torch.from_numpy(blocks[first : start + step].reshape(1, -1))
            part = part.to(self._base.device)
            target = torch.arange(start - first, part.shape[1] // size, device=part.device)[None]
            x, _ = block_inputs(self._base, net, part, target)
            batches.append(net.keys.keys(x[0], size).float())
        return torch.cat(batches)

    def _lexical_scores(self) -> list[tuple[np.ndarray, np.ndarray]]:
        filler = self._lexical.encode(self._filler)
        result = []
        for case in self._cases:
            query = self._lexical.encode(case.question[None])[0]
            result.append((self._lexical.encode(case.blocks) @ query, filler @ query))
        return result

    def _bm25_scores(self) -> list[tuple[np.ndarray, np.ndarray]]:
        result = []
        for case in self._cases:
            terms = np.unique(case.question[case.question >= 0])
            result.append(
                (_bm25(case.blocks, terms, self._idf), _bm25(self._filler, terms, self._idf))
            )
        return result


def _bm25(blocks: np.ndarray, terms: np.ndarray, idf: np.ndarray) -> np.ndarray:
    """BM25 (k1 1.2; all blocks have one length, so b does nothing) of [n, K] blocks."""
    score = np.zeros(len(blocks), np.float32)
    for term in terms:
        count = (blocks == term).sum(axis=1)
        score += idf[term] * count * 2.2 / (count + 1.2)
    return score
