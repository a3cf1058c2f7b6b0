"""The progress of a preparation: one line per stage on a terminal, nothing elsewhere."""

from __future__ import annotations

import io

from rich.console import Console

from megacontext.core.data.progress import stages


def _shown(terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80)
    with stages(console) as told:
        told("characters", 4_000)
        told("characters", 2_500)
        told("recall tokens", 512)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_every_stage_has_its_count_on_a_terminal() -> None:
    shown = _shown(terminal=True)
    assert "6,500 characters" in shown
    assert "512 recall tokens" in shown


def test_nothing_is_shown_without_a_terminal() -> None:
    assert "characters" not in _shown(terminal=False)
