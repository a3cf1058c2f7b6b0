"""Held-out figures of a base model: NLL by domain, and recall in windows it was never shown.

Greedy decoding of an answer equals the teacher-forced argmax being right at every answer token,
so one forward pass per batch judges all samples exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from megacontext.core.config.settings import Count
from megacontext.core.data.recall.window_sampling import CoarseEntries
from megacontext.core.data.recall.writer import RecallOptions, RecallWriter
from megacontext.core.data.shards import ShardSet
from megacontext.core.data.token_streams import TokenStreams
from megacontext.core.rng import generator
from megacontext.core.training.common.gist_inputs import assign_gists

__all__ = ["BLOCK", "HeldoutConfig", "HeldoutSet", "Mixed", "RecallCell"]

BLOCK = 32  # of recall text, unless its writer is told another
LAYOUTS = ("full", "gappy", "coarse")  # see megacontext.core.data.recall.writer
Forward = Callable[[Tensor], Tensor]  # tokens [B, T] to logits [B, T, V]
Mixed = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Tokens [B, T], places [B, T] and blocks [N, 2K] of gists to logits [B, T, V]."""


@dataclass(frozen=True)
class HeldoutConfig:
    """How much is judged.

    ``rows`` windows of ``length`` tokens per domain; ``recall_samples`` samples for every pair of
    ``recall_lengths`` and layout (full, gappy, coarse) in held-out wording, and one cell in
    training wording; ``facts`` and ``kind`` as in recall text.
    """

    rows: Count = 16
    length: Count = 2048
    recall_samples: int = 48
    recall_lengths: tuple[Count, ...] = (1024, 2048, 4096)
    facts: int = 8
    kind: str = "mixed"
    batch_tokens: Count = 32_768


@dataclass(frozen=True)
class RecallCell:
    """Samples of one kind: tokens [n, T], answer positions [n, T] bool, coarse entries [n]."""

    name: str
    tokens: Tensor
    answer: Tensor
    coarse: tuple[CoarseEntries | None, ...] = ()


class HeldoutSet:
    """Fixed samples, made once; judging is a few forward passes."""

    def __init__(
        self, config: HeldoutConfig, shards: ShardSet, tokenizer: Tokenizer, seed: int = 0
    ) -> None:
        self._config = config
        self._streams = TokenStreams(shards)
        self._writers = {s: RecallWriter(tokenizer, s, seed) for s in ("train", "heldout")}
        self._seed = seed
        self._texts = {d: self._windows(d) for d in self._streams.domains}
        self._cells = [
            self.cell(length, layout=layout, split="heldout", kind=config.kind)
            for length in config.recall_lengths
            for layout in LAYOUTS
        ]
        min_length = min(config.recall_lengths)
        self._cells.append(self.cell(min_length, layout="full", split="train", kind=config.kind))

    @property
    def names(self) -> list[str]:
        return [
            *(f"nll_{d}" for d in self._texts),
            "heldout_nll",
            *(cell.name for cell in self._cells),
            "recall",
            "score",
        ]

    def _windows(self, domain: str) -> Tensor:
        rows = []
        for i in range(self._config.rows):
            rng = generator(self._seed, f"heldout.{domain}", i)
            rows.append(self._streams.window(rng, domain, self._config.length + 1))
        return torch.from_numpy(np.stack(rows).astype(np.int64))

    def cell(
        self, length: int, *, layout: str, split: str, kind: str, samples: int = 0
    ) -> RecallCell:
        """Single-question samples in the canonical format, fillers from all domains in turn."""
        options = RecallOptions(
            kind=kind,
            facts_max=self._config.facts,
            scenes_max=2,
            canonical=True,
            gappy=layout == "gappy",
            coarse=layout == "coarse",
        )
        number = LAYOUTS.index(layout)
        tokens, answers, coarse = [], [], []
        for i in range(samples or self._config.recall_samples):
            domain = self._streams.domains[i % len(self._streams.domains)]
            rng = generator(self._seed, "heldout.recall", i, length, number)
            filler = self._streams.window(rng, domain, length * (6 if number else 1))
            sample = self._writers[split].sample(filler, length, options, i, length, number)
            # Position t predicts token t + 1; the closing token is not part of the answer.
            answer = np.zeros(length, bool)
            for span in sample.asked:
                answer[span.answer_start - 1 : span.answer_stop - 1] = True
            tokens.append(sample.tokens.astype(np.int64))
            answers.append(answer)
            coarse.append(sample.coarse)
        name = f"recall_{split}_{layout}_{length}" + ("" if kind == "mixed" else f"_{kind}")
        return RecallCell(
            name,
            torch.from_numpy(np.stack(tokens)),
            torch.from_numpy(np.stack(answers)),
            tuple(coarse),
        )

    def evaluate(
        self, forward: Forward, device: torch.device, mixed: Mixed | None = None
    ) -> dict[str, float]:
        """All figures; ``heldout_nll`` is the mean over domains, ``recall`` over held-out cells.

        With ``mixed``, coarse windows are read with gists in them, otherwise with tokens.
        ``score`` (lower is better) weighs both: a base that reads better text but finds no
        facts is of no use here.
        """
        metrics: dict[str, float] = {}
        for domain, rows in self._texts.items():
            metrics[f"nll_{domain}"] = self.nll(forward, rows, device)
        metrics["heldout_nll"] = float(np.mean(list(metrics.values())))
        for cell in self._cells:
            metrics[cell.name] = float(self.accuracy(forward, cell, device, mixed).mean())
        unseen = [v for k, v in metrics.items() if k.startswith("recall_heldout")]
        metrics["recall"] = float(np.mean(unseen))
        metrics["score"] = metrics["heldout_nll"] + 1 - metrics["recall"]
        return metrics

    def nll(self, forward: Forward, rows: Tensor, device: torch.device) -> float:
        """Mean next-token NLL in nats over rows [n, T + 1]."""
        total, count = 0.0, 0
        step = max(1, self._config.batch_tokens // rows.shape[1])
        for start in range(0, len(rows), step):
            part = rows[start : start + step].to(device)
            logits = forward(part[:, :-1]).float()
            losses = functional.cross_entropy(
                logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum"
            )
            total, count = total + float(losses), count + part[:, 1:].numel()
        return total / count

    def accuracy(
        self,
        forward: Forward,
        cell: RecallCell,
        device: torch.device,
        mixed: Mixed | None = None,
    ) -> np.ndarray:
        """Whether each sample's whole answer is decoded greedily, bool [n]."""
        right = []
        step = max(1, self._config.batch_tokens // cell.tokens.shape[1])
        for start in range(0, len(cell.tokens), step):
            part = cell.tokens[start : start + step].to(device)
            asked = cell.answer[start : start + step].to(device)
            coarse = cell.coarse[start : start + step]

            # Coarse windows are read with gists if there is a GistNet.
            if mixed is not None and any(row is not None for row in coarse):
                count = sum(len(row.level1_positions) for row in coarse if row is not None)
                positions, blocks = assign_gists(
                    generator(self._seed, "heldout.uppers", start),
                    coarse,
                    part.shape[1],
                    max(1, -(-count // BLOCK)) * BLOCK,
                    BLOCK,
                )
                gists = (torch.from_numpy(a).to(device) for a in (positions, blocks))
                best = mixed(part, *gists).argmax(-1)
            else:
                best = forward(part).argmax(-1)

            # An answer counts only if all of its tokens are right.
            hit = best[:, :-1] == part[:, 1:]
            right.append((hit | ~asked[:, :-1]).all(-1).cpu().numpy())
        return np.concatenate(right)
