"""The config of a run: YAML to a typed tree, refusals by key path, and back."""

from megacontext.core.config.load import (
    check_lag,
    dump_config,
    load_config,
    parse_config,
    recorded_focus,
    smallest_w_max,
)
from megacontext.core.config.options import allocator_options
from megacontext.core.config.parser import build
from megacontext.core.config.schema import (
    AlarmsConfig,
    AllocatorConfig,
    Config,
    EchoConfig,
    FocusConfig,
    GistConfig,
    IngestConfig,
    KVConfig,
    LensConfig,
    ModelConfig,
    QuestionConfig,
    SamplingConfig,
    TelemetryConfig,
    TraceConfig,
    TreeConfig,
    TriggersConfig,
)

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
    "allocator_options",
    "build",
    "check_lag",
    "dump_config",
    "load_config",
    "parse_config",
    "recorded_focus",
    "smallest_w_max",
]
