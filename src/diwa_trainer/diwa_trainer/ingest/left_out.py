"""What of a bag is left out, or kept but worth knowing: counted, by bag and reason, and said."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from diwa_runtime.rows.row import Assembly, Rows
from diwa_trainer.ingest.recording import Recording

Drop = Callable[[str, int], None]
"""Notes that something of a bag was left out: why, and how often."""

ROUNDING = 1e-3
"""By which an action may exceed 1 through units and float32 alone."""


def count_recording(recording: Recording, drop: Drop) -> None:
    """Count the messages and marks of a bag that no episode takes."""
    for reason, count in {**recording.left_out, **recording.cuts.stray}.items():
        drop(reason, count)
    data = next(data for data in recording.streams if data.stream.field == "proprio")
    outside = len(data.stamps) - sum(len(data.between(span.start, span.end)[0]) for span in recording.cuts.spans)
    if outside:
        drop("message of the robot's state outside of any episode", outside)


def count_assembly(assembly: Assembly, max_gap_s: float, drop: Drop) -> None:
    """Count what became no row of an episode."""
    for topic, count in assembly.missing.items():
        drop(f"row without a fresh message of {topic}", count)
    if assembly.held:
        drop(f"gap of up to {max_gap_s:g} s: the row before it is held (rows kept)", assembly.held)
    if len(assembly.segments) > 1:
        drop(f"gap of more than {max_gap_s:g} s: the episode is split there (rows kept)", len(assembly.segments) - 1)


def count_beyond(rows: Rows, drop: Drop) -> None:
    """Count rows that moved further than a command may, as an arm guided by hand does: no policy can follow them."""
    beyond = int((np.abs(rows.action) > 1 + ROUNDING).any(axis=-1).sum())
    if beyond:
        drop("row that moves further than an action of 1: guide more slowly (rows kept)", beyond)
