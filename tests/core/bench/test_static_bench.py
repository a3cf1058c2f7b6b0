"""``megacontext bench static``: a static cache decodes, and says what it was."""

from __future__ import annotations

import pytest

from megacontext.core.bench.static_cache import bench
from megacontext.traces.errors import ConfigError


def test_the_bundled_model_decodes_in_a_static_cache() -> None:
    metrics = bench("demo", w_max=64, tokens=8, compiled=False)
    assert (metrics["model"], metrics["tokens"], metrics["compiled"]) == ("demo", 8, False)
    low, high = metrics["token_ms_range"]
    assert 0 < low <= metrics["token_ms"] <= high


def test_more_tokens_than_the_window_holds_are_refused() -> None:
    with pytest.raises(ConfigError, match="take at most 55"):
        bench("demo", w_max=64, tokens=56)
