"""Alarms: raised by the right trouble, within 64 refocuses, with value and bound; else none."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from megacontext.core.cli.app import app, guard
from megacontext.core.config import AlarmsConfig, dump_config, parse_config
from megacontext.core.config.recorded import as_recorded
from megacontext.core.gistnet.gister import save_gistnet
from megacontext.core.gistnet.keys import KeyConfig
from megacontext.core.gistnet.module import GistNet, GistNetConfig
from megacontext.core.gistnet.pairing import pairing_facts, record_gistnet
from megacontext.core.model.adapter import write_adapter
from megacontext.core.model.base import BaseModel
from megacontext.core.runtime.run import run
from megacontext.core.telemetry.alarms import AlarmMonitor
from megacontext.traces.alarms import ALARM_HINTS, Alarm, alarms_of, hint_of
from megacontext.traces.reader import TraceReader
from megacontext.traces.refocuses import Refocus
from megacontext.traces.row import TraceRow

ROOT = Path(__file__).parents[3]


class Steps:
    """Feeds a monitor one refocus at a time, healthy but for what is given."""

    def __init__(self, **settings: Any) -> None:
        self.monitor = AlarmMonitor(AlarmsConfig(**settings), protected_blocks=2, block_size=8)
        self.step = 0

    def take(
        self,
        count: int,
        *,
        swaps: int = 2,
        raw: int = 20,
        survived: int = 98,
        drift: float | None = None,
        delta: float | None = None,
        tokens: int = 10_000,
    ) -> list[str]:
        texts = []
        for _ in range(count):
            refocus = Refocus(self.step, raw, 100, np.zeros(8), swaps, survived=survived)
            row = TraceRow(
                step=self.step, history_tokens=tokens, budget_used=9, w_max=1024,
                kv_drift=drift, delta_nll=delta,
            )  # fmt: skip
            texts += self.monitor.add(refocus, [row])
            self.step += 1
        return texts


def test_a_mean_beyond_its_bound_raises_once_with_value_and_bound() -> None:
    steps = Steps(window=8)
    assert steps.take(100) == []
    assert steps.take(20, swaps=10) == ["alarm swap_rate 0.3 above 0.25 (mean of 8 refocuses)"]
    assert steps.monitor.on == 1


def test_it_is_over_only_when_the_mean_came_back_behind_the_bound_and_can_come_again() -> None:
    steps = Steps(window=1, hysteresis=0.2)
    assert len(steps.take(1, swaps=6)) == 1
    assert steps.take(5, swaps=5) == []  # 0.25: at the bound, not below 0.2
    assert steps.take(1, swaps=4) == ["alarm over swap_rate 0.2"]
    assert steps.take(5, swaps=5) == []
    assert len(steps.take(1, swaps=6)) == 1


@pytest.mark.parametrize(
    ("name", "trouble"),
    [
        ("swap_rate", {"swaps": 6}),
        ("residency", {"survived": 89}),
        ("delta_nll", {"delta": 0.11}),
        ("drift", {"drift": 0.06}),
        ("raw_blocks", {"raw": 6, "swaps": 0}),
    ],
)
def test_each_trouble_raises_its_own_alarm_and_no_other(name: str, trouble: dict[str, Any]) -> None:
    (text,) = Steps(window=4).take(64, **trouble)
    assert text.startswith(f"alarm {name} ")


def test_nothing_is_raised_while_the_window_fills_for_the_first_time_or_by_one_sample() -> None:
    assert Steps(window=4).take(64, swaps=20, tokens=2_500) == []
    steps = Steps(samples=3)
    assert steps.take(2, delta=0.5) == []
    assert len(steps.take(1, delta=0.5)) == 1


def test_a_bound_of_zero_watches_nothing_and_enabled_turns_all_off() -> None:
    assert Steps(window=2, swap_rate=0.0).take(9, swaps=20) == []
    assert Steps(window=2, enabled=False).take(9, swaps=20, delta=3.0, drift=3.0, raw=2) == []


def test_a_config_from_before_alarms_repeats_without_them() -> None:
    raw = as_recorded({"w_max": 1024})
    assert raw["alarms"] == {"enabled": False}
    kept = parse_config(dump_config(parse_config("seed: 1")), recorded=True)
    assert kept.alarms.enabled


def alarms_in(trace: Path) -> list[Alarm]:
    with TraceReader.open(trace) as reader:
        return alarms_of(reader)


def test_a_forced_thrash_raises_the_swap_rate_within_64_refocuses(
    make_config: Any, tmp_path: Path
) -> None:
    settings = (
        "w_max=96",
        "source.max_tokens=480",
        "source.decode_tokens=0",
        "focus.cooldown_steps=0",
        "focus.tau_expand=0",
        "focus.tau_collapse=0",
    )
    result = run(make_config(*settings), tmp_path / "a.arrow", control=False)
    first = next(alarm for alarm in alarms_in(result.trace) if alarm.name == "swap_rate")
    assert first.step < 64
    assert first.value > first.bound == 0.25


def test_a_starved_budget_is_named_within_64_refocuses_and_ample_is_not(
    make_config: Any, tmp_path: Path
) -> None:
    quiet = ("lens.kind=recency", "source.decode_tokens=0", "source.max_tokens=480")
    starved = run(make_config("w_max=56", *quiet), tmp_path / "a.arrow", control=False)
    first = next(alarm for alarm in alarms_in(starved.trace) if alarm.name == "raw_blocks")
    assert first.step < 64
    assert first.value < first.bound
    ample = run(make_config("w_max=160", *quiet), tmp_path / "b.arrow", control=False)
    assert "raw_blocks" not in {alarm.name for alarm in alarms_in(ample.trace)}


@pytest.fixture
def stale(model_folder: Path, tmp_path: Path) -> tuple[str, ...]:
    """Settings of a session whose base model got an adapter after its GistNet was trained."""
    base = BaseModel.load(str(model_folder), device="cpu", dtype="float32")
    keys = KeyConfig(width=16, layers=1, heads=2, ffn=24, context_dim=16, lexical_dim=16)
    net = GistNet(GistNetConfig(base.dim, 8, 8, 1, 2, 1, 48, gist_rms=0.02, keys=keys))
    net.init_weights(0)
    table = base.embedding_matrix
    save_gistnet(net, tmp_path / "gistnet", table, pairing_facts(base.module, None))
    layer = "model.layers.0.self_attn.v_proj"
    shape = base.module.get_submodule(layer).weight.shape
    pair = (torch.full((1, shape[1]), 0.01), torch.ones(shape[0], 1))
    write_adapter(tmp_path / "adapter", {layer: pair}, 1.0, base_path="base", embedding=table)
    return (
        "gist.kind=gistnet",
        f"gist.path={tmp_path / 'gistnet'}",
        f"model.adapter={tmp_path / 'adapter'}",
        "lens.kind=recency",
        "source.max_tokens=480",
        "source.decode_tokens=0",
    )


def test_a_stale_gistnet_is_named_within_64_refocuses(
    make_config: Any, tmp_path: Path, stale: tuple[str, ...]
) -> None:
    result = run(make_config(*stale), tmp_path / "a.arrow", control=False)
    first = next(alarm for alarm in alarms_in(result.trace) if alarm.name == "stale_gists")
    assert first.step < 64
    assert 1 > first.value > first.bound == 0.05
    assert any(note.startswith("the gists are stale: gistnet-") for note in result.notes)
    with TraceReader.open(result.trace) as reader:
        assert "was trained without an adapter" in reader.meta.extra["mc.stale_gists"]


def test_parts_that_were_trained_together_raise_no_stale_gists(
    make_config: Any, tmp_path: Path, stale: tuple[str, ...]
) -> None:
    plain = [setting for setting in stale if not setting.startswith("model.adapter")]
    record_gistnet(tmp_path / "adapter", tmp_path / "gistnet")
    for settings in (stale, plain):
        result = run(make_config(*settings), tmp_path / "a.arrow", control=False)
        assert "stale_gists" not in {alarm.name for alarm in alarms_in(result.trace)}
        assert not any("stale" in note for note in result.notes)


def test_an_adapter_that_is_trained_again_before_a_resume_is_named_where_it_goes_on(
    make_config: Any, tmp_path: Path, stale: tuple[str, ...]
) -> None:
    facts = tmp_path / "adapter/megacontext.json"
    before = facts.read_text()
    record_gistnet(tmp_path / "adapter", tmp_path / "gistnet")
    trace, disk = tmp_path / "a.arrow", ("tree.storage=disk", f"tree.path={tmp_path / 'tree'}")
    run(make_config(*stale, *disk, "source.max_tokens=320"), trace, control=False)
    facts.write_text(before)
    run(make_config(*stale, *disk), trace, control=False, resume=True)
    (alarm,) = (alarm for alarm in alarms_in(trace) if alarm.name == "stale_gists")
    assert 320 / 8 <= alarm.step < 480 / 8


def test_a_stale_session_that_is_resumed_raises_what_the_unbroken_one_does(
    make_config: Any, tmp_path: Path, stale: tuple[str, ...]
) -> None:
    unbroken = run(make_config(*stale), tmp_path / "whole.arrow", control=False)
    trace, disk = tmp_path / "a.arrow", ("tree.storage=disk", f"tree.path={tmp_path / 'tree'}")
    for tokens in (160, 240, 320, 480):
        config = make_config(*stale, *disk, f"source.max_tokens={tokens}")
        run(config, trace, control=False, resume=trace.exists())
    assert alarms_in(trace) == alarms_in(unbroken.trace)
    assert "stale_gists" in {alarm.name for alarm in alarms_in(trace)}


DEMO_START = """
source:
  kind: script
  text: {kind: python, package: pydoc+stdlib, max_tokens: 0, decode_tokens: 0}
  segments:
    - {kind: ingest, tokens: 2048}
    - {kind: plant, name: north, text: "\\nThe access code of the north archive is 48213.\\n"}
    - {kind: ingest, tokens: 4096}
    - kind: question
      text: "\\nQ: What is the access code of the north archive?\\nA:"
      about: north
    - {kind: decode, tokens: 32}
"""


@pytest.mark.parametrize(
    "script", [DEMO_START, pytest.param("", marks=pytest.mark.slow)], ids=["start", "whole"]
)
def test_a_healthy_demo_run_raises_nothing(tmp_path: Path, script: str) -> None:
    raw = yaml.safe_load((ROOT / "configs/demo.yaml").read_text()) | (yaml.safe_load(script) or {})
    result = run(parse_config(yaml.safe_dump(raw)), tmp_path / "demo.arrow", control=False)
    assert alarms_in(result.trace) == []


def test_run_names_alarms_in_its_summary_and_fails_on_one_when_asked_to(
    make_config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        dump_config(make_config("w_max=56", "source.max_tokens=360", "trace.delta_nll_every=0"))
    )
    words = ["run", "--config", str(path), "--out", str(tmp_path / "a.arrow"), "--overwrite"]
    assert guard(app, [*words, "--fail-on-alarm"]) == 1
    assert "alarm raw_blocks" in capsys.readouterr().out
    assert guard(app, [*words, "--json"]) == 0
    raised = json.loads(capsys.readouterr().out)["alarms"]
    assert {"raw_blocks"} <= {alarm["name"] for alarm in raised}
    off = [*words, "--set", "alarms.enabled=false", "--fail-on-alarm"]
    assert guard(app, off) == 0


def test_every_hint_leads_to_a_heading() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text()
    heads = re.findall(r"^#+ (.*)$", page, re.M)
    anchors = {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in heads}
    for name, (_, anchor) in ALARM_HINTS.items():
        assert anchor in anchors, name
        assert anchor in hint_of(name)
    assert hint_of("nothing") == ""
