"""The model, gister and windows that all contenders of an evaluation share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from megacontext.core.config import Config, dump_config, parse_config
from megacontext.core.evaluation.contenders.bm25 import BlockSearch
from megacontext.core.evaluation.contenders.cached_encoder import MemoGister
from megacontext.core.evaluation.contenders.dense import find_embedder, load_embedder
from megacontext.core.evaluation.contenders.lazy_window import LazyKVWindow
from megacontext.core.focus.actions import I64
from megacontext.core.gistnet.mean import MeanGister
from megacontext.core.heads.history_keys import HistoryKeys
from megacontext.core.heads.lens import HeadsLens
from megacontext.core.heads.store import KeyStore
from megacontext.core.lenses import Lens, make_lens
from megacontext.core.model import BaseModel, KVWindow
from megacontext.core.model.tokenizer import Tokenizer
from megacontext.core.runtime.build import EngineParts, assemble, build_parts, lens_options
from megacontext.core.tree import Gister, Tree, TreeSpec
from megacontext.core.tree.spec import U32
from megacontext.traces.errors import ModelError

__all__ = ["History", "Kit", "token_spans"]

_HISTORIES = 16
_REMEMBERED = 4_000_000  # tokens of all histories that are remembered, beside the newest


def token_spans(offsets: I64, spans: tuple[tuple[int, int], ...]) -> I64:
    """Token spans I64[m, 2] that cover character ``spans``; ``offsets`` I64[n, 2] of the tokens."""
    marks = np.array(spans, np.int64).reshape(-1, 2)
    first = np.searchsorted(offsets[:, 1], marks[:, 0], side="right")
    last = np.searchsorted(offsets[:, 0], marks[:, 1], side="left")
    return np.stack([first, last], axis=1)


@dataclass
class History:
    """A tokenized text, what its blocks say, and the gists made of it so far.

    ``offsets`` I64[n, 2] are the character spans of the tokens.
    """

    tokens: U32
    offsets: I64
    block_size: int
    tokenizer: Tokenizer
    gister: Gister
    mean_gister: Gister
    tree: Tree | None = None
    vectors: np.ndarray | None = None
    keys: HistoryKeys | None = None

    @cached_property
    def search(self) -> BlockSearch:
        """BM25 over the complete blocks."""
        return BlockSearch(self.block_texts())

    def block_texts(self) -> list[str]:
        """What the complete blocks say."""
        size = self.block_size
        whole = len(self.tokens) // size
        blocks = self.tokens[: whole * size].reshape(whole, size).tolist()
        return [self.tokenizer.decode(block) for block in blocks]


@dataclass
class Kit:
    """Built once per evaluation.

    Attributes:
        config: the resolved config, greedy sampling, tree in memory.
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
    _window: LazyKVWindow | None = None
    _kept: LazyKVWindow | None = None
    _kept_for: tuple[str, int, History] | None = None
    _histories: OrderedDict[str, History] = field(default_factory=OrderedDict)

    @classmethod
    def load(cls, config: Config) -> Kit:
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

    def window(self, w_max: int) -> LazyKVWindow:
        """An empty window; there is one, so the one handed out before is void."""
        if self._window is None or self._window.slots < w_max:
            self._window = self._made(w_max, self.config.kv.mode)
        self._window.start_over(w_max)
        self._window.hide_gists = self.config.gist.kind == "none"
        return self._window

    def kept_window(self, owner: str, w_max: int, history: History) -> LazyKVWindow:
        """An exact window with what ``owner`` just held of ``history``, else an empty one.

        Raw blocks that stay the same from question to question are computed once. There is one
        such window, too.
        """
        if self._kept is None or self._kept.slots < w_max:
            self._kept = self._made(w_max, "exact")
            self._kept_for = None
        held = self._kept_for
        if held is None or held[:2] != (owner, w_max) or held[2] is not history:
            self._kept.start_over(w_max)
        self._kept_for = owner, w_max, history
        return self._kept

    def _made(self, w_max: int, mode: str) -> LazyKVWindow:
        kv = self.config.kv
        window = KVWindow(
            self.base,
            w_max,
            mode,
            kv.positions,
            refresh_every=kv.refresh_every,
            refresh_chunk=kv.refresh_chunk,
            hide_gists=self.config.gist.kind == "none",
        )
        return LazyKVWindow(window)

    def history(self, text: str) -> History:
        """The history of ``text``; the newest few are kept with their gists."""
        found = self._histories.pop(text, None)
        if found is None:
            found = self.history_of(*self.base.tokenizer.encode_spans(text))
        self._histories[text] = found
        while len(self._histories) > 1 and (
            len(self._histories) > _HISTORIES
            or sum(len(known.tokens) for known in self._histories.values()) > _REMEMBERED
        ):
            self._histories.popitem(last=False)
        return found

    def dense_search(self, history: History) -> Callable[[str], np.ndarray]:
        """Cosine similarity of every complete block to a query, F32[blocks].

        Raises:
            ConfigError: no embedding model is installed.
            ModelError: it cannot be loaded.
        """
        model = load_embedder(find_embedder(self.embedder), str(self.base.embedding_matrix.device))
        if history.vectors is None:
            history.vectors = model.encode(history.block_texts())
        vectors = history.vectors
        return lambda query: vectors @ model.encode([query])[0]

    def history_of(self, tokens: U32, offsets: I64 | None = None) -> History:
        """A history of tokens alone."""
        return History(
            tokens,
            np.empty((0, 2), np.int64) if offsets is None else offsets,
            self.config.block_size,
            self.base.tokenizer,
            MemoGister(self.gister),
            MemoGister(self.mean_gister),
        )

    @cached_property
    def mean_gister(self) -> Gister:
        """The untrained control."""
        if type(self.gister) is MeanGister:  # other untrained gisters derive from it
            return self.gister
        table = self.base.embedding_matrix.detach().float().cpu().numpy()
        return MeanGister(table, seed=self.config.seed)

    @property
    def lens_reads_model(self) -> bool:
        """Whether the configured lens needs hidden states or attention of a filled window."""
        needs = self.lens.requires
        return needs.attention or needs.hidden_states > 0

    def fresh_lens(self, history: History) -> Lens:
        """The configured lens with nothing remembered of another history."""
        if self.config.lens.kind == "lensnet":
            from megacontext.core.gistnet.gister import NetGister
            from megacontext.core.lensnet import NetLens

            assert isinstance(self.lens, NetLens)
            assert isinstance(self.gister, NetGister)
            return NetLens(self.lens.net, self.gister)
        if isinstance(self.lens, HeadsLens):
            return HeadsLens(self.history_keys(history))
        return make_lens(self.config.lens.kind, lens_options(self.config, self.gister))

    def history_keys(self, history: History) -> HistoryKeys:
        """The keys of ``history``, encoded once however often it is asked about."""
        assert isinstance(self.lens, HeadsLens)
        if history.keys is None:
            encoder = self.lens.encoder
            history.keys = HistoryKeys(encoder, KeyStore(encoder))
        return history.keys

    def tree_over(self, history: History, read: int) -> Tree:
        """A tree over the first ``read`` tokens of ``history``.

        There is one for a whole history, made once; what was appended to it since is forgotten,
        so the one handed out before is void.
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

    def parts(self, config: Config, history: History, read: int, lens: Lens) -> EngineParts:
        """Parts of a session over the first ``read`` tokens of ``history``, cold-started.

        Raises:
            BudgetError: the history is too long for this budget and number of levels.
        """
        return assemble(
            config,
            self.base,
            history.gister,
            self.tree_over(history, read),
            lens,
            self.window(config.w_max),
            pieces=self.pieces,
        )
