"""What ``megacontext data prepare`` shows on a terminal: a line per stage, with count and rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

__all__ = ["stages"]


class _Rate(ProgressColumn):
    """Amount per second, once it is known."""

    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        return Text("" if rate is None else f"{rate:,.0f}/s", style="progress.data.speed")


@contextmanager
def stages(console: Console) -> Iterator[Callable[[str, int], None]]:
    """Gives the callback (what, amount done); nothing is shown where there is no terminal.

    How much is to come is not known: a source is read once, while it is tokenized.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.completed:,.0f} {task.description}"),
        _Rate(),
        TimeElapsedColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:

        def advance(label: str, count: int) -> None:
            if label not in tasks:
                tasks[label] = bar.add_task(label, total=None)
            bar.advance(tasks[label], count)

        yield advance
