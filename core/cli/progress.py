"""Progress bars: rate and ETA on a terminal, silent elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from megacontext.core.config.sources import (
    DecodeSegment,
    IngestSegment,
    PromptSource,
    ScriptSource,
    SourceConfig,
    StdinSource,
)
from megacontext.core.stages import reporting

__all__ = ["expected_tokens", "loading_shown", "silence_libraries", "token_progress"]


class _Rate(ProgressColumn):
    """Items per second."""

    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        return Text("" if rate is None else f"{rate:,.0f} tokens/s", style="progress.data.speed")


def silence_libraries() -> None:
    """The progress bars are the command's own; loading a model shows none."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def expected_tokens(source: SourceConfig) -> int | None:
    """Tokens a source will give, as far as its config tells; None where it does not."""
    match source:
        case ScriptSource():
            counts = (IngestSegment, DecodeSegment)
            return sum(s.tokens for s in source.segments if isinstance(s, counts)) or None
        case PromptSource() | StdinSource():
            return None
        case _:
            return source.max_tokens + source.decode_tokens if source.max_tokens else None


@contextmanager
def token_progress(source: SourceConfig, console: Console) -> Iterator[Callable[[int], None]]:
    """A bar over history tokens; gives the callback that moves it."""
    columns = (
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    hidden = not console.is_terminal or console.quiet or isinstance(source, PromptSource)
    with Progress(*columns, console=console, disable=hidden) as bar:
        task = bar.add_task("history", total=expected_tokens(source))
        show = partial(_show_stage, bar, task)
        with reporting(show):
            yield lambda n_tokens: bar.update(task, completed=n_tokens)


def _show_stage(bar: Progress, task: TaskID, text: str) -> None:
    bar.update(task, description=text or "history")


@contextmanager
def loading_shown(console: Console) -> Iterator[None]:
    """A line that says what is loading, on a terminal; gone when it is done."""
    hidden = not console.is_terminal or console.quiet
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=hidden, transient=True) as bar:
        task = bar.add_task("loading", total=None)
        with reporting(lambda text: bar.update(task, description=text or "loading")):
            yield
