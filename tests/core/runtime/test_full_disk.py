"""No space: one sentence, exit code 2, and what was committed stays readable."""

import os
import resource
import subprocess
import sys

import pytest

from megacontext.core.tree import Tree
from megacontext.traces.reader import TraceReader


def run_with_file_limit(config_file, out, tree, limit_bytes):
    """Files cannot grow beyond the limit, which fails a write as a full disk does."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    options = ["--config", str(config_file), "--out", str(out), "--tree", str(tree)]
    return subprocess.run(
        [sys.executable, "-m", "megacontext.core.cli", "run", *options, "--no-control"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=limit,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("limit_bytes", [9_000, 40_000])
def test_a_full_disk_is_one_sentence_and_damages_nothing(config_text, tmp_path, plain, limit_bytes):
    config_file = tmp_path / "run.yaml"
    config_file.write_text(config_text)
    out, tree = tmp_path / "t.arrow", tmp_path / "tree"
    done = run_with_file_limit(config_file, out, tree, limit_bytes)
    errors = [line for line in done.stderr.splitlines() if not line.startswith("note:")]
    assert done.returncode == 2, done.stderr
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert "File too large" in errors[0]
    if out.exists():
        with TraceReader.open(out) as reader:
            assert not reader.check()
        plain.check_trace(out)
    if (tree / "manifest.json").exists():
        with Tree.open(tree, write=False) as reopened:
            reopened.tokens(0, reopened.n_tokens)
