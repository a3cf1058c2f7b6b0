"""What faults may do to a world: the part of it that :class:`~.faults.base.Target` names."""

from __future__ import annotations

from collections import Counter

from megacontext.core.focus import Focus, WorkingContext, smallest_w_max
from megacontext.simulator.checks.frontier import Shadow
from megacontext.simulator.checks.refocus import RefocusChecker
from megacontext.simulator.config import WorldConfig
from megacontext.simulator.faults import At, Fate, SimDisk
from megacontext.simulator.recording import Recorder
from megacontext.simulator.storage import TreeSide
from megacontext.traces.errors import BudgetError

__all__ = ["Struck"]


class Struck:
    """Base of a world; the attributes are the world's."""

    config: WorldConfig
    sometimes: Counter[str]
    disk: SimDisk
    side: TreeSide
    context: WorkingContext
    focus: Focus
    shadow: Shadow
    checker: RefocusChecker
    _recorder: Recorder | None
    _armed: dict[str, Fate | None]

    @property
    def recorder(self) -> Recorder:
        if self._recorder is None:
            self._recorder = Recorder(self.config, self.disk, self.sometimes)
        return self._recorder

    def arm(self, name: str, hook: At, fate: Fate | None) -> None:
        """From now on ``hook`` sees every call; ``fate`` is what a crash by it leaves."""
        self.disk.hooks.append(hook)
        self._armed[name] = fate

    def lied(self) -> None:
        """A sync did nothing: until the next recovery a commit proves nothing."""
        self.side.lying = True

    def read_during_write(self, nth: int) -> None:
        self.side.read_during_write(nth)

    def commit_during_read(self, nth: int) -> None:
        self.side.commit_during_read(nth)

    def disturb_recovery(self, hook: At, fate: Fate | None) -> None:
        """The next recovery meets ``hook``; ``fate`` is what a power cut at it leaves."""
        self.side.trouble = hook, fate

    def fail_gister(self, nth: int, nan: bool) -> None:
        self.side.gister.fail_in, self.side.gister.nan = nth, nan

    def flip_a_bit(self, salt: int) -> None:
        if self._armed:
            return
        self.flip_a_trace_bit(salt)
        self.side.flip_a_bit(salt)

    def flip_a_trace_bit(self, salt: int) -> None:
        recorder = self._recorder
        if not self._armed and recorder is not None and recorder.files is self.disk:
            recorder.flip_a_bit(salt)

    @property
    def w_max(self) -> int:
        """The budget in force."""
        return self.checker.w_max

    def write_to_stalled_disk(self, rows: int, queue_rows: int) -> None:
        self.recorder.write_to_stalled_disk(rows, queue_rows)

    def open_second_writer(self) -> None:
        if not self._armed:
            self.side.open_second_writer()
            if self._recorder is not None:
                self._recorder.second_writer()

    def set_budget(self, w_max: int) -> bool:
        """Change ``w_max`` as far as is legal; False where the product refused."""
        config = self.config
        least = smallest_w_max(config.block_size, config.max_levels, config.protected_blocks)
        w_max = max(least, w_max)
        before = self.context.w_max
        try:
            self.focus.set_w_max(w_max)
        except BudgetError:
            if w_max >= before:
                raise
            self.sometimes["budget_refused"] += 1
            return False
        if w_max < self.shadow.cost:
            self.sometimes["budget_cut_below_cost"] += 1
        self.checker.w_max = w_max
        return True
