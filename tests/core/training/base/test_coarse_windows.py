"""Gists in training rows: the session's own gists, where the coarse entries are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.nn import functional

from megacontext.core.config.settings import load
from megacontext.core.data.recall.window_sampling import CoarseEntries, coarse_window
from megacontext.core.data.shards import open_shards
from megacontext.core.data.token_streams import TokenStreams
from megacontext.core.data.tokenizer import fingerprint, load_tokenizer
from megacontext.core.gistnet.gister import NetGister, save_gistnet
from megacontext.core.gistnet.module import GistNet, GistNetConfig
from megacontext.core.model.base import BaseModel
from megacontext.core.rng import generator
from megacontext.core.training.base.dataset import (
    ANSWER,
    COPIED,
    FILLER,
    LOOKED_UP,
    PLAIN,
    SILENT,
    BaseDataset,
    Phase,
)
from megacontext.core.training.base.evaluate import HeldoutConfig
from megacontext.core.training.base.task import (
    BaseConfig,
    BaseTask,
    _weighted_nll,
    judge_base,
    train_base,
)
from megacontext.core.training.common.gist_inputs import GistInputs, assign_gists
from megacontext.traces.errors import ConfigError

K = 32


@pytest.fixture(scope="module")
def gistnet(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """An untrained GistNet of the tiny base whose every level moves its start."""
    base = BaseModel.load(str(tiny_base), device="cpu", dtype="float32")
    net = GistNet(GistNetConfig(32, layers=1, heads=2, kv_heads=1, ffn=32))
    net.init_weights(0)
    with torch.no_grad():
        net.level_gain.fill_(1.0)
        net.head.weight.normal_(generator=torch.Generator().manual_seed(1))
    folder = tmp_path_factory.mktemp("gistnet")
    save_gistnet(net, folder, base.embedding_matrix)
    return folder


def test_entries_share_a_batch_and_overflow_falls_back_to_the_first() -> None:
    blocks = np.arange(20, dtype=np.int32).reshape(5, 4)
    rows = [
        CoarseEntries(np.array([0, 3]), blocks[:2], np.array([5])),
        None,
        CoarseEntries(np.array([1, 2, 4]), blocks[2:], np.array([], np.int64)),
    ]
    places, known = assign_gists(np.random.default_rng(0), rows, 6, 4, 2)
    assert places.tolist() == [[0, -1, -1, 1, -1, places[0, 5]], [-1] * 6, [-1, 2, 3, -1, 0, -1]]
    assert places[0, 5] in (4, 5)  # one of the two groups of 2 blocks
    assert (known == blocks[:4]).all()


def test_without_a_whole_group_an_upper_entry_stays_a_token() -> None:
    row = CoarseEntries(np.array([1]), np.zeros((1, 2 * K), np.int32), np.array([0]))
    places, _ = assign_gists(np.random.default_rng(0), [row], 3, K, K)
    assert places.tolist() == [[-1, 0, -1]]


def test_entries_of_a_window_are_the_blocks_they_stand_for() -> None:
    tokens = np.arange(40 * K, dtype=np.uint16)
    for seed in range(20):
        rng = generator(seed, "coarse")
        window = coarse_window(rng, tokens, 38 * K, {3}, 600, K, tokens)
        shown = np.concatenate([window.older, tokens[window.index]])
        assert len(shown) == 600
        entries = window.entries
        assert (entries.blocks[:, K:].max(1) == shown[entries.level1_positions]).all()
        assert (entries.blocks[:, 2 * K - 1] % K == K - 1).all()
        inside = entries.blocks[:, 0] >= 0
        assert (entries.blocks[inside, K - 1] + 1 == entries.blocks[inside, K]).all()
        raw = ~window.silent
        assert (np.isin(np.arange(3 * K, 4 * K), shown[raw])).all()


def test_gists_are_those_of_a_session(tiny_base: Path, gistnet: Path) -> None:
    base = BaseModel.load(str(tiny_base), device="cpu", dtype="float32")
    gister = NetGister.load(gistnet, base.embedding_matrix)
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 8192, (2 * K, 2 * K)).astype(np.int32)
    inputs = GistInputs(gistnet, base.embedding_matrix, K)
    result = inputs.gists(torch.from_numpy(blocks)).numpy()
    tokens, left = blocks[:, K:].astype(np.uint32), blocks[:, :K].astype(np.uint32)
    lower, _ = gister.encode_blocks(tokens, left)
    upper, _ = gister.encode_gists(2, lower.reshape(2, K, -1))
    np.testing.assert_allclose(result[: 2 * K], lower, atol=1e-5)
    np.testing.assert_allclose(result[2 * K :], upper, atol=1e-5)
    places = torch.tensor([[-1, 5, 2 * K]])
    x = torch.ones(1, 3, 32)
    mixed = inputs.mixed(x, places, torch.from_numpy(blocks))
    np.testing.assert_allclose(mixed[0].numpy(), [x[0, 0].numpy(), result[5], result[2 * K]])


def _item(shards: Path, base: Path, phase: Phase, step: int = 0, **more: Any) -> dict[str, Any]:
    """One batch of ``phase``; ``more`` as for ``BaseDataset``."""
    tokenizer = load_tokenizer(base)
    streams = TokenStreams(open_shards(shards, fingerprint(tokenizer)))
    return BaseDataset(phase, 0, streams, tokenizer, seed=1, **more)[step]


def test_rows_with_gists_do_not_depend_on_who_makes_them(shards: Path, tiny_base: Path) -> None:
    phase = Phase(1.0, 256, 1024, recall=0.5, coarse=0.9, gappy=0.0, coarse_text=0.9, gists=64)

    def item(rank: int, world: int) -> dict[str, Any]:
        return _item(shards, tiny_base, phase, 3, rank=rank, world=world)

    whole, halves = item(0, 1), [item(rank, 2) for rank in range(2)]
    rows = torch.stack([half["tokens"][0] for half in halves], dim=1).flatten(0, 1)
    assert torch.equal(rows, whole["tokens"][0])
    assert whole["places"].shape == (1, 4, 256)
    assert whole["blocks"].shape == (1, 256, 2 * K)
    coarse = whole["places"][0] >= 0
    assert coarse.any()
    # Nothing is asked of the model where a gist comes next.
    assert (whole["marks"][0][:, :-1][coarse[:, 1:]] == SILENT).all()
    single = coarse & (whole["places"][0] < 256)
    blocks = whole["blocks"][0][whole["places"][0][single].long()][:, K:]
    assert torch.equal(blocks.amax(1), whole["tokens"][0][:, :-1][single])


def _with_gists(path: Path, folder: Path, **changes: Any) -> BaseConfig:
    value = yaml.safe_load(path.read_text(encoding="utf8"))
    value |= {"gistnet": str(folder), "freeze": ["embed"], **changes}
    shape = {"layers": 2, "ffn": 48, "window": 4096}
    value["model"] |= shape
    for phase in value["phases"]:
        phase |= {"coarse": 0.5, "coarse_text": 0.5, "gists": 32}
    path.write_text(yaml.safe_dump(value), encoding="utf8")
    return load(BaseConfig, path, [])


class _KilledError(RuntimeError):
    pass


def test_a_base_trains_on_gists_and_resumes_to_the_same_figures(
    base_config: Path,
    gistnet: Path,
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = _with_gists(base_config, gistnet)
    unbroken = train_base(config, tmp_path / "unbroken", device="cpu", init=tiny_base)
    plain, steps = BaseTask.loss, []

    def killed(task: BaseTask, batch: dict[str, torch.Tensor]) -> Any:
        assert "places" in batch
        steps.append(0)
        if len(steps) == 6:
            raise _KilledError
        return plain(task, batch)

    with monkeypatch.context() as patch:
        patch.setattr(BaseTask, "loss", killed)
        with pytest.raises(_KilledError):
            train_base(config, tmp_path / "killed", device="cpu", init=tiny_base)
    # Without --init: the embeddings that gists are made of come from the checkpoint.
    assert train_base(config, tmp_path / "killed", device="cpu", resume=True) == unbroken
    assert any(name.startswith("recall_heldout_coarse") for name in unbroken)


def test_a_gistnet_trains_with_the_base_that_reads_it(
    base_config: Path, gistnet: Path, tiny_base: Path, tmp_path: Path
) -> None:
    config = _with_gists(base_config, gistnet, train_gistnet=True, copy_weight=4.0)
    out = tmp_path / "export"
    with pytest.raises(ConfigError, match="train_gistnet: true needs --init"):
        train_base(config, tmp_path / "run", device="cpu")
    train_base(config, tmp_path / "run", device="cpu", init=tiny_base, export=out)
    own = load_file(out / "gistnet" / "model.safetensors")
    before = load_file(gistnet / "model.safetensors")
    changed = {name for name in own if not torch.equal(own[name], before[name])}
    assert {"head.weight", "encoder.layers.0.q_proj.weight"} <= changed
    assert not any(name == "pad" or name.startswith("keys.") for name in changed)
    # It still fits: the embeddings are those that it was trained for.
    base = BaseModel.load(str(out), device="cpu", dtype="float32")
    NetGister.load(out / "gistnet", base.embedding_matrix)


def test_gists_and_their_room_go_together(base_config: Path, gistnet: Path) -> None:
    with pytest.raises(ConfigError, match="train_gistnet: true names no network"):
        load(BaseConfig, base_config, ["train_gistnet=true"])
    with pytest.raises(ConfigError, match=r"freeze: .* add embed"):
        _with_gists(base_config, gistnet, freeze=[])
    with pytest.raises(ConfigError, match=r"gistnet: '' does not go with phases.gists"):
        _with_gists(base_config, gistnet, gistnet="")


def test_text_around_facts_is_told_from_plain_text(shards: Path, tiny_base: Path) -> None:
    def marks(recall: float) -> set[int]:
        phase = Phase(1.0, 256, 1024, recall=recall, gappy=0.0, gappy_text=0.0)
        return set(_item(shards, tiny_base, phase)["marks"].flatten().tolist())

    assert marks(0.0) == {PLAIN}
    assert {FILLER, LOOKED_UP} <= marks(1.0) <= {ANSWER, LOOKED_UP, SILENT, FILLER}


def test_a_mark_weighs_what_the_config_says() -> None:
    hidden, head = torch.randn(1, 5, 8), torch.randn(16, 8)
    targets = torch.tensor([[1, 2, 3, 4, 5]])
    marks = torch.tensor([[PLAIN, ANSWER, LOOKED_UP, SILENT, COPIED]], dtype=torch.uint8)
    weights = torch.tensor([1.0, 3.0, 12.0, 0.0, 0.1, 4.0])
    each = functional.cross_entropy((hidden @ head.T)[0], targets[0], reduction="none")
    loss, text, answer, copied = _weighted_nll(hidden, head, targets, marks, weights)
    expected = each[0] + 3 * each[1] + 12 * each[2] + 4 * each[4]
    torch.testing.assert_close(loss, expected / 20)
    torch.testing.assert_close((text, answer, copied), (each[0], each[1:3].mean(), each[4]))


def test_newest_text_repeats_blocks_that_are_gists(shards: Path, tiny_base: Path) -> None:
    def copies(**more: float) -> int:
        phase = Phase(
            1.0, 512, 8192, recall=0.0, gappy_text=0.0, coarse_text=1.0, token_gists=0.0, **more
        )
        return int((_item(shards, tiny_base, phase)["marks"] == COPIED).sum())

    assert copies() == 0  # coarse entries are tokens
    few, many = copies(gists=128), copies(gists=128, repeats=1.0)
    assert 0 < 1.5 * few < many


def test_a_base_is_judged_with_the_gists_it_was_trained_on(
    shards: Path,
    tiny_base: Path,
    gistnet: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = HeldoutConfig(1, 64, 4, (256,), facts=1)
    read: list[int] = []
    built = GistInputs.gists

    def watched(self: GistInputs, blocks: torch.Tensor) -> torch.Tensor:
        read.append(len(blocks))
        return built(self, blocks)

    monkeypatch.setattr(GistInputs, "gists", watched)
    plain = judge_base(tiny_base, shards, config, "cpu")
    assert not read
    mixed = judge_base(tiny_base, shards, config, "cpu", gistnet)
    assert read
    assert plain.keys() == mixed.keys()
    assert plain["nll_code"] == mixed["nll_code"]
