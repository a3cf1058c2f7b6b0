"""The screen with the engine's knobs."""

from __future__ import annotations

import pytest
from textual.app import App
from textual.widgets import Input

from megacontext.tui.screens import KnobsScreen

VALUES = {"tau_expand": 0.1 + 0.2, "tau_collapse": 0.2, "n_diff": 4.0, "w_max": 1048577.0}


@pytest.mark.parametrize("typed", ["1e999", "-", ""])
async def test_only_a_number_is_sent_and_nothing_that_nobody_touched(typed: str) -> None:
    app: App[None] = App()
    chosen: list[dict[str, float] | None] = []
    async with app.run_test(size=(80, 24)) as pilot:
        screen = KnobsScreen(VALUES)
        await app.push_screen(screen, chosen.append)
        field = screen.query_one("#n_diff", Input)
        for value in (typed, "5"):
            assert chosen == []
            assert app.screen is screen
            field.value = value
            field.focus()
            await pilot.press("enter")
        await pilot.pause()
    assert chosen == [{"n_diff": 5.0}]
