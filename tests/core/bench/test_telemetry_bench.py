"""``bench telemetry`` decodes the same tokens with sinks and without, and reports their speeds."""

import json
import os

from typer.testing import CliRunner

from megacontext.core.bench import telemetry
from megacontext.core.cli.bench import app

SMALL = ["--set", "block_size=8", "--set", "tree.max_levels=3", "--w-max", "128"]


def run(model_folder, *arguments):
    size = ["--pairs", "2", "--blocks", "1"]
    command = ["telemetry", "--model", str(model_folder), *SMALL, *size, *arguments, "--json"]
    return CliRunner().invoke(app, command)


def test_both_sessions_decode_alike_and_one_of_them_writes(model_folder, monkeypatch):
    seen = []
    plain = telemetry._decode_slice

    def watched(session, blocks):
        seconds = plain(session, blocks)
        seen.append((session, session.parts.config.telemetry.sinks))
        return seconds

    monkeypatch.setattr(telemetry, "_decode_slice", watched)
    result = run(model_folder, "--sink", "prometheus")
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert figures["sinks"] == ["prometheus"]
    assert 0 < figures["speed_range"][0] <= figures["speed"] <= figures["speed_range"][1]
    assert figures["thread_speed"] > 0
    assert {tuple(sinks) for _, sinks in seen} == {(), ("prometheus",)}
    assert len({session.context.n_tokens for session, _ in seen}) == 1
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" not in os.environ


def test_a_sink_that_is_not_installed_is_refused(model_folder, monkeypatch):
    monkeypatch.setattr(telemetry, "installed_sinks", lambda: ["prometheus"])
    result = run(model_folder, "--sink", "wandb")
    assert result.exit_code != 0
    assert "choose from prometheus" in str(result.exception)
