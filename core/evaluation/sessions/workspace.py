"""The model and the caches that all contenders of an evaluation share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from megacontext.core.config import Config, dump_config, parse_config
from megacontext.core.evaluation.sessions.cached_encoder import CachedEncoder
from megacontext.core.evaluation.sessions.embedder import find_embedder, load_embedder
from megacontext.core.evaluation.sessions.history import History
from megacontext.core.evaluation.sessions.window_pool import WindowPool
from megacontext.core.focus.actions import F32, I64
from megacontext.core.gistnet.mean import MeanGister
from megacontext.core.heads.history_keys import HistoryKeys
from megacontext.core.heads.lens import HeadsLens
from megacontext.core.heads.store import KeyStore
from megacontext.core.lenses import Lens, make_lens
from megacontext.core.model import BaseModel
from megacontext.core.runtime.build import EngineParts, assemble, build_parts, lens_options
from megacontext.core.tree import Gister, Tree, TreeSpec
from megacontext.core.tree.spec import U32
from megacontext.traces.errors import ModelError

__all__ = ["EvalWorkspace"]

_MAX_HISTORIES = 16
_MAX_HISTORY_TOKENS = 4_000_000  # of all cached histories together


@dataclass
class EvalWorkspace:
    """A loaded model with its windows and histories; built once per evaluation.

    Attributes:
        config: the resolved config, greedy sampling, tree in memory.
        pieces: the vocabulary's entry of each id.
        notes: sentences a user should see.
        embedder: folder of the embedding model for dense retrieval; empty: the installed one.
    """

    config: Config
    base: BaseModel
    gister: Gister
    lens: Lens
    pieces: list[str]
    notes: list[str]
    embedder: str = ""
    _histories: OrderedDict[str, History] = field(default_factory=OrderedDict)

    @classmethod
    def load(cls, config: Config) -> EvalWorkspace:
        """Load what the config names.

        Raises:
            ModelError: the model, GistNet or LensNet cannot serve this config.
        """
        config = replace(
            config,
            tree=replace(config.tree, storage="ram", path=None),
            sampling=replace(config.sampling, temperature=0.0),
            trace=replace(config.trace, delta_nll_every=0),
            kv=replace(config.kv, drift_every=0),
        )
        parts = build_parts(config)
        return cls(parts.config, parts.base, parts.gister, parts.lens, parts.pieces, parts.notes)

    @cached_property
    def windows(self) -> WindowPool:
        """The KV windows."""
        return WindowPool(self.base, self.config)

    def with_w_max(self, w_max: int) -> Config:
        """The config under another budget.

        Raises:
            ConfigError: the budget is too small for the tree's levels.
            ModelError: it is beyond the trained window.
        """
        if w_max > self.base.window:
            raise ModelError(
                f"w_max is {w_max} but model '{self.base.name}' {self.base.bound.why}; use at most "
                f"{self.base.window}."
            )
        return parse_config(dump_config(self.config), [f"w_max={w_max}"], recorded=True)

    # -- histories --------------------------------------------------------------------------

    def history(self, text: str) -> History:
        """The history of ``text``; the newest few stay in memory with their gists."""
        history = self._histories.pop(text, None)
        if history is None:
            history = self.history_of(*self.base.tokenizer.encode_spans(text))
        self._histories[text] = history

        while len(self._histories) > 1 and (
            len(self._histories) > _MAX_HISTORIES
            or sum(len(h.tokens) for h in self._histories.values()) > _MAX_HISTORY_TOKENS
        ):
            self._histories.popitem(last=False)
        return history

    def history_of(self, tokens: U32, offsets: I64 | None = None) -> History:
        """A history of tokens uint32 [n]; ``offsets`` I64[n, 2] are their character spans."""
        return History(
            tokens,
            np.empty((0, 2), np.int64) if offsets is None else offsets,
            self.config.block_size,
            self.base.tokenizer,
            CachedEncoder(self.gister),
            CachedEncoder(self.mean_gister),
        )

    @cached_property
    def mean_gister(self) -> Gister:
        """The control: gists that are means of embeddings."""
        if type(self.gister) is MeanGister:  # other untrained gisters derive from it
            return self.gister
        table = self.base.embedding_matrix.detach().float().cpu().numpy()
        return MeanGister(table, seed=self.config.seed)

    def dense_search(self, history: History) -> Callable[[str], F32]:
        """Cosine similarity F32[blocks] of every complete block to a query.

        Raises:
            ConfigError: no embedding model is installed.
            ModelError: it cannot be loaded.
        """
        model = load_embedder(find_embedder(self.embedder), str(self.base.embedding_matrix.device))
        if history.vectors is None:
            history.vectors = model.encode(history.block_texts())
        vectors = history.vectors
        return lambda query: vectors @ model.encode([query])[0]

    def history_keys(self, history: History) -> HistoryKeys:
        """The keys of the model's heads over ``history``, encoded once."""
        assert isinstance(self.lens, HeadsLens)
        if history.keys is None:
            encoder = self.lens.encoder
            history.keys = HistoryKeys(encoder, KeyStore(encoder))
        return history.keys

    # -- engines ----------------------------------------------------------------------------

    def clone_lens(self, history: History) -> Lens:
        """The configured lens, without state of another history."""
        if self.config.lens.kind == "lensnet":
            from megacontext.core.gistnet.gister import NetGister
            from megacontext.core.lensnet import NetLens

            assert isinstance(self.lens, NetLens)
            assert isinstance(self.gister, NetGister)
            return NetLens(self.lens.net, self.gister)
        if isinstance(self.lens, HeadsLens):
            return HeadsLens(self.history_keys(history), self.config.lens.newest)
        return make_lens(self.config.lens.kind, lens_options(self.config, self.gister))

    def tree_over(self, history: History, read: int) -> Tree:
        """A tree over the first ``read`` tokens of ``history``.

        A whole history has one tree, built once. What was appended to it since is forgotten, so
        the one that was handed out before is void.
        """
        if read < len(history.tokens) or not read:
            return self.tree(history.gister, history.tokens[:read])
        if history.tree is None:
            history.tree = self.tree(history.gister, history.tokens)
        else:
            history.tree.forget(read)
        return history.tree

    def tree(self, gister: Gister, tokens: U32) -> Tree:
        """A tree in memory over ``tokens``."""
        spec = TreeSpec(
            block_size=self.config.block_size,
            max_levels=self.config.tree.max_levels,
            dim=gister.dim,
            key_dim=gister.key_dim,
            dtype=self.config.tree.dtype,
            model=self.base.name,
            gist_checkpoint=gister.checkpoint_id,
            vocab_size=self.base.vocab_size,
        )
        tree = Tree.create(spec, gister)
        if len(tokens):
            tree.append(tokens)
        return tree

    def assemble(self, config: Config, history: History, read: int, lens: Lens) -> EngineParts:
        """The parts of an engine over the first ``read`` tokens of ``history``, cold-started.

        Raises:
            BudgetError: the history is too long for this budget and number of levels.
        """
        return assemble(
            config,
            self.base,
            history.gister,
            self.tree_over(history, read),
            lens,
            self.windows.empty(config.w_max),
            pieces=self.pieces,
        )
