"""The three looks: dark, light and ANSI (the terminal's own 16 colours)."""

from __future__ import annotations

from textual.theme import BUILTIN_THEMES, Theme

from megacontext.tui.palette import COUNT, LEVEL_SHADES, RAMP, SURPRISE, Palette, Role, blend, ramp

__all__ = ["PALETTES", "THEMES", "THEME_NAMES", "add_theme"]


def _palette(
    name: str,
    base: str,
    plain: dict[Role, str],
    levels: tuple[str, str, str],
    score: list[str],
    surprise: list[str],
) -> Palette:
    colors = [plain.get(Role.TEXT, base)] * COUNT
    colors[Role.BASE] = base
    for role, color in plain.items():
        colors[role] = color
    for first, hue in zip((Role.L0, Role.L1, Role.L2), levels, strict=True):
        for shade in range(LEVEL_SHADES):
            fraction = 0.34 + 0.66 * shade / (LEVEL_SHADES - 1)
            colors[first + shade] = blend(base, hue, fraction)
    colors[Role.SCORE : Role.SCORE + RAMP] = ramp(score, RAMP)
    colors[Role.NLL : Role.NLL + SURPRISE] = ramp(surprise, SURPRISE)
    return Palette(name, tuple(colors))


_DARK = _palette(
    "mc-dark",
    "#0c1016",
    {
        Role.TEXT: "#d5dce4",
        Role.DIM: "#8b97a5",
        Role.FAINT: "#38434f",
        Role.CONTEXT: "#8b949d",
        Role.TITLE: "#e8eef5",
        Role.EXPAND: "#5fd38d",
        Role.COLLAPSE: "#ff9e64",
        Role.FORCED: "#c88064",
        Role.MARKER: "#f2cc60",
        Role.CURSOR: "#ffffff",
        Role.SELECT: "#ffffff",
        Role.WARN: "#f2cc60",
        Role.ERROR: "#ff7b72",
        Role.OK: "#5fd38d",
        Role.TAIL: "#e8eef5",
        Role.SURFACE: "#18202a",
        Role.GROUND: "#202b38",
    },
    ("#38d0e6", "#a78bfa", "#93a1b5"),
    [
        "#211c33",
        "#1f1b30",
        "#1c1a2c",
        "#191928",
        "#161824",
        "#141720",
        "#12161d",
        "#11161c",
        "#11181f",
        "#14252c",
        "#17353c",
        "#1c4d53",
        "#247370",
        "#2f9d8c",
        "#dca23c",
        "#ffc663",
    ],
    ["#8893a0", "#c3ccd6", "#e9dcb4", "#f5c469", "#ff9f5a", "#ff6f61"],
)

_LIGHT = _palette(
    "mc-light",
    "#fbfaf6",
    {
        Role.TEXT: "#23282e",
        Role.DIM: "#5a636d",
        Role.FAINT: "#c9cdd2",
        Role.CONTEXT: "#5d6268",
        Role.TITLE: "#0e1116",
        Role.EXPAND: "#127137",
        Role.COLLAPSE: "#a0470a",
        Role.FORCED: "#905238",
        Role.MARKER: "#855800",
        Role.CURSOR: "#000000",
        Role.SELECT: "#000000",
        Role.WARN: "#855800",
        Role.ERROR: "#ba2a21",
        Role.OK: "#127137",
        Role.TAIL: "#23282e",
        Role.SURFACE: "#ebeae4",
        Role.GROUND: "#e1dfd4",
    },
    ("#076b7d", "#6c4ac7", "#576375"),
    [
        "#e4dcf0",
        "#e8e1f1",
        "#ece6f2",
        "#f0ebf3",
        "#f3eff4",
        "#f6f3f5",
        "#f8f6f5",
        "#f9f8f5",
        "#f8f8f4",
        "#edf2ee",
        "#dcebe6",
        "#c2dfd9",
        "#93c8c0",
        "#4fa79d",
        "#c07a12",
        "#a3470a",
    ],
    ["#5b636a", "#4a535d", "#5a4a1e", "#875800", "#a0470a", "#ba2a21"],
)


def _ansi() -> Palette:
    colors = ["default"] * COUNT
    named = {
        Role.FAINT: "bright_black",
        Role.EXPAND: "green",
        Role.COLLAPSE: "yellow",
        Role.FORCED: "red",
        Role.MARKER: "bright_yellow",
        Role.WARN: "yellow",
        Role.ERROR: "red",
        Role.OK: "green",
    }
    for role, name in named.items():
        colors[role] = name

    # Levels by hue, scores and surprise as ramps of few colours.
    for first, name in ((Role.L0, "cyan"), (Role.L1, "magenta"), (Role.L2, "bright_black")):
        colors[first : first + LEVEL_SHADES] = [name] * LEVEL_SHADES
    colors[Role.SCORE : Role.SCORE + RAMP] = (
        ["bright_black"] * 7 + ["cyan"] * 3 + ["bright_cyan"] * 2 + ["yellow"] * 2
    ) + ["bright_yellow"] * 2
    colors[Role.NLL : Role.NLL + SURPRISE] = [
        "bright_black",
        "default",
        "default",
        "yellow",
        "bright_yellow",
        "red",
    ]
    return Palette("mc-ansi", tuple(colors), texture=True)


PALETTES: dict[str, Palette] = {p.name: p for p in (_DARK, _LIGHT, _ansi())}
THEME_NAMES = tuple(PALETTES)
"""The built-in ones; a person's own come after them in ``PALETTES``."""


def _theme(palette: Palette, *, dark: bool) -> Theme:

    # Textual's own widgets in the palette's colours; the mc- names are for titles and legends.
    c = palette.colours
    return Theme(
        name=palette.name,
        primary=c[Role.L0 + LEVEL_SHADES - 1],
        secondary=c[Role.L1 + LEVEL_SHADES - 1],
        accent=c[Role.MARKER],
        warning=c[Role.WARN],
        error=c[Role.ERROR],
        success=c[Role.OK],
        foreground=c[Role.TEXT],
        background=c[Role.BASE],
        surface=c[Role.BASE],
        panel=c[Role.SURFACE],
        dark=dark,
        variables={
            "footer-background": c[Role.SURFACE],
            "footer-key-foreground": c[Role.MARKER],
            "footer-description-foreground": c[Role.DIM],
            "border": c[Role.FAINT],
            # Titles and legends.
            "mc-title": c[Role.DIM],
            "mc-l0": c[Role.L0 + LEVEL_SHADES - 1],
            "mc-l1": c[Role.L1 + LEVEL_SHADES - 1],
            "mc-l2": c[Role.L2 + LEVEL_SHADES - 1],
            "mc-cold": c[Role.SCORE],
            "mc-zero": c[Role.SCORE + RAMP // 2],
            "mc-mild": c[Role.SCORE + RAMP * 3 // 4],
            "mc-hot": c[Role.SCORE + RAMP - 1],
            "mc-fold": c[Role.COLLAPSE],
            "mc-warm": c[Role.NLL + SURPRISE - 2],
        },
    )


def _ansi_theme() -> Theme:
    return Theme(
        name="mc-ansi",
        primary="ansi_cyan",
        secondary="ansi_magenta",
        accent="ansi_yellow",
        warning="ansi_yellow",
        error="ansi_red",
        success="ansi_green",
        foreground="ansi_default",
        background="ansi_default",
        surface="ansi_default",
        panel="ansi_default",
        boost="ansi_default",
        dark=True,
        ansi=True,
        variables={
            **BUILTIN_THEMES["ansi-dark"].variables,
            "border": "ansi_bright_black",
            "footer-background": "ansi_default",
            "footer-key-foreground": "ansi_yellow",
            "footer-description-foreground": "ansi_default",
            # Titles and legends.
            "mc-title": "ansi_default",
            "mc-l0": "ansi_cyan",
            "mc-l1": "ansi_magenta",
            "mc-l2": "ansi_bright_black",
            "mc-cold": "ansi_bright_black",
            "mc-zero": "ansi_cyan",
            "mc-mild": "ansi_bright_cyan",
            "mc-hot": "ansi_bright_yellow",
            "mc-fold": "ansi_yellow",
            "mc-warm": "ansi_bright_yellow",
        },
    )


THEMES: list[Theme] = [_theme(_DARK, dark=True), _theme(_LIGHT, dark=False), _ansi_theme()]


def add_theme(palette: Palette, *, dark: bool) -> None:
    """Make a person's own theme known to every app that starts from now on."""
    THEMES[:] = [theme for theme in THEMES if theme.name != palette.name]
    THEMES.append(_theme(palette, dark=dark))
    PALETTES[palette.name] = palette
