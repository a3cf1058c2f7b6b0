"""What a joint run measures before its first phase and after each one, always on the same windows.

* ``vanilla_nll``: raw held-out text, without any gist: what the base model is worth on its own.
* ``task_nll``, ``task_accuracy``: answers to questions about facts in a short raw window.
* ``mixed_nll``: raw tokens of windows in which many blocks are gists; ``mixed_dnll`` is what it is
  above the original base model's NLL of the same tokens with the whole history raw.
* ``lens_missed`` and what it is made of: see :mod:`..lensnet.evaluate`.

Shapes: R rows, T tokens, S scored tokens, L window entries, V vocabulary.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from megacontext.core.data.recall.writer import RecallOptions, RecallWriter
from megacontext.core.data.shards import open_shards
from megacontext.core.data.token_streams import TokenStreams
from megacontext.core.data.tokenizer import fingerprint, load_tokenizer
from megacontext.core.gistnet.gister import NetGister, load_gistnet
from megacontext.core.gistnet.module import GistNet
from megacontext.core.lensnet.lens import load_lensnet
from megacontext.core.model.base import BaseModel
from megacontext.core.rng import generator
from megacontext.core.training.common.frozen_base import FrozenBase
from megacontext.core.training.gistnet.evaluate import gist_table
from megacontext.core.training.joint.config import JointTraining
from megacontext.core.training.lensnet.config import LensNetTraining
from megacontext.core.training.lensnet.evaluate import LensEvaluator
from megacontext.core.training.lensnet.teacher import make_demand_estimator
from megacontext.core.training.lora.dataset import MixedWindowDataset

__all__ = ["Components", "JointEvaluator", "Scores"]

LENS_METRICS = ("lens_missed", "gold_raw", "gold_raw_short", "swap_rate", "residency")


@dataclass(frozen=True)
class Components:
    """Folders of the trained parts; ``lensnet`` and ``adapter`` are empty where there is none."""

    gistnet: str
    lensnet: str = ""
    adapter: str = ""


@dataclass(frozen=True)
class Scores:
    """Held-out values of one set of components, in nats per token, one per window or task.

    ``full_nll`` belongs to the same tokens as ``mixed_nll``, with the whole history raw.
    """

    vanilla_nll: tuple[float, ...]
    task_nll: tuple[float, ...]
    task_correct: tuple[float, ...]
    mixed_nll: tuple[float, ...]
    full_nll: tuple[float, ...]
    lens: dict[str, float] = field(default_factory=dict)

    def metrics(self, reference: Scores) -> dict[str, float]:
        """Means; ``reference`` are the scores of the components that the run started from."""
        means = {
            "vanilla_nll": float(np.mean(self.vanilla_nll)),
            "task_nll": float(np.mean(self.task_nll)),
            "task_accuracy": float(np.mean(self.task_correct)),
            "mixed_nll": float(np.mean(self.mixed_nll)),
            "mixed_dnll": float(np.mean(self.mixed_nll) - np.mean(reference.full_nll)),
        }
        return {**means, **self.lens}

    def as_dict(self) -> dict[str, object]:
        """Plain data that JSON stores without loss."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, object]) -> Scores:
        """The inverse of :meth:`as_dict`."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()})  # type: ignore[arg-type]


class JointEvaluator:
    """Fixed held-out windows; ``scores`` loads the components, as a session would, and scores them.

    Args:
        lens: the config of the lensnet phase, which says how a LensNet is judged; None: not at all.
    """

    def __init__(self, config: JointTraining, lens: LensNetTraining | None, device: str) -> None:
        self._config, self._lens, self._device = config, lens, device
        self._tokenizer: Tokenizer = load_tokenizer(Path(config.base))
        self._streams = TokenStreams(
            open_shards(Path(config.heldout), fingerprint(self._tokenizer))
        )
        self._vanilla_windows = self._draw_vanilla()
        self._tasks = self._draw_tasks()

    def _draw_vanilla(self) -> list[np.ndarray]:
        """Raw windows of ``vanilla_length`` + 1 tokens, int64."""
        settings = self._config.evaluation
        windows = []
        for domain in self._streams.domains:
            for row in range(settings.vanilla_rows):
                rng = generator(self._config.seed, f"joint.vanilla.{domain}", row)
                window = self._streams.window(rng, domain, settings.vanilla_length + 1)
                windows.append(window.astype(np.int64))
        return windows

    def _draw_tasks(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(tokens int64 [T], whether token t + 1 belongs to the answer bool [T]) of each task."""
        settings = self._config.evaluation
        writer = RecallWriter(self._tokenizer, "heldout", self._config.seed)
        options = RecallOptions(facts_max=8, scenes_max=2, canonical=True)
        tasks = []
        for number in range(settings.tasks):
            domain = self._streams.domains[number % len(self._streams.domains)]
            rng = generator(self._config.seed, "joint.tasks", number)
            filler = self._streams.window(rng, domain, settings.task_length)
            sample = writer.sample(filler, settings.task_length, options, number)
            is_answer = np.zeros(settings.task_length, bool)
            for span in sample.asked:
                is_answer[span.answer_start - 1 : span.answer_stop - 1] = True
            tasks.append((sample.tokens.astype(np.int64), is_answer))
        return tasks

    @torch.no_grad()
    def scores(self, components: Components) -> Scores:
        """Held-out scores of ``components``.

        Raises:
            ModelError: a part cannot be loaded, or was trained for another part than its neighbour.
        """
        config = self._config
        base = FrozenBase(
            BaseModel.load(
                config.base,
                device=self._device,
                dtype=config.dtype,
                adapter=components.adapter or None,
            )
        )
        gistnet, gist_id = load_gistnet(Path(components.gistnet), base.embedding)
        encoder = NetGister(gistnet, base.embedding, gist_id)

        vanilla = [float(self._raw_nll(base, window).mean()) for window in self._vanilla_windows]
        task_nll, task_correct = self._score_tasks(base)
        mixed, full = self._score_mixed(base, encoder.net)
        lens = self._score_lens(base, encoder, components.lensnet)
        return Scores(
            tuple(vanilla), tuple(task_nll), tuple(task_correct), tuple(mixed), tuple(full), lens
        )

    def _raw_nll(self, base: FrozenBase, tokens: np.ndarray) -> Tensor:
        """NLL [T] of tokens 1 to T of one raw window of T + 1."""
        window = torch.from_numpy(tokens)[None].to(base.device)
        logits = base.logits(base.hidden(base.embed(window[:, :-1])))
        return _nll(logits, window[:, 1:])[0]

    def _score_tasks(self, base: FrozenBase) -> tuple[list[float], list[float]]:
        """(mean NLL of the answer's tokens, whether all are the likeliest) of each task."""
        nll, correct = [], []
        for tokens, is_answer in self._tasks:
            window = torch.from_numpy(tokens)[None].to(base.device)
            asked = torch.from_numpy(is_answer[:-1]).to(base.device)
            logits = base.logits(base.hidden(base.embed(window[:, :-1])))
            answer = window[0, 1:][asked]
            nll.append(float(_nll(logits, window[:, 1:])[0][asked].mean()))
            correct.append(float((logits[0].argmax(-1)[asked] == answer).all()))
        return nll, correct

    def _score_mixed(self, base: FrozenBase, gistnet: GistNet) -> tuple[list[float], list[float]]:
        """(NLL over the mixed window, NLL over the whole raw history) of each row."""
        settings = self._config.evaluation
        block_size = gistnet.config.block_size
        writer = RecallWriter(self._tokenizer, "heldout", self._config.seed, block_size)
        dataset = MixedWindowDataset(
            settings.windows,
            self._streams,
            writer,
            block_size=block_size,
            seed=self._config.seed,
            phase=0,
        )

        mixed_nll: list[float] = []
        full_nll: list[float] = []
        for number in range(settings.batches):
            batch = {name: part[0].to(base.device) for name, part in dataset[number].items()}
            tokens, target = batch["tokens"].long(), batch["target"]
            answer = tokens.gather(1, target)

            # The window in which blocks are gists, and the same tokens with everything raw.
            with base.precision():
                table = gist_table(base, gistnet, tokens, batch, "gist")
            entries = batch["entries"][..., None].expand(-1, -1, table.shape[-1])
            mixed = base.logits_at(table.gather(1, entries), batch["predictor"])
            full = base.logits_at(base.embed(tokens), target - 1)
            mixed_nll += _nll(mixed, answer).mean(1).tolist()
            full_nll += _nll(full, answer).mean(1).tolist()
        return mixed_nll, full_nll

    def _score_lens(self, base: FrozenBase, encoder: NetGister, folder: str) -> dict[str, float]:
        """``LENS_METRICS`` of the LensNet in ``folder``; empty where none is trained."""
        if self._lens is None or not folder:
            return {}
        lens, _ = load_lensnet(Path(folder), encoder)
        probe = make_demand_estimator(self._lens.teacher, base)
        evaluator = LensEvaluator(
            self._lens.evaluation, base, encoder.net, self._streams, self._tokenizer, probe
        )
        with base.precision():
            metrics = evaluator.evaluate(lens.to(base.device))
        return {name: metrics[name] for name in LENS_METRICS if name in metrics}


def _nll(logits_RSV: Tensor, answer_RS: Tensor) -> Tensor:
    """Next-token NLL [R, S] in nats."""
    return -logits_RSV.log_softmax(-1).gather(-1, answer_RS[..., None])[..., 0]
