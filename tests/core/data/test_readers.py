"""Readers: fixed order, one-sentence refusals."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest

from megacontext.core.data.readers import Document, Source, read
from megacontext.traces.errors import SourceError


def test_json_lines_are_read_plain_and_compressed(tmp_path: Path) -> None:
    records = [{"doc": "a", "domain": "prose", "text": "Ä one"}, {"text": "two"}]
    data = "\n".join(json.dumps(r, ensure_ascii=False) for r in records).encode()
    (tmp_path / "x.jsonl").write_bytes(data)
    (tmp_path / "x.jsonl.xz").write_bytes(lzma.compress(data))
    plain = list(read(Source("jsonl", str(tmp_path / "x.jsonl"))))
    packed = list(read(Source("jsonl", str(tmp_path / "x.jsonl.xz"))))
    assert plain == [Document("a", "prose", "Ä one"), Document("x.jsonl:2", "text", "two")]
    assert [d.text for d in packed] == [d.text for d in plain]


def test_a_folder_becomes_one_document_with_a_header_per_file_in_path_order(tmp_path: Path) -> None:
    for name in ("b.py", "a.py", "sub/c.py", "note.txt", ".hidden/d.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\n", encoding="utf8")
    (document,) = read(Source("folder", str(tmp_path)))
    headers = [line for line in document.text.splitlines() if line.startswith("# ====")]
    assert headers == [f"# ==== {tmp_path.name}/{n} ====" for n in ("a.py", "b.py", "sub/c.py")]


def test_a_folder_stops_at_its_largest_size(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.py").write_text("x = 1\n" * 100, encoding="utf8")
    (document,) = read(Source("folder", str(tmp_path), max_chars=1400))
    assert len(document.text) <= 1400
    assert "b.py" in document.text
    assert "c.py" not in document.text


def test_installed_packages_are_read_by_import_name_and_missing_ones_refused() -> None:
    (document,) = read(Source("packages", names=("megacontext.traces",), domain="code"))
    assert "# ==== megacontext.traces/errors.py ====" in document.text
    with pytest.raises(SourceError, match=r"sources\.names: no package 'no_such_package'"):
        list(read(Source("packages", names=("no_such_package",))))
    assert list(read(Source("packages", names=("no_such_package",), missing_ok=True))) == []


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("text", "a.txt", r"a\.txt is not UTF-8 at byte 26;"),
        ("jsonl", "a.jsonl", r"a\.jsonl is not UTF-8 in line 2 at byte 26;"),
        ("folder", "sub/a.py", r"sub/a\.py is not UTF-8 at byte 26;"),
    ],
)
def test_text_that_is_not_utf8_is_refused_with_file_and_place(
    tmp_path: Path, kind: str, name: str, message: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b'{"text": "ok"}\n{"text": "x\xe9"}\n')
    where = tmp_path if kind == "folder" else path
    with pytest.raises(SourceError, match=message):
        list(read(Source(kind, str(where))))  # type: ignore[arg-type]


def test_a_file_without_a_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("\n\n", encoding="utf8")
    with pytest.raises(SourceError, match=r"x\.jsonl holds no record"):
        list(read(Source("jsonl", str(tmp_path / "x.jsonl"))))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"txt": 1}\n', "line 1 of .* has no `text` string"),
        (b'{"text": "ok"}\n{"text": \n', "damaged behind line 2"),
    ],
)
def test_bad_records_are_refused_with_their_line(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "x.jsonl").write_bytes(data)
    with pytest.raises(SourceError, match=message):
        list(read(Source("jsonl", str(tmp_path / "x.jsonl"))))


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    packed = lzma.compress(b'{"text": "one"}\n' * 50_000)
    (tmp_path / "x.jsonl.xz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(SourceError, match="damaged"):
        list(read(Source("jsonl", str(tmp_path / "x.jsonl.xz"))))


def test_a_missing_path_is_refused() -> None:
    with pytest.raises(SourceError, match=r"sources\.path: /nowhere does not exist"):
        list(read(Source("text", "/nowhere")))


def test_a_file_of_the_standard_library_that_is_not_utf8_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "good.py").write_text("# fine\n")
    (tmp_path / "latin.py").write_bytes(b"# -*- coding: latin-1 -*-\n# \xe9\n")
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    (document,) = read(Source("stdlib"))
    assert "good.py" in document.text
    assert "latin.py" not in document.text
