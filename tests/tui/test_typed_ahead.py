"""Keys that come faster than the screen changes neither fail nor are lost."""

from __future__ import annotations

import pytest
from textual import events

from megacontext.tui.app import InspectorApp
from megacontext.tui.screens import ChoiceScreen, HelpScreen, KnobsScreen, PromptScreen
from megacontext.tui.screens.dialog import Dialog
from megacontext.tui.state.view import Node


def all_at_once(app: InspectorApp, *keys: str) -> None:
    """Key presses that lie in the queue together, as from a terminal that pastes them."""
    for key in keys:
        app.post_message(events.Key(key, key if len(key) == 1 else None))


async def test_enter_typed_ahead_drills_into_what_the_first_one_found(story, start) -> None:
    app = start(story())
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("g", *"L1@3")
        all_at_once(app, "enter", "enter", "enter")
        for _ in range(4):
            await pilot.pause()
        assert not isinstance(app.screen, Dialog)
        assert app.session.view.node == Node(1, 3)
        assert app.session.view.inspecting


@pytest.mark.parametrize(
    ("key", "answers", "screen"),
    [
        ("e", ("n", "s"), ChoiceScreen),
        ("e", ("escape", "escape"), ChoiceScreen),
        ("slash", ("escape", "escape"), PromptScreen),
        ("k", ("enter", "enter"), KnobsScreen),
        ("question_mark", ("escape", "escape"), HelpScreen),
    ],
)
async def test_a_dialog_takes_one_answer(story, start, key: str, answers, screen: type) -> None:
    app = start(story(mode="LIVE"))
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press(key)
        assert isinstance(app.screen, screen)
        all_at_once(app, *answers)
        for _ in range(4):
            await pilot.pause()
        assert not isinstance(app.screen, Dialog)
        assert len(app.screen_stack) == 1


@pytest.mark.parametrize("keys", [("enter", "enter"), ("escape", "escape"), ("ctrl+p",)])
async def test_the_palette_takes_keys_typed_ahead(story, start, keys: tuple[str, ...]) -> None:
    app = start(story())
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        all_at_once(app, "ctrl+p", "h", "e", *keys)
        for _ in range(6):
            await pilot.pause(0.05)
        assert len(app.screen_stack) == 1 or keys == ("ctrl+p",)
        await pilot.press("escape")
        assert len(app.screen_stack) == 1
