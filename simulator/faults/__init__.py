"""Faults by name, and the simulated disk that most of them strike."""

from __future__ import annotations

from megacontext.simulator.faults.base import At, Fault
from megacontext.simulator.faults.bit_flip import BitFlip
from megacontext.simulator.faults.budget_cut import BudgetCut
from megacontext.simulator.faults.calls import SECTOR, Call, Fate, Killed
from megacontext.simulator.faults.commit_beside import CommitBeside
from megacontext.simulator.faults.disk import SimDisk
from megacontext.simulator.faults.eio import Eio
from megacontext.simulator.faults.enospc import Enospc
from megacontext.simulator.faults.failed_fsync import FailedFsync
from megacontext.simulator.faults.gist_failure import GistFailure
from megacontext.simulator.faults.interrupted_recovery import InterruptedRecovery
from megacontext.simulator.faults.kill import Kill
from megacontext.simulator.faults.lost_fsync import LostFsync
from megacontext.simulator.faults.lost_sectors import LostSectors
from megacontext.simulator.faults.reader_beside import ReaderBeside
from megacontext.simulator.faults.second_writer import SecondWriter
from megacontext.simulator.faults.slow_trace_disk import SlowTraceDisk
from megacontext.simulator.faults.torn_tail import TornTail
from megacontext.simulator.faults.trace_bit_flip import TraceBitFlip
from megacontext.simulator.faults.trace_disk_full import TraceDiskFull

__all__ = ["FAULTS", "SECTOR", "At", "Call", "Fate", "Fault", "Killed", "SimDisk"]

_ALL: tuple[type[Fault], ...] = (
    Kill,
    LostSectors,
    TornTail,
    LostFsync,
    FailedFsync,
    BitFlip,
    Enospc,
    Eio,
    SecondWriter,
    BudgetCut,
    GistFailure,
    TraceDiskFull,
    SlowTraceDisk,
    ReaderBeside,
    InterruptedRecovery,
    CommitBeside,
    TraceBitFlip,
)

FAULTS: dict[str, type[Fault]] = {fault.name: fault for fault in _ALL}
