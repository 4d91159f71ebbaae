"""What the assembler makes: rows, stretches of them without a gap, and what became of an episode's messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.actions import GRIPPER, HOLD_ACTION


@dataclass(frozen=True)
class Row:
    """One observation at control rate.

    Attributes:
        stamp: ns.
        values: by field: `proprio` (15,) and `scene` (24,) float32; cameras as they were fed, or decoded.
        executed: (7,) float32 in the Spec's units, accepted since the previous row; at a segment's start nothing but
            the gripper's command.
        first: whether a segment starts here.
        held: whether this repeats the row before, because nothing came in time.
        received: as far as it was told, when the row was received, ns: its reference, or a part of it that came earlier
            than its stamp explains, because its sender's clock runs ahead.
    """

    stamp: int
    values: Mapping[str, Any]
    executed: NDArray[np.float32]
    first: bool = False
    held: bool = False
    received: int = 0


@dataclass(frozen=True)
class Fault:
    """A message that must not be learned from or acted upon."""

    topic: str
    stamp: int
    reason: str


@dataclass(frozen=True)
class Rows:
    """The rows of one gap-free segment.

    Attributes:
        stamp: (N,) int64 ns.
        values: by field, (N, ...) float32; cameras as lists of N payloads.
        action: (N, 7) float32, what was accepted after each row; the last is hold with its own gripper command.
        held: (N,) bool.
    """

    stamp: NDArray[np.int64]
    values: Mapping[str, Any]
    action: NDArray[np.float32]
    held: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.stamp)


@dataclass(frozen=True)
class Assembly:
    """What became of the messages of one episode.

    Attributes:
        segments: in order of time; more than one where something was missing for longer than the Spec's `max_gap_s`.
        held: how many rows repeat the row before.
        missing: how many rows could not be made for want of a topic's messages, by topic.
        repeated: how many messages had the stamp of the one before and were ignored, by topic.
        late: how many came after a later one and were ignored, by topic.
        alone: how many had a time far from those around them and were ignored, by topic.
        faults: messages that were not finite.
    """

    segments: tuple[Rows, ...]
    held: int
    missing: Mapping[str, int]
    repeated: Mapping[str, int]
    late: Mapping[str, int]
    alone: Mapping[str, int]
    faults: tuple[Fault, ...]


def stack_rows(rows: Sequence[Row], cameras: Iterable[str] = ()) -> Rows:
    """Stack the rows of one segment; the last action is hold with its own gripper command."""
    last = HOLD_ACTION.copy()
    last[GRIPPER] = rows[-1].executed[GRIPPER]
    names = rows[0].values.keys()
    kept = set(cameras)
    values = {name: [row.values[name] for row in rows] for name in names}
    return Rows(
        stamp=np.array([row.stamp for row in rows], np.int64),
        values={name: column if name in kept else np.stack(column) for name, column in values.items()},
        action=np.stack([*(row.executed for row in rows[1:]), last]),
        held=np.array([row.held for row in rows], np.bool_),
    )
