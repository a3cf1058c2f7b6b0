"""The panes' signs in the panes' colours, for texts that explain them."""

from __future__ import annotations

from rich.text import Text

from megacontext.tui.palette import Role, level_role
from megacontext.tui.themes import PALETTES

__all__ = ["coloured"]

SIGNS: dict[str, int] = {
    r"(\w+ )?▀": level_role(0),
    r"(\w+ )?▄": level_role(1),
    r"(\w+ )?█": level_role(2),
    r"(?<=\()\+(?=\))": int(Role.EXPAND),
    r"(?<=\()−(?=\))": int(Role.COLLAPSE),
    r"✗": int(Role.WARN),
}


def coloured(text: Text, theme: str) -> Text:
    """``text`` with every sign in its colour under ``theme``, the same object."""
    palette = PALETTES.get(theme) or PALETTES["mc-dark"]
    for pattern, role in SIGNS.items():
        text.highlight_regex(pattern, f"bold {palette.colours[role]}")
    return text
