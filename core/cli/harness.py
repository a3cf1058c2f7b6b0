"""``megacontext lm-eval``: lm-evaluation-harness with the model ``megacontext`` registered."""

from __future__ import annotations

import sys

import typer

from megacontext.traces.errors import ConfigError

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=True,
)
def lm_eval(context: typer.Context) -> None:
    """Run lm-evaluation-harness on the focus; all options are the harness's own.

    Example: megacontext lm-eval --model_args pretrained=smollm2,w_max=2048 --tasks lambada_openai
    """
    try:
        from lm_eval.__main__ import cli_evaluate
    except ImportError:
        raise ConfigError(
            'lm-evaluation-harness is not installed; run: pip install "megacontext[lm-eval]".'
        ) from None
    from megacontext.core.benchmarks import harness  # noqa: F401  # registers the model

    arguments = list(context.args)
    if "--model" not in arguments and not any(a.startswith("--model=") for a in arguments):
        at = 1 if arguments[:1] == ["run"] else 0
        arguments[at:at] = ["--model", "megacontext"]
    sys.argv = ["lm_eval", *arguments]
    cli_evaluate()
