"""The same end of every ``train_*`` function: train, export the best, write the final metrics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from megacontext.core.training.loop import checkpoint
from megacontext.core.training.loop.distributed import DistributedContext
from megacontext.core.training.loop.trainer import LoopConfig, Task, Trainer

__all__ = ["run_task"]


def run_task(
    task: Task,
    config: LoopConfig,
    out: Path,
    world: DistributedContext,
    *,
    resume: bool = False,
    export: Callable[[Path], None] | None = None,
) -> dict[str, float]:
    """Train ``task`` to the end of its budget, then leave the process group.

    Args:
        out: receives checkpoints, ``metrics.csv``, ``metrics.arrow`` and ``figures.json``.
        resume: continue from the latest checkpoint in ``out``.
        export: called with the checkpoint folder whenever that checkpoint is the best so far.

    Returns:
        The final held-out metrics; empty in processes other than the main one.

    Raises:
        StorageError: the checkpoint is damaged or belongs to a model of another shape.
        DivergedError: the loss is not finite; the last good checkpoint stays.
    """
    trainer = Trainer(task, config, out, world)

    def after_save(folder: Path, is_best: bool) -> None:
        if export is not None and is_best:
            export(folder)

    trainer.after_save = after_save
    try:
        metrics = trainer.run(resume)
    finally:
        world.shutdown()

    if world.is_main:
        checkpoint.write_json(out / "figures.json", metrics)
    return metrics
