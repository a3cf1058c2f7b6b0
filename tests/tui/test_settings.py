"""A person's own keys and themes, and what is wrong with them in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from megacontext.traces.errors import ConfigError
from megacontext.tui.app import InspectorApp
from megacontext.tui.launch import pick_theme
from megacontext.tui.palette import RAMP, Role
from megacontext.tui.settings import user_keymap, user_themes
from megacontext.tui.themes import PALETTES, THEMES


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    place = tmp_path / "megacontext"
    (place / "themes").mkdir(parents=True)
    palettes, themes = dict(PALETTES), list(THEMES)
    yield place
    PALETTES.clear()
    PALETTES.update(palettes)
    THEMES[:] = themes


async def test_a_keymap_file_moves_a_command_to_another_key(folder: Path, fake, clock) -> None:
    (folder / "keymap.yaml").write_text("zoom_in: ctrl+e\n")
    app = InspectorApp(fake(), clock=clock, ticking=False, unhurried=True)
    app.set_keymap(user_keymap())
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("w")
        assert app.session.view.window.whole
        await pilot.press("ctrl+e")
        assert not app.session.view.window.whole


def test_without_a_file_the_keys_stay(folder: Path) -> None:
    assert user_keymap() == {}
    assert user_themes() == {}


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ("fly: f", "'fly' is no command"),
        ("zoom_in: 'a b'", "is no key"),
        ("zoom_in: s", "both zoom_"),
        ("- zoom_in", "must map names"),
        ("zoom_in: [", "cannot be read"),
    ],
)
def test_a_wrong_keymap_is_refused_in_a_sentence(folder: Path, said: str, wrong: str) -> None:
    (folder / "keymap.yaml").write_text(said)
    with pytest.raises(ConfigError, match=wrong):
        user_keymap()


async def test_a_theme_file_is_a_theme(folder: Path, fake, clock) -> None:
    (folder / "themes" / "night.yaml").write_text(
        "like: mc-dark\nbase: '#000000'\ntext: '#EEEEEE'\nl0: '#00ff00'\n"
        "score: ['#000000', '#ff0000']\n"
    )
    assert pick_theme("night") == "night"
    colours = PALETTES["night"].colours
    assert colours[Role.TEXT] == "#eeeeee"
    assert colours[Role.L0 + 3] == "#00ff00"
    assert colours[Role.SCORE + RAMP - 1] == "#ff0000"
    assert colours[Role.DIM] == PALETTES["mc-dark"].colours[Role.DIM]
    app = InspectorApp(fake(), clock=clock, ticking=False, unhurried=True, theme="night")
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        assert "#eeeeee" in app.export_screenshot()


@pytest.mark.parametrize(
    ("name", "said", "wrong"),
    [
        ("night", "txt: '#000000'", "is no role"),
        ("night", "text: blue", "is no colour"),
        ("night", "score: '#000000'", "a list of two colours"),
        ("night", "like: mc-ansi", "choose mc-dark or mc-light"),
        ("mc-dark", "text: '#000000'", "is taken"),
    ],
)
def test_a_wrong_theme_is_refused_in_a_sentence(
    folder: Path, name: str, said: str, wrong: str
) -> None:
    (folder / "themes" / f"{name}.yaml").write_text(said)
    with pytest.raises(ConfigError, match=wrong):
        user_themes()
