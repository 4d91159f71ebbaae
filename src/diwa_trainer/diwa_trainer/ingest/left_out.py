"""What of a bag is left out, or kept but worth knowing: counted, by bag and reason, and said."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from diwa_runtime.actions import GRIPPER
from diwa_runtime.rows.row import Assembly, Rows
from diwa_runtime.rows.streams import NANOSECONDS
from diwa_trainer.dataset import Dataset
from diwa_trainer.ingest.recording import Recording
from diwa_trainer.ingest.stream_data import StreamData

Drop = Callable[[str, int], None]
"""Notes that something of a bag was left out: why, and how often."""

ROUNDING = 1e-3
"""By which an action may exceed 1 through units and float32 alone."""
HELD = "the row before it is held"
SLOW = 0.9
"""A stream at less than this share of the rate of rows is slower than it is said to be."""
MANY_BEYOND = 0.4
"""A larger share of rows that move further than an action of 1 is no haste, but another `action_scale`."""
WIDTH, CLOSES = "gripper_width", 0.25
"""By so much of its range is the gripper narrower in the mean where it is told to open, if its sign is wrong."""
LEAST_WIDTH_M = 0.005
"""A gripper that opens less than that says nothing."""


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
        drop(f"gap of up to {max_gap_s:g} s: {HELD} (rows kept)", assembly.held)
    if len(assembly.segments) > 1:
        drop(f"gap of more than {max_gap_s:g} s: the episode is split there (rows kept)", len(assembly.segments) - 1)


def slow_stream(streams: Sequence[StreamData], rate_hz: float) -> str | None:
    """Say that the robot's state comes less often than rows are made, so that some are made up; None: it does not."""
    data = next(data for data in streams if data.stream.field == "proprio")
    intervals = np.diff(data.stamps) / NANOSECONDS
    if not len(intervals) or SLOW * rate_hz * np.median(intervals) <= 1:
        return None
    found = 1 / float(np.median(intervals))
    return (
        f"{data.stream.topic} comes at {found:.3g} Hz, and rows are made at {rate_hz:g} Hz: of every {rate_hz:g} rows "
        f'{rate_hz - found:.0f} are held ones; set "rate_hz": {found:.3g} in the Spec'
    )


def count_beyond(rows: Rows, drop: Drop) -> None:
    """Count rows that moved further than a command may, as an arm guided by hand does: no policy can follow them."""
    beyond = int((np.abs(rows.action) > 1 + ROUNDING).any(axis=-1).sum())
    if beyond:
        drop("row that moves further than an action of 1: guide more slowly (rows kept)", beyond)


def odd_actions(dataset: Dataset) -> Iterator[str]:
    """Yield what a whole dataset's actions say of the Spec: another scale, a gripper told the other way round."""
    action, spec = dataset.action, dataset.spec
    beyond = float((np.abs(action) > 1 + ROUNDING).any(axis=-1).mean())
    if beyond > MANY_BEYOND:
        parts = {"translation_m": action[:, :3], "rotation_rad": action[:, 3:6]}
        times = {name: float(np.quantile(np.abs(part).max(-1), 0.99)) for name, part in parts.items()}
        found = " and ".join(
            f"{name} {getattr(spec.action_scale, name) * size:.2g}" for name, size in times.items() if size > 1
        )
        yield (
            f"{beyond:.0%} of the rows move further than an action of 1, which no policy can follow; 99 % of them stay "
            f"within {found}: set that as action_scale in the Spec, or a higher rate_hz if the actions are those of "
            "shorter rows, or guide more slowly"
        )
    if WIDTH in spec.proprio:
        width, opens = dataset.proprio[:, spec.proprio.index(WIDTH)], action[:, GRIPPER] > 0
        if (
            opens.any()
            and not opens.all()
            and (width[~opens].mean() - width[opens].mean() > max(CLOSES * np.ptp(width), LEAST_WIDTH_M))
        ):
            stream = [stream for stream in spec.streams if stream.field == "action"][-1]
            closed, opened = stream.closed_open or (-1.0, 1.0)
            yield (
                f"the gripper is narrower where it is told {opened:g} (open) than where told {closed:g} (closed), "
                f"{WIDTH} {width[opens].mean():.3f} and {width[~opens].mean():.3f} m in the mean; give {stream.topic} "
                f'"closed_open": [{opened:g}, {closed:g}] in the Spec'
            )
