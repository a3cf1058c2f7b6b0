"""Text can be read in every theme: contrast by WCAG 2.1, measured on the colours themselves."""

from __future__ import annotations

import pytest

from megacontext.tui.palette import LEVEL_SHADES, RAMP, SURPRISE, Palette, Role, level_role
from megacontext.tui.themes import PALETTES

TEXT_ROLES = {
    Role.TEXT, Role.DIM, Role.CONTEXT, Role.TITLE, Role.EXPAND, Role.COLLAPSE, Role.FORCED,
    Role.MARKER, Role.CURSOR, Role.SELECT, Role.WARN, Role.ERROR, Role.OK,
}  # fmt: skip
"""Roles in which words and numbers are written."""
LEVELS = {level_role(level, LEVEL_SHADES - 1) for level in range(3)}
SURPRISES = {int(Role.NLL) + step for step in range(SURPRISE)}
GROUNDS = (Role.BASE, Role.SURFACE, Role.GROUND)
COLOURED = [p for p in PALETTES.values() if p.colours[0].startswith("#")]


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("palette", COLOURED, ids=lambda p: p.name)
@pytest.mark.parametrize("ground", GROUNDS, ids=lambda r: r.name)
def test_text_has_a_contrast_of_at_least_4_5(palette: Palette, ground: Role) -> None:
    poor = {}
    for role in sorted({*map(int, TEXT_ROLES), *LEVELS, *SURPRISES}):
        measured = contrast(palette.colours[role], palette.colours[ground])
        if measured < 4.5:
            poor[role] = f"{palette.colours[role]}: {measured:.2f}"
    assert not poor


@pytest.mark.parametrize("palette", COLOURED, ids=lambda p: p.name)
def test_the_selected_blocks_ground_can_be_told_from_the_others(palette: Palette) -> None:
    assert contrast(palette.colours[Role.GROUND], palette.colours[Role.BASE]) > 1.25


@pytest.mark.parametrize("palette", COLOURED, ids=lambda p: p.name)
def test_a_score_of_zero_lies_near_the_background_and_a_high_one_far(palette: Palette) -> None:
    base = palette.colours[Role.BASE]
    assert contrast(palette.colours[Role.SCORE + RAMP // 2], base) < 1.15
    assert contrast(palette.colours[Role.SCORE + RAMP - 1], base) > 4.5


def test_no_text_of_the_ansi_theme_is_the_colour_that_terminals_draw_dark_on_dark() -> None:
    ansi = PALETTES["mc-ansi"].colours
    assert all(ansi[role] != "bright_black" for role in TEXT_ROLES)
