"""One picture: score over length of text, a line a contender."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megacontext.core.benchmarks.summary import MEAN, Cell, length_name
from megacontext.traces.errors import ConfigError, StorageError

__all__ = ["draw"]


def draw(path: Path, title: str, cells: Sequence[Cell]) -> None:
    """Write the means with their intervals as an image; its kind follows from the name.

    Raises:
        ConfigError: the extra ``plots`` is not installed.
        StorageError: the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(
            'a picture needs matplotlib; run: pip install "megacontext[plots]".'
        ) from None
    means = [cell for cell in cells if cell.task == MEAN]
    metric = Figure(figsize=(7.5, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(metric)
    axes = metric.add_subplot()

    min_length = min((cell.length for cell in means if cell.length), default=4096)
    at = {cell.length: cell.length or min_length // 4 for cell in means}

    # A little to the side of each other, so that intervals at one length can be told apart.
    names = list(dict.fromkeys(cell.contender for cell in means))
    for number, name in enumerate(names):
        own = [cell for cell in means if cell.contender == name]
        positions = [at[cell.length] * 1.02 ** (number - len(names) / 2) for cell in own]
        scores = [cell.score for cell in own]
        low = [max(cell.score - cell.interval[0], 0) for cell in own]
        high = [max(cell.interval[1] - cell.score, 0) for cell in own]
        style = {"linewidth": 2.4, "color": "black"} if name == "ours" else {"linewidth": 1.2}
        axes.errorbar(
            positions, scores, yerr=[low, high], marker="o", capsize=2, label=name, **style
        )

    lengths = sorted({cell.length for cell in means})
    axes.set_xscale("log", base=2)
    axes.set_xticks([at[length] for length in lengths], [length_name(length) for length in lengths])
    axes.minorticks_off()
    axes.set(ylim=(-0.02, 1.02), xlabel="tokens of text", ylabel="score", title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    part = path.with_name(f".{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        metric.savefig(part, format=path.suffix.removeprefix("."))
        part.replace(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror or error}).") from error
