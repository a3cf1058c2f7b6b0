"""Hypothesis drives worlds: its shrinking gives failures that read like a unit test.

One machine; its profiles are the tree, the working context, the storage and the trace.
"""

from __future__ import annotations

from typing import ClassVar

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from megacontext.simulator.config import POLICIES, WorldConfig
from megacontext.simulator.failures import muted_warnings
from megacontext.simulator.faults import FAULTS
from megacontext.simulator.lenses import LENSES
from megacontext.simulator.streams import STREAMS
from megacontext.simulator.world import World

SALT = st.integers(0, 1 << 16)
DRAWN = sorted(name for name in STREAMS if name != "recorded")


class WorldMachine(RuleBasedStateMachine):
    """Every operation of a world as a rule; the world checks itself."""

    storage: ClassVar[str] = "ram"
    record: ClassVar[bool] = False
    faults: ClassVar[tuple[str, ...]] = ("budget_cut", "gist_failure")
    edits: ClassVar[bool] = True
    world: World

    @initialize(
        size=st.sampled_from([2, 4, 8]),
        levels=st.integers(1, 3),
        spare=st.integers(0, 40),
        protected=st.integers(0, 2),
        stream=st.sampled_from(DRAWN),
        lens=st.sampled_from(sorted(LENSES)),
        allocator=st.sampled_from(POLICIES),
        cooldown=st.integers(0, 3),
        reopen=st.booleans(),
        keep_newest=st.integers(0, 8),
    )
    def begin(
        self,
        size: int,
        levels: int,
        spare: int,
        protected: int,
        stream: str,
        lens: str,
        allocator: str,
        cooldown: int,
        reopen: bool,
        keep_newest: int,
    ) -> None:
        self.world = World(
            WorldConfig(
                stream=stream,
                lens=lens,
                allocator=allocator,
                block_size=size,
                max_levels=levels,
                w_max=(size - 1) * levels + (protected + 2) * size + spare,
                protected_blocks=protected,
                cooldown_steps=cooldown,
                reopen=reopen,
                keep_newest=keep_newest,
                storage=self.storage,
                record=self.record,
            )
        )

    @rule(n_tokens=st.integers(0, 40))
    def append(self, n_tokens: int) -> None:
        self.world.do(["append", n_tokens])

    @rule()
    def refocus(self) -> None:
        self.world.do(["refocus"])

    @precondition(lambda self: self.edits)
    @rule(n_diff=st.integers(1, 6), rounds=st.integers(1, 4))
    def question(self, n_diff: int, rounds: int) -> None:
        self.world.do(["question", n_diff, rounds])

    @precondition(lambda self: self.edits)
    @rule(thousandths=st.integers(400, 1500))
    def budget(self, thousandths: int) -> None:
        self.world.do(["budget", thousandths])

    @precondition(lambda self: self.edits)
    @rule(n_diff=st.integers(1, 6), cooldown=st.integers(0, 5))
    def limits(self, n_diff: int, cooldown: int) -> None:
        self.world.do(["limits", n_diff, cooldown])

    @precondition(lambda self: self.edits)
    @rule(what=st.sampled_from(["restart", "resume"]))
    def rebuild(self, what: str) -> None:
        self.world.do([what])

    @precondition(lambda self: self.edits)
    @rule(salt=SALT)
    def settle(self, salt: int) -> None:
        self.world.do(["settle", salt])

    @rule(what=st.sampled_from(["commit", "reopen", "kill"]))
    def storage_step(self, what: str) -> None:
        self.world.do([what])

    @rule(number=st.integers(0, 9))
    def regist(self, number: int) -> None:
        self.world.do(["regist", number])

    @precondition(lambda self: self.storage == "disk")
    @rule(salt=SALT, keep=st.sampled_from([0, 50, 100]))
    def crash(self, salt: int, keep: int) -> None:
        self.world.do(["crash", salt, keep])

    @rule(data=st.data(), nth=st.integers(1, 40), salt=SALT)
    def fault(self, data: st.DataObject, nth: int, salt: int) -> None:
        name = data.draw(st.sampled_from(self.faults))
        self.world.do(["fault", name, nth, salt])

    @invariant()
    def lengths_agree(self) -> None:
        if hasattr(self, "world"):
            assert self.world.context.n_tokens == self.world.side.tree.n_tokens

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.finish()


class TreeMachine(WorldMachine):
    """Tokens and gists in memory."""

    edits = False


class WorkingContextMachine(WorldMachine):
    """Budget, limits, questions, cold starts, resumes."""


class StorageMachine(WorldMachine):
    """Commits and crashes. ``kill`` and ``eio`` have their own sweeps."""

    storage = "disk"
    edits = False
    faults = tuple(sorted(set(FAULTS) - {"kill", "eio", "slow_trace_disk", "trace_disk_full"}))


class TraceMachine(WorldMachine):
    """A recorded run with a trace on the same disk."""

    storage = "disk"
    record = True
    faults = ("bit_flip", "second_writer", "slow_trace_disk", "trace_disk_full", "torn_tail")


@pytest.mark.parametrize(
    "machine", [TreeMachine, WorkingContextMachine, StorageMachine, TraceMachine]
)
def test_no_sequence_of_operations_breaks_an_invariant(
    machine: type[WorldMachine], request: pytest.FixtureRequest
) -> None:
    slow = request.config.getoption("--slow")
    with muted_warnings():
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=200 if slow else 25, stateful_step_count=40 if slow else 20
            ),
        )
