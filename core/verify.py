"""Does a trace hold? Checksums, states, and the recorded allocator run again on recorded scores."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from megacontext.core.allocators import make_allocator
from megacontext.core.config import (
    FocusConfig,
    allocator_options,
    dump_config,
    parse_config,
    recorded_focus,
)
from megacontext.core.config.keys import WHERE_AND_HOW, by_path
from megacontext.core.focus import ContextShape, Limits, RoundResult, make_focus
from megacontext.core.focus.limits import limits_for
from megacontext.traces.errors import MegaContextError, PlanError, TraceError
from megacontext.traces.reader import TraceReader
from megacontext.traces.row import TraceRow
from megacontext.traces.schema import CLOCK_COLUMNS, COLUMNS, Trigger
from megacontext.traces.state import violations_of

__all__ = ["Report", "verify"]

_VOLATILE_METADATA = frozenset({"mc.created", "mc.git", "mc.notes"})
_MAX_PROBLEMS = 20


@dataclass
class Report:
    """What was checked and what was found.

    Attributes:
        rows: rows read.
        rerun: rounds whose allocator decision was made again and compared bit for bit.
        problems: one sentence each, first difference first; at most 20.
        notes: what could not be checked, and why.
    """

    trace: str
    rows: int = 0
    rerun: int = 0
    allocator: str | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        return {"ok": self.ok} | dataclasses.asdict(self)


@dataclass
class _Setup:
    """What the run's allocator was made of, as its config says."""

    kind: str
    options: dict[str, Any]
    max_levels: int
    protected_blocks: int
    focus: FocusConfig
    chunk: int | None  # ingest.chunk; None for a simulated world, whose bulk rows score nothing


def verify(
    trace: Path,
    against: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Check ``trace``, and compare it with ``against`` where given.

    Every row: CRC, tiling, alignment, legality of each action, budget after each, headroom,
    continuity. Every round whose scores are recorded exactly: the allocator of ``mc.config`` is
    run on them again; actions, rejections, state and budget must agree bit for bit. ``against``
    must agree in all columns but the clocks and in all metadata but creation time and revision.

    Args:
        progress: called with rows done and rows in all.

    Raises:
        TraceError: a file is no trace.
    """
    with TraceReader.open(trace) as reader:
        report = Report(str(trace))

        for start, stop in reader.gaps:
            report.problems.append(f"bytes {start} to {stop} are damaged; their rows are lost.")
        if not reader.finished:
            report.notes.append("the trace has no end mark: it was cut or is still growing.")

        # Every row by itself, and the allocator again from row to row.
        rerun = _rerun(reader, report)
        previous: TraceRow | None = None
        for i in range(reader.num_rows):
            report.rows += 1
            progress(i, reader.num_rows)
            row = _checked_row(reader, i, report)
            if row is not None:
                report.problems += violations_of(row, reader.meta.block_size, previous)
            if rerun is not None and not rerun.follow(row, previous):
                rerun = None
            previous = row
            if len(report.problems) >= _MAX_PROBLEMS:
                report.notes.append(f"checking stopped after {_MAX_PROBLEMS} problems.")
                break

        if against is not None:
            with TraceReader.open(against) as other:
                report.problems += _diffs(reader, other)
    del report.problems[_MAX_PROBLEMS:]
    return report


def _checked_row(reader: TraceReader, i: int, report: Report) -> TraceRow | None:
    try:
        return reader.row(i)
    except TraceError as error:
        message = str(error)  # names all rows of a damaged batch, once
        if report.problems[-1:] != [message]:
            report.problems.append(message)
        return None


# ---------------------------------------------------------------- the allocator, again


class _Rerun:
    """Runs another focus along the recorded rows."""

    def __init__(self, reader: TraceReader, setup: _Setup, report: Report) -> None:
        meta = reader.meta
        shape = ContextShape(meta.block_size, setup.max_levels, meta.w_max, setup.protected_blocks)
        allocator = make_allocator(setup.kind, setup.options)
        self._focus = make_focus(shape, allocator, seed=meta.seed)
        self._limits: FocusConfig | Limits = setup.focus
        self._chunk = setup.chunk
        self._result: RoundResult | None = None
        self._dropped = 0
        self._report = report

    def follow(self, row: TraceRow | None, previous: TraceRow | None) -> bool:
        """Run one recorded round; False if the next one cannot be checked."""
        if row is None:
            return self._end("the allocator was not run again after the damaged row.")
        lost, self._dropped = row.scores_dropped > self._dropped, row.scores_dropped
        if lost:
            return self._end(
                f"the allocator was run again up to step {row.step} only: there the full queue"
                " dropped scores, and what they re-armed is unknown."
            )
        try:
            result = self._round(row, previous)
        except (MegaContextError, ValueError, TypeError, KeyError, IndexError) as error:
            # The row is as it was written, so a setting or another row contradicts it.
            message = str(error).splitlines()[0] if str(error) else type(error).__name__
            return self._differ(row, f"the run again cannot follow: {message}")
        self._report.rerun += 1
        self._result = result
        for name, computed, recorded in (
            ("actions", result.actions, row.actions),
            ("rejected", result.rejected, row.rejected),
        ):
            if computed.tobytes() != recorded.tobytes():
                return self._differ(row, _first_difference(name, computed, recorded))
        if result.budget_used != row.budget_used:
            return self._differ(
                row, f"budget_used is {row.budget_used}, run again {result.budget_used}."
            )
        return True

    def _round(self, row: TraceRow, previous: TraceRow | None) -> RoundResult:
        if row.round == 0:
            if previous is not None and self._result is not None and not self._result.last:
                raise PlanError(f"step {previous.step} ended before it was settled.")
            limits = self._limits_of(row)
            self._focus.align(row)
            self._focus.step = row.step - 1  # begin() counts it
            self._focus.begin(Trigger(row.trigger), limits)
        elif not np.array_equal(self._focus.working_context.levels, row.levels):
            raise PlanError("tiling: the frontier of this round is another one.")
        return self._focus.round(row.scores)

    def _limits_of(self, row: TraceRow) -> Limits:
        """The limits of the refocus that begins with ``row``; knobs hold from their row on."""
        trigger = Trigger(row.trigger)
        knobs = json.loads(row.knobs) if row.knobs else {}
        if "focus" in knobs:
            self._limits = recorded_focus(knobs["focus"], "knobs.focus")
        if "limits" in knobs:
            limits = Limits(**knobs["limits"])
            if trigger == Trigger.QUESTION:  # a question's limits are its own
                return limits
            self._limits = limits
        if trigger == Trigger.BULK and self._chunk is None:
            return Limits(n_diff=0, rounds=1)
        if isinstance(self._limits, Limits):
            return self._limits
        return limits_for(self._limits, trigger, self._chunk or 0)

    def _differ(self, row: TraceRow, message: str) -> bool:
        self._report.problems.append(f"step {row.step} round {row.round}: {message}")
        return self._end("the allocator was not run again after the first difference.")

    def _end(self, note: str) -> bool:
        self._report.notes.append(note)
        return False


def _rerun(reader: TraceReader, report: Report) -> _Rerun | None:
    """A rerun where the trace holds all that it takes; else a note says what is missing."""
    why = "the allocator was not run again: "
    if reader.meta.scores != "f16":
        report.notes.append(f"{why}the trace keeps {reader.meta.scores} scores, not exact ones.")
        return None
    if "mc.allocator" in reader.meta.extra:
        name = reader.meta.extra["mc.allocator"]
        report.notes.append(f"{why}it was an object of the program that ran it, {name}.")
        return None
    steps = reader.overview().step
    if len(steps) and steps[0] > 0:
        report.notes.append(f"{why}the trace starts at step {steps[0]}, cooldowns are unknown.")
        return None

    try:
        setup = _setup_of(reader)
        rerun = _Rerun(reader, setup, report)
    except (MegaContextError, yaml.YAMLError, KeyError, TypeError) as error:
        report.notes.append(f"{why}{str(error).splitlines()[0]}")
        return None
    report.allocator = setup.kind
    return rerun


def _setup_of(reader: TraceReader) -> _Setup:
    raw = yaml.safe_load(reader.meta.config)
    if not isinstance(raw, dict) or "allocator" not in raw:
        raise TraceError("mc.config names no allocator.")
    if isinstance(raw["allocator"], str):  # a simulated world
        return _simulated(raw)
    config = parse_config(reader.meta.config, where="mc.config", recorded=True)
    return _Setup(
        config.allocator.kind,
        allocator_options(config.allocator),
        config.tree.max_levels,
        config.focus.protected_blocks,
        config.focus,
        config.ingest.chunk,
    )


def _simulated(raw: dict[str, Any]) -> _Setup:
    """The setup that a simulated world's config describes.

    Raises:
        TraceError: a value is of the wrong type.
    """
    names = ("n_diff", "cooldown_steps", "rounds", "max_levels", "protected_blocks")
    whole = {name: raw[name] for name in names} | {"keep_newest": raw.get("keep_newest", 0)}
    taus = {name: raw[name] for name in ("tau_expand", "tau_collapse")}
    if raw.get("question_tau") is not None:
        taus["question_tau"] = raw["question_tau"]
    for values, kinds in ((whole, (int,)), (taus, (int, float))):
        for name, value in values.items():
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise TraceError(f"mc.config has {name} = {value!r}, which is no number.")

    max_levels, protected = whole.pop("max_levels"), whole.pop("protected_blocks")
    question_tau = taus.pop("question_tau", None)
    focus = FocusConfig(**whole, **taus)
    question = dataclasses.replace(
        focus.question,
        n_diff=focus.n_diff,
        rounds=focus.rounds,
        tau_expand=question_tau,
        reopen=bool(raw.get("reopen", False)),
    )
    focus = dataclasses.replace(focus, question=question)
    return _Setup(raw["allocator"], {}, max_levels, protected, focus, None)


def _first_difference(name: str, computed: np.ndarray, recorded: np.ndarray) -> str:
    for j in range(max(len(computed), len(recorded))):
        here = _as_text(recorded, j)
        again = _as_text(computed, j)
        if here != again or recorded[j].tobytes() != computed[j].tobytes():
            return f"{name}[{j}] is {here}, run again {again}."
    return f"{name} differ."


def _as_text(records: np.ndarray, j: int) -> str:
    if j >= len(records):
        return "nothing"
    names = records.dtype.names or ()
    return "(" + ", ".join(f"{n}={v}" for n, v in zip(names, records[j].item(), strict=True)) + ")"


# ---------------------------------------------------------------- two traces


def _diffs(a: TraceReader, b: TraceReader) -> list[str]:
    """The first difference in metadata and the first in rows."""
    problems = _metadata_diffs(a, b)
    names = [column.name for column in COLUMNS if column.name not in CLOCK_COLUMNS]
    for i in range(min(a.num_rows, b.num_rows)):
        try:
            row, other_row = a.row(i), b.row(i)
        except TraceError as error:
            problems.append(f"row {i} cannot be compared: {error}")
            return problems
        for name in names:
            one, two = getattr(row, name), getattr(other_row, name)
            if not _equal(one, two):
                problems.append(
                    f"row {i} (step {row.step} round {row.round}): {name} differs:"
                    f" {_short(one)} here, {_short(two)} in {b.path}."
                )
                return problems
    if a.num_rows != b.num_rows:
        problems.append(f"{a.path} has {a.num_rows} rows, {b.path} has {b.num_rows}.")
    return problems


def _metadata_diffs(a: TraceReader, b: TraceReader) -> list[str]:
    for key in sorted(a.schema_metadata.keys() | b.schema_metadata.keys()):
        computed, other = a.schema_metadata.get(key), b.schema_metadata.get(key)
        if key in _VOLATILE_METADATA or computed == other:
            continue
        if key == "mc.weights" and None in (computed, other):
            continue  # a trace from before this key
        if key != "mc.config":
            return [f"{key} differs: {_short(computed)} here, {_short(other)} in {b.path}."]
        here, there = _keys(computed), _keys(other)
        for path in sorted(here.keys() | there.keys()):
            if here.get(path) != there.get(path) and not path.startswith(WHERE_AND_HOW):
                one, two = _short(here.get(path)), _short(there.get(path))
                return [f"mc.config differs: {path} is {one} here, {two} in {b.path}."]
    return []


def _keys(config: str | None) -> dict[str, Any]:
    """The values of a recorded config by key path, those that it is too old to have among them; of
    one that this version cannot read, what it says; the text itself where it is no mapping."""
    try:
        text = dump_config(parse_config(config, recorded=True)) if config else ""
    except MegaContextError:
        text = config or ""
    try:
        return by_path(yaml.safe_load(text))
    except yaml.YAMLError:
        return by_path(config)


def _equal(one: Any, two: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(two, np.ndarray):
        return one.tobytes() == two.tobytes()
    if isinstance(one, float) and isinstance(two, float):
        return one == two or (one != one and two != two)  # NaN equals NaN here
    return type(one) is type(two) and one == two


def _short(value: Any) -> str:
    text = repr(value.tolist() if isinstance(value, np.ndarray) else value)
    return text if len(text) <= 80 else text[:77] + "…"
