"""Small files are replaced as a whole, and leftovers of killed writers go."""

import os
import subprocess
import sys

import pytest

from megacontext.traces.whole_file import write_whole

KILLED = """
import os, sys
from pathlib import Path
from megacontext.traces.whole_file import write_whole
Path.replace = lambda self, target: os.kill(os.getpid(), 9)
write_whole(Path(sys.argv[1]), "half")
"""


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_what_a_killed_writer_left_is_gone_after_the_next_write(tmp_path):
    path = tmp_path / "marks.json"
    write_whole(path, "old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -9
    assert len(names(tmp_path)) == 2, "the killed writer left a temporary file"
    assert path.read_text() == "old"
    write_whole(path, "néw")
    assert names(tmp_path) == ["marks.json"]
    assert path.read_text(encoding="utf-8") == "néw"


def test_a_living_writer_and_other_files_are_left_alone(tmp_path):
    path = tmp_path / "marks.json"
    kept = [f".marks.json.{os.getppid()}.tmp", ".marks.json.x.tmp", ".other.json.1234567.tmp"]
    for name in kept:
        (tmp_path / name).write_text("")
    write_whole(path, "{}")
    assert names(tmp_path) == sorted([*kept, "marks.json"])


def test_a_failing_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "marks.json"
    write_whole(path, "old")

    def fail(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, "new")
    assert names(tmp_path) == ["marks.json"]
    assert path.read_text() == "old"
