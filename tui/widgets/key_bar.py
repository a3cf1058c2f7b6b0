"""The footer: as many keys as fit whole, the most wanted ones first."""

from __future__ import annotations

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.widgets import Footer
from textual.widgets._footer import FooterKey

__all__ = ["KeyBar"]

PALETTE = "-command-palette"
PALETTE_EDGES = 3
"""Cells of the palette's border and padding."""


class KeyBar(Footer):
    """Textual's footer without keys that the edge would cut; the palette has every command."""

    def compose(self) -> ComposeResult:
        keys = [key for key in super().compose() if isinstance(key, FooterKey)]
        palette = [key for key in keys if key.has_class(PALETTE)]
        free = self.app.size.width - sum(_cells(key) + PALETTE_EDGES for key in palette)
        for key in keys:
            if key not in palette:
                free -= _cells(key)
                if free < 0:
                    break
                yield key
                free -= 1  # between two keys
        yield from palette

    def on_resize(self) -> None:
        self.call_after_refresh(self.recompose)


def _cells(key: FooterKey) -> int:
    return cell_len(key.key_display) + 1 + cell_len(key.description)
