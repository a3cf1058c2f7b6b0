from megacontext.core.bench.trace import bench


def test_recording_is_measured_by_size(tmp_path):
    figures = bench(entries=(64, 512), rows=30, gap_ms=0.1, folder=tmp_path)
    assert set(figures) == {"64", "512"}
    for case in figures.values():
        assert 0 < case["put_us_p50"] <= case["put_us_p99"] <= case["put_us_max"]
        assert case["rows_per_s"] > 0
        assert case["read_us_p50"] > 0
        assert case["streamed_scores_dropped"] == 0
    assert figures["512"]["bytes_per_row"] > figures["64"]["bytes_per_row"] > 500
    assert list(tmp_path.iterdir()) == []
