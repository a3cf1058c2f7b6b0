"""Markers that a resumed run goes by are the engine's alone."""

import pytest

from megacontext.core.config.sources import MarkerSegment, ScriptSource
from megacontext.core.sources.script import script_events
from megacontext.traces.errors import SourceError


@pytest.mark.parametrize(
    "text", ["typed @0-64", "asked @3-9", "x; answered @1-2", "needle planted @0-32 archive"]
)
def test_a_script_cannot_write_the_engines_markers(text):
    source = ScriptSource(segments=[MarkerSegment(text=text)])
    with pytest.raises(SourceError, match=r"source\.segments\[0\]\.text is .* use other words"):
        list(script_events(source, lambda: iter(()), None))


def test_words_like_them_are_free():
    source = ScriptSource(segments=[MarkerSegment(text="typed at 5, needle planted")])
    assert len(list(script_events(source, lambda: iter(()), None))) == 1
