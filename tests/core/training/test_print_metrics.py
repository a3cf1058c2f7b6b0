"""The figures at the end of a training command."""

from __future__ import annotations

from pathlib import Path

import pytest

from megacontext.core.training import cli


@pytest.mark.parametrize("as_json", [True, False])
def test_processes_beside_the_main_one_print_no_figures(
    tmp_path: Path,
    as_json: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    figures: dict[str, float] = {}  # what a trainer returns beside the main process
    monkeypatch.setattr("megacontext.core.config.settings.load", lambda *args: None)
    trainer = "megacontext.core.training.gistnet.task.train_gistnet"
    monkeypatch.setattr(trainer, lambda *args, **kwargs: figures)
    cli.gistnet(tmp_path, tmp_path, json_=as_json)
    assert capsys.readouterr().out == ""
    figures["gist_dnll"] = 0.5
    cli.gistnet(tmp_path, tmp_path, json_=as_json)
    assert "gist_dnll" in capsys.readouterr().out
