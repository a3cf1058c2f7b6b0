import json
import lzma
import os

import numpy as np
import pytest

from megacontext.core.config import parse_config
from megacontext.core.sources import (
    Decode,
    Ingest,
    Mark,
    Plant,
    Question,
    check_source,
    open_source,
)
from megacontext.traces.errors import SourceError


@pytest.mark.parametrize("kept", [0, 0.5])
def test_a_truncated_xz_is_named(tmp_path, kept):
    whole = lzma.compress(b'{"text": "abc"}\n' * 4000)
    path = tmp_path / "t.jsonl.xz"
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(SourceError, match=r"t\.jsonl\.xz"):
        events(f"{{kind: corpus, path: {path}, document: 3999}}")


def test_a_file_name_that_is_not_utf8_is_announced_with_a_replacement(tmp_path):
    with open(os.path.join(os.fsencode(tmp_path), b"caf\xe9.txt"), "w") as file:  # noqa: PTH118, PTH123
        file.write("abc")
    result = events(f"{{kind: folder, path: {tmp_path}, pattern: '*.txt'}}")
    tokens = np.concatenate([e.tokens for e in result if isinstance(e, Ingest)])
    assert bytes(tokens.astype(np.uint8)).decode() == "# ==== caf\ufffd.txt ====\nabc\n\n"


class Bytes:
    def encode(self, text):
        return np.frombuffer(text.encode(), np.uint8).astype(np.uint32)

    turn = encode


def events(source: str):
    return list(open_source(parse_config(f"source: {source}").source, Bytes()))


def text_of(found) -> str:
    tokens = np.concatenate([e.tokens for e in found if isinstance(e, Ingest)])
    return tokens.astype(np.uint8).tobytes().decode(errors="ignore")


def test_text_file_is_read_whole_and_decoding_follows(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("héllo\r\nworld\n" * 20_000)
    result = events(f"{{kind: text, path: '{path}', decode_tokens: 7}}")
    assert text_of(result[:-1]) == "héllo\r\nworld\n" * 20_000
    assert result[-1] == Decode(7)


def test_max_tokens_cuts_the_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("x" * 100)
    assert text_of(events(f"{{kind: text, path: '{path}', max_tokens: 9}}")) == "x" * 9


def test_folder_announces_files_in_path_order(tmp_path):
    (tmp_path / "b.py").write_text("B\n")
    (tmp_path / "a.py").write_text("A\n")
    text = text_of(events(f"{{kind: folder, path: '{tmp_path}'}}"))
    assert text == "# ==== a.py ====\nA\n\n# ==== b.py ====\nB\n\n"


def test_corpus_picks_the_document(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text("\n".join(json.dumps({"text": t}) for t in ("one", "two")))
    assert text_of(events(f"{{kind: corpus, path: '{path}', document: 1}}")) == "two"


def test_python_sources_alternate_and_are_the_same_twice():
    source = "{kind: python, package: pydoc+json, max_tokens: 50000, decode_tokens: 0}"
    first, again = text_of(events(source)), text_of(events(source))
    assert first == again
    assert "# ==== doc/assert ====" in first
    assert "# ==== json/__init__.py ====" in first
    assert first.index("doc/assert") < first.index("json/__init__") < first.index("doc/assignment")


def test_script_draws_ingest_segments_from_one_running_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("0123456789")
    result = events(
        f"{{kind: script, text: {{kind: text, path: '{path}'}}, segments: ["
        "{kind: ingest, tokens: 3}, {kind: plant, name: n, text: fact}, {kind: ingest, tokens: 4},"
        "{kind: marker, text: m}, {kind: question, about: n, text: q, answer: a}]}"
    )
    assert text_of([result[0], result[2]]) == "0123456"
    assert isinstance(result[1], Plant)
    assert result[3] == Mark("m")
    assert isinstance(result[4], Question)
    assert result[4].about == "n"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{kind: text, path: missing.txt}", "missing.txt"),
        ("{kind: text, path: .}", "source.path"),
        ("{kind: folder, path: missing}", "not a folder"),
        ("{kind: python, package: no_such_package_here}", "not installed"),
        ("{kind: corpus, path: missing.jsonl}", "missing.jsonl"),
        ("{kind: script, segments: []}", "at least one segment"),
        ("{kind: script, segments: [{kind: question, about: x, text: q}]}", "'x'"),
        (
            "{kind: script, segments: [{kind: decode}, {kind: question}]}",
            "segments.1..text is empty",
        ),
        ("{kind: script, segments: [{kind: plant, name: x}]}", "write the plant's text"),
    ],
)
def test_a_bad_source_is_one_sentence(source, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=says) as caught:
        events(source)
    assert "\n" not in str(caught.value)


INGEST = "segments: [{kind: ingest, tokens: 3}]"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{kind: text, path: missing.txt}", "source.path 'missing.txt' cannot be read"),
        ("{kind: text, path: .}", "source.path '.' cannot be read"),
        ("{kind: corpus, path: missing.jsonl}", "source.path 'missing.jsonl' cannot be read"),
        ("{kind: folder, path: missing}", "not a folder"),
        ("{kind: python, package: no_such_package_here}", "not installed"),
        ("{kind: prompt, preload: missing.txt}", "source.preload 'missing.txt' cannot be read"),
        (f"{{kind: script, text: {{kind: text, path: missing.txt}}, {INGEST}}}", "'missing.txt'"),
    ],
)
def test_a_source_that_is_not_there_is_refused_without_a_tokenizer(
    source, says, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=says):
        check_source(parse_config(f"source: {source}").source)


def test_a_source_that_is_there_is_not_opened_by_the_check(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for source in (f"{{kind: text, path: '{pipe}'}}", f"{{kind: prompt, preload: '{pipe}'}}"):
        check_source(parse_config(f"source: {source}").source)  # an open() would wait for ever
    unread = "{kind: script, text: {kind: text, path: missing.txt}, segments: [{kind: decode}]}"
    check_source(parse_config(f"source: {unread}").source)


@pytest.mark.parametrize("content", [b"", b"\n"[:0]])
def test_empty_text_is_refused(tmp_path, content):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(SourceError, match="holds no text"):
        events(f"{{kind: text, path: '{path}'}}")


def test_undecodable_bytes_are_refused_with_their_place(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"abc\xff\xfe")
    with pytest.raises(SourceError, match="byte 3"):
        events(f"{{kind: text, path: '{path}'}}")


def test_an_ingest_segment_longer_than_the_text_says_so(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("0123456789")
    with pytest.raises(SourceError, match="5 tokens before"):
        events(
            f"{{kind: script, text: {{kind: text, path: '{path}'}}, "
            "segments: [{kind: ingest, tokens: 15}]}"
        )
