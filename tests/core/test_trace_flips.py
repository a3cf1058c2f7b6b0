"""Every reader of a trace, over traces with one bit turned over: a sentence, no traceback."""

from collections import Counter

import pytest
from trace_flips import COMMANDS, READERS, flip_bits, make_trace, regions_of

from megacontext.core.rng import generator

GOOD = {"figures", "sentence", "damage named", "harmless", "opened"}


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    path = tmp_path_factory.mktemp("flips") / "run.arrow"
    make_trace(path)
    return path


@pytest.fixture(scope="module")
def bits(trace):
    """Ranges of bits by region: the schema with the file's head, the batches, the footer."""
    return {name: (8 * start, 8 * stop) for name, (start, stop) in regions_of(trace).items()}


def flipped(trace, bits, tmp_path, **options):
    """What opening gave, by kind; every reader and command is checked to have said nothing else."""
    said = []
    found = flip_bits(trace, bits, tmp_path, report=said.append, **options)
    assert said == []
    kinds = set().union(*(counts for counts in found.values()))
    assert kinds <= GOOD
    return found


def test_an_undamaged_trace_gives_every_reader_its_figures(trace, tmp_path):
    for name, read in (READERS | COMMANDS).items():
        assert read(trace, trace, tmp_path / "out.arrow") == "figures", name


def test_a_flipped_bit_of_the_schema_is_a_sentence(trace, bits, tmp_path):
    start, stop = bits["schema"]
    some = [*range(start + 320, start + 640), *range(start, stop, 331)]
    opened = flipped(trace, some, tmp_path)["open"]
    assert opened["sentence"] > len(some) // 3


def test_a_flipped_bit_of_the_footer_costs_nothing(trace, bits, tmp_path):
    opened = flipped(trace, range(*bits["footer"], 1009), tmp_path)["open"]
    assert set(opened) == {"harmless"}


def test_a_flipped_bit_of_a_row_is_named_or_costs_nothing(trace, bits, tmp_path):
    drawn = generator(0, "flips").integers(*bits["rows"], 20).tolist()
    verified = flipped(trace, drawn, tmp_path)["verify"]
    assert verified["damage named"] > 5


@pytest.mark.slow
def test_every_bit_of_schema_and_footer_and_many_of_the_rows(trace, bits, tmp_path):
    total = Counter()
    for name in ("schema", "footer"):
        total += flipped(trace, range(*bits[name]), tmp_path, commands_every=50)["open"]
    drawn = generator(1, "flips").integers(*bits["rows"], 20_000).tolist()
    total += flipped(trace, drawn, tmp_path, commands_every=50)["open"]
    assert total.total() > 80_000
