"""Streams by name: seeded histories with ground truth."""

from __future__ import annotations

from megacontext.simulator.registry import pick
from megacontext.simulator.streams.anti_policy import AntiPolicy
from megacontext.simulator.streams.base import EMPTY, Stream, StreamSpec, Truth, truth
from megacontext.simulator.streams.burst import Burst
from megacontext.simulator.streams.code_session import CodeSession
from megacontext.simulator.streams.conversation import Conversation
from megacontext.simulator.streams.drift import Drift
from megacontext.simulator.streams.lives import Lives
from megacontext.simulator.streams.loop import Loop
from megacontext.simulator.streams.multi_needle import MultiNeedle
from megacontext.simulator.streams.needle import Needle
from megacontext.simulator.streams.recorded import Recorded
from megacontext.simulator.streams.scan import Scan
from megacontext.simulator.streams.topic_shift import TopicShift
from megacontext.simulator.streams.uniform import Uniform
from megacontext.simulator.streams.zipf import Zipf
from megacontext.simulator.streams.zoom_in import ZoomIn
from megacontext.simulator.streams.zoom_out import ZoomOut

__all__ = ["EMPTY", "STREAMS", "Lives", "Stream", "StreamSpec", "Truth", "make_stream", "truth"]

_ALL: tuple[type[Stream], ...] = (
    Uniform,
    Zipf,
    Needle,
    MultiNeedle,
    TopicShift,
    ZoomIn,
    ZoomOut,
    Scan,
    Loop,
    Drift,
    Burst,
    Conversation,
    CodeSession,
    AntiPolicy,
    Recorded,
)

STREAMS: dict[str, type[Stream]] = {stream.name: stream for stream in _ALL}


def make_stream(name: str, spec: StreamSpec) -> Stream:
    """The stream called ``name``.

    Raises:
        ConfigError: an unknown name, or ``recorded`` without a recording.
    """
    return pick(STREAMS, name, "stream")(spec)
