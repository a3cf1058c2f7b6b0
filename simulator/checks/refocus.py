"""Every rule of a refocus, checked action by action from the record of what was done.

Written from the text of the invariants: nothing here calls the code under test. The checker keeps
its own frontier, its own cooldown clock and its own re-arming memory, and compares.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from megacontext.simulator.checks.frontier import Shadow, check_arrays
from megacontext.simulator.checks.invariant import InvariantError
from megacontext.simulator.checks.policy import (
    Choice,
    Memory,
    Situation,
    decide_forced,
    decide_greedy,
)
from megacontext.simulator.checks.rules import Rejected, RoundSeen, Rules
from megacontext.simulator.checks.words import REASONS, Action, in_words, words
from megacontext.traces.schema import MAX_REJECTED, ActionKind, Reason

__all__ = ["Action", "RefocusChecker", "clean_scores", "words"]

_EXPAND = int(ActionKind.EXPAND)
_COLLAPSE = int(ActionKind.COLLAPSE)
_NEW_EVIDENCE = np.float32(0.1)
"""A gist that was expanded by choice may be so again once its score differed by so much from the
score it was expanded at, or was below the threshold."""
_BY_SCORE = int(Reason.SCORE)
_NOT_REARMED, _COOLDOWN, _PROTECTED = (
    int(Reason.NOT_REARMED),
    int(Reason.COOLDOWN),
    int(Reason.PROTECTED),
)
_EXPLAINED = frozenset({_NOT_REARMED, _COOLDOWN, _PROTECTED})
"""Reasons that can be compared with the checker's own memory."""
_FORCED = frozenset({int(Reason.HEADROOM), int(Reason.BUDGET_CUT), int(Reason.FORCED_OVERRIDE)})


def clean_scores(lens_scores: np.ndarray, length: int) -> np.ndarray:
    """F16[length]: what an allocator must see of ``given``; NaN, inf and wrong lengths count 0."""
    if lens_scores.shape != (length,):
        return np.zeros(length, np.float16)
    if length and np.abs(lens_scores).max() <= 1:  # NaN is not
        return lens_scores.astype(np.float16)
    with np.errstate(over="ignore"):
        clean = np.where(np.isfinite(lens_scores), lens_scores, 0).astype(np.float16)
    return np.where(np.isfinite(clean), clean, np.float16(0))


class RefocusChecker:
    """Follows one working context through appends and refocuses.

    ``sometimes`` counts what has happened, by name.
    """

    def __init__(
        self, shadow: Shadow, rules: Rules, w_max: int, sometimes: Counter[str] | None = None
    ) -> None:
        self.shadow, self.rules, self.w_max = shadow, rules, w_max
        self.limits = rules
        self.sometimes = Counter() if sometimes is None else sometimes
        self.step = -1
        self.round = -1
        self.last: dict[tuple[int, int], tuple[int, int]] = {}  # node -> (step, kind)
        # Expanded by choice and not re-armed yet, with the score that was the reason.
        self.spent: dict[tuple[int, int], float] = {}
        self.waiting: set[tuple[int, int]] = set()  # those of them that are gists again
        # In this refocus its own threshold re-armed what the usual one would not, or the other way.
        self.threshold_mattered = False
        self._memory = Memory(self.cooling, self.protected, self.newest, self._disarmed)

    # -- one refocus -------------------------------------------------------------------------

    def begin(self, step: int, limits: Rules) -> None:
        """A refocus starts."""
        if step != self.step + 1:
            raise InvariantError("order", f"refocus {step} follows refocus {self.step}")
        self.step, self.round, self.limits = step, -1, limits
        self.threshold_mattered = False

    def seen(self, seen: RoundSeen) -> None:
        """Check one round; raises :class:`InvariantError`."""
        self.round += 1
        if self.round >= self.limits.rounds:
            raise InvariantError("rounds", f"round {self.round} of at most {self.limits.rounds}")
        if seen.scored_levels.tobytes() != bytes(self.shadow.levels):
            raise InvariantError("record", "the scored frontier is not the frontier of that moment")
        clean = clean_scores(seen.lens_scores, seen.scored_levels.size)
        if seen.scores.tobytes() != clean.tobytes():
            raise InvariantError("scores", f"the allocator got {seen.scores.tolist()}")

        # What follows from the scores, before anything is done.
        self._rearm(seen.scores)
        self._scored_asin_words(seen)
        self._decided_again(seen)
        reasons: list[int] = seen.rejected["reason"].tolist()
        doubtful: list[Rejected] = []
        if not _EXPLAINED.isdisjoint(reasons):
            doubtful = self._unexplained(seen.rejected.tolist())

        # What was done, and the state after it.
        self._actions(seen)
        self._turned_down(reasons)
        if doubtful and (still := self._unexplained(doubtful)):
            raise InvariantError(
                "record", f"rejected {words(still[0])} for a reason that is not there"
            )
        self._state(seen)

    def end(self) -> None:
        """The refocus is over: the next block must fit."""
        free = self.w_max - self.shadow.cost
        if free < self.shadow.block_size:
            raise InvariantError("headroom", f"{free} entries are free after refocus {self.step}")

    def check_disarmed(self, disarmed: np.ndarray) -> None:
        """Bool[n]: the product keeps shut exactly the gists that wait for new evidence."""
        have = disarmed.nonzero()[0].tolist()
        expected = sorted(self.shadow.at(*node) for node in self.waiting)
        if have != expected:
            raise InvariantError("rearming", f"entries {have} are disarmed, not {expected}")

    # -- parts -------------------------------------------------------------------------------

    def _rearm(self, scores: np.ndarray) -> None:
        if not self.waiting:
            return
        tau = np.float32(self.limits.tau_expand)  # a float16 threshold would be another number
        usual = np.float32(self.rules.tau_expand)
        for node in list(self.waiting):
            score = np.float32(scores[self.shadow.at(*node)])
            changed = abs(score - np.float32(self.spent[node])) >= _NEW_EVIDENCE
            if not changed and (score < tau) != (score < usual):
                self.threshold_mattered = True
            if score < tau or changed:
                self.waiting.discard(node)
                del self.spent[node]

    def _scored_asin_words(self, seen: RoundSeen) -> None:
        """Scores of actions are those of their nodes; single choices are beyond their threshold."""
        if not seen.actions:
            return
        size, limits = self.shadow.block_size, self.limits
        scores: list[float] = seen.scores.tolist()
        for action in seen.actions:
            kind, level, index, score, _, _, reason = action
            if kind == _EXPAND:
                at, count = self.shadow.at(level, index), 1
            else:
                count = 1 if level == 1 else size
                at = self.shadow.at(level - 1, index if level == 1 else index * size)
                if at >= 0 and self.shadow.levels[at : at + count] != bytes((level - 1,)) * count:
                    continue  # its members come into being in this very round

            if at >= 0 and score != max(scores[at : at + count]):
                raise InvariantError("record", f"{words(action)}, but its node has another score")
            if reason == _BY_SCORE:
                beyond = (
                    np.float32(score) > np.float32(limits.tau_expand)
                    if kind == _EXPAND
                    else np.float32(score) < np.float32(-limits.tau_collapse)
                )
                if not beyond:
                    raise InvariantError("thresholds", f"{words(action)} was chosen by its score")

    def _decided_again(self, seen: RoundSeen) -> None:
        """The reference policy does the same: forced collapses, and all that greedy chooses."""
        free = self.w_max - self.shadow.cost
        forces = self.round == 0 and free < self.shadow.block_size
        if not forces and not self.rules.greedy:
            if seen.actions and seen.actions[0][5]:
                raise InvariantError(
                    "forced", f"{words(seen.actions[0])} was forced with {free} free"
                )
            return
        now = Situation(self.shadow, seen.scores, self._memory)
        expected: list[Choice] = []
        if forces:
            expected, free = decide_forced(now, free)
            self._compare("forced", [a for a in seen.actions if a[5]], expected)
        if self.rules.greedy:
            limits = self.limits
            expected = decide_greedy(
                now, free, limits.n_diff, limits.tau_expand, limits.tau_collapse
            )
            self._compare("choice", [a for a in seen.actions if not a[5]], expected)

    @staticmethod
    def _compare(invariant: str, actions: list[Action], expected: list[Choice]) -> None:
        have = [(kind, level, index, reason) for kind, level, index, *_, reason in actions]
        for number in range(max(len(have), len(expected))):
            one = have[number] if number < len(have) else None
            two = expected[number] if number < len(expected) else None
            if one != two:
                raise InvariantError(
                    invariant,
                    f"action {number} is {in_words(one)}; the reference policy has {in_words(two)}",
                )

    def _disarmed(self, level: int, index: int) -> bool:
        return not self.limits.reopen and (level, index) in self.spent

    def _actions(self, seen: RoundSeen) -> None:
        voluntary = 0
        gain = self.shadow.block_size - 1
        free = self.w_max - self.shadow.cost

        for action in seen.actions:
            kind, level, index, _, cost, forced, reason = action
            if forced != (reason in _FORCED) or reason >= int(Reason.BUDGET):
                raise InvariantError("record", f"{words(action)} has a reason that does not fit")
            if forced:
                self._forced(action, voluntary, free)
            else:
                voluntary += 1
                self._voluntary(action)

            # Follow the action on the reference frontier; a collapsed gist waits for new evidence.
            if kind == _EXPAND:
                self.shadow.expand(level, index)
                free -= gain
            elif kind == _COLLAPSE:
                self._unprotected(action)
                self.shadow.collapse(level, index)
                self._forget_below(level, index)
                if (level, index) in self.spent:
                    self.waiting.add((level, index))
                free += gain
            else:
                raise InvariantError("record", f"{words(action)} is of no known kind")

            if cost != (gain if kind == _EXPAND else -gain):
                raise InvariantError(
                    "record", f"{words(action)} says that it costs {cost}, not ±{gain}"
                )
            if free < 0 and not forced:
                raise InvariantError(
                    "budget", f"{-free} entries over w_max={self.w_max} after {words(action)}"
                )
            if not forced and free < self.shadow.block_size and kind == _EXPAND:
                raise InvariantError(
                    "headroom", f"{free} entries free after the choice of {words(action)}"
                )

            self.last[level, index] = (self.step, kind)
            self.sometimes["reason_" + REASONS[reason]] += 1
        if voluntary > self.limits.n_diff:
            raise InvariantError(
                "n_diff", f"{voluntary} voluntary actions, n_diff={self.limits.n_diff}"
            )

    def _forced(self, action: Action, voluntary: int, free: int) -> None:
        kind, level, index, *_, reason = action
        if kind != _COLLAPSE:
            raise InvariantError("forced", f"{words(action)} is forced but no collapse")
        if self.round > 0 or voluntary:
            raise InvariantError(
                "forced", f"{words(action)} is forced but not at the start of the refocus"
            )
        if free >= self.shadow.block_size:
            raise InvariantError("forced", f"{words(action)} was forced with {free} entries free")
        if self.cooling(kind, level, index) != (reason == int(Reason.FORCED_OVERRIDE)):
            raise InvariantError(
                "cooldown", f"{words(action)} flips a cooling node, or says so wrongly"
            )
        self.sometimes["forced_kept" if self.newest(level, index) else "forced_collapse"] += 1

    def _voluntary(self, action: Action) -> None:
        kind, level, index, *_ = action
        if self.cooling(kind, level, index):
            step = self.last[level, index][0]
            raise InvariantError(
                "cooldown", f"{words(action)} at refocus {self.step} flips what refocus {step} did"
            )

        if kind == _EXPAND:
            if self._lately(kind, level, index):
                self.sometimes["reopened_cooling"] += 1
            if (level, index) in self.spent:
                if not self.limits.reopen:
                    raise InvariantError(
                        "rearming", f"{words(action)} expands a node that was never re-armed"
                    )
                self.waiting.discard((level, index))
                self.sometimes["reopened_unarmed"] += 1
            self.spent[level, index] = action[3]
        elif self.newest(level, index):
            raise InvariantError(
                "protected", f"{words(action)} folds one of the newest blocks by choice"
            )

    def _forget_below(self, level: int, index: int) -> None:
        """Nodes that a collapse swallows are forgotten: they are new when they come back."""
        if level > 1 and self.spent:
            size = self.shadow.block_size
            for child in range(index * size, (index + 1) * size):
                self.spent.pop((level - 1, child), None)
                self.waiting.discard((level - 1, child))

    def cooling(self, kind: int, level: int, index: int) -> bool:
        """Whether ``kind`` on this node would flip its direction too early.

        Where a refocus reopens, an expansion is too early only in the refocus that collapsed.
        """
        if kind == _EXPAND and self.limits.reopen and self.last.get((level, index)) is not None:
            return self.last[level, index] == (self.step, _COLLAPSE)
        return self._lately(kind, level, index)

    def _lately(self, kind: int, level: int, index: int) -> bool:
        """Whether this node changed in the other direction within the cooldown."""
        step, other = self.last.get((level, index), (-(1 << 40), kind))
        return other != kind and self.step - step <= self.limits.cooldown_steps

    def protected(self, level: int, index: int) -> bool:
        """Whether the node (level, index) reaches into the newest, protected blocks."""
        end = (index + 1) * self.shadow.width[level]
        first = self.shadow.n_blocks - self.rules.protected_blocks
        return bool(end > first * self.shadow.block_size)

    def newest(self, level: int, index: int) -> bool:
        """Whether the gist (level, index) stands for one of the blocks to keep raw."""
        return level == 1 and index >= self.shadow.n_blocks - self.limits.keep_newest

    def _unprotected(self, action: Action) -> None:
        if self.protected(action[1], action[2]):
            raise InvariantError("protected", f"{words(action)} makes a protected block coarser")

    def _turned_down(self, reasons: list[int]) -> None:
        if len(reasons) > MAX_REJECTED:
            raise InvariantError("record", f"{len(reasons)} rejected candidates in one row")
        for reason in set(reasons):
            if reason < int(Reason.BUDGET) and reason != int(Reason.COMPETITION):
                raise InvariantError("record", f"a rejected candidate has reason {REASONS[reason]}")
            self.sometimes["reject_" + REASONS[reason]] += 1

    def _unexplained(self, rejected: list[Rejected]) -> list[Rejected]:
        """The candidates whose reason does not hold now.

        Asked before and after the actions of the round: forced ones may come before a candidate
        is judged, and chosen ones may end the reason.
        """
        unexplained = []
        for candidate in rejected:
            kind, level, index, _, reason = candidate
            if reason == _NOT_REARMED:
                holds = (level, index) in self.spent and not self.limits.reopen
            elif reason == _COOLDOWN:
                holds = self.cooling(kind, level, index)
            elif reason == _PROTECTED:
                holds = self.protected(level, index) or self.newest(level, index)
            else:
                continue
            if not holds:
                unexplained.append(candidate)
        return unexplained

    def _state(self, seen: RoundSeen) -> None:
        check_arrays(self.shadow, seen.levels, seen.index, seen.starts)
        cost = self.shadow.cost
        if seen.budget_used != cost or seen.w_max != self.w_max:
            raise InvariantError(
                "budget", f"reported {seen.budget_used}/{seen.w_max}, is {cost}/{self.w_max}"
            )
        if cost > self.w_max:
            raise InvariantError("budget", f"{cost} entries, w_max={self.w_max}")
        if self.w_max - cost < 2 * self.shadow.block_size - 1:
            self.sometimes["budget_full"] += 1
