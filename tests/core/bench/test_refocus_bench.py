"""The refocus benchmark runs every case it reports."""

from megacontext.core.bench.refocus import bench


def test_bench_reports_every_case():
    kinds = ("greedy", "optimal")
    report = bench(entries=(64,), allocators=kinds, refocuses=5, windows=(256,))
    cases = [(case.get("w_max"), case["allocator"], case["scores"]) for case in report["cases"]]
    assert cases == [
        (w_max, kind, scores)
        for w_max in (None, 256)
        for kind in kinds
        for scores in ("random", "drifting")
    ]
    assert [case["nodes"] for case in report["cases"][:4]] == [64] * 4
    for case in report["cases"]:
        assert 0 < case["round_us_p50"] <= case["round_us_p99"]
        assert 0 < case["refocus_us_p50"] <= case["refocus_us_p99"]
        assert 0 < case["round_cpu_us_p50"] <= case["refocus_cpu_us_p99"]
        assert case["rounds_per_refocus"] >= 1
