"""A person's own keys and themes: files in ``~/.config/megacontext``.

``keymap.yaml`` maps command ids to keys (``extremes: ctrl+e``). ``themes/NAME.yaml`` gives a
theme: ``like: mc-dark`` or ``mc-light``, and colours (``#rrggbb``) by role, for example
``text: "#e0e0e0"``; ``l0`` to ``l2`` are the hues of the levels, ``score`` and ``nll`` lists of
colours along the ramps.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from megacontext.traces.errors import ConfigError
from megacontext.tui.commands import BY_ID
from megacontext.tui.palette import LEVEL_SHADES, RAMP, SURPRISE, Palette, Role, blend, ramp
from megacontext.tui.themes import PALETTES, THEME_NAMES

__all__ = ["config_folder", "user_keymap", "user_themes"]

_KEY = re.compile(r"(ctrl\+|shift\+|alt\+)*[a-zA-Z0-9_]+")
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_LEVELS = {"l0": Role.L0, "l1": Role.L1, "l2": Role.L2}
_RAMPS = {"score": (Role.SCORE, RAMP), "nll": (Role.NLL, SURPRISE)}
_PLAIN = {role.name.lower(): role for role in Role if int(role) < int(Role.L0)}


def config_folder() -> Path:
    """Where the files lie; ``XDG_CONFIG_HOME`` is respected."""
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "megacontext"


def _load(path: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} cannot be read ({reason}); repair or remove it.") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} is {type(loaded).__name__}; it must map names to values.")
    return loaded


def user_keymap(folder: Path | None = None) -> dict[str, str]:
    """Keys by command id from ``keymap.yaml``; {} where there is none.

    Raises:
        ConfigError: an unknown command, no key, or one key for two commands.
    """
    path = (folder or config_folder()) / "keymap.yaml"
    if not path.exists():
        return {}
    keys: dict[str, str] = {}
    for name, key in _load(path).items():
        if name not in BY_ID:
            raise ConfigError(
                f"{path}: {name!r} is no command; the ids are {', '.join(sorted(BY_ID))}."
            )
        names = str(key)
        if not all(_KEY.fullmatch(part.strip()) for part in names.split(",")):
            raise ConfigError(
                f"{path}: {name}: {names!r} is no key; write it like ctrl+e, f5 or full_stop."
            )
        keys[name] = names

    # A key that two commands share is refused where one of the two was set here.
    taken: dict[str, str] = {}
    for command in BY_ID.values():
        for part in keys.get(command.id, command.key).split(","):
            other = taken.setdefault(part.strip(), command.id)
            if other != command.id and (command.id in keys or other in keys):
                raise ConfigError(
                    f"{path}: {part.strip()!r} is the key of both {other} and {command.id};"
                    " give one of them another."
                )
    return keys


def user_themes(folder: Path | None = None) -> dict[str, tuple[Palette, bool]]:
    """(palette, whether it is dark) by name from ``themes/*.yaml``.

    Raises:
        ConfigError: an unknown role, or a value that is no colour.
    """
    themes_folder = (folder or config_folder()) / "themes"
    themes = {}
    for path in sorted(themes_folder.glob("*.yaml")) if themes_folder.is_dir() else []:
        themes[path.stem] = _theme_of(path)
    return themes


def _theme_of(path: Path) -> tuple[Palette, bool]:
    section = _load(path)
    like = section.pop("like", "mc-dark")
    if like not in ("mc-dark", "mc-light"):
        raise ConfigError(f"{path}: like = {like!r}; choose mc-dark or mc-light.")
    if path.stem in THEME_NAMES:
        raise ConfigError(f"{path}: the name {path.stem} is taken; rename the file.")

    # The ground comes first: the levels' shades are mixed with it.
    colours = list(PALETTES[like].colours)
    for name, value in section.items():  # the ground first: the levels' shades are mixed with it
        if name in _PLAIN:
            colours[_PLAIN[name]] = _colour(path, name, value)
    for name, value in section.items():
        if name in _LEVELS:
            hue = _colour(path, name, value)
            for shade in range(LEVEL_SHADES):
                share = 0.34 + 0.66 * shade / (LEVEL_SHADES - 1)
                colours[_LEVELS[name] + shade] = blend(colours[Role.BASE], hue, share)
        elif name in _RAMPS:
            first, steps = _RAMPS[name]
            stops = value if isinstance(value, list) and len(value) > 1 else []
            if not stops:
                raise ConfigError(f"{path}: {name} must be a list of two colours or more.")
            checked = [_colour(path, name, stop) for stop in stops]
            colours[first : first + steps] = ramp(checked, steps)
        elif name not in _PLAIN:
            known = ", ".join([*_PLAIN, *_LEVELS, *_RAMPS])
            raise ConfigError(f"{path}: {name!r} is no role; known are like (a theme), {known}.")
    return Palette(path.stem, tuple(colours)), like == "mc-dark"


def _colour(path: Path, name: str, value: object) -> str:
    if not isinstance(value, str) or not _COLOUR.fullmatch(value):
        raise ConfigError(f"{path}: {name} = {value!r} is no colour; write it like '#1a2b3c'.")
    return value.lower()
