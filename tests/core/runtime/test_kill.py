"""SIGKILL at any moment: trace and tree open with everything whole, and the run goes on."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from megacontext.core.config import parse_config
from megacontext.core.runtime.build import build_parts
from megacontext.core.runtime.run import run
from megacontext.core.tree import Tree
from megacontext.core.verify import verify
from megacontext.traces.reader import TraceReader


def start(config_file, out, tree, resume=False):
    arguments = ["run", "--config", config_file, "--out", out, "--tree", tree, "--no-control"]
    return subprocess.Popen(
        [sys.executable, "-m", "megacontext.core.cli", *map(str, arguments)]
        + (["--resume"] if resume else []),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_rows(process, out, rows):
    """Until the trace holds so many rows (a row count, not a time, so tests are steady)."""
    while process.poll() is None:
        if out.exists():
            with contextlib.suppress(Exception), TraceReader.open(out) as reader:
                if reader.num_rows >= rows:
                    break
        time.sleep(0.002)


def kill_after_rows(process, out, rows):
    wait_for_rows(process, out, rows)
    process.send_signal(signal.SIGKILL)
    process.wait()


def history_of(out):
    with TraceReader.open(out) as reader:
        return np.concatenate([row.new_tokens for row in reader.rows()])


def nll_of(out):
    with TraceReader.open(out) as reader:
        return np.concatenate([row.new_nll for row in reader.rows()])


@pytest.fixture
def config_file(config_text, tmp_path):
    path = tmp_path / "run.yaml"
    text = config_text.replace("max_tokens: 1500", "max_tokens: 2400")
    path.write_text(text.replace("max_levels: 3", "max_levels: 3, commit_blocks: 3"))
    return path


def kill_and_resume(config_file, tmp_path, plain, kills):
    out, tree = tmp_path / "t.arrow", tmp_path / "tree"
    for number, rows in enumerate(kills):
        kill_after_rows(start(config_file, out, tree, resume=number > 0), out, rows)
        with TraceReader.open(out) as reader:
            assert reader.num_rows >= 1
        plain.check_trace(out)
        with Tree.open(tree, write=False) as reopened:
            known = reopened.tokens(0, reopened.n_tokens)
            recorded = history_of(out)
            shared = min(len(known), len(recorded))
            assert np.array_equal(known[:shared], recorded[:shared])
    done = start(config_file, out, tree, resume=True)
    _, errors = done.communicate(timeout=300)
    assert done.returncode == 0, errors
    plain.check_trace(out)
    return history_of(out)


@pytest.mark.parametrize("kills", [[8], pytest.param([60, 200], marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_and_loses_nothing(config_file, config_text, tmp_path, plain, kills):
    history = kill_and_resume(config_file, tmp_path, plain, kills)
    parts = build_parts(parse_config(config_text))
    text = parts.base.tokenizer.decode(history[:2400])
    assert len(history) == 2400 + 24
    assert text == (tmp_path / "text.txt").read_text()[:2400]


def test_a_run_killed_while_an_edit_waits_decodes_what_the_unbroken_one_does(
    config_text, tmp_path, plain
):
    text = config_text.replace(
        "max_tokens: 1500, decode_tokens: 24", "max_tokens: 200, decode_tokens: 800"
    )
    text = text.replace(
        "kv: {drift_every: 16, refresh_every: 512, refresh_chunk: 64}", "kv: {mode: exact}"
    )
    path = tmp_path / "run.yaml"
    path.write_text(text + "focus: {lag: 5, n_diff: 8}\ngist: {kind: mean}\nlens: {kind: bm25}\n")
    whole = run(parse_config(path.read_text()), tmp_path / "whole.arrow", control=False).trace

    # The history's last row closes a block: its edit waits for five tokens that no row holds.
    assert np.array_equal(kill_and_resume(path, tmp_path, plain, [40]), history_of(whole))
    resumed = tmp_path / "t.arrow"
    np.testing.assert_allclose(nll_of(resumed), nll_of(whole), atol=1e-4)
    assert verify(resumed).ok


def test_a_run_that_is_told_to_stop_closes_its_trace_and_says_how_it_goes_on(config_file, tmp_path):
    out, tree = tmp_path / "[b]t.arrow", tmp_path / "tree"
    process = start(config_file, out, tree)
    wait_for_rows(process, out, 8)
    process.send_signal(signal.SIGTERM)
    said, errors = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "")
    *_, told, last = errors.splitlines()
    again = f"the same command with --out {out} --resume goes on."
    assert told == f"{out} is whole up to here; {again}"
    assert last == "stopped"
    with TraceReader.open(out) as reader:
        assert reader.finished
    assert start(config_file, out, tree, resume=True).wait(timeout=300) == 0
    assert len(history_of(out)) == 2400 + 24


@pytest.mark.slow
def test_fifty_random_kills(config_file, tmp_path, plain):
    rng = np.random.default_rng(11)
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        kills = sorted(int(k) for k in rng.integers(1, 300, 5))
        assert len(kill_and_resume(config_file, folder, plain, kills)) == 2400 + 24
