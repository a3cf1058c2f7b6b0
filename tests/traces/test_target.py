"""Names of traces: dated, claimed before anything runs, never taken from another run."""

import time

import pytest

from megacontext.traces.errors import ConfigError, LockedError
from megacontext.traces.target import check_target, claim, dated
from megacontext.traces.writer import TraceWriter

NOON = time.struct_time((2026, 5, 4, 12, 0, 1, 0, 124, 0))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_default_names_carry_the_date_and_never_meet(tmp_path, meta):
    first = dated("demo", tmp_path, NOON)
    assert first.name == "demo-20260504-120001.arrow"
    with claim(first, overwrite=False):
        assert dated("demo", tmp_path, NOON).name == "demo-20260504-120001-2.arrow"
    TraceWriter(first, meta).close()
    again = dated(first.stem, tmp_path, NOON)
    assert again.name == "demo-20260504-120001-2.arrow"
    assert dated(again.stem, tmp_path, NOON) == again


def test_a_trace_is_replaced_only_where_that_was_asked_for(write):
    path = write(5)
    with pytest.raises(ConfigError, match=r"exists \(a trace of 5 rows\).*--overwrite"):
        claim(path, overwrite=False)
    assert names(path.parent) == [path.name], "nothing was touched"
    with claim(path, overwrite=True), claim(path.with_name("other.arrow"), overwrite=False):
        assert path.exists()
    with claim(path, overwrite=False, resume=True):
        pass
    assert names(path.parent) == [path.name]


def test_what_is_no_trace_is_never_replaced(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("a text that somebody wrote")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="is no trace; choose another --out"):
            check_target(text, overwrite=overwrite)
        with pytest.raises(ConfigError, match="is a folder"):
            check_target(tmp_path, overwrite=overwrite)
    (tmp_path / "empty").touch()
    check_target(tmp_path / "empty", overwrite=True)


def test_a_second_run_on_one_name_is_refused_also_before_there_is_a_file(tmp_path):
    path = tmp_path / "run.arrow"
    (tmp_path / "link.arrow").symlink_to(path)
    with claim(path, overwrite=False):
        for name in (path, tmp_path / "link.arrow"):
            for overwrite in (False, True):
                with pytest.raises(LockedError, match=r"being written.*--attach"):
                    claim(name, overwrite=overwrite)
    assert names(tmp_path) == ["link.arrow"]
    claim(path, overwrite=False).release()
