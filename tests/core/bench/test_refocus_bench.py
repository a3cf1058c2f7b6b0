"""The refocus benchmark runs every case it reports."""

from megacontext.core.bench.refocus import bench


def test_bench_reports_every_case():
    report = bench(entries=(64,), allocators=("greedy", "optimal"), refocuses=5)
    cases = [(case["entries"], case["allocator"], case["scores"]) for case in report["cases"]]
    assert cases == [
        (64, kind, scores) for kind in ("greedy", "optimal") for scores in ("random", "drifting")
    ]
    for case in report["cases"]:
        assert 0 < case["round_us_p50"] <= case["round_us_p99"]
        assert 0 < case["refocus_us_p50"] <= case["refocus_us_p99"]
        assert 0 < case["round_cpu_us_p50"] <= case["refocus_cpu_us_p99"]
        assert case["rounds_per_refocus"] >= 1
