"""The config of one run: a typed tree. Defaults are the reference settings of the demo."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from megacontext.core.config.fields import option
from megacontext.core.config.sources import PythonSource, SourceConfig

__all__ = [
    "AlarmsConfig",
    "AllocatorConfig",
    "Config",
    "EchoConfig",
    "FocusConfig",
    "GistConfig",
    "IngestConfig",
    "KVConfig",
    "LensConfig",
    "ModelConfig",
    "QuestionConfig",
    "SamplingConfig",
    "TelemetryConfig",
    "TraceConfig",
    "TreeConfig",
    "TriggersConfig",
]


@dataclass(frozen=True)
class ModelConfig:
    """The frozen base model."""

    path: str = option(
        "demo", "'demo' (bundled), 'smollm2' (extra), a model folder, a .gguf file, or a hub id"
    )
    dtype: str = option(
        "auto",
        "auto: bfloat16 on a GPU, float32 on a CPU",
        choices=("auto", "float32", "bfloat16"),
    )
    adapter: str | None = option(None, "LoRA adapter folder, merged into the weights")
    chat: str = option(
        "auto",
        "render questions and turns with the chat template; auto: if there is one (not demo's)",
        choices=("auto", "on", "off"),
    )
    bos: str = option(
        "auto",
        "begin a history with the model's first token; auto: if its tokenizer does",
        choices=("auto", "on", "off"),
    )
    special_tokens: bool = option(
        False, "a special token's name in a text gives that token, not its letters"
    )


@dataclass(frozen=True)
class TreeConfig:
    """Where the history and its gists live."""

    storage: str = option("ram", "ram, or disk (memory-mapped files)", choices=("ram", "disk"))
    path: str | None = option(None, "folder of a disk tree; --tree DIR sets it")
    max_levels: int = option(4, "highest gist level", low=1, high=8)
    dtype: str = option("fp16", "how gists are stored", choices=("fp16", "bf16", "fp32"))
    commit_blocks: int = option(32, "blocks between two commits of a disk tree", low=1, high=2**20)


@dataclass(frozen=True)
class GistConfig:
    """Who makes gists and index keys."""

    kind: str = option(
        "auto",
        "auto: gistnet where path names one or the bundle has one for the model, else none: what "
        "is collapsed is not seen",
        choices=("auto", "gistnet", "none", "token", "mean"),
    )
    path: str | None = option(None, "GistNet checkpoint folder (kind gistnet or auto)")
    products: str = option(
        "float32",
        "matrix products of GistNet on a CPU; auto: bfloat16 where it has matrix units (AMX)",
        choices=("float32", "auto"),
    )


@dataclass(frozen=True)
class LensConfig:
    """Who scores the frontier."""

    kind: str = option(
        "auto",
        "auto: lensnet where path names one, or the bundle's with its GistNet; else similarity "
        "with trained keys; else heads, or bm25 for a model whose heads find nothing",
        choices=(
            "auto",
            "lensnet",
            "heads",
            "similarity",
            "bm25",
            "attention",
            "recency",
            "random",
            "oracle",
        ),
    )
    path: str | None = option(
        None, "LensNet checkpoint folder, or heads: a calibration; none: the cached one"
    )
    margin: float | None = option(
        None,
        "heads: a question expands blocks with at least this fraction of the best block's "
        "strength; none: the calibration's",
        low=0.01,
        high=1.0,
    )
    hops: int | None = option(
        None,
        "heads: times that what an expanded block says becomes the query; none: the calibration's",
        low=0,
        high=8,
    )
    newest: int = option(
        10, "heads: newest blocks that a question leaves raw, whatever it asks", low=0, high=4096
    )
    query_tokens: int = option(
        32,
        "newest tokens that form the query of similarity, bm25 and attention; LensNet reads as "
        "many as it was trained on",
        low=1,
        high=1024,
    )


@dataclass(frozen=True)
class AllocatorConfig:
    """The policy that turns scores into actions."""

    kind: str = option(
        "greedy",
        "policy",
        choices=(
            "greedy",
            "simple",
            "stochastic_greedy",
            "slot",
            "optimal",
            "learned",
            "transformer",
        ),
    )
    temperature: float = option(
        0.1, "of the draw (stochastic_greedy) or the competition (slot)", low=1e-3, high=10
    )
    top_k: int = option(8, "stochastic_greedy: candidates in the draw", low=1, high=1024)
    path: str | None = option(None, "learned: policy checkpoint folder")


@dataclass(frozen=True)
class QuestionConfig:
    """Limits of a refocus that a question, a turn end or a surprise triggers.

    An echo's has its ``n_diff``, ``rounds`` and ``reopen``.
    """

    n_diff: int = option(8, "voluntary actions a round", low=0, high=4096)
    rounds: int = option(6, "rounds", low=1, high=32)
    tau_expand: float | None = option(
        None, "expand above this score; none: as focus.tau_expand", low=0.0, high=1.0
    )
    reopen: bool = option(
        True, "a question or turn end may expand at once what was collapsed just before it"
    )


@dataclass(frozen=True)
class FocusConfig:
    """The allocator's constraints."""

    n_diff: int = option(4, "voluntary actions a round", low=0, high=4096)
    tau_expand: float = option(0.20, "expand above this score", low=0.0, high=1.0)
    tau_collapse: float = option(0.20, "collapse below minus this score", low=0.0, high=1.0)
    cooldown_steps: int = option(2, "refocuses before a node may flip back", low=0, high=64)
    rounds: int = option(3, "rounds of score-and-allocate in one refocus", low=1, high=255)
    protected_blocks: int = option(2, "newest blocks that stay raw", low=0, high=4096)
    keep_newest: int = option(
        0,
        "newest blocks collapsed by choice only at a question, turn end, surprise or echo",
        low=0,
        high=4096,
    )
    lag: int = option(
        0,
        "tokens decoded between a closed block's refocus and its edit of the window, which is then "
        "computed with the next token; questions, turns and echoes never wait",
        low=0,
        high=1023,
    )
    question: QuestionConfig = field(default_factory=QuestionConfig)


@dataclass(frozen=True)
class KVConfig:
    """How the key-value cache follows the working context."""

    mode: str = option("splice", "splice, or exact recompute", choices=("splice", "exact"))
    positions: Literal["packed", "global", "gap"] = option(
        "packed", "position of each window entry", choices=("packed", "global", "gap")
    )
    reread: int = option(
        64,
        "newest tokens computed again at a question or turn end, after it expanded blocks",
        low=0,
    )
    drift_every: int = option(64, "edits between two drift samples; 0: never", low=0)
    drift_bound: float = option(0.05, "KL in nats above which a refresh starts", low=0.0)
    refresh_every: int = option(8192, "tokens between two full refreshes; 0: never", low=0)
    refresh_chunk: int = option(256, "rows recomputed at a time in a refresh", low=1)


@dataclass(frozen=True)
class EchoConfig:
    """An echo: the newest tokens repeat an earlier passage. What followed it is wanted raw."""

    match: int = option(0, "tokens that have to agree; 0: never", low=0, high=32)
    min_gap: int = option(1, "tokens between such a refocus and the one before", low=1)
    remembered: int = option(8, "tokens for which what followed keeps its score", low=1)


@dataclass(frozen=True)
class TriggersConfig:
    """Refocuses beside the one at each closed block."""

    question_mark: bool = option(True, "after a token that ends in '?'")
    turn_end: bool = option(True, "after a turn of a conversation")
    surprisal: float = option(8.0, "after a decoded token of this NLL in nats; 0: never", low=0.0)
    min_gap: int = option(8, "tokens that must lie between two refocuses", low=1)
    echo: EchoConfig = field(default_factory=EchoConfig)


@dataclass(frozen=True)
class IngestConfig:
    """How long text is read into the history; questions and turns are read block by block."""

    chunk: int = option(
        0,
        "tokens of whole blocks that one forward reads and one refocus follows, where the budget "
        "holds them; 0: block by block",
        low=0,
        high=2**22,
    )
    nll: bool = option(
        True,
        "the model reads each chunk in the window, which gives its NLL; off: a chunk is stored "
        "and indexed, and the model reads the window when all text is in",
    )


@dataclass(frozen=True)
class SamplingConfig:
    """How a decoded token is drawn."""

    temperature: float = option(0.0, "0 is greedy", low=0.0, high=10.0)
    top_k: int = option(0, "0: all tokens", low=0)
    top_p: float = option(1.0, "nucleus mass", low=0.0, high=1.0)


@dataclass(frozen=True)
class TraceConfig:
    """What the trace keeps."""

    scores: str = option(
        "f16",
        "how scores are stored: exactly, in 256 steps, the 256 (or topk:N) of largest size, or "
        "not at all",
        choices=("f16", "u8", "topk", "none"),
        numbered="topk",
    )
    flush_rows: int = option(8, "rows in a batch", low=1, high=1024)
    flush_ms: int = option(250, "longest wait of a row", low=1, high=60_000)
    queue_rows: int = option(1024, "rows that wait for the writer before scores drop", low=1)
    delta_nll_every: int = option(
        0, "refocuses between two measurements of delta NLL; 0: never", low=0
    )
    horizon: int = option(64, "tokens over which delta NLL is measured", low=1, high=4096)


@dataclass(frozen=True)
class TelemetryConfig:
    """Live metrics of a session, written by a thread of their own (docs/telemetry.md)."""

    sinks: list[str] = option([], "any of tensorboard, wandb, otel, prometheus; --telemetry")
    path: str | None = option(None, "folder of their files; none: NAME.telemetry by the trace")
    flush_ms: int = option(500, "between two batches", low=10, high=60_000)
    queue_refocuses: int = option(4096, "refocuses that may wait; more are dropped", low=1)
    prometheus_port: int = option(
        0, "serve Prometheus text at 127.0.0.1:PORT/metrics; 0: a file alone", low=0, high=65_535
    )


@dataclass(frozen=True)
class AlarmsConfig:
    """Bounds on what a session does; beyond one, a marker in the trace (docs/telemetry.md).

    A bound of 0 watches nothing.
    """

    enabled: bool = option(True, "watch at all")
    window: int = option(
        24, "refocuses that a mean is taken over; residency: 4 times as many", low=1, high=4096
    )
    samples: int = option(3, "samples of delta NLL or drift for a mean", low=1, high=1024)
    hysteresis: float = option(
        0.1, "part of the bound that a mean must come back before its alarm is over", low=0, high=1
    )
    swap_rate: float = option(0.25, "alarm above this mean swap rate", low=0.0)
    residency: float = option(0.90, "alarm below this mean residency", low=0.0, high=1.0)
    delta_nll: float = option(
        0.10, "alarm above this mean delta NLL, where trace.delta_nll_every measures it", low=0.0
    )
    drift: float = option(0.05, "alarm above this mean drift of the cache, KL in nats", low=0.0)
    raw_blocks: float = option(
        5.0, "alarm below so many raw blocks beside the protected ones, on average", low=0.0
    )
    stale_gists: float = option(
        0.05,
        "alarm if this fraction of the history is seen through gists of a GistNet that was not "
        "trained with the base model as it is",
        low=0.0,
        high=1.0,
    )


@dataclass(frozen=True)
class Config:
    """One run. ``load_config`` makes it, ``dump_config`` writes it back."""

    seed: int = option(0, "every random choice follows from it", low=0, high=2**63 - 1)
    device: str = option("auto", "where the model runs", choices=("auto", "cpu", "cuda"))
    threads: int = option(0, "CPU threads of the model; 0: half of the cores", low=0, high=1024)
    w_max: int = option(1024, "entries of the working context", low=4, high=2**22)
    block_size: int = option(32, "tokens of a block, K", low=2, high=1024, power_of_two=True)
    model: ModelConfig = field(default_factory=ModelConfig)
    tree: TreeConfig = field(default_factory=TreeConfig)
    gist: GistConfig = field(default_factory=GistConfig)
    lens: LensConfig = field(default_factory=LensConfig)
    allocator: AllocatorConfig = field(default_factory=AllocatorConfig)
    focus: FocusConfig = field(default_factory=FocusConfig)
    kv: KVConfig = field(default_factory=KVConfig)
    triggers: TriggersConfig = field(default_factory=TriggersConfig)
    ingest: IngestConfig = field(default_factory=IngestConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    trace: TraceConfig = field(default_factory=TraceConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
    alarms: AlarmsConfig = field(default_factory=AlarmsConfig)
    source: SourceConfig = field(default_factory=PythonSource)
