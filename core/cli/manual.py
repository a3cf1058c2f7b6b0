"""What every command has in common: the end of ``megacontext --help``, and of each command's."""

__all__ = ["EXIT_STATUS", "MANUAL"]

EXIT_STATUS = (
    "[bold]Exit status.[/bold] 0: done. 1: a check or the run itself failed. 2: an argument, a "
    "config or a file is refused. 130: stopped. `megacontext --help` has what all commands share."
)
"""The end of a command's help that does not say it in its own words."""

MANUAL = "\n\n".join(
    (
        "[bold]Exit status.[/bold] 0: done. 1: a check or the run itself failed. 2: an argument, a "
        "config or a file is refused; one sentence names it, its value and the fix. 130: stopped "
        "by ctrl+c or SIGTERM; the trace is whole up to there.",
        "[bold]Configs.[/bold] --config takes a YAML file, a trace (its run is repeated), or the "
        "name of a packaged config, such as demo. `megacontext configs` lists them, `megacontext "
        "configs explain KEY` says what a key means.",
        "[bold]Environment.[/bold] HF_HOME, HF_HUB_OFFLINE: models of the hub. "
        "CUDA_VISIBLE_DEVICES: GPUs. OTEL_*, WANDB_*: where telemetry goes. RAY_ADDRESS: the "
        "cluster of `batch --engine ray`. NO_COLOR: plain text.",
        "[bold]Files.[/bold] runs/NAME.arrow: the trace of a run, with .lock and .sock beside it "
        "while it is written. --tree DIR: a history that outlives its process.",
        "[bold]See also.[/bold] `megacontext COMMAND --help`; `mc-tui --help`; "
        "`megacontext doctor`.",
    )
)
