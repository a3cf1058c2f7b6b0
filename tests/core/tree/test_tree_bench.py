"""The measurement itself; the figures are in no assertion."""

from megacontext.core.bench.tree import bench


def test_the_bench_measures_every_case(tmp_path):
    report = bench((64, 4096), (1, 500), 20_000, samples=2, commits=3, folder=tmp_path)
    for place in ("ram", "disk"):
        cases = report["append_us_per_token"][place]
        assert list(cases) == ["64", "4096"]
        assert all(cost > 0 for case in cases.values() for cost in case.values())
        assert report["commit_us"][place]["p50"] <= report["commit_us"][place]["p99"]
    memory = report["memory"]
    assert memory["tokens"] == 20_000
    assert memory["before_bytes"] < memory["resident_bytes"] <= memory["peak_bytes"]
    assert not list(tmp_path.iterdir())
