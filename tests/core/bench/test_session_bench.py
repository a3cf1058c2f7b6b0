"""``bench session`` and ``bench ingest`` run a whole session and report what they promise."""

import json

import pytest
from typer.testing import CliRunner

from megacontext.core.cli.bench import app

SMALL = ["--set", "block_size=8", "--set", "tree.max_levels=3"]
STAGES = {"us_decode", "us_gist", "us_lens", "us_alloc", "us_kv", "us_record"}


def figures_of(*arguments):
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_session_bench_reports_a_ratio_and_where_it_goes(model_folder):
    size = ["--w-max", 128, "--history", 600, "--cycles", 1]
    figures = figures_of("session", "--model", model_folder, *size, *SMALL)

    assert figures["blocks"] == 1
    assert figures["history"] == 600
    assert figures["ratio"] > 1
    added = figures["refocus_ms"] / (8 * figures["token_ms"])
    assert figures["ratio"] == pytest.approx(1 + added)
    low, high = figures["ratio_range"]
    assert low <= figures["ratio"] <= high
    assert figures["cpu_ratio"] > 1
    assert set(figures["host_us"]) == STAGES
    assert figures["actions"] >= 1  # the window is full: every block costs a collapse
    assert figures["host_us"]["us_decode"] > figures["host_us"]["us_alloc"] > 0
    assert "gpu_ms" not in figures


@pytest.mark.parametrize("chunk", [0, 64])
def test_the_ingest_bench_reports_a_rate_and_its_growth(model_folder, chunk):
    size = ["--w-max", 256, "--tokens", 1400, "--chunk", chunk]
    figures = figures_of("ingest", "--model", model_folder, *size, *SMALL)

    read = figures["tokens"]
    assert figures["tokens_per_s"] == pytest.approx(read / figures["seconds"])
    assert figures["refocuses"] == pytest.approx(read / (chunk or 8), rel=0.1)
    assert len(figures["by_history"]) == 8
    assert figures["growth"] > 0
    assert 0 < sum(figures["host_s"].values()) < figures["seconds"]


def test_text_that_is_not_read_at_once_leaves_a_window_that_can_decode(model_folder):
    size = ["--w-max", 256, "--tokens", 1024, "--chunk", 64, "--no-nll"]
    figures = figures_of("ingest", "--model", model_folder, *size, *SMALL)
    assert figures["host_s"]["us_decode"] < 0.2 * figures["seconds"]
