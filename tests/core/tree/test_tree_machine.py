"""Random lives of a tree: memory, disk and the simplest possible model agree at every step."""

from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from megacontext.core.rng import generator
from megacontext.core.tree import HashGister, Tree, TreeSpec

FOLDER = Path("/disk/tree")


class TreeMachine(RuleBasedStateMachine):
    new_disk = None

    @initialize(
        size=st.sampled_from([2, 4, 32]),
        levels=st.integers(1, 5),
        dtype=st.sampled_from(["fp16", "bf16", "fp32"]),
        context=st.sampled_from([0, 1, 5]),
    )
    def create(self, size, levels, dtype, context):
        self.gister = HashGister(dim=4, key_dim=2, left_context=context)
        spec = TreeSpec(size, levels, 4, 2, dtype, "m", "hash", 1000)
        self.files = type(self).new_disk(8 << 20)
        self.ram = Tree.create(spec, self.gister, now_ns=0)
        self.disk = Tree.create(spec, self.gister, FOLDER, self.files, now_ns=0)
        self.history = np.empty(0, np.uint32)
        self.committed = 0

    @rule(n=st.one_of(st.integers(1, 70), st.integers(1, 5000)), seed=st.integers(0, 99))
    def append(self, n, seed):
        tokens = generator(seed, "tokens").integers(0, 1000, n, dtype=np.uint32)
        self.ram.append(tokens)
        self.disk.append(tokens)
        self.history = np.concatenate([self.history, tokens])

    @rule()
    def commit(self):
        self.disk.commit()
        self.committed = len(self.history)
        assert self.disk.committed_tokens == self.committed

    @rule()
    def reopen(self):
        self.disk.close()
        self.committed = len(self.history)
        self.disk = Tree.open(FOLDER, self.gister, files=self.files, expect=self.ram.spec)
        assert self.disk.recovery.notes == ()

    @rule(seed=st.integers(0, 2**32))
    def crash(self, seed):
        self.files.crash(generator(seed, "crash"))
        self.disk = Tree.open(FOLDER, self.gister, files=self.files)
        assert self.disk.n_tokens == self.committed
        self.history = self.history[: self.committed]
        self.ram = Tree.create(self.disk.spec, self.gister, now_ns=0)
        self.ram.append(self.history)

    @rule(name=st.sampled_from(["one", "two"]))
    def regist(self, name):
        self.gister = replace(self.gister, checkpoint_id=name)
        self.ram.regist(self.gister)
        self.disk.regist(self.gister)
        self.committed = len(self.history)

    @rule()
    def read_beside_the_writer(self):
        with Tree.open(FOLDER, files=self.files, write=False) as reader:
            assert reader.n_tokens == self.committed
            np.testing.assert_array_equal(
                reader.tokens(0, self.committed), self.history[: self.committed]
            )

    @invariant()
    def all_agree(self):
        ram, disk, n = self.ram, self.disk, len(self.history)
        assert ram.n_tokens == disk.n_tokens == n
        np.testing.assert_array_equal(disk.tokens(0, n), self.history)
        np.testing.assert_array_equal(ram.tokens(0, n), self.history)
        vectors = None
        for level in range(1, ram.spec.max_levels + 1):
            size = ram.spec.block_size
            count = n // size**level
            assert ram.n_nodes(level) == disk.n_nodes(level) == count
            vectors, keys = self._model(level, count, vectors)
            for tree in (ram, disk):
                np.testing.assert_array_equal(tree.gists(level, 0, count), vectors)
                np.testing.assert_array_equal(tree.keys(level, 0, count), keys)

    def _model(self, level, count, below):
        size, context = self.ram.spec.block_size, self.gister.left_context
        if level > 1:
            return self.gister.encode_gists(level, below[: count * size].reshape(count, size, 4))
        padded = np.concatenate([np.full(context, 0xFFFFFFFF, np.uint32), self.history])
        left = [padded[index * size : index * size + context] for index in range(count)]
        return self.gister.encode_blocks(
            self.history[: count * size].reshape(count, size),
            np.array(left, np.uint32).reshape(count, context),
        )


def run(new_disk, examples, steps):
    TreeMachine.new_disk = staticmethod(new_disk)
    run_state_machine_as_test(
        TreeMachine, settings=settings(max_examples=examples, stateful_step_count=steps)
    )


def test_memory_disk_and_model_agree(new_disk):
    run(new_disk, 15, 12)


@pytest.mark.slow
def test_memory_disk_and_model_agree_over_many_lives(new_disk):
    run(new_disk, 200, 30)
