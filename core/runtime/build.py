"""Builds the parts of a session from its config."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from megacontext.core.allocators import Allocator, allocator_config, make_allocator
from megacontext.core.config import Config, allocator_options
from megacontext.core.config.kinds import unread_keys
from megacontext.core.focus import ContextShape, Focus, make_focus
from megacontext.core.focus.limits import limits_for
from megacontext.core.gistnet.mean import MeanGister
from megacontext.core.gistnet.rarest_token import TokenGister
from megacontext.core.heads.build import head_encoder, keys_of_tree
from megacontext.core.heads.lens import HeadsLens
from megacontext.core.lenses import LENSES, Lens, make_lens
from megacontext.core.model import BaseModel, KVWindow, Sampler
from megacontext.core.model.token_window import TokenWindow
from megacontext.core.model.tokenizer import TextRules
from megacontext.core.runtime.pretrained import DEMO, bundle_folder, bundle_parts, resolve_kinds
from megacontext.core.tree import Gister, Progress, Tree, TreeSpec
from megacontext.core.tree.gisters import NullGister
from megacontext.traces.errors import ModelError, StorageError
from megacontext.traces.schema import Trigger

__all__ = [
    "EngineParts",
    "assemble",
    "build_parts",
    "focus_of",
    "load_base",
    "make_gister",
    "text_rules",
    "tokenizer_id",
]


_UNTRAINED_GISTS = {
    "token": "the embedding of each block's rarest token",
    "mean": "the mean of each block's embeddings",
}


@dataclass
class EngineParts:
    """Everything a session drives. ``notes`` are sentences a user should see."""

    config: Config
    base: BaseModel
    gister: Gister
    tree: Tree
    focus: Focus
    lens: Lens
    window: TokenWindow
    sampler: Sampler
    pieces: list[str]
    notes: list[str]
    foreign_allocator: bool = False  # an object that no config names
    stale_gists: str = ""  # why the GistNet does not fit the base model, if it does not

    def close(self) -> None:
        """Release the tree's files and lock."""
        if isinstance(self.lens, HeadsLens):
            self.lens.keys.close()
        self.tree.close()


def build_parts(
    config: Config,
    progress: Progress | None = None,
    *,
    lens: Lens | None = None,
    allocator: Allocator | None = None,
    calibrating: Progress = lambda done, total: None,
) -> EngineParts:
    """Load the model, open or make the tree, and put a focus and a window over it.

    Args:
        config: a checked config.
        progress: called while lagging tree levels are rebuilt, with (nodes done, nodes in all).
        lens: an object in place of the configured lens.
        allocator: an object in place of the configured allocator.
        calibrating: called while a model's heads are calibrated, once a model: (done, total).

    Raises:
        ModelError: the model, GistNet or LensNet cannot serve this config.
        StorageError: the tree is damaged, foreign or in use.
    """
    is_auto = config.lens.kind == "auto" and lens is None
    config, notes, foreign = _with_objects(config, lens, allocator)

    # Two OpenMP programs on the same cores wait for each other: leave room for the inspector.
    torch.set_num_threads(config.threads or max(1, (os.cpu_count() or 2) // 2))
    base = load_base(config)
    encoder = None
    if config.lens.kind == "heads" and lens is None:
        try:
            encoder = head_encoder(base, config.lens, calibrating)
        except ModelError as error:
            if not is_auto:
                raise
            config = replace(config, lens=replace(config.lens, kind="bm25"))
            notes.append(f"the lens is bm25: {error}")

    # The tree locks its folder: it must not stay locked if what follows fails.
    gist_encoder = make_gister(config, base)
    tree = _tree(config, base, gist_encoder, progress)
    try:
        if encoder is not None:
            lens = HeadsLens(keys_of_tree(encoder, tree), config.lens.newest)
        lens = lens or _lens(config, gist_encoder)
        window = _kv_window(config, base)
        notes += window.notes
        stale = _stale_gists(config, base)
        if stale:
            notes.append(f"the gists are stale: {stale}; train the GistNet for this base model")
        parts = assemble(
            config, base, gist_encoder, tree, lens, window, allocator=allocator, notes=notes
        )
    except BaseException:
        tree.close()
        raise
    parts.foreign_allocator, parts.stale_gists = foreign, stale
    return parts


def _with_objects(
    config: Config, lens: Lens | None, allocator: Allocator | None
) -> tuple[Config, list[str], bool]:
    """The resolved config for a lens and an allocator that may be objects.

    Returns:
        The config, sentences that a user should see, and whether no config names the allocator.
    """
    if lens is not None and lens.name in LENSES:
        config = replace(config, lens=replace(config.lens, kind=lens.name, path=None))
    config = resolve_kinds(config)
    notes = _load_notes(config) if lens is None else [f"the lens is an object: {lens.name}"]
    if allocator is None:
        return config, notes, False

    known = allocator_config(allocator)
    if known is None:
        return config, [*notes, f"the allocator is an object: {allocator.name}"], True
    return replace(config, allocator=known), notes, False


def assemble(
    config: Config,
    base: BaseModel,
    gister: Gister,
    tree: Tree,
    lens: Lens,
    window: TokenWindow,
    *,
    allocator: Allocator | None = None,
    pieces: list[str] | None = None,
    notes: Sequence[str] = (),
) -> EngineParts:
    """Put a focus and a sampler over parts that are loaded; every engine is assembled here.

    Args:
        config: a resolved config, whose budget the window can hold.
        tree: its history is covered by the focus, newest blocks raw.
        allocator: an object in place of the configured allocator.
        pieces: the vocabulary's entry of each id, if it is known.
        notes: sentences that a user should see.

    Raises:
        BudgetError: the history is too long for this budget and number of levels.
    """
    sampling = config.sampling
    return EngineParts(
        config=config,
        base=base,
        gister=gister,
        tree=tree,
        focus=focus_of(config, tree.n_tokens, allocator),
        lens=lens,
        window=window,
        sampler=Sampler(sampling.temperature, sampling.top_k, sampling.top_p, config.seed),
        pieces=_raw_parts(base) if pieces is None else pieces,
        notes=list(notes),
    )


def _kv_window(config: Config, base: BaseModel) -> KVWindow:
    kv = config.kv
    return KVWindow(
        base,
        config.w_max,
        kv.mode,
        kv.positions,
        drift_every=kv.drift_every,
        drift_bound=kv.drift_bound,
        refresh_every=kv.refresh_every,
        refresh_chunk=kv.refresh_chunk,
        hide_gists=config.gist.kind == "none",
    )


def focus_of(config: Config, n_tokens: int, allocator: Allocator | None = None) -> Focus:
    """The focus of a resolved config over a history of ``n_tokens``.

    Args:
        allocator: an object in place of the configured allocator.

    Raises:
        BudgetError: the history is too long for this budget and number of levels.
    """
    shape = ContextShape(
        config.block_size, config.tree.max_levels, config.w_max, config.focus.protected_blocks
    )
    return make_focus(
        shape,
        allocator or make_allocator(config.allocator.kind, allocator_options(config.allocator)),
        limits_for(config.focus, Trigger.BLOCK_CLOSED),
        config.seed,
        n_tokens=n_tokens,
    )


def _raw_parts(base: BaseModel) -> list[str]:
    """The vocabulary's entry of each id, in the tokenizer's own spelling."""
    hf = base.tokenizer.hf
    return [piece or "" for piece in hf.convert_ids_to_tokens(list(range(base.vocab_size)))]


def tokenizer_id(base: BaseModel) -> str:
    """16 hex digits over the vocabulary's entry of each id: equal where ids mean equal text."""
    return hashlib.sha256(json.dumps(_raw_parts(base)).encode()).hexdigest()[:16]


def _load_notes(config: Config) -> list[str]:
    """What a user should know about the parts of a resolved config."""
    notes = []
    if config.gist.kind in _UNTRAINED_GISTS:
        notes.append(f"gists are untrained: {_UNTRAINED_GISTS[config.gist.kind]}")
    if config.gist.kind == "none":
        notes.append("there are no gists: what is collapsed is not seen")
    if config.lens.kind not in ("lensnet", "heads"):
        notes.append(f"the lens is untrained: {config.lens.kind}")
    return notes + list(unread_keys(config))


def load_base(config: Config) -> BaseModel:
    """The base model of a config.

    Raises:
        ModelError: it cannot be loaded or cannot hold ``w_max``.
    """
    return BaseModel.load(
        str(bundle_folder() / "base") if config.model.path == DEMO else config.model.path,
        device=config.device,
        dtype=config.model.dtype,
        needed_window=config.w_max,
        adapter=config.model.adapter,
        rules=text_rules(config),
    )


def text_rules(config: Config) -> TextRules:
    """How the config's model turns text into tokens; the bundled model has no chat format."""
    model = config.model
    chat = "off" if model.path == DEMO and model.chat == "auto" else model.chat
    return TextRules(model.special_tokens, model.bos, chat)


def make_gister(config: Config, base: BaseModel) -> Gister:
    """What makes the gists of a resolved config.

    Raises:
        ModelError: a checkpoint that is missing or of another base model.
    """
    if config.gist.kind == "none":
        return NullGister(checkpoint_id="none")
    untrained = {"mean": MeanGister, "token": TokenGister}.get(config.gist.kind)
    if untrained is not None:
        return untrained(base.embedding_matrix.detach().float().cpu().numpy(), seed=config.seed)
    from megacontext.core.gistnet.gister import NetGister

    folder = _checkpoint(config.gist.path, config, "gist", "gistnet")
    return NetGister.load(folder, base.embedding_matrix, halved=_halved(config, base))


def _stale_gists(config: Config, base: BaseModel) -> str:
    """Why a trained GistNet does not fit the base model; empty if it fits."""
    if config.gist.kind != "gistnet":
        return ""
    from megacontext.core.gistnet.pairing import stale_reason

    folder = _checkpoint(config.gist.path, config, "gist", "gistnet")
    adapter = Path(config.model.adapter) if config.model.adapter else None
    return stale_reason(folder, base.module, adapter)


def _halved(config: Config, base: BaseModel) -> bool:
    from megacontext.core.gistnet.bf16_linear import has_matrix_units

    on_cpu = base.embedding_matrix.device.type == "cpu"
    return config.gist.products == "auto" and on_cpu and has_matrix_units()


def _lens(config: Config, gister: Gister) -> Lens:
    if config.lens.kind == "lensnet":
        from megacontext.core.gistnet.gister import NetGister
        from megacontext.core.lensnet import NetLens

        folder = _checkpoint(config.lens.path, config, "lens", "lensnet")
        if not isinstance(gister, NetGister):
            raise ModelError(
                f"lens.kind is lensnet ({folder}) but gist.kind is {config.gist.kind}; LensNet "
                "reads the keys of the GistNet it was trained with, set gist.kind to gistnet."
            )
        return NetLens.load(folder, gister)
    return make_lens(config.lens.kind, lens_options(config, gister))


def _checkpoint(path: str | None, config: Config, key: str, part: str) -> Path:
    if path is None and config.model.path == DEMO and part in bundle_parts():
        return bundle_folder() / part
    if path is None:
        raise ModelError(f"{key}.kind is {part} but {key}.path is empty; name its checkpoint.")
    return Path(path)


def _tree(config: Config, base: BaseModel, gister: Gister, progress: Progress | None) -> Tree:
    spec = TreeSpec(
        block_size=config.block_size,
        max_levels=config.tree.max_levels,
        dim=gister.dim,
        key_dim=gister.key_dim,
        dtype=config.tree.dtype,
        model=base.name if config.model.path != DEMO else DEMO,
        gist_checkpoint=gister.checkpoint_id,
        vocab_size=base.vocab_size,
        tokenizer=tokenizer_id(base),
    )
    if config.tree.storage == "ram":
        return Tree.create(spec, gister)
    path = Path(str(config.tree.path))
    if path.exists() and not path.is_dir():
        raise StorageError(f"tree.path is {str(path)!r}, which is no folder; name a folder.")
    if path.is_dir() and any(path.iterdir()):
        return Tree.open(path, gister, expect=spec, progress=progress)
    return Tree.create(spec, gister, path)


def lens_options(config: Config, gister: Gister) -> dict[str, Any]:
    """What the configured control lens takes."""
    if config.lens.kind == "similarity":
        encode = getattr(gister, "encode_query", None)
        if encode is None:
            raise ModelError(
                f"lens.kind is similarity but gister {gister.checkpoint_id!r} encodes no queries; "
                "set gist.kind to token or lens.kind to lensnet."
            )
        return {"encode_query": encode}
    return {}
