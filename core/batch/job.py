"""What a worker process does with one job."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from megacontext.core.batch.plan import BatchJob
from megacontext.core.config import parse_config
from megacontext.core.runtime.pretrained import resolve_kinds, weights_id
from megacontext.traces.errors import MegaContextError
from megacontext.traces.reader import TraceReader

__all__ = ["JobResult", "is_finished", "run_job"]


@dataclass(frozen=True)
class JobResult:
    """``error`` is one sentence, empty if the job ended well."""

    name: str
    error: str


def run_job(job: BatchJob) -> JobResult:
    """Run one job; a failure is a sentence, never an exception.

    The trace is written beside its final name and moved there when it is whole.
    """
    from megacontext.core.runtime.run import run

    part = job.trace.with_suffix(".part.arrow")
    try:
        job.trace.parent.mkdir(parents=True, exist_ok=True)
        run(parse_config(job.config), part, control=False, read_stdin=False)
        os.replace(part, job.trace)  # noqa: PTH105
    except MegaContextError as error:
        return JobResult(job.name, str(error))
    except OSError as error:
        return JobResult(
            job.name,
            f"{error.filename or job.trace} cannot be written ({error.strerror or error}); free "
            "space or name another folder with --out, and run again.",
        )
    except Exception as error:  # a bug in one job must not cost the others; it is listed
        return JobResult(job.name, f"{type(error).__name__}: {error}")
    return JobResult(job.name, "")


def is_finished(job: BatchJob) -> bool:
    """Whether the job's trace is there, complete, of the same resolved config and weights."""
    if not job.trace.is_file():
        return False
    try:
        with TraceReader.open(job.trace) as reader:
            recorded = parse_config(reader.meta.config, recorded=True)
            # A trace records what an ``auto`` kind came to; it counts while it would again.
            requested = parse_config(job.config)
            config = resolve_kinds(requested)
            if (requested.lens.kind, config.lens.kind) == ("auto", "heads"):
                # Of a model whose heads find nothing it came to bm25, which only loading tells.
                config = replace(config, lens=recorded.lens)
            weights = reader.meta.extra.get("mc.weights", "")
            return reader.finished and recorded == config and weights == weights_id(config)
    except MegaContextError:
        return False  # another version's trace, or a damaged one: run again
