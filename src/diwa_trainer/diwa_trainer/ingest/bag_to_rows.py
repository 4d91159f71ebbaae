"""A bag becomes rows: its recording is cut by marks, each cut assembled at the control rate, and split at gaps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diwa_runtime.actions import GRIPPER
from diwa_runtime.errors import InputError
from diwa_runtime.rows.assembler import assemble
from diwa_runtime.rows.row import Rows
from diwa_runtime.rows.streams import NANOSECONDS
from diwa_runtime.spec import Spec
from diwa_trainer.ingest.left_out import count_assembly, count_recording
from diwa_trainer.ingest.parts import parts_of
from diwa_trainer.ingest.recording import Recording

MIN_ROWS = 2


@dataclass(frozen=True)
class EpisodeDraft:
    """One future episode: its rows and metadata; the row offset is assigned on write."""

    rows: Rows
    about: Mapping[str, Any]


def episode_drafts(
    recording: Recording,
    spec: Spec,
    fields: Sequence[str],
    drop: Callable[..., None],
    report: Callable[[str], None],
) -> Iterator[EpisodeDraft]:
    """Make the episodes of one bag.

    Args:
        recording: what was read of it.
        spec: of the dataset.
        fields: of an observation.
        drop: is told why something is left out, and how often.
        report: is told what a person should know, a line at a time.

    Raises:
        InputError: the gripper's command is neither of the two that the Spec says.
    """
    name = recording.bag.name
    max_gap_s = spec.max_gap_s
    count_recording(recording, drop)
    for span in recording.cuts.spans:
        if span.discarded:
            drop("episode marked to be discarded")
            continue
        assembly = assemble(spec, [data.between(span.start, span.end) for data in recording.streams], fields)
        if assembly.faults:
            fault = assembly.faults[0]
            drop(f"episode with a faulty message ({fault.topic}: {fault.reason})")
            report(f"warning: {name}: {fault.topic} at {fault.stamp} ns: {fault.reason}; its episode is left out")
            continue
        _check_gripper(assembly.segments, spec)
        count_assembly(assembly, max_gap_s, drop)
        parts = list(parts_of(assembly.segments, span, round(max_gap_s * NANOSECONDS)))
        lost = len(span.marks) - sum(len(part["marks"]) for _, part in parts)
        if lost:
            drop("mark of success that falls into a gap", lost)
        if not parts:
            drop("episode without a row")
        for rows, part in parts:
            if len(rows) < MIN_ROWS:
                drop(f"episode of fewer than {MIN_ROWS} rows")
            else:
                yield EpisodeDraft(rows, {**part, "seed": span.seed, "bag": name})


def _check_gripper(segments: Sequence[Rows], spec: Spec) -> None:
    """Refuse a gripper that is told something else than the Spec says: actions know open and closed alone."""
    for rows in segments:
        odd = rows.action[np.abs(rows.action[:, GRIPPER]) != 1, GRIPPER]
        if len(odd):
            topics = ", ".join(dict.fromkeys(stream.topic for stream in spec.streams if stream.field == "action"))
            raise InputError(
                f"{topics}: a gripper command is {odd[0]:g}, must be 1 (open) or -1 (closed); give its stream "
                'in the Spec the values that it has for them, such as "closed_open": [0, 1]'
            )
