"""A tree, its keys and a trace on a real disk: one that fails, fills up or turns read-only, and
processes that die. What was committed is there again, and is right."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HELPERS = Path(__file__).parents[2] / "helpers"
SCRIPT = HELPERS / "real_disk.py"


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    """``disk_shim.c`` as a library; skips where there is no C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    out = tmp_path_factory.mktemp("shim") / "disk_shim.so"
    source = HELPERS / "disk_shim.c"
    built = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", out, source, "-ldl"]
    subprocess.run(list(map(str, built)), check=True)
    return out


def run(*arguments, command=(), **environment):
    """The figures that the script prints; its failure is this test's."""
    done = subprocess.run(
        [*command, sys.executable, str(SCRIPT), *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("kind", "calls"),
    [
        ("sync", 30),
        pytest.param("full", 60, marks=pytest.mark.slow),
        pytest.param("readonly", 100, marks=pytest.mark.slow),
    ],
)
def test_whichever_call_fails_nothing_committed_is_lost(shim, tmp_path, kind, calls):
    figures = run(kind, tmp_path / "disk", LD_PRELOAD=str(shim))
    assert figures["calls"] >= calls
    assert figures["sentences"] == figures["calls"], "each failure is one sentence"


@pytest.mark.parametrize("times", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_writers_lose_nothing_that_they_confirmed(tmp_path, times):
    assert run("kill", times, tmp_path) == {"killed": times, "lost": 0}


def test_a_file_system_that_is_full_loses_nothing(tmp_path):
    """On a tmpfs of 2 MB in a mount namespace of its own."""
    namespace = shutil.which("unshare")
    mounted = f"mount -t tmpfs -o size=2m tmpfs {tmp_path}"
    inside = [namespace, "--user", "--map-root-user", "--mount", "sh", "-c"]
    tried = namespace and subprocess.run([*inside, mounted], capture_output=True, check=False)
    if not tried or tried.returncode:
        pytest.skip("needs a mount namespace")
    figures = run("small", tmp_path, command=(*inside, f'{mounted} && exec "$@"', "sh"))
    assert figures["refused"] >= 5
