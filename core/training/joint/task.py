"""``megacontext train joint``: the phases of a cycle in turn, each one kept or rolled back.

JT1 trains GistNet for the base model as it stands, and the LensNet is bound to the new gists; JT2
trains LensNet on states of its own; JT3 refreshes the base model's adapter on windows with gists.
After each phase the whole set of components is loaded and scored on the same held-out windows
(:mod:`.evaluate`), and the phase is rolled back if it drifted or did not help (:mod:`.verdict`).

A run can be killed at any time: ``joint.json`` names the phases that are done, the phase that was
running resumes from its own checkpoint, and the result is that of the unbroken run.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from megacontext.core.config.settings import load
from megacontext.core.lensnet.lens import bind_lensnet
from megacontext.core.runtime.pretrained import DEMO, bundle_folder
from megacontext.core.telemetry.sinks import About, make_sinks
from megacontext.core.training.gistnet.task import GistNetTraining, train_gistnet
from megacontext.core.training.joint.config import JointPhase, JointTraining
from megacontext.core.training.joint.evaluate import LENS_METRICS, Components, JointEvaluator
from megacontext.core.training.joint.state import (
    JointState,
    PhaseRecord,
    config_digest,
    set_aside_run,
)
from megacontext.core.training.joint.verdict import Verdict, judge_phase, metric_changes
from megacontext.core.training.lensnet.config import LensNetTraining
from megacontext.core.training.lensnet.task import train_lensnet
from megacontext.core.training.loop.checkpoint import write_json
from megacontext.core.training.loop.metrics import Metrics
from megacontext.core.training.loop.trainer import DivergedError
from megacontext.core.training.lora.evaluate import GuardError
from megacontext.core.training.lora.task import LoraTraining, train_lora
from megacontext.traces.errors import ConfigError

__all__ = ["PhaseStep", "recipe", "steps", "train_joint"]

Recipe = GistNetTraining | LensNetTraining | LoraTraining
_KINDS: dict[str, type[Recipe]] = {
    "gistnet": GistNetTraining,
    "lensnet": LensNetTraining,
    "lora": LoraTraining,
}
_METRICS = ("vanilla_nll", "task_nll", "task_accuracy", "mixed_nll", "mixed_dnll", *LENS_METRICS)


@dataclass(frozen=True)
class PhaseStep:
    """One phase of one cycle; ``number`` counts over all cycles, from 1."""

    number: int
    cycle: int
    phase: JointPhase

    def folder(self, out: Path) -> Path:
        return out / f"{self.number:02d}-{self.phase.train}"


def train_joint(
    config: JointTraining,
    out: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    export: Path | None = None,
) -> dict[str, float]:
    """Train by ``config``; checkpoints, ``joint.json`` and metrics go to ``out``.

    Args:
        resume: continue the run in ``out``; without it an earlier run is set aside.
        export: receives the components at the end, and ``session.yaml``, which runs them.

    Returns:
        The final held-out metrics; ``phases_accepted`` and ``phases_rolled_back`` among them.

    Raises:
        ConfigError: several processes, or a phase whose config cannot be read.
        ModelError: a part cannot be loaded, or does not belong to the base model.
        StorageError: ``joint.json`` is damaged or belongs to another configuration.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("train joint runs in one process; start it without torchrun.")
    start = Components(*(_absolute(p) for p in (config.gistnet, config.lensnet, config.adapter)))
    recipes = [recipe(config, step, start) for step in steps(config)]
    digest = config_digest(config, list(recipes))
    lens_recipe = next((r for r in recipes if isinstance(r, LensNetTraining)), None)
    if not resume and (target := set_aside_run(out)) is not None:
        _say(f"the run in {out} is now in {target}")

    evaluator = JointEvaluator(config, lens_recipe, device)
    state = JointState.read(out, digest)
    if state is None:
        _say("scoring the components that the run starts from")
        scores = evaluator.scores(start)
        state = JointState(digest, start, scores, scores)
        state.write(out)

    metrics = _open_metrics(config, out, state)
    try:
        for step in steps(config):
            if step.number > len(state.records):
                state = _run_step(config, step, state, evaluator, out, device)
                _log(metrics, state)
                state.write(out)
    finally:
        metrics.close()

    if export is not None:
        _export(config, state.components, export)
    accepted = sum(record.accepted for record in state.records)
    final = {
        **state.scores.metrics(state.reference),
        "phases_accepted": float(accepted),
        "phases_rolled_back": float(len(state.records) - accepted),
    }
    write_json(out / "figures.json", final)
    return final


def _absolute(path: str) -> str:
    return str(Path(path).resolve()) if path else ""


def steps(config: JointTraining) -> Iterator[PhaseStep]:
    """All phases of all cycles, in order."""
    number = 0
    for cycle in range(1, config.cycles + 1):
        for phase in config.phases:
            number += 1
            yield PhaseStep(number, cycle, phase)


def recipe(config: JointTraining, step: PhaseStep, components: Components) -> Recipe:
    """The phase's own training config, with what the joint run fills in."""
    settings = {
        "base": config.base,
        "gistnet": components.gistnet,
        "adapter": components.adapter,
        "shards": config.shards,
        "heldout": config.heldout,
        "dtype": config.dtype,
        "loop.seed": config.seed + step.cycle,
    }
    # GistNet starts from the one there is; the adapter is measured from the original base.
    absent = {"gistnet": "gistnet", "lora": "adapter"}.get(step.phase.train)
    overrides = [f"{key}={json.dumps(v)}" for key, v in settings.items() if key != absent]
    return load(_KINDS[step.phase.train], Path(step.phase.config), [*step.phase.set, *overrides])


def _run_step(
    config: JointTraining,
    step: PhaseStep,
    state: JointState,
    evaluator: JointEvaluator,
    out: Path,
    device: str,
) -> JointState:
    """Train one phase, score the result, and keep it or roll it back."""
    train = step.phase.train
    _say(f"phase {step.number}, cycle {step.cycle}: training {train}")
    candidate, failure = _train(config, step, state.components, out, device)

    if candidate is None:
        scores, verdict = None, Verdict(False, failure)
    else:
        scores = evaluator.scores(candidate)
        verdict = judge_phase(
            train,
            state.scores,
            scores,
            state.reference,
            config.guard,
            tolerance=config.tolerance,
            seed=config.seed,
        )

    outcome = "kept" if verdict.accepted else "rolled back"
    _say(f"phase {step.number}, cycle {step.cycle}: {train} {outcome}: {verdict.reason}")
    record = PhaseRecord(
        step.number,
        step.cycle,
        train,
        verdict.accepted,
        verdict.reason,
        verdict.change,
        verdict.interval,
        {} if scores is None else scores.metrics(state.reference),
        {} if scores is None else metric_changes(state.scores, scores, config.seed),
    )
    records = (*state.records, record)
    if verdict.accepted and candidate is not None and scores is not None:
        return replace(state, components=candidate, scores=scores, records=records)
    return replace(state, records=records)


def _train(
    config: JointTraining, step: PhaseStep, components: Components, out: Path, device: str
) -> tuple[Components | None, str]:
    """(what the phase made of ``components``, why it failed); None where it made nothing.

    A phase that was killed goes on from its checkpoint: its folder has no other phase's files.
    """
    settings = recipe(config, step, components)
    folder = step.folder(out)
    trained = folder / "export"
    try:
        if isinstance(settings, GistNetTraining):
            train_gistnet(
                settings,
                folder,
                device=device,
                resume=True,
                init=Path(components.gistnet),
                export=trained,
            )
        elif isinstance(settings, LensNetTraining):
            init = Path(components.lensnet) if components.lensnet else None
            train_lensnet(settings, folder, device=device, resume=True, init=init, export=trained)
        else:
            init = Path(components.adapter) if components.adapter else None
            train_lora(settings, folder, device=device, resume=True, init=init, export=trained)
    except (GuardError, DivergedError) as error:
        return None, str(error)
    if not trained.is_dir():
        return None, "no checkpoint was within the bounds of its own config"

    if isinstance(settings, LensNetTraining):
        return replace(components, lensnet=str(trained)), ""
    if isinstance(settings, LoraTraining):
        return replace(components, adapter=str(trained)), ""
    bound = ""
    if components.lensnet:
        bound = str(folder / "lensnet")
        bind_lensnet(Path(components.lensnet), trained, Path(bound))
    return replace(components, gistnet=str(trained), lensnet=bound), ""


def _open_metrics(config: JointTraining, out: Path, state: JointState) -> Metrics:
    """``metrics.csv`` with a row for the start and one for each phase that is done."""
    done = len(state.records)
    sinks = make_sinks(config.sinks, out, About(out.name, step=done))
    metrics = Metrics(out, ["cycle", "accepted", *_METRICS], sinks, done)
    if not done:
        _log(metrics, state)
    return metrics


def _log(metrics: Metrics, state: JointState) -> None:
    """One row with the scores of the components that are kept."""
    row = state.scores.metrics(state.reference)
    if state.records:
        last = state.records[-1]
        row = {"cycle": float(last.cycle), "accepted": float(last.accepted), **row}
    metrics.write(len(state.records), row)


def _export(config: JointTraining, components: Components, export: Path) -> None:
    """Copy the components to ``export``, with a session config that names them."""
    bundled = Path(config.base) == bundle_folder() / "base"
    session: dict[str, dict[str, str]] = {"model": {"path": DEMO if bundled else config.base}}
    parts = {
        "gistnet": (components.gistnet, "gist", "path"),
        "lensnet": (components.lensnet, "lens", "path"),
        "adapter": (components.adapter, "model", "adapter"),
    }
    for name, (source, section, key) in parts.items():
        target = export / name
        shutil.rmtree(target, ignore_errors=True)
        if source:
            shutil.copytree(source, target)
            session.setdefault(section, {})[key] = str(target)
    session["gist"]["kind"] = "gistnet"
    if components.lensnet:
        session["lens"]["kind"] = "lensnet"
    text = yaml.safe_dump(session, sort_keys=True)
    (export / "session.yaml").write_text(text, encoding="utf8")


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
