"""The loop: exact resume after a kill, refusal of NaN and foreign checkpoints, metrics."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from megacontext.core.config.settings import load
from megacontext.core.training.base.task import BaseConfig, BaseTask, train_base
from megacontext.core.training.loop import checkpoint
from megacontext.core.training.loop.distributed import join_world
from megacontext.core.training.loop.schedule import Budget, Schedule
from megacontext.core.training.loop.trainer import DivergedError, Trainer
from megacontext.traces.errors import ConfigError, SourceError, StorageError


def _rows(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open(encoding="utf8", newline="") as file:
        keep = {"step", "loss", "norm", "text_nll", "answer_nll", "heldout_nll", "score", "tokens"}
        return [{k: v for k, v in row.items() if k in keep} for row in csv.DictReader(file)]


class _KilledError(RuntimeError):
    pass


def test_a_run_that_was_killed_and_resumed_has_the_curve_of_the_unbroken_one(
    base_config: Path, tmp_path: Path
) -> None:
    config = load(BaseConfig, base_config)
    figures = train_base(config, tmp_path / "unbroken", device="cpu")

    world = join_world("cpu")
    task = BaseTask(config, world)
    trainer = Trainer(task, config.loop, tmp_path / "killed", world)
    plain = task.loss

    def loss_until_step_5(batch: dict[str, torch.Tensor]) -> object:
        if trainer.step == 5:  # two steps behind the checkpoint of step 3, in the second phase
            raise _KilledError
        return plain(batch)

    task.loss = loss_until_step_5  # type: ignore[method-assign, assignment]
    with pytest.raises(_KilledError):
        trainer.run()
    assert checkpoint.find(tmp_path / "killed") == tmp_path / "killed" / "step-00000003"
    resumed = train_base(config, tmp_path / "killed", device="cpu", resume=True)

    assert _rows(tmp_path / "killed") == _rows(tmp_path / "unbroken")
    assert resumed == figures
    last = [checkpoint.read(tmp_path / run / "step-00000008") for run in ("killed", "unbroken")]
    for name, value in last[1].model.items():
        assert torch.equal(value, last[0].model[name]), name
    for name, value in last[1].optimizer.items():
        assert torch.equal(value, last[0].optimizer[name]), name


def test_a_best_checkpoint_whose_export_a_kill_prevented_is_exported_on_resume(
    base_config: Path, tmp_path: Path
) -> None:
    config = load(BaseConfig, base_config)
    world = join_world("cpu")
    trainer = Trainer(BaseTask(config, world), config.loop, tmp_path / "run", world)

    def killed(folder: Path, is_best: bool) -> None:
        raise _KilledError

    trainer.after_save = killed
    with pytest.raises(_KilledError):
        trainer.run()

    exported: list[tuple[str, bool]] = []
    resumed = Trainer(BaseTask(config, world), config.loop, tmp_path / "run", world)
    resumed.after_save = lambda folder, is_best: exported.append((folder.name, is_best))
    resumed.run(resume=True)
    assert exported[0] == ("step-00000003", True)


def test_nan_stops_the_run_names_the_step_and_keeps_the_last_good_checkpoint(
    base_config: Path, tmp_path: Path
) -> None:
    config = load(BaseConfig, base_config, ["loop.log_every=3"])
    world = join_world("cpu")
    task = BaseTask(config, world)
    trainer = Trainer(task, config.loop, tmp_path / "run", world)
    plain = task.loss

    def loss(batch: dict[str, torch.Tensor]) -> object:
        value, extra = plain(batch)
        return (value * math.nan if trainer.step == 4 else value), extra

    task.loss = loss  # type: ignore[method-assign, assignment]
    with pytest.raises(DivergedError, match="not finite at step 4"):
        trainer.run()
    kept = checkpoint.find(tmp_path / "run")
    assert kept is not None
    assert kept.name == "step-00000003"
    assert all(bool(v.isfinite().all()) for v in checkpoint.read(kept).model.values())


def test_best_names_the_checkpoint_with_the_lowest_heldout_score(
    base_config: Path, tmp_path: Path
) -> None:
    train_base(load(BaseConfig, base_config), tmp_path, device="cpu")
    best = checkpoint.find(tmp_path, "best")
    assert best is not None
    figures = {int(r["step"]): float(r["score"]) for r in _rows(tmp_path) if r["score"]}
    assert int(best.name.removeprefix("step-")) == min(figures, key=lambda s: figures[s])


def test_metrics_are_written_as_csv_and_arrow_with_the_same_rows(
    base_config: Path, tmp_path: Path
) -> None:
    train_base(load(BaseConfig, base_config), tmp_path, device="cpu")
    table = pa.ipc.open_file(pa.memory_map(str(tmp_path / "metrics.arrow"))).read_all()
    losses = [float(r["loss"]) if r["loss"] else None for r in _rows(tmp_path)]
    assert table["loss"].to_pylist() == losses
    assert len([x for x in losses if x is not None]) == 8


def test_a_damaged_checkpoint_is_refused_with_its_name(base_config: Path, tmp_path: Path) -> None:
    config = load(BaseConfig, base_config)
    train_base(config, tmp_path, device="cpu")
    folder = checkpoint.find(tmp_path)
    assert folder is not None
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(StorageError, match=r"step-00000008"):
        train_base(config, tmp_path, device="cpu", resume=True)


def test_checkpoints_and_starts_of_another_shape_are_refused(
    base_config: Path, tmp_path: Path
) -> None:
    train_base(load(BaseConfig, base_config), tmp_path / "run", device="cpu", export=tmp_path / "m")
    wider = load(BaseConfig, base_config, ["model.dim=48"])
    with pytest.raises(StorageError, match=r"step-00000008 has embed\.weight \(8192, 32\) and the"):
        train_base(wider, tmp_path / "run", device="cpu", resume=True)
    with pytest.raises(ConfigError, match=r"should be \(8192, 48\) and the weights hold"):
        train_base(wider, tmp_path / "other", device="cpu", init=tmp_path / "m")
    deeper = load(BaseConfig, base_config, ["model.layers=2"])
    with pytest.raises(StorageError, match=r"has layers\.1\..* not at all and the model has it"):
        train_base(deeper, tmp_path / "run", device="cpu", resume=True)


def test_shards_of_another_tokenizer_are_refused(
    base_config: Path, model_folder: Path, tmp_path: Path
) -> None:
    config = load(BaseConfig, base_config, [f"tokenizer={model_folder}"])
    with pytest.raises(SourceError, match="prepare the data again with the model's tokenizer"):
        train_base(config, tmp_path, device="cpu")


def test_a_finished_run_that_is_resumed_repeats_its_figures_and_no_row(
    base_config: Path, tmp_path: Path
) -> None:
    config = load(BaseConfig, base_config)
    figures = train_base(config, tmp_path, device="cpu")
    rows = _rows(tmp_path)
    assert train_base(config, tmp_path, device="cpu", resume=True) == figures
    assert _rows(tmp_path) == rows


def test_a_new_run_sets_the_old_one_aside_and_is_never_resumed_as_it(
    base_config: Path, tmp_path: Path
) -> None:
    config = load(BaseConfig, base_config)
    train_base(config, tmp_path, device="cpu")
    rows = _rows(tmp_path)
    world = join_world("cpu")
    task = BaseTask(config, world)

    def killed(batch: dict[str, torch.Tensor]) -> object:
        raise _KilledError

    task.loss = killed  # type: ignore[method-assign, assignment]
    with pytest.raises(_KilledError):
        Trainer(task, config.loop, tmp_path, world).run()
    assert checkpoint.find(tmp_path) is None
    assert checkpoint.find(tmp_path / "previous") == tmp_path / "previous" / "step-00000008"
    assert _rows(tmp_path / "previous") == rows
    train_base(config, tmp_path, device="cpu", resume=True)
    assert _rows(tmp_path) == rows


def test_a_checkpoint_that_vanished_while_it_was_replaced_gives_way_to_the_one_before(
    tmp_path: Path,
) -> None:
    for step in (2, 4):
        checkpoint.write(tmp_path, {}, {}, {"step": step})
    (tmp_path / "step-00000004").rename(tmp_path / "removed")
    assert checkpoint.find(tmp_path) == tmp_path / "step-00000002"
    assert checkpoint.find(tmp_path, "best") is None


def test_schedule_warms_up_holds_and_decays_to_its_final_factor() -> None:
    schedule = Schedule(warmup_steps=10, decay=0.4, final=0.1)
    assert schedule.factor(0, 0.0) == pytest.approx(0.1)
    assert schedule.factor(9, 0.1) == 1.0
    assert schedule.factor(50, 0.6) == 1.0
    assert schedule.factor(80, 0.8) == pytest.approx(0.55)
    assert schedule.factor(100, 1.0) == pytest.approx(0.1)


def test_time_budget_ends_the_run_and_finishes_the_decay(base_config: Path, tmp_path: Path) -> None:
    raw = ["loop.budget={steps: 0, max_minutes: 0.05}", "loop.eval_steps=0", "loop.log_every=1"]
    train_base(load(BaseConfig, base_config, raw), tmp_path, device="cpu")
    with (tmp_path / "metrics.csv").open(encoding="utf8", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["loss"]]
    progress = [float(r["progress"]) for r in rows]
    assert progress == sorted(progress)
    assert {r["phase"] for r in rows} == {"0", "1"}
    assert float(rows[-1]["rate"]) < 0.5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loop.budget={}", r"budget: steps 0 and max_minutes 0"),
        ("loop.optimizer.kind=sgd", r"loop\.optimizer\.kind is 'sgd'; it must be one of"),
        ("loop.sead=1", r"Unknown key loop\.sead .* did you mean seed"),
        ("model.dim=fast", r"model\.dim is 'fast' \(a text\); it must be a whole number"),
        ("phases.0.share=0.9", r"phases\.share: the shares add up to 1\.4"),
        ("phases.1.length=512", r"phases\.length: 512 is above model\.window 256"),
        ("phases.0.recall=1.5", r"phases\.recall: 1\.5 is outside 0 to 1"),
        ("tokenizer", r"--set 'tokenizer' has no '='"),
    ],
)
def test_impossible_settings_are_refused_with_their_key(
    base_config: Path, override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(BaseConfig, base_config, [override])


def test_budget_needs_exactly_one_end() -> None:
    with pytest.raises(ConfigError, match="budget"):
        Budget(steps=5, max_minutes=1.0)
