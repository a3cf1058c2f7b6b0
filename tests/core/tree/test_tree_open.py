"""What a tree on disk is refused for: each in one sentence, and nothing is changed."""

import json
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest

from megacontext.core.rng import generator
from megacontext.core.tree import HashGister, Tree
from megacontext.core.tree.header import SLOT_BYTES
from megacontext.traces.errors import ModelError, StorageError

HISTORY = generator(0, "tokens").integers(0, 1000, 300, dtype=np.uint32)


@pytest.fixture
def folder(tmp_path, spec, gister):
    """Two commits: 200 tokens (sequence 2), then 100 (sequence 3, in slot 1)."""
    path = tmp_path / "tree"
    with Tree.create(spec, gister, path, now_ns=0) as tree:
        tree.append(HISTORY[:200])
        tree.commit()
        tree.append(HISTORY[200:])
    return path


@pytest.fixture
def other(tmp_path, spec, gister):
    path = tmp_path / "other"
    with Tree.create(spec, gister, path, seed=1, now_ns=0) as tree:
        tree.append(HISTORY[:250])
    return path


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "LOCK"}


def flip(path, offset, bit=0):
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 1 << bit
    path.write_bytes(raw)


def refused(folder, gister, match, error=StorageError, **options):
    before = content(folder)
    for write in (True, False):
        with pytest.raises(error, match=match) as caught:
            Tree.open(folder, gister, write=write, **options)
        sentence = str(caught.value)
        assert sentence.endswith(".")
        assert "\n" not in sentence
    assert content(folder) == before


def test_a_folder_without_a_tree(tmp_path, gister):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", gister, "has no manifest.json; name the folder of a tree")
    with pytest.raises(StorageError, match="has no manifest"):
        Tree.open(tmp_path / "absent", gister)
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("name", ["LOD0.ctx", "LOD2.ctx", "KEY3.ctx"])
def test_a_missing_file(folder, gister, name):
    (folder / name).unlink()
    refused(folder, gister, f"{name} is missing; (restore|rebuild)")


@pytest.mark.parametrize("name", ["LOD0.ctx", "LOD1.ctx", "KEY1.ctx"])
@pytest.mark.parametrize("cut", [1, 100, 10**9])
def test_a_file_that_is_cut_short(folder, gister, name, cut):
    path = folder / name
    raw = path.read_bytes()
    path.write_bytes(raw[: max(len(raw) - cut, 8192)])
    refused(folder, gister, f"{name} is cut short: it holds .* committed entries")


@pytest.mark.parametrize("kept", [0, 3, 4096, 5000])
def test_a_file_cut_within_its_headers(folder, gister, kept):
    path = folder / "LOD0.ctx"
    path.write_bytes(path.read_bytes()[:kept])
    refused(folder, gister, "headers of .*LOD0.ctx are damaged|cut short")


def test_both_headers_damaged(folder, gister):
    for slot in (0, 1):
        flip(folder / "LOD0.ctx", slot * SLOT_BYTES + 40)
    refused(folder, gister, "both headers of .*LOD0.ctx are damaged or foreign; restore")


def test_a_file_of_another_kind(folder, gister):
    (folder / "LOD1.ctx").write_bytes(b"PK\x03\x04" * 5000)
    refused(folder, gister, "both headers of .*LOD1.ctx are damaged or foreign; rebuild")


@pytest.mark.parametrize("name", ["LOD0.ctx", "LOD1.ctx", "KEY2.ctx"])
def test_a_file_of_another_tree(folder, other, gister, name):
    (folder / name).write_bytes((other / name).read_bytes())
    refused(folder, gister, f"{name} belongs to tree .*, not to")


def test_a_file_of_another_level(folder, gister):
    (folder / "LOD1.ctx").write_bytes((folder / "LOD2.ctx").read_bytes())
    refused(folder, gister, "LOD1.ctx has level 2 but the manifest says 1; rebuild")


def test_gists_of_another_checkpoint_in_one_file(folder, tmp_path, spec, gister):
    foreign = HashGister(checkpoint_id="foreign", left_context=3)
    expected = replace(spec, gist_checkpoint="foreign")
    with Tree.open(folder) as tree:
        tree_id = tree.tree_id
    with Tree.create(expected, foreign, tmp_path / "b", tree_id=tree_id) as tree:
        tree.append(HISTORY)
    (folder / "LOD1.ctx").write_bytes((tmp_path / "b" / "LOD1.ctx").read_bytes())
    refused(folder, gister, "comes from gist checkpoint 'foreign', not from 'hash'; rebuild")


def test_another_gister(folder, gister):
    refused(
        folder,
        replace(gister, checkpoint_id="newer"),
        "come from checkpoint 'hash', not from 'newer'; load that checkpoint or .* regist",
    )
    refused(folder, replace(gister, dim=9), "gists of 9 and keys of 4", ModelError)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "other/model"),
        ("block_size", 8),
        ("max_levels", 2),
        ("dtype", "fp32"),
        ("vocab_size", 999),
        ("gist_checkpoint", "newer"),
    ],
)
def test_other_facts_than_expected(folder, spec, gister, field, value):
    refused(
        folder,
        gister,
        f"{field} of .* is .* but {value!r} is expected",
        expect=replace(spec, **{field: value}),
    )
    Tree.open(folder, gister, expect=spec).close()


def test_ids_of_another_tokenizer_are_refused_and_unknown_ones_are_not(tmp_path, spec, gister):
    path = tmp_path / "named"
    Tree.create(replace(spec, tokenizer="0123"), gister, path).close()
    refused(
        path, gister, "tokenizer of .* '0123' but '4567'", expect=replace(spec, tokenizer="4567")
    )
    assert "tokenizer" not in json.loads((path / "manifest.json").read_text())["spec"]
    for known, expected in (("0123", "0123"), ("0123", ""), ("", "4567")):
        path = tmp_path / f"{known}-{expected}"
        Tree.create(replace(spec, tokenizer=known), gister, path).close()
        with Tree.open(path, gister, expect=replace(spec, tokenizer=expected)) as tree:
            assert tree.spec.tokenizer == known


def test_a_newer_file_format(folder, gister):
    path = folder / "LOD0.ctx"
    raw = bytearray(path.read_bytes())
    for at in (0, SLOT_BYTES):
        raw[at + 4 : at + 6] = struct.pack("<H", 2)
        crc = zlib.crc32(raw[at : at + SLOT_BYTES - 4])
        raw[at + SLOT_BYTES - 4 : at + SLOT_BYTES] = struct.pack("<I", crc)
    path.write_bytes(raw)
    refused(folder, gister, "format version 2 but this program reads up to 1; use a newer")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda text: text[:100], "manifest.json is damaged"),
        (lambda text: text.replace('"max_levels": 3', '"max_levels": 2'), "is damaged"),
        (lambda text: "[]", "does not describe a tree"),
        (lambda text: text.replace('"version": 1', '"version": 7'), "format version 7"),
    ],
)
def test_a_manifest_that_is_not_right(folder, gister, change, match):
    path = folder / "manifest.json"
    path.write_text(change(path.read_text()))
    refused(folder, gister, match)


def test_no_flip_in_the_manifest_goes_unseen(folder, gister):
    path = folder / "manifest.json"
    good = path.read_bytes()
    body = json.loads(good)
    rng = generator(0, "flips")
    for _ in range(200):
        raw = bytearray(good)
        raw[int(rng.integers(len(raw)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(raw)
        try:
            Tree.open(folder, gister, write=False).close()
        except StorageError:
            continue
        assert json.loads(raw) == body  # only white space was hit


def test_creating_over_a_tree_or_its_remains(folder, spec, gister):
    before = content(folder)
    with pytest.raises(StorageError, match="already holds a tree"):
        Tree.create(spec, gister, folder)
    assert content(folder) == before
    (folder / "manifest.json").unlink()
    with pytest.raises(StorageError, match=r"holds KEY1.ctx but no manifest.json; restore"):
        Tree.create(spec, gister, folder)
    Tree.create(replace(spec, max_levels=1), gister, folder.parent / "free").close()


def test_a_file_in_place_of_the_folder(tmp_path, spec, gister):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot create a tree in"):
        Tree.create(spec, gister, tmp_path / "file")


@pytest.mark.parametrize("name", ["LOD0.ctx", "LOD1.ctx", "KEY1.ctx"])
def test_one_damaged_header_does_no_harm_when_the_other_is_newer(folder, gister, name):
    flip(folder / name, 40)  # slot 0 holds the older sequence
    with Tree.open(folder, gister) as tree:
        assert tree.recovery.damaged_slots == (name,)
        assert tree.n_tokens == 300
        assert tree.verify(gister) == []  # the header was written again


def test_a_damaged_newest_header_of_tokens_is_reported_with_what_it_cost(folder, gister):
    flip(folder / "LOD0.ctx", SLOT_BYTES + 40)
    with Tree.open(folder, gister) as tree:
        assert tree.n_tokens == 200
        assert tree.recovery.slot == 0
        assert tree.recovery.dropped_tokens == 100
        assert tree.verify(gister) == []
    kept = np.frombuffer((folder / "LOD0.ctx.lost3").read_bytes(), "<u4")
    np.testing.assert_array_equal(kept, HISTORY[200:])


@pytest.mark.parametrize("name", ["LOD1.ctx", "KEY1.ctx", "LOD3.ctx"])
@pytest.mark.parametrize("where", ["header", "data"])
def test_a_flip_in_the_last_commit_of_gists_is_healed(folder, gister, name, where):
    path = folder / name
    flip(path, SLOT_BYTES + 40 if where == "header" else path.stat().st_size - 1)
    with Tree.open(folder, gister) as tree:
        assert tree.n_tokens == 300
        assert tree.recovery.rebuilt_nodes > 0
        assert tree.verify(gister) == []


def test_a_flip_in_the_last_commit_of_tokens_falls_back(folder, gister):
    flip(folder / "LOD0.ctx", 8192 + 4 * 250, bit=3)
    with Tree.open(folder, gister) as tree:
        assert tree.n_tokens == 200
        assert tree.recovery.fell_back == ("LOD0.ctx",)
        np.testing.assert_array_equal(tree.tokens(0, 200), HISTORY[:200])
        assert tree.verify(gister) == []
    wrong = np.flatnonzero(
        np.frombuffer((folder / "LOD0.ctx.lost3").read_bytes(), "<u4") != HISTORY[200:]
    )
    assert list(wrong) == [50]


def test_flips_in_both_commits_of_tokens_are_refused(folder, gister):
    flip(folder / "LOD0.ctx", 8192 + 4 * 250)
    flip(folder / "LOD0.ctx", 8192 + 4 * 50)
    refused(folder, gister, "entries 200 to 300 of .*LOD0.ctx fail .* no older commit is intact")


def test_a_flip_in_the_only_commit_does_not_make_an_empty_tree(tmp_path, spec, gister):
    with Tree.create(spec, gister, tmp_path / "tree") as tree:
        tree.append(HISTORY)
    flip(tmp_path / "tree" / "LOD0.ctx", 8192)
    refused(tmp_path / "tree", gister, "all 300 entries of .* are in one commit that fails")


@pytest.mark.parametrize("name", ["LOD0.ctx", "LOD1.ctx", "KEY2.ctx"])
def test_verify_finds_a_flip_that_opening_is_too_quick_for(folder, gister, name):
    flip(folder / name, 8192)
    with Tree.open(folder, gister) as tree:
        assert tree.recovery.notes == ()
        result = tree.verify()
    assert len(result) == 1
    assert name in result[0]


def test_verify_finds_gists_of_other_children(folder, gister):
    other = replace(gister, left_context=0)
    with Tree.open(folder, gister) as tree:
        assert tree.verify(gister) == []
        assert tree.verify(other)[0].startswith("the gist of node 0 of level 1 differs")


def test_header_fields_are_where_the_documentation_says(folder, spec):
    raw = (folder / "LOD1.ctx").read_bytes()[SLOT_BYTES : 2 * SLOT_BYTES]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert raw[:4] == b"MCCT"
    assert struct.unpack_from("<HBBHHIII", raw, 4) == (1, 1, 1, 1, 0, 4, 8, 1)
    sequence, count, start = struct.unpack_from("<QQQ", raw, 24)
    assert (sequence, count, start) == (3, 75, 50)
    data = (folder / "LOD1.ctx").read_bytes()[8192:]
    assert struct.unpack_from("<II", raw, 48) == (zlib.crc32(data[800:]), zlib.crc32(data))
    assert raw[56:72].hex() == manifest["tree"]
    length = struct.unpack_from("<H", raw, 72)[0]
    assert raw[74 : 74 + length].decode() == spec.model
    length = struct.unpack_from("<H", raw, 1098)[0]
    assert raw[1100 : 1100 + length].decode() == spec.gist_checkpoint
    assert struct.unpack_from("<I", raw, 4092)[0] == zlib.crc32(raw[:4092])
    assert manifest["files"] == [
        "LOD0.ctx", "LOD1.ctx", "KEY1.ctx", "LOD2.ctx", "KEY2.ctx", "LOD3.ctx", "KEY3.ctx",
    ]  # fmt: skip
    assert manifest["created"] == "1970-01-01T00:00:00Z"
