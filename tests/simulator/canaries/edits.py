"""Bugs as one changed line each, by family."""

from __future__ import annotations

from canaries.plant import edit
from megacontext.core.allocators import grant as grants
from megacontext.core.allocators import greedy
from megacontext.core.allocators import slot as slot_module
from megacontext.core.focus import constraints, focus, forced
from megacontext.core.focus.focus import Focus
from megacontext.core.focus.hysteresis import Memory
from megacontext.core.tree import ctxfile, opening, rebuild, recovery
from megacontext.core.tree import folder as folder_module
from megacontext.core.tree import level as level_module
from megacontext.core.tree import tree as tree_module
from megacontext.core.tree.ctxfile import CtxFile
from megacontext.core.tree.folder import TreeFolder
from megacontext.core.tree.level import Level
from megacontext.core.tree.tree import Tree
from megacontext.traces import ipc_index, reader, row, writer
from megacontext.traces.ipc_writer import BatchFile
from megacontext.traces.reader import TraceReader
from megacontext.traces.writer import TraceWriter

__all__ = ["CHOICES", "COMMITS", "RECOVERIES", "TRACES"]

_W = grants._Grants
CHOICES = {
    "oldest expansion wins ties": edit(
        grants,
        name="first_by",
        old="keys.argsort()[: -count - 1 : -1] if highest",
        new="order_key(-scores, positions).argsort()[:count] if highest",
    ),
    "newest collapse wins ties": edit(
        grants,
        name="first_by",
        old="else keys.argsort()[:count]",
        new="else order_key(scores, -positions).argsort()[:count]",
    ),
    "collapses win ties": edit(
        grants,
        greedy,
        name="by_abs_score",
        old='order = (-abs_score).argsort(kind="stable")',
        new="order = np.lexsort((-np.arange(len(abs_score)), -abs_score))",
    ),
    "dearest group pays": edit(
        greedy.Greedy,
        name="propose",
        old="groups[low]),\n        groups,",
        new="groups[low]),\n        groups[::-1],",
    ),
    "pairs at any gain": edit(_W, name="swap", old="<= self.margin", new="<= 0"),
    "pairs at exactly the margin": edit(_W, name="swap", old="<= self.margin", new="< self.margin"),
    "a pair counts once": edit(_W, name="swap", old="if left < 2", new="if left < 1"),
    "one action too few": edit(
        grants,
        greedy,
        slot_module,
        name="grant",
        old="left = n_diff - len",
        new="left = n_diff - 1 - len",
    ),
    "a pair needs three actions left": edit(_W, name="swap", old="left < 2", new="left < 3"),
    "the second payer pays": edit(
        _W, name="swap", old="group = self.next\n", new="group = self.next + 1\n"
    ),
    "collapses at the threshold": edit(
        greedy.Greedy,
        name="propose",
        old="group_score[groups] < np",
        new="group_score[groups] <= np",
    ),
    "expansions at the threshold": edit(
        constraints,
        focus,
        name="find_candidates",
        old="scores > np.float32",
        new="scores >= np.float32",
    ),
    "a group scores as its mean": edit(
        constraints,
        focus,
        name="find_candidates",
        old="members.max(axis=1)",
        new="members.mean(axis=1)",
    ),
    "a group scores as its first": edit(
        constraints, focus, name="find_candidates", old="members.max(axis=1)", new="members[:, 0]"
    ),
    "room for one less": edit(
        Focus,
        name="_force",
        old="free_slots = max(0, (free - headroom)",
        new="free_slots = max(0, (free - headroom - 1)",
    ),
    "expansions alone": edit(greedy.Greedy, name="propose", old="groups[low])", new="groups[:0])"),
    "re-armed by half the evidence": edit(Memory, name="rearm", old="NEW_EVIDENCE", new="0.05"),
    "re-armed at the threshold": edit(Memory, name="rearm", old="scores >= np", new="scores > np"),
    "never re-armed": edit(Memory, name="rearm", old="if self._any_disarmed", new="if False"),
    "disarmed at another score": edit(
        Memory,
        name="follow",
        old="self._expanded_score[at] = expanded_score",
        new="self._expanded_score[at] = 0",
    ),
    "a question re-arms by the plain threshold": edit(
        Focus,
        name="round",
        old="rearm(values, limits.tau_expand)",
        new="rearm(values, self.limits.tau_expand)",
    ),
    "a rebuilt focus re-arms by the plain threshold": edit(
        Focus, name="replay", old="(limits or self.limits).tau_expand", new="self.limits.tau_expand"
    ),
    "cooldowns beyond 8 forgotten": edit(
        Memory, name="follow", old="step - MAX_COOLDOWN", new="step - 8"
    ),
    "cooldown of the newest flip alone": edit(
        Memory, name="cooling", old="if len(recent) <= 1", new="if recent"
    ),
    "forced newest among equals": edit(
        forced,
        focus,
        name="choose_forced",
        old="candidates.group_at[rows])",
        new="-candidates.group_at[rows])",
    ),
    "forced highest score": edit(
        forced, focus, name="choose_forced", old="np.argsort(keys)", new="np.argsort(-keys)"
    ),
    "one forced too many": edit(
        Focus, name="_force", old="need = -((free - headroom)", new="need = 1 - ((free - headroom)"
    ),
    "a budget cut is called headroom": edit(
        forced, focus, name="take", old="freed_before < over_budget", new="freed_before < 0"
    ),
    "an override is not told": edit(
        forced, focus, name="choose_forced", old="[:count]], override", new="[:count]], False"
    ),
    "near blocks before cooling ones": edit(
        forced,
        focus,
        name="choose_forced",
        old="(is_open & ~keep_mask).any()",
        new="(is_open & ~keep_mask).sum() > 1",
    ),
}

COMMITS = {
    "levels commit first": edit(
        Tree,
        name="commit",
        old="self._tokens.commit()\n        for level in self._levels:\n            level.commit()",
        new="for level in self._levels:\n            level.commit()\n        self._tokens.commit()",
    ),
    "keys are not committed": edit(Level, name="commit", old="self.keys.commit()", new="pass"),
    "higher levels are not committed": edit(
        Tree, name="commit", old="in self._levels:", new="in self._levels[:1]:"
    ),
    "the commit's checksum runs on": edit(
        CtxFile, name="commit", old="self._commit_crc = 0", new="pass"
    ),
    "the total checksum is stale": edit(
        CtxFile,
        name="commit",
        old="total_crc=self._total_crc",
        new="total_crc=self._header.total_crc",
    ),
    "a commit starts one row late": edit(
        CtxFile,
        name="commit",
        old="commit_start=self._header.count",
        new="commit_start=self._header.count + 1",
    ),
    "the sequence stands still": edit(
        CtxFile,
        name="commit",
        old="sequence=self._header.sequence + 1",
        new="sequence=self._header.sequence",
    ),
    "commits overwrite the serving slot": edit(
        CtxFile, name="_write_slot", old="(header.sequence & 1)", new="(header.sequence >> 1 & 1)"
    ),
    "a header without sync": edit(
        CtxFile, name="_write_slot", old="self._handle.datasync()", new="pass"
    ),
    "a rollback keeps the checksum": edit(
        CtxFile,
        name="rollback",
        old="self.count, self._commit_crc, self._total_crc = mark",
        new="self.count = mark[0]",
    ),
    "a rollback of tokens alone": edit(Tree, name="append", old="level.rollback(mark)", new="pass"),
    "closing does not commit": edit(Tree, name="close", old="self.commit()", new="pass"),
    "left context one short": edit(
        level_module,
        tree_module,
        name="bring_up_to_date",
        old="gister.left_context",
        new="max(0, gister.left_context - 1)",
    ),
}

RECOVERIES = {
    "a header is not made durable": edit(
        CtxFile, name="make_durable", old="self._write_slot(self._header)", new="pass"
    ),
    "a header is synced, not rewritten": edit(
        CtxFile,
        name="make_durable",
        old="self._write_slot(self._header)",
        new="self._handle.datasync()",
    ),
    "a damaged header stays": edit(
        CtxFile,
        name="settle",
        old="if self.fell_back is not None or self.damaged_slots:",
        new="if False:",
    ),
    "nothing is trimmed": edit(CtxFile, name="trim", old="self.count <= count", new="True"),
    "the older header serves": edit(
        ctxfile,
        name="_slots_now",
        old="reverse=True",
        new="reverse=False",
    ),
    "missing gists stay missing": edit(
        rebuild, opening, name="rebuild_missing", old="if not n_missing:", new="if True:"
    ),
    "rebuilt gists are not committed": edit(
        rebuild,
        opening,
        name="rebuild_missing",
        old="for level in levels:\n        level.commit()",
        new="pass",
    ),
    "rebuilt nodes are miscounted": edit(
        recovery.Recovery,
        name="with_rebuilt",
        old="rebuilt_nodes=nodes",
        new="rebuilt_nodes=nodes + 1",
    ),
    "new files are left lying": edit(
        opening, tree_module, name="open_stored", old="folder.adopt_new()", new="pass"
    ),
    "an open without a folder sync": edit(
        TreeFolder,
        name="adopt_new",
        old="self.files.sync_folder(self.path)",
        new="pass",
    ),
    "names above are not synced": edit(
        folder_module,
        name="_make_durable",
        old="files.mkdir(folder)\n        files.sync_folder(folder.parent)",
        new="files.mkdir(folder)",
    ),
    "regist publishes before it commits": edit(
        rebuild,
        tree_module,
        name="new_generation",
        old="for level in levels:\n            level.commit()\n        folder.publish(manifest)",
        new="folder.publish(manifest)\n        for level in levels:\n            level.commit()",
    ),
    "regist keeps the generation": edit(
        rebuild,
        tree_module,
        name="new_generation",
        old="generation=folder.manifest.generation + 1",
        new="generation=folder.manifest.generation",
    ),
    "regist does not commit first": edit(Tree, name="regist", old="self.commit()", new="pass"),
    "a failed regist leaves its files": edit(
        rebuild, tree_module, name="new_generation", old="folder.discard_new()", new="pass"
    ),
    "a reader adopts LOD0 first": edit(
        Tree, name="refresh", old="in reversed(ctx_files", new="in list(ctx_files"
    ),
    "a reader takes lag for damage": edit(
        Tree,
        name="verify",
        old="allow_missing = allow_missing or self._folder.is_locked()",
        new="allow_missing = False",
    ),
}

TRACES = {
    "a batch is written twice": edit(
        TraceWriter,
        name="_write_pending",
        old="batch_of(rows, self._file.schema))",
        new="batch_of(rows + rows[-1:], self._file.schema))",
    ),
    "rows of a batch out of order": edit(
        TraceWriter, name="_write_pending", old="batch_of(rows,", new="batch_of(rows[::-1],"
    ),
    "a batch waits for one row more": edit(
        TraceWriter, name="_accept", old=">= self._flush_rows", new="> self._flush_rows"
    ),
    "the last rows are not written": edit(
        ipc_index,
        reader,
        name="scan",
        old="return Scan(blocks, damage",
        new="return Scan(blocks[:-1], damage",
    ),
    "markers are dropped": edit(
        row,
        writer,
        name="batch_of",
        old="_column(column, rows)",
        new="_column(column, rows if column.name != 'marker' else rows[:1] * len(rows))",
    ),
    "phases of a batch shifted": edit(
        TraceWriter,
        name="_write_pending",
        old="row.scores = stored",
        new="row.phase = 1\n            row.scores = stored",
    ),
    "columns are not checked": edit(
        TraceReader, name="_load", old="check_columns(self.schema, name)", new="pass"
    ),
    "a torn tail ends in a traceback": edit(
        ipc_index,
        reader,
        name="scan",
        old="if next_batch is None:",
        new="if next_batch is None:\n                raise ValueError('the last batch is torn')",
    ),
    "a failed write is not cut off": edit(
        BatchFile, name="_write", old="self._size += len(data)", new="self._size += len(data) - 8"
    ),
    "no footer": edit(
        BatchFile, name="finish", old="self._arrow.close()\n", new="self._sink.take()\n"
    ),
}
