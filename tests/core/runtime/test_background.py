"""Gists made on a second core: the same trace, and an error is told where it always was."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait

import pytest
import torch

from megacontext.core.config import parse_config
from megacontext.core.gistnet.rarest_token import TokenGister
from megacontext.core.runtime import background, tree_appender
from megacontext.core.runtime.background import second_core
from megacontext.core.runtime.build import load_base
from megacontext.core.runtime.run import run
from megacontext.traces.errors import ModelError
from megacontext.traces.schema import CLOCK_COLUMNS


@pytest.fixture
def gisted_by(monkeypatch):
    """Names of the threads that made gists."""
    names = []
    encode_blocks = TokenGister.encode_blocks

    def watched(self, tokens, left):
        names.append(threading.current_thread().name)
        return encode_blocks(self, tokens, left)

    monkeypatch.setattr(TokenGister, "encode_blocks", watched)
    return names


def _timeless(plain, trace):
    rows, _ = plain.read_rows(trace)
    return repr([{k: v for k, v in row.items() if k not in CLOCK_COLUMNS} for row in rows])


class Free(ThreadPoolExecutor):
    """A core that has made the gist before the model is through."""

    def __init__(self):
        super().__init__(1, "aside")

    def submit(self, call, *arguments):
        gist = super().submit(call, *arguments)
        wait([gist])
        return gist


class Busy:
    """A core that does not get round to it."""

    def submit(self, call, *arguments):
        return Future()


@pytest.mark.parametrize(("core", "maker"), [(Free, "aside_0"), (Busy, "MainThread")])
def test_a_second_core_changes_nothing_but_the_clock(
    config_text, tmp_path, plain, monkeypatch, gisted_by, core, maker
):
    config = parse_config(config_text, ["gist.kind=token", "sampling.temperature=1"])
    monkeypatch.setattr(tree_appender, "second_core", lambda base: None)
    alone = run(config, tmp_path / "a.arrow", control=False)
    assert set(gisted_by) == {"MainThread"}
    blocks = len(gisted_by)
    gisted_by.clear()
    monkeypatch.setattr(tree_appender, "second_core", lambda base: core())
    beside = run(config, tmp_path / "b.arrow", control=False)
    assert gisted_by == [maker] * blocks
    assert _timeless(plain, beside.trace) == _timeless(plain, alone.trace)


def test_a_gister_that_fails_beside_the_model_ends_the_run(config_text, tmp_path, monkeypatch):
    def failing(self, tokens, left):
        raise ModelError("out of gists")

    monkeypatch.setattr(TokenGister, "encode_blocks", failing)
    monkeypatch.setattr(tree_appender, "second_core", lambda base: Free())
    config = parse_config(config_text, ["gist.kind=token"])
    with pytest.raises(ModelError, match="out of gists"):
        run(config, tmp_path / "t.arrow", control=False)


@pytest.mark.parametrize(("cores", "threads", "free"), [(1, 1, False), (2, 1, True), (2, 2, False)])
def test_a_second_core_is_one_that_the_model_leaves(config_text, monkeypatch, cores, threads, free):
    monkeypatch.setattr(background, "usable_cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert (second_core(load_base(parse_config(config_text))) is not None) == free
