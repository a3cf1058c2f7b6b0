import subprocess
import sys

import pytest

import megacontext.traces as traces


def test_every_exported_name_exists():
    for name in traces.__all__:
        assert getattr(traces, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        traces.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("megacontext.traces.errors", ("numpy", "pyarrow", "torch", "textual")),
        ("megacontext.traces.control", ("numpy", "pyarrow", "torch", "textual")),
        ("megacontext.traces.reader", ("torch", "textual", "megacontext.core")),
        ("megacontext.traces.export", ("torch", "textual", "megacontext.core")),
    ],
)
def test_a_module_imports_only_what_it_needs(module, absent):
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not set(absent) & set(loaded)
