"""Teacher caches: what the model says, kept once, and read by the LoRA trainer in its place."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megacontext.core.config.parser import build
from megacontext.core.data.prepare import DataConfig, prepare
from megacontext.core.data.readers import Source
from megacontext.core.data.recall_shards import RecallText
from megacontext.core.data.shards import open_shards
from megacontext.core.data.teacher_cache import Teacher, TeacherCache
from megacontext.core.gistnet.checkpoint import base_fingerprint
from megacontext.core.model.base import BaseModel
from megacontext.core.training.common.frozen_base import FrozenBase, kl_divergence
from megacontext.core.training.loop.distributed import join_world
from megacontext.core.training.lora.task import (
    LoraTask,
    LoraTraining,
    make_gister,
    top_kl_divergence,
    train_lora,
)
from megacontext.traces.errors import ConfigError, SourceError

ROOT = Path(__file__).parents[4]
Fields = dict[str, Any]


@pytest.fixture(scope="module")
def data(tiny_base: Path) -> DataConfig:
    """A few thousand tokens in 256-token slices, recall text, 8 likeliest tokens at each."""
    return DataConfig(
        (Source("folder", str(ROOT / "core/tree"), domain="code", max_chars=20_000),),
        str(tiny_base),
        slice_tokens=256,
        stride=256,
        recall=RecallText(share=0.2, facts_max=2),
        teacher=Teacher(str(tiny_base), top_k=8, device="cpu"),
    )


@pytest.fixture(scope="module")
def prepared(data: DataConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("with-teacher")
    prepare(data, folder)
    return folder


def _task(fields: Fields) -> LoraTask:
    config = build(LoraTraining, fields)
    base = FrozenBase(BaseModel.load(config.base, device="cpu"))
    return LoraTask(config, base, make_gister(config, base), join_world("cpu"))


def test_a_cache_holds_the_models_likeliest_next_tokens_at_every_place(
    prepared: Path, tiny_base: Path
) -> None:
    base = BaseModel.load(str(tiny_base), device="cpu")
    shards = open_shards(prepared)
    cache = TeacherCache(shards, base_fingerprint(base.embedding_matrix))
    places = cache.at_least(200)
    assert sorted(places) == ["code", "recall"]
    for domain in places:
        result = cache.read(*places[domain][0], 200)
        assert result.ids.shape == result.logp.shape == (200, 8)
        with torch.no_grad():
            tokens = torch.from_numpy(result.tokens.astype(np.int64))[None]
            logp = base.module(tokens).logits[0].log_softmax(-1)
        best = logp.topk(8, dim=-1)
        np.testing.assert_allclose(result.logp, best.values.numpy(), atol=0.02)
        own = logp.gather(-1, torch.from_numpy(result.ids.astype(np.int64)))
        torch.testing.assert_close(own, best.values, atol=1e-3, rtol=0)


def test_caches_are_kept_where_they_fit_and_made_again_where_not(
    prepared: Path, data: DataConfig
) -> None:
    file = prepared / "teacher" / "shard-00000.arrow"
    before, stamp = file.read_bytes(), file.stat().st_mtime_ns
    prepare(data, prepared)
    assert file.stat().st_mtime_ns == stamp
    file.write_bytes(before[:200])  # torn, as by a crash of the disk
    prepare(data, prepared)
    assert file.read_bytes() == before
    manifest = json.loads((prepared / "manifest.json").read_text())
    assert [entry["file"] for entry in manifest["teacher_caches"]] == [
        "teacher/shard-00000.arrow",
        "teacher/recall-00000.arrow",
    ]


def test_the_loss_with_a_cache_is_nearly_that_with_the_model(
    prepared: Path, lora_fields: Fields
) -> None:
    task = _task({**lora_fields, "shards": str(prepared), "teacher": "cache"})
    batch = {name: value[0] for name, value in task.dataset(1)[0].items()}
    assert batch["teacher_ids"].shape == (2, 16, 8)
    with torch.no_grad():
        raw = task._base.embed(batch["tokens"])
        said = task._base.logits_at(raw, batch["target"] - 1).argmax(-1)
        assert float((batch["teacher_ids"][..., 0] == said).float().mean()) > 0.9
        for name, parameter in task.layers.named_parameters():
            if name.endswith("up"):
                parameter.fill_(0.3)
        cached = task.loss(batch)[1]
        plain = {k: v for k, v in batch.items() if not k.startswith("teacher")}
        whole = task.loss(plain)[1]
    assert float(cached["ce"]) == float(whole["ce"])
    assert 0 < float(cached["guard"]) <= float(whole["guard"]) + 1e-3
    assert 0 < float(cached["kl"]) <= float(whole["kl"]) + 1e-3


def test_divergence_over_the_likeliest_tokens_is_whole_with_all_of_them_and_less_with_few() -> None:
    source = torch.Generator().manual_seed(0)
    teacher, student = (torch.randn(2, 3, 50, generator=source) * 2 for _ in range(2))
    whole = kl_divergence(teacher, student)
    few, all_but_one = (
        top_kl_divergence(best.indices, best.values, student)
        for best in (teacher.log_softmax(-1).topk(k, dim=-1) for k in (5, 49))
    )
    torch.testing.assert_close(all_but_one, whole, atol=1e-3, rtol=1e-3)
    assert bool((few < whole).all())
    p, q = teacher.softmax(-1), student.softmax(-1)
    best = p.topk(5, dim=-1).indices
    merged = [
        torch.cat((x.gather(-1, best), 1 - x.gather(-1, best).sum(-1, True)), -1) for x in (p, q)
    ]
    expected = (merged[0] * (merged[0] / merged[1]).log()).sum(-1)
    torch.testing.assert_close(few, expected, atol=1e-4, rtol=1e-4)


def test_an_adapter_trains_on_caches(prepared: Path, lora_fields: Fields, tmp_path: Path) -> None:
    fields = {**lora_fields, "shards": str(prepared), "teacher": "cache"}
    figures = train_lora(build(LoraTraining, fields), tmp_path, device="cpu")
    assert figures["guard_kl"] > 0
    task = _task(fields)
    batch = {name: value[0] for name, value in task.dataset(0)[0].items()}
    adam = torch.optim.Adam(task.model.parameters(), lr=3e-3)
    losses = []
    for _ in range(6):
        adam.zero_grad()
        loss, _ = task.loss(batch)
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 1e-4


def test_caches_that_do_not_fit_are_refused(
    prepared: Path, lora_fields: Fields, shards: Path, tmp_path: Path
) -> None:
    fields = {**lora_fields, "teacher": "cache"}
    with pytest.raises(SourceError, match="is no teacher cache; make it with"):
        _task({**fields, "shards": str(shards)})
    with pytest.raises(SourceError, match=r"belongs to base model .* \(this one is 0123abcd\)"):
        TeacherCache(open_shards(prepared), "0123abcd")
    long = {"share": 1.0, "windows": {"length": 512, "gists": [1, 2], "recall": 0.0}}
    with pytest.raises(ConfigError, match=r"windows\.length: no cached slice has 512 tokens"):
        _task({**fields, "shards": str(prepared), "phases": [long]})
    copy = shutil.copytree(prepared, tmp_path / "copy")
    for file in copy.rglob("recall-*"):
        file.unlink()
    with pytest.raises(ConfigError, match=r"windows\.recall: 0\.5 needs recall text in the cache"):
        _task({**fields, "shards": str(copy)})


def test_teachers_with_another_tokenizer_or_a_short_window_are_refused(
    data: DataConfig, model_folder: Path, tmp_path: Path
) -> None:
    foreign = replace(data, teacher=Teacher(str(model_folder), device="cpu"))
    with pytest.raises(ConfigError, match=r"teacher\.model: .* has tokenizer"):
        prepare(foreign, tmp_path / "a")
    long = replace(data, slice_tokens=8192, stride=8192, recall=None)
    with pytest.raises(ConfigError, match="its window of 4096 is below slice_tokens 8192"):
        prepare(long, tmp_path / "b")
    with pytest.raises(ConfigError, match=r"teacher\.top_k: 0 is outside 1 to 256"):
        Teacher("x", top_k=0)
