"""The gap-free parts of an episode, and which marks fall on which of their rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from diwa_runtime.rows.row import Rows
from diwa_trainer.ingest.marks import Span


def parts_of(segments: Sequence[Rows], span: Span, max_gap: int) -> Iterator[tuple[Rows, dict[str, Any]]]:
    """Give each gap-free part of an episode its marks.

    Of a demonstration that a gap has split, the part with the task's success (or, failed or unjudged, the last part)
    stays one; what comes before or after is play, since it neither starts nor ends as a demonstration does.

    Args:
        segments: of the episode.
        span: its marks.
        max_gap: the longest that rows bridge, ns.
    """
    last = len(segments) - 1
    marks = [
        _marks_within(rows, span, first=n == 0, after=max_gap if n == last else None) for n, rows in enumerate(segments)
    ]
    keeper = last
    if span.outcome == "success":
        keeper = next((n for n, part in enumerate(marks) if any(task == span.task for _, task in part)), -1)
    for number, (rows, part) in enumerate(zip(segments, marks, strict=True)):
        if span.task is not None and number == keeper:
            about = {"kind": "demonstration", "task": span.task, "outcome": span.outcome}
        else:
            about = {"kind": "play", "task": None, "outcome": None}
        yield rows, {**about, "marks": part}


def _marks_within(rows: Rows, span: Span, first: bool, after: int | None) -> list[tuple[int, str]]:
    """Return (row, task) for the marks that fall on these rows; one between two rows belongs to the later.

    Up to `after` ns past an episode's last row it belongs to that one: the message it was set at need not have become a
    row.
    """
    found = []
    for stamp, task in span.marks:
        row = int(np.searchsorted(rows.stamp, stamp))
        if after is not None and row == len(rows) and stamp - rows.stamp[-1] <= after:
            found.append((row - 1, task))
        elif row < len(rows) and (row > 0 or first or stamp == rows.stamp[0]):
            found.append((row, task))
    return found
