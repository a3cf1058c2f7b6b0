"""How a world dies and comes back: a kill, a power cut, an error that ends the process."""

from __future__ import annotations

from abc import ABC, abstractmethod

from megacontext.simulator.faults import Fate
from megacontext.simulator.struck import Struck
from megacontext.traces.errors import MegaContextError

__all__ = ["Mortal"]


class Mortal(Struck, ABC):
    """Base of a world; it says how a run begins over what survived."""

    @abstractmethod
    def _begin(self, n_tokens: int, w_max: int) -> None:
        """A cold start over the first ``n_tokens`` tokens."""

    def _after_death(self) -> None:
        """A hook killed the process."""
        self.sometimes["killed"] += 1
        fate = next(reversed(self._armed.values()))
        self._cut_power(fate)

    def _after_error(self, error: MegaContextError) -> None:
        """The product reported a fault that was there: the process ends and starts again."""
        self.sometimes["error_reported"] += 1
        fates = [fate for fate in self._armed.values() if fate is not None]
        self._cut_power(fates[-1] if fates else None)

    def _cut_power(self, fate: Fate | None) -> None:
        if self.config.storage != "disk":
            return
        sound = not self._armed  # else the trace's disk may have failed, too
        self._disarm()
        if fate is None:
            self.disk.kill()
        else:
            self.disk.crash(fate)
        self.sometimes["crashed"] += 1
        self._recover(killed=fate is None and sound)

    def _disarm(self) -> None:
        self.disk.hooks.clear()
        self._armed.clear()
        self.side.watch_disk()

    def _recover(self, killed: bool = False) -> None:
        """Open the tree again; ``killed``: nothing but the process ended."""
        # A power cut in the recovery costs the trace, too, what it had not synced.
        trouble = self.side.trouble
        killed = killed and (trouble is None or trouble[1] is None)
        n_tokens = self.side.recover()
        if self._recorder is not None:
            self._recorder.restart(finished=False, killed=killed)
        self._begin(n_tokens, max(self.checker.w_max, self.config.w_max))
