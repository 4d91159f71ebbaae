"""The one assembler: stamped messages in, rows at control rate out, the same from a bag and from live topics.

How rows are chosen. The first stream of `proprio` is the reference: every row *is* one of its messages, and its stamp
is the row's. The first row is the first such message at which every stream has already brought something; from there a
tick runs at the Spec's rate, and the message nearest to each tick becomes a row. The tick follows the sensor's phase
(a quarter of each error is taken over), so that a sensor whose clock is a few per cent off gives a row a message,
without drift. Which message is nearest is decided when it arrives, by the sensor's last interval: nothing waits for
the next one.

A row's `executed` is what was accepted after the previous row, up to and including this one; so `action[i]` of stacked
rows is `executed[i + 1]`. Of a stream of actions that applies to the motion `after` its stamps it is what was stamped
from the previous row on and before this one; live, a row does not wait for the action that answers it.

Where up to the Spec's `max_gap_s` is missing, the last row is held, marked and counted; where more is missing, a new
segment begins. Nothing is ever filled with zeros. Messages that do not stand in their place in time are left out and
counted, by the rule of `diwa_runtime.rows.order`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.actions import ACTION_SIZE, motion_units
from diwa_runtime.errors import InputError
from diwa_runtime.rows.buffer import Buffer
from diwa_runtime.rows.order import StampOrder, Verdict
from diwa_runtime.rows.row import Assembly, Fault, Row, stack_rows
from diwa_runtime.rows.streams import NANOSECONDS, is_sound, streams_of
from diwa_runtime.spec import Spec

PHASE_SHARE = 4
"""One in so many parts of a tick's error is taken over by the next tick."""
UNUSABLE = "not finite (or beyond 1e9), empty, or a quaternion that is not of unit length"


class Assembler:
    """Turns stamped values into rows; the rule is in this module's docstring.

    Attributes:
        streams: what `feed` counts by index.
        reference: index of the stream whose messages the rows are.
        held, missing, repeated, late, alone, faults: as in `Assembly`, so far.
    """

    def __init__(self, spec: Spec, fields: Iterable[str] | None = None) -> None:
        """Make an assembler.

        Args:
            spec: says rate, layouts, action scale and streams.
            fields: what a row consists of beside its action; None: what the Spec's mode observes.
        """
        self.spec = spec
        self.fields = tuple(spec.observation_fields if fields is None else fields)
        self.streams = streams_of(spec, (*self.fields, "action"))
        self._cameras = {camera.name for camera in spec.cameras}
        self._max_ages = [round(stream.max_age_s * NANOSECONDS) for stream in self.streams]
        self.reference = next((i for i, stream in enumerate(self.streams) if stream.field == "proprio"), -1)
        if self.reference < 0:
            raise InputError("Spec: rows need a stream of 'proprio', their reference")
        for stream in self.streams:
            if stream.align == ("nearest" if stream.field == "action" else "integrate"):
                raise InputError(
                    f"Spec: stream {stream.topic} of {stream.field!r} cannot be aligned by {stream.align!r}; "
                    "observations are 'nearest' or 'hold', actions 'integrate' or 'hold'"
                )
        self._action_units = np.append(motion_units(spec.action_scale), 1.0)
        self._follow = [stream.applies == "after" for stream in self.streams]
        self._period = round(NANOSECONDS / spec.rate_hz)
        self._max_gap = round(spec.max_gap_s * NANOSECONDS)
        self.reset()

    def reset(self) -> None:
        """Forget everything, as before an episode."""
        self._buffers = [Buffer() for _ in self.streams]
        self._orders = [StampOrder(stream.topic, self._max_gap) for stream in self.streams]
        self._reached = [-1] * len(self.streams)
        self._pending: deque[tuple[int, int]] = deque()
        self._last: Row | None = None
        self._row_tick = self._next_tick = 0
        self.held = 0
        self.missing: Counter[str] = Counter()
        self.repeated: Counter[str] = Counter()
        self.late: Counter[str] = Counter()
        self.alone: Counter[str] = Counter()
        self.faults: list[Fault] = []

    def feed(self, index: int, stamp: int, value: Any, received: int = 0) -> None:
        """Take one message of stream `index`.

        Args:
            index: into `streams`.
            stamp: ns on the stream's timeline.
            value: (k,) float64 as selected, in the stream's own units, or a camera's payload of any kind.
            received: when it came, ns on any clock; what a row's `received` is made of.

        Raises:
            InputError: its clock went back; says by how much and where.
        """
        stream, order = self.streams[index], self._orders[index]
        verdict, withdrawn = order.judge(stamp)
        if withdrawn is not None:
            self._take_back(index, withdrawn, stamp)
        if order.sure > self._reached[index]:
            self._reached[index] = order.sure
        if verdict is not Verdict.KEPT:
            self._count(verdict, stream.topic)
            return
        if stream.field not in self._cameras and not (value.size and is_sound(value)):
            self.faults.append(Fault(stream.topic, stamp, UNUSABLE))
            return
        if index == self.reference:
            self._pending.append((stamp, stamp - order.before if order.before >= 0 else 0))
        if stream.field not in self._cameras:
            value = stream.own(value)
        self._buffers[index].append(stamp, value, received)

    def _count(self, verdict: Verdict, topic: str) -> None:
        counters = {Verdict.REPEATED: self.repeated, Verdict.LATE: self.late, Verdict.ALONE: self.alone}
        counters[verdict][topic] += 1

    def _take_back(self, index: int, stamp: int, now: int) -> None:
        """Forget a message that stood alone; live, where a row may be made of it, that is not to be known in time."""
        topic = self.streams[index].topic
        if self._last is not None and self._last.stamp + self._max_ages[index] >= stamp:
            raise InputError(
                f"{topic}: time goes backwards by {(stamp - now) / NANOSECONDS:.6f} s (stamp {now} ns after {stamp} "
                "ns), and a row is made of the later one; look at the sender's clock"
            )
        self._count(Verdict.ALONE, topic)
        self._buffers[index].take_back(stamp)
        self.faults = [fault for fault in self.faults if (fault.topic, fault.stamp) != (topic, stamp)]
        if index == self.reference and self._pending and self._pending[-1][0] == stamp:
            self._pending.pop()

    def advance(self, index: int, stamp: int) -> None:
        """Say that stream `index` will bring nothing older than `stamp`, ns, any more."""
        self._reached[index] = max(self._reached[index], stamp)

    def rows(self, final: bool = False) -> list[Row]:
        """Return the rows that have become certain since the last call.

        A row is certain when every stream has reached its stamp, or the reference has left it behind by the longest
        gap. What a first message, or one that jumped ahead, has reached is its own stamp alone until the next comes.
        `final`: nothing more will come, decide everything.
        """
        made: list[Row] = []
        while self._pending and (final or self._is_certain(self._pending[0][0])):
            made.extend(self._decide(*self._pending.popleft()))
        return made

    def _is_certain(self, stamp: int) -> bool:
        given_up = self._reached[self.reference] - stamp > self._max_gap
        return given_up or all(self._has_reached(index, stamp) for index in range(len(self.streams)))

    def _has_reached(self, index: int, stamp: int) -> bool:
        order = self._orders[index]
        if self._reached[index] >= stamp or order.newest == stamp:
            return True
        # An action that follows this row may be the answer to it. Where those that answered earlier rows were stamped
        # as these, nothing else is to be expected once the last row's is there; before the first row nothing counts.
        if not self._follow[index] or order.newest < 0:
            return False
        last, interval = self._last, self._buffers[index].interval()
        if last is None:
            return True
        return order.newest == last.stamp and interval > 0.75 * self._period and stamp - last.stamp < 1.5 * interval

    def _decide(self, stamp: int, interval: int) -> list[Row]:
        """Make the reference's message at `stamp` a row, with what is to be held before it, or nothing."""
        last = self._last
        if last is not None and stamp < self._next_tick - interval // 2:
            return []
        found = self._values_at(stamp)
        if found is None:
            self._next_tick = self._row_tick + (self._ticks_until(stamp) + 1) * self._period
            return []
        if last is None or stamp - last.stamp > self._max_gap:
            made = [Row(stamp, found[0], self._executed(stamp, stamp), first=True, received=found[1])]
            self._row_tick = stamp
        else:
            made = self._continued(last, stamp, *found)
        self._next_tick = self._row_tick + self._period
        self._last = made[-1]
        for buffer in self._buffers:
            buffer.forget_before(stamp)
        return made

    def _continued(self, last: Row, stamp: int, values: Mapping[str, Any], received: int) -> list[Row]:
        """Make the row at `stamp`, after as many copies of the last one as there are ticks between the two."""
        ticks = self._ticks_until(stamp)
        between = [self._row_tick + tick * self._period for tick in range(1, ticks)]
        ends = [*between, stamp]
        executed = [self._executed(start, end) for start, end in zip([last.stamp, *between], ends, strict=True)]
        expected = self._row_tick + ticks * self._period
        self._row_tick = expected + (stamp - expected) // PHASE_SHARE
        self.held += len(between)
        held = [
            Row(at, last.values, action, held=True, received=last.received)
            for at, action in zip(between, executed[:-1], strict=True)
        ]
        return [*held, Row(stamp, values, executed[-1], received=received)]

    def _ticks_until(self, stamp: int) -> int:
        """Return how many ticks after the last row's the nearest one to `stamp` is; at least 1."""
        return max(1, (2 * (stamp - self._row_tick) + self._period) // (2 * self._period))

    def _values_at(self, stamp: int) -> tuple[dict[str, Any], int] | None:
        """Return the row's values by field, and when it was received.

        None where a stream has nothing fresh enough, which is counted.
        """
        parts: dict[str, list[Any]] = {name: [] for name in self.fields}
        received = []
        for index, stream in enumerate(self.streams):
            found = self._found_at(index, stamp)
            if found is None:
                if self._last is not None:
                    self.missing[stream.topic] += 1
                return None
            if stream.field != "action":
                buffer = self._buffers[index]
                parts[stream.field].append(buffer.values[found])
                received.append(buffer.received_for(found, stamp))
        values = {name: part[0] if name in self._cameras else self._joined(name, part) for name, part in parts.items()}
        return values, min(received)

    def _found_at(self, index: int, stamp: int) -> int | None:
        """Return which of a stream's messages the row at `stamp` takes; of actions, whether there are any."""
        buffer, align = self._buffers[index], self.streams[index].align
        if self._last is None and buffer.first_until(stamp) is None:
            return None
        if align == "nearest":
            return buffer.nearest(stamp, self._max_ages[index])
        if align == "hold" and self._follow[index] and self._last is not None:
            return buffer.held(stamp - 1, self._max_ages[index] + stamp - self._last.stamp)
        if align == "hold":
            return buffer.held(stamp, self._max_ages[index])
        return buffer.first_until(stamp)

    def _joined(self, name: str, parts: list[NDArray[np.float64]]) -> NDArray[np.float32]:
        values = np.concatenate(parts)
        layout = self.spec.proprio if name == "proprio" else self.spec.scene
        if len(values) != len(layout):
            topics = ", ".join(dict.fromkeys(stream.topic for stream in self.streams if stream.field == name))
            raise InputError(
                f"{topics}: gives {len(values)} numbers for {name!r}, the Spec has {len(layout)}; "
                "name as many there, or select fewer in its streams"
            )
        return values.astype(np.float32)

    def _executed(self, after: int, until: int) -> NDArray[np.float32]:
        """Return what was accepted from the row at `after` to the one at `until`, in the Spec's units."""
        parts: list[NDArray[np.float64]] = []
        units = self._action_units
        for index, stream in enumerate(self.streams):
            if stream.field != "action":
                continue
            earlier = 1 if self._follow[index] else 0  # ns: from the one row on, and before the other
            if stream.align == "integrate":
                parts.append(self._buffers[index].sum_between(after - earlier, until - earlier))
            else:
                parts.append(self._buffers[index].last_until(until - earlier))
            if stream.scale == "normalised":
                at, size = sum(map(len, parts[:-1])), len(parts[-1])
                units = np.concatenate([units[:at], np.ones(size), units[at + size :]])
        executed = np.concatenate(parts)
        if len(executed) != ACTION_SIZE:
            raise InputError(f"Spec: the streams of 'action' give {len(executed)} numbers, expected {ACTION_SIZE}")
        return (executed / units).astype(np.float32)


def assemble(
    spec: Spec, messages: Sequence[tuple[Sequence[int], Sequence[Any]]], fields: Iterable[str] | None = None
) -> Assembly:
    """Assemble one episode from all of its messages.

    Args:
        spec: as for `Assembler`.
        messages: for each of the assembler's `streams` the stamps (n,) int ns and the values, one each.
        fields: as for `Assembler`.

    Raises:
        InputError: a clock went back, or the values do not fit the Spec.
    """
    assembler = Assembler(spec, fields)
    for index, (stamps, values) in enumerate(messages):
        for stamp, value in zip(stamps, values, strict=True):
            assembler.feed(index, int(stamp), value)
    segments: list[list[Row]] = []
    for row in assembler.rows(final=True):
        if row.first:
            segments.append([])
        segments[-1].append(row)
    cameras = {camera.name for camera in spec.cameras}
    return Assembly(
        segments=tuple(stack_rows(segment, cameras) for segment in segments),
        held=assembler.held,
        missing=dict(assembler.missing),
        repeated=dict(assembler.repeated),
        late=dict(assembler.late),
        alone=dict(assembler.alone),
        faults=tuple(assembler.faults),
    )
