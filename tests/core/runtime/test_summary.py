"""The table at a run's end."""

import io

from rich.console import Console

from megacontext.core.runtime.summary import Summary, print_summary


def printed(**changes):
    metrics = dict.fromkeys(
        ("history_tokens", "refocuses", "rows", "expands", "collapses", "forced", "w_max"), 3
    )
    metrics |= dict.fromkeys(("utilization", "swap_rate", "residency", "nll_ingest", "nll_decode"))
    facts = {"trace": "runs/a.arrow", "seconds": 1.0, "tokens_per_s": 3.0, "violations": 0}
    facts |= {"bad_scores": 0, "stopped": False, "answers": [], "metrics": metrics}
    out = io.StringIO()
    print_summary(Summary(**(facts | changes)), Console(file=out, width=100))
    return " ".join(out.getvalue().split())


def test_what_was_not_measured_is_no_share():
    said = printed()
    assert "residency not measured" in said
    assert "none of the frontier" not in said


def test_texts_in_brackets_are_shown_as_they_are():
    answer = {"about": "[red]", "expected": "[/b] x", "text": " [bold]y[/] \\", "right": True}
    said = printed(trace="runs/[bold]a.arrow", answers=[answer])
    for text in ("runs/[bold]a.arrow", "[red]", "[/b] x", "✓ [bold]y[/] \\"):
        assert text in said
