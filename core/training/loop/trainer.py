"""The training loop that every trainer shares.

A :class:`Task` says what a batch is, what the loss is and how to judge the model; the loop owns
steps, phases, the learning rate, accumulation, precision, checkpoints, resume and metrics.
Batches are a function of (phase, step), so a resumed run sees what the unbroken run would have.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from megacontext.core.config.settings import Count
from megacontext.core.telemetry.sinks import About, make_sinks
from megacontext.core.training.loop import checkpoint
from megacontext.core.training.loop.distributed import DistributedContext
from megacontext.core.training.loop.metrics import Metrics
from megacontext.core.training.loop.optimizers import Optimizer, OptimizerConfig
from megacontext.core.training.loop.schedule import Budget, Schedule
from megacontext.traces.errors import MegaContextError

__all__ = ["DivergedError", "LoopConfig", "Task", "Trainer"]

Batch = dict[str, Tensor]
_CLOCK_SYNC_STEPS = 16  # steps between broadcasts of the clock


class DivergedError(MegaContextError):
    """The loss became NaN or infinite."""

    exit_code = 1


class Task(Protocol):
    """What is trained. ``phases`` shares sum to 1; metric names are fixed in advance."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def eval_metric(self) -> str:
        """The evaluation metric that picks the best checkpoint; lower is better."""
        ...

    @property
    def metric_names(self) -> Sequence[str]: ...

    @property
    def eval_names(self) -> Sequence[str]: ...

    def phase_fractions(self) -> Sequence[float]:
        """The share of the budget of each phase."""
        ...

    def dataset(self, phase: int) -> Dataset[Batch]:
        """Map-style: item ``step`` is that step's batch [accumulation, rows, ...] as tensors."""
        ...

    def on_phase_start(self, phase: int) -> None:
        """Called when a phase starts (freeze, unfreeze, change the objective)."""
        ...

    def loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Scalar loss of one micro-batch and metrics to log (device scalars)."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Held-out metrics, including ``eval_metric``. Called on the main process only."""
        ...


@dataclass(frozen=True)
class LoopConfig:
    """Loop settings shared by all trainers."""

    budget: Budget
    schedule: Schedule = field(default_factory=Schedule)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    seed: int = 0
    accumulation: Count = 1
    workers: int = 0
    log_every: Count = 20
    eval_minutes: float = 0.0
    eval_steps: int = 0
    checkpoint_minutes: float = 0.0
    checkpoint_steps: int = 0
    sinks: tuple[str, ...] = ()


class _StepsFrom(Sampler[int]):
    def __init__(self, start: int) -> None:
        self._start = start

    def __iter__(self) -> Iterator[int]:
        step = self._start
        while True:
            yield step
            step += 1


class Trainer:
    """Runs a task to the end of its budget, from the start or from the latest checkpoint."""

    def __init__(
        self, task: Task, config: LoopConfig, out: Path, world: DistributedContext
    ) -> None:
        self.task, self.config, self.out, self.world = task, config, out, world
        self.optimizer = Optimizer(task.model.named_parameters(), config.optimizer)
        self.step = 0
        self.phase = -1
        self.tokens = 0
        self.elapsed_s = 0.0
        self.best = math.inf
        self.after_save: Callable[[Path, bool], None] | None = None  # (folder, is it the best)
        self._last_eval: tuple[int, dict[str, float]] | None = None  # the newest evaluation
        self._started = time.monotonic()
        self._synced_s, self._next_clock_sync = 0.0, 0
        # The first step with a non-finite loss or gradient, found without waiting for the device.
        self._bad_step = torch.full((), -1, dtype=torch.int64, device=world.device)
        ends = [sum(task.phase_fractions()[: i + 1]) for i in range(len(task.phase_fractions()))]
        self._phase_ends = [*ends[:-1], math.inf]

    # -- progress ---------------------------------------------------------------------------

    def progress(self) -> float:
        """Share of the budget that is used, in [0, 1]; equal on all processes."""
        budget = self.config.budget
        if budget.steps:
            return self.step / budget.steps
        return min(1.0, (self.elapsed_s + self._clock()) / (budget.max_minutes * 60))

    def _clock(self) -> float:
        """Seconds since the start; equal on all processes.

        With several processes, the main one's clock is broadcast every few steps only, since each
        broadcast waits for the device.
        """
        if self.world.size == 1:
            return time.monotonic() - self._started
        if self.step >= self._next_clock_sync:
            self._synced_s = self.world.broadcast(time.monotonic() - self._started)
            self._next_clock_sync = self.step + _CLOCK_SYNC_STEPS
        return self._synced_s

    def _phase_at(self, progress: float) -> int:
        return next(i for i, end in enumerate(self._phase_ends) if progress < end)

    # -- running ----------------------------------------------------------------------------

    def run(self, resume: bool = False) -> dict[str, float]:
        """Train to the end of the budget; returns the final held-out figures.

        Args:
            resume: continue from the latest checkpoint; without one, start. A new run sets an old
                one in the same folder aside.

        Raises:
            StorageError: the checkpoint is damaged or belongs to a model of another shape.
            DivergedError: the loss is no finite number; the last good checkpoint is kept.
        """
        if resume:
            self._resume()
        elif self.world.is_main and (previous := checkpoint.set_aside(self.out)) is not None:
            print(f"the run in {self.out} is now in {previous}", file=sys.stderr, flush=True)

        # One row per logged step; the columns are fixed before the first.
        names = ["phase", "progress", "rate", "tokens", "tokens_per_s", "loss", "norm"]
        names += [*self.task.metric_names, *self.task.eval_names]
        metrics = None
        if self.world.is_main:
            about = About(self.out.name, step=self.step)
            sinks = make_sinks(self.config.sinks, self.out, about)
            metrics = Metrics(self.out, names, sinks, self.step, self._last_eval is not None)

        # The phase follows from the progress, so a resumed run enters the right one.
        try:
            while (progress := self.progress()) < 1.0:
                self._run_phase(self._phase_at(progress), metrics)
            if self._last_eval is None or self._last_eval[0] != self.step:
                self._save(self._evaluate(metrics))
        finally:
            if metrics is not None:
                metrics.close()
        return self._last_eval[1] if self._last_eval else {}

    def _run_phase(self, phase: int, metrics: Metrics | None) -> None:
        self.phase = phase
        self.task.on_phase_start(phase)
        workers = self.config.workers
        loader: DataLoader[Batch] = DataLoader(
            self.task.dataset(phase),
            batch_size=None,
            sampler=_StepsFrom(self.step),
            num_workers=workers,
            prefetch_factor=6 if workers else None,
            pin_memory=self.world.device.type == "cuda",
        )

        # Speed is measured from log line to log line, without evaluations.
        mark, marked_tokens = time.monotonic(), self.tokens
        last_eval = last_save = self._clock()
        for batch in loader:
            progress = self.progress()
            if progress >= 1.0 or self._phase_at(progress) != phase:
                break
            factor = self.config.schedule.factor(self.step, progress)
            loss, norm, values = self._one_step(batch, factor)
            self.step += 1
            self.tokens += int(batch["tokens"].numel()) * self.world.size
            if self.step % self.config.log_every == 0 or self.step == 1:
                value = self._check(loss)
                now = time.monotonic()
                rate = (self.tokens - marked_tokens) / max(now - mark, 1e-9)
                mark, marked_tokens = now, self.tokens
                row = {
                    "phase": phase,
                    "progress": progress,
                    "rate": factor,
                    "tokens": self.tokens,
                    "tokens_per_s": rate,
                    "loss": value,
                    "norm": float(norm),
                    **{key: self.world.mean(metric) for key, metric in values.items()},
                }
                self._log(metrics, row)

            # An evaluation saves as well: a checkpoint's metrics are those of its weights.
            if self._is_due(self.config.eval_steps, self.config.eval_minutes, last_eval):
                self._check(loss)
                self._save(self._evaluate(metrics))
                self._next_clock_sync = self.step  # judging took a while
                last_eval = last_save = self._clock()
                mark, marked_tokens = time.monotonic(), self.tokens
            elif self._is_due(
                self.config.checkpoint_steps, self.config.checkpoint_minutes, last_save
            ):
                self._check(loss)
                self._save({})
                last_save = self._clock()

    def _one_step(self, batch: Batch, factor: float) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        self.optimizer.zero_grad()
        moved = {k: v.to(self.world.device, non_blocking=True) for k, v in batch.items()}
        count = self.config.accumulation
        total = torch.zeros((), device=self.world.device)
        metrics: dict[str, Tensor] = {}
        for part in range(count):
            with self._autocast():
                loss, extra = self.task.loss({k: v[part] for k, v in moved.items()})
            (loss / count).backward()  # type: ignore[no-untyped-call]
            total += loss.detach() / count
            for key, value in extra.items():
                metrics[key] = metrics.get(key, torch.zeros_like(value)) + value.detach() / count
        self.world.all_reduce_mean(self.optimizer.gradients())
        norm = self.optimizer.step(factor)
        bad = (self._bad_step < 0) & ~torch.isfinite(total + norm)
        self._bad_step = torch.where(bad, self.step, self._bad_step)
        return total, norm, metrics

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.world.device.type != "cuda":
            return nullcontext()
        return torch.autocast("cuda", torch.bfloat16)

    def _check(self, loss: Tensor) -> float:
        bad = int(self.world.broadcast(float(self._bad_step)))
        if bad >= 0:
            latest = checkpoint.find(self.out)
            raise DivergedError(
                f"loss: not finite at step {bad}; lower optimizer.lr and resume from "
                f"{latest if latest else 'the start (no checkpoint was written yet)'}."
            )
        return self.world.mean(loss)

    def _is_due(self, steps: int, minutes: float, last: float) -> bool:
        if steps:
            return self.step % steps == 0
        if not minutes:
            return False
        return self._clock() - last >= minutes * 60

    # -- evaluation and checkpoints ---------------------------------------------------------

    def _evaluate(self, metrics: Metrics | None) -> dict[str, float]:
        """Metrics of the main process; the others wait at the next collective."""
        if not self.world.is_main:
            self._last_eval = (self.step, {})
            return {}
        self.task.model.eval()
        # Evaluation has other shapes than training: running it eagerly saves the compile.
        with torch.no_grad(), self._autocast(), torch.compiler.set_stance("force_eager"):
            values = self.task.evaluate()
        self.task.model.train()
        self._log(metrics, {"phase": self.phase, "tokens": self.tokens, **values})
        self._last_eval = (self.step, values)
        return values

    def _log(self, metrics: Metrics | None, row: Mapping[str, float]) -> None:
        if metrics is None:
            return
        metrics.write(self.step, row)
        text = " ".join(f"{k} {v:.4g}" for k, v in row.items())
        print(f"step {self.step} {text}", file=sys.stderr, flush=True)

    def _save(self, metrics: Mapping[str, float]) -> None:
        if not self.world.is_main:
            return
        spent = self.elapsed_s + time.monotonic() - self._started

        # A checkpoint without the metric (a guard's bound) is never the best.
        metric = metrics.get(self.task.eval_metric, math.inf)
        better = metric < self.best
        self.best = min(self.best, metric)
        state = {
            "step": self.step,
            "phase": self.phase,
            "tokens": self.tokens,
            "elapsed_s": spent,
            "best": self.best if math.isfinite(self.best) else None,
            "is_best": better,
            "optimizer_steps": self.optimizer.step_count,
            "figures": dict(metrics),
        }

        # First the folder, then best.json, then the export: a kill between them loses nothing.
        parameters = dict(self.task.model.named_parameters())
        folder = checkpoint.write(self.out, parameters, self.optimizer.state(), state)
        if better:
            checkpoint.mark(self.out, "best", folder)
        if self.after_save is not None:
            self.after_save(folder, better)

    def _resume(self) -> None:
        folder = checkpoint.find(self.out)
        if folder is None:
            return
        saved = checkpoint.read(folder)
        parameters = dict(self.task.model.named_parameters())
        checkpoint.check_shapes(folder, saved.model, parameters)
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(saved.model[name])
        self.optimizer.load_state(saved.optimizer, int(saved.state["optimizer_steps"]))
        self.step, self.tokens = int(saved.state["step"]), int(saved.state["tokens"])
        self.phase = int(saved.state["phase"])
        self.elapsed_s = float(saved.state["elapsed_s"])
        if saved.state["figures"]:  # a finished run is not judged again
            self._last_eval = (self.step, dict(saved.state["figures"]))
        best = saved.state["best"]
        self.best = math.inf if best is None else float(best)

        # The kill may have come between this checkpoint and its export.
        if self.world.is_main and saved.state.get("is_best", False):
            checkpoint.mark(self.out, "best", folder)
            if self.after_save is not None:
                self.after_save(folder, True)
