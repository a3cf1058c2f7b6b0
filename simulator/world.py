"""One world: the product's tree, working context, allocator and trace under one step function.

:meth:`World.do` carries out one operation and checks every invariant after every action it caused.
Nothing else drives a world: the fuzz loop, the Hypothesis machines, replays, the crash runner and
the oracle all call it. There is no clock, no thread and no randomness but the configuration's seed
and the arguments of the operations.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from megacontext.core.allocators import make_allocator
from megacontext.core.focus import Focus, Limits, RoundResult, WorkingContext
from megacontext.core.tree import TreeSpec
from megacontext.simulator.checks.frontier import Shadow, check_arrays
from megacontext.simulator.checks.invariant import InvariantError
from megacontext.simulator.checks.refocus import Action, RefocusChecker
from megacontext.simulator.checks.rules import RoundSeen, Rules, rules_of
from megacontext.simulator.config import WorldConfig
from megacontext.simulator.faults import FAULTS, Fate, Killed, SimDisk
from megacontext.simulator.gister import DIM, KEY_DIM
from megacontext.simulator.lenses import LensView, make_lens
from megacontext.simulator.mortal import Mortal
from megacontext.simulator.operations import METHODS, Operation
from megacontext.simulator.recording import Recorder
from megacontext.simulator.rows import ReplayedRound, make_row, replay
from megacontext.simulator.settle import Settling
from megacontext.simulator.storage import TreeSide
from megacontext.simulator.streams import Lives, StreamSpec, Truth, make_stream
from megacontext.traces.errors import StorageError, TraceError
from megacontext.traces.files import OS_FILES
from megacontext.traces.schema import Trigger

__all__ = ["World"]

_VOCAB = 4096
_QUESTION_REPLAYS = 300  # rows that are replayed at once after a question that re-armed by itself
_FREE_REPLAYS = 100  # rows that resumes may replay besides as many as there were rounds

Watch = Callable[["World", RoundResult, Truth], None]


class World(Mortal):
    """See the module's docstring.

    Args:
        config: what the world is made of.
        out: record to this real file instead of the simulated disk.
        watch: called after every checked round (metrics, oracle).

    Attributes:
        sometimes: how often each thing happened that must happen sometimes.
        steps: refocuses done; rounds: rounds checked.
    """

    def __init__(
        self, config: WorldConfig, out: Path | None = None, watch: Watch | None = None
    ) -> None:
        self.config, self.watch = config, watch
        self.sometimes: Counter[str] = Counter()
        self.steps = self.rounds = self._replayed = self._compared = 0
        self.disk = SimDisk()
        self.disk.mkdir(Path("/sim/traces"))
        self.disk.sync_folder(Path("/sim"))

        stream = StreamSpec(config.seed, config.block_size, config.w_max, _VOCAB, config.recording)
        self.stream = Lives(make_stream(config.stream, stream))
        self.lens = make_lens(config.lens, config.seed)
        spec = TreeSpec(
            config.block_size,
            config.max_levels,
            DIM,
            KEY_DIM,
            config.dtype,
            "simulator",
            "hash-0",
            _VOCAB,
        )

        on_disk = config.storage == "disk"
        self.side = TreeSide(
            spec,
            self.stream,
            self.disk if on_disk else None,
            self.sometimes,
            config.left_context,
            config.heads,
        )

        self._recorder: Recorder | None = None
        if out is not None:
            self._recorder = Recorder(config, OS_FILES, self.sometimes, out)
        elif config.record:
            self._recorder = Recorder(config, self.disk, self.sometimes)
        self._keeps_rows = self._recorder is not None or bool(config.features.get("resume", 1))

        self._hash = hashlib.blake2b(digest_size=16)
        self._armed: dict[str, Fate | None] = {}
        self._marker: str | None = None

        self._limits = config.limits
        self._do: dict[str, Callable[..., None]] = {
            name: getattr(self, method) for name, method in METHODS.items()
        }
        self._begin(0, config.w_max)

    # -- driving -----------------------------------------------------------------------------

    def do(self, operation: Operation) -> None:
        """Carry out one operation.

        Raises:
            InvariantError: an invariant does not hold; any other exception but the simulated
                ones is a failure of the product as well.
        """
        name, *arguments = operation
        try:
            self._do[str(name)](*arguments)
        except Killed:
            self._after_death()
        except (StorageError, TraceError) as error:
            if not self._armed:
                raise
            self._after_error(error)
        except OSError as error:
            raise InvariantError("errors", f"{error!r} reached the user as it is") from error

    def finish(self) -> str:
        """Last checks; returns the hash over everything that was recorded."""
        self._disarm()
        self.side.check()
        if self._recorder is not None:
            assert self._recorder.writer is not None
            self._recorder.writer.close()
            self._recorder.check(finished=True)
        return self.hash()

    def hash(self) -> str:
        """Hex digest of all rounds so far: frontier, scores, actions, rejections."""
        return self._hash.hexdigest()

    # -- operations ----------------------------------------------------------------------------

    def _append(self, n_tokens: int) -> None:
        n_tokens = min(n_tokens, self.context.max_append())
        if n_tokens == 0:
            self.sometimes["append_full"] += 1
            return
        before = self.shadow.n_tokens
        self.side.append(n_tokens)
        self._grow(n_tokens)
        size = self.config.block_size
        for block in range(before // size, self.shadow.n_tokens // size):
            for text in self.stream.markers(block + 1):
                self._marker = text

    def _grow(self, n_tokens: int) -> None:
        appended = self.focus.append(n_tokens)
        self._appended += appended.tolist()
        self.shadow.append(n_tokens, appended.tolist())
        context = self.context
        check_arrays(self.shadow, context.levels, context.index, context.starts)
        if context.n_tokens != self.side.tree.n_tokens:
            raise InvariantError("tiling", "the working context and the tree differ in length")
        if self.shadow.cost > self.checker.w_max or context.cost != self.shadow.cost:
            raise InvariantError(
                "budget", f"{self.shadow.cost} entries after an append, says {context.cost}"
            )
        if appended.size and int(appended.max()) > 0:
            self.sometimes["appended_as_gists"] += 1

    def _refocus(self) -> None:
        self.refocus(Trigger.BLOCK_CLOSED, self._limits)

    def _asked(self) -> Limits:
        """A question's limits where they are not those of every refocus."""
        limits, tau = self._limits, self.config.question_tau
        tau = limits.tau_expand if tau is None else tau
        return replace(limits, tau_expand=tau, reopen=self.config.reopen, keep_newest=0)

    def _question(self, n_diff: int, rounds: int) -> None:
        limits = replace(
            self._asked(), n_diff=max(1, min(n_diff, 1024)), rounds=max(1, min(rounds, 16))
        )
        self.refocus(Trigger.QUESTION, limits)
        self.sometimes["question"] += 1

    def _budget(self, thousandths: int) -> None:
        if self.set_budget(self.config.w_max * thousandths // 1000):
            self.refocus(Trigger.BUDGET_CUT, self._limits)
            self.sometimes["budget_changed"] += 1

    def _set_limits(self, n_diff: int, cooldown_steps: int) -> None:
        self._limits = replace(
            self._limits,
            n_diff=max(1, min(n_diff, 1024)),
            cooldown_steps=min(cooldown_steps, 64),
        )
        self.focus.limits = self._limits

    def _settle(self, salt: int) -> None:
        """Liveness: with one fixed score a node, changes must come to an end."""
        settling = Settling(self.config.seed, salt, self.config.max_levels)
        asking = self._asked()
        while not settling.done(self._limits.cooldown_steps):
            trigger, limits = Trigger.MANUAL, self._limits
            if settling.asks():
                trigger, limits = Trigger.QUESTION, asking
            self.refocus(trigger, limits, settling.scores, settling.saw)
            settling.refocused()
        self.sometimes["settled" if settling.fixed else "settle_cut"] += 1

    def _restart(self) -> None:
        if self._recorder is not None:
            self._recorder.restart(finished=True)
        self._begin(self.side.tree.n_tokens, self.checker.w_max)
        self.sometimes["cold_start"] += 1

    def _resume(self) -> None:
        """Everything but the rows is forgotten; the rebuilt focus must go on as this one."""
        if not self._rows or self._appended or self.context.free < self.config.block_size:
            self._refocus()
        if not self._keeps_rows or self.shadow.n_tokens != self._rows[-1].history_tokens:
            return
        # Each resume replays every row: a long world resumes seldom, or it would do little else.
        if self._replayed + len(self._rows) > _FREE_REPLAYS + self.rounds:
            return
        self._replayed += len(self._rows)
        self.focus = self._rebuilt()
        self.context = self.focus.working_context
        self.sometimes["resumed"] += 1

    def _rebuilt(self) -> Focus:
        """A focus made from the rows alone, which must remember what this one does."""
        context = self._new_context(self.checker.w_max)
        focus = Focus(context, self.focus.allocator, self._limits, self.config.seed)
        replay(self._rows, focus, self._asked())
        focus.set_w_max(self.checker.w_max)  # it may have changed since the last row
        check_arrays(self.shadow, context.levels, context.index, context.starts)
        self.checker.check_disarmed(focus.disarmed)
        return focus

    def _commit(self) -> None:
        self.side.commit()
        self.sometimes["committed"] += 1

    def _reopen(self) -> None:
        if self.config.storage == "disk":
            self.side.close()
            self._recover()

    def _crash(self, salt: int, keep_percent: int) -> None:
        self._cut_power(Fate(salt, min(keep_percent, 100) / 100))

    def _kill(self) -> None:
        self._cut_power(None)

    def _regist(self, number: int) -> None:
        self.side.regist(number)

    def _set_marker(self, number: int) -> None:
        self._marker = f"mark {number}"

    def _fault(self, name: str, nth: int, salt: int) -> None:
        fault = FAULTS[name]
        if fault.needs_disk and self.config.storage != "disk":
            return
        self.sometimes[f"fault_{name}"] += 1
        fault().strike(self, max(1, nth), salt)

    # -- beginnings ---------------------------------------------------------------------------

    def _new_context(self, w_max: int) -> WorkingContext:
        config = self.config
        return WorkingContext(config.block_size, config.max_levels, w_max, config.protected_blocks)

    def _begin(self, n_tokens: int, w_max: int) -> None:
        """A cold start over the first ``n_tokens`` tokens, with nothing remembered."""
        config, context = self.config, self._new_context(w_max)
        if n_tokens:
            context.cold_start(n_tokens)
        self.context = context
        self.focus = Focus(context, make_allocator(config.allocator), self._limits, config.seed)
        self.shadow = Shadow(config.block_size, config.max_levels)
        self.shadow.reset(context.levels.tolist(), n_tokens)
        self.checker = RefocusChecker(self.shadow, self.rules(self._limits), w_max, self.sometimes)
        check_arrays(self.shadow, context.levels, context.index, context.starts)
        if n_tokens:
            self.checker.end()  # a cold start leaves headroom, too
        self._rows: list[ReplayedRound] = []
        self._row_tokens = n_tokens
        self._appended: list[int] = []

    # -- one refocus ---------------------------------------------------------------------------

    def rules(self, limits: Limits) -> Rules:
        """``limits`` as the checkers' own type."""
        config = self.config
        return rules_of(limits, config.protected_blocks, config.allocator == "greedy")

    def refocus(
        self,
        trigger: Trigger,
        limits: Limits,
        score: Callable[[LensView], np.ndarray] | None = None,
        saw: Callable[[RoundResult], None] | None = None,
    ) -> None:
        """Score and allocate, round by round, each of them checked."""
        score = score or self.lens.score
        truth = self.stream.targets(self.shadow.n_blocks)
        step = self.focus.begin(trigger, limits)
        self.checker.begin(step, self.rules(limits))
        context = self.context
        number, last = 0, False

        while not last:
            view = LensView(
                context.levels,
                context.index,
                context.starts,
                context.n_tokens,
                context.tail_tokens,
                self.config.block_size,
                truth,
                step,
                number,
            )
            scores = score(view)
            result = self.focus.round(scores)
            actions: list[Action] = result.actions.tolist()
            self._check_round(result, scores, actions)

            # Streams and observers see the round only after its checks.
            collapsed = [(a[1], a[2]) for a in actions if a[0] == 1]
            if collapsed:
                self.stream.observe(collapsed)
            if saw is not None:
                saw(result)
            if self.watch is not None:
                self.watch(self, result, truth)
            number, last = number + 1, result.last

        self.checker.end()
        self.steps += 1

        # What a question alone re-armed, the next refocus may hide: rebuild and compare at once.
        if self.checker.threshold_mattered and self._keeps_rows:
            self._compared += len(self._rows)
            if self._compared <= _QUESTION_REPLAYS:
                self._rebuilt()
                self.sometimes["compared_after_question"] += 1

    def _check_round(self, result: RoundResult, scores: np.ndarray, actions: list[Action]) -> None:
        context, checker = self.context, self.checker
        assert result.scores is not None
        checker.seen(
            RoundSeen(
                result.levels,
                scores,
                result.scores,
                actions,
                result.rejected,
                context.levels,
                context.index,
                context.starts,
                result.budget_used,
                result.w_max,
            )
        )

        checker.check_disarmed(self.focus.disarmed)
        if (result.step, result.round) != (checker.step, checker.round):
            raise InvariantError("order", f"a round says it is {result.step}.{result.round}")
        voluntary = sum(not action[5] for action in actions)
        if not result.last and not voluntary:
            raise InvariantError("rounds", "nothing was chosen, yet another round is wanted")

        # The digest covers every round: two equal runs must agree in all of them.
        self.rounds += 1
        for part in (result.levels, result.scores, result.actions, result.rejected):
            self._hash.update(part.data)
        if self._keeps_rows:
            self._record(result)

    def _record(self, result: RoundResult) -> None:
        known, appended, marker = self._row_tokens, self._appended, self._marker
        self._rows.append(ReplayedRound.of(result))
        self._row_tokens, self._appended, self._marker = result.n_tokens, [], None
        if self._recorder is not None:
            self._recorder.put(make_row(result, self.stream, known, appended, marker))
