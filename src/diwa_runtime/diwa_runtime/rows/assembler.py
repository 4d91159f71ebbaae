"""The one assembler: stamped messages in, rows at control rate out, the same from a bag and from live topics.

How rows are chosen. The first stream of `proprio` is the reference: every row *is* one of its messages, and its stamp
is the row's. The first row is the first such message at which every stream has already brought something; from there a
tick runs at the Spec's rate, and the message nearest to each tick becomes a row. The tick follows the sensor's phase
(a quarter of each error is taken over), so that a sensor whose clock is a few per cent off gives a row a message,
without drift. Which message is nearest is decided when it arrives, by the sensor's last interval: nothing waits for
the next one.

A row's `executed` is what was accepted after the previous row, up to and including this one; so `action[i]` of stacked
rows is `executed[i + 1]`. Where up to the Spec's `max_gap_s` is missing, the last row is held, marked and counted;
where more is missing, a new segment begins. Nothing is ever filled with zeros. Messages that do not stand in their
place in time are left out and counted, by the rule of `diwa_runtime.rows.order`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.actions import ACTION_SIZE, GRIPPER, HOLD_ACTION, motion_units
from diwa_runtime.errors import InputError
from diwa_runtime.rows.images import decode_image
from diwa_runtime.rows.order import StampOrder, Verdict
from diwa_runtime.rows.selection import Selected, Selection, Selector
from diwa_runtime.rows.streams import NANOSECONDS, is_sound, stamp_of, streams_of
from diwa_runtime.spec import Spec, StreamSpec

PHASE_SHARE = 4
"""One in so many parts of a tick's error is taken over by the next tick."""
FORGET_AFTER = 256
UNUSABLE = "not finite (or beyond 1e9), or a quaternion that is not of unit length"


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


@dataclass
class _Buffer:
    """The messages of one stream in order of time; those no longer needed are forgotten."""

    stamps: list[int] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    received: list[int] = field(default_factory=list)

    def append(self, stamp: int, value: Any, received: int) -> None:
        self.stamps.append(stamp)
        self.values.append(value)
        self.received.append(received)

    def take_back(self, stamp: int) -> None:
        """Remove the last message, if it is the one of this stamp."""
        if self.stamps and self.stamps[-1] == stamp:
            del self.stamps[-1], self.values[-1], self.received[-1]

    def nearest(self, stamp: int, max_age: float) -> int | None:
        """Return which is nearest to `stamp`, the earlier of two as near; None where none is within `max_age` ns."""
        after = bisect_right(self.stamps, stamp)
        candidates = [index for index in (after - 1, after) if 0 <= index < len(self.stamps)]
        index = min(candidates, key=lambda i: abs(self.stamps[i] - stamp), default=None)
        return None if index is None or abs(self.stamps[index] - stamp) > max_age else index

    def held(self, stamp: int, max_age: float) -> int | None:
        """Return which is the last at or before `stamp`; None where it is older than `max_age` ns."""
        index = bisect_right(self.stamps, stamp) - 1
        return None if index < 0 or stamp - self.stamps[index] > max_age else index

    def first_until(self, stamp: int) -> int | None:
        """Return the first if it is at or before `stamp`; None where there is none."""
        return 0 if self.stamps and self.stamps[0] <= stamp else None

    def received_for(self, index: int, stamp: int) -> int:
        """Return when it came, or would have come with `stamp`: one that is older by its stamp came as much earlier."""
        return self.received[index] + max(0, stamp - self.stamps[index])

    def last_until(self, stamp: int) -> Any:
        """Return the last value at or before `stamp`, however old; there must be one."""
        return self.values[bisect_right(self.stamps, stamp) - 1]

    def sum_between(self, after: int, until: int) -> NDArray[np.float64]:
        """Return the sum of the values with `after` < stamp <= `until`."""
        start, end = bisect_right(self.stamps, after), bisect_right(self.stamps, until)
        return sum(self.values[start:end], start=np.zeros_like(self.values[0]))

    def forget_before(self, stamp: int) -> None:
        """Drop what no row at or after `stamp` can ask for."""
        index = bisect_right(self.stamps, stamp) - 1
        if index > FORGET_AFTER:
            del self.stamps[:index], self.values[:index], self.received[:index]


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
        self._period = round(NANOSECONDS / spec.rate_hz)
        self._max_gap = round(spec.max_gap_s * NANOSECONDS)
        self.reset()

    def reset(self) -> None:
        """Forget everything, as before an episode."""
        self._buffers = [_Buffer() for _ in self.streams]
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
            value: (k,) float64, or a camera's payload of any kind.
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
        if stream.field not in self._cameras and not is_sound(value):
            self.faults.append(Fault(stream.topic, stamp, UNUSABLE))
            return
        if index == self.reference:
            self._pending.append((stamp, stamp - order.before if order.before >= 0 else 0))
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
        return given_up or all(
            reached >= stamp or order.newest == stamp
            for reached, order in zip(self._reached, self._orders, strict=True)
        )

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
        if align == "hold":
            return buffer.held(stamp, self._max_ages[index])
        return buffer.first_until(stamp)

    def _joined(self, name: str, parts: list[NDArray[np.float64]]) -> NDArray[np.float32]:
        values = np.concatenate(parts)
        layout = self.spec.proprio if name == "proprio" else self.spec.scene
        if len(values) != len(layout):
            topics = ", ".join(dict.fromkeys(stream.topic for stream in self.streams if stream.field == name))
            raise InputError(f"{topics}: gives {len(values)} numbers for {name!r}, the Spec has {len(layout)}")
        return values.astype(np.float32)

    def _executed(self, after: int, until: int) -> NDArray[np.float32]:
        """Return what was accepted after `after` up to and including `until`, in the Spec's units."""
        parts: list[NDArray[np.float64]] = []
        for index, stream in enumerate(self.streams):
            if stream.field == "action" and stream.align == "integrate":
                parts.append(self._buffers[index].sum_between(after, until))
            elif stream.field == "action":
                parts.append(self._buffers[index].last_until(until))
        executed = np.concatenate(parts)
        if len(executed) != ACTION_SIZE:
            raise InputError(f"Spec: the streams of 'action' give {len(executed)} numbers, expected {ACTION_SIZE}")
        return (executed / self._action_units).astype(np.float32)


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


class LiveAssembler:
    """The assembler for live topics: messages in as they come, rows out as soon as they are certain.

    Attributes:
        topics: message type by topic: what to subscribe to.
        faults: messages that were refused, so far.
    """

    def __init__(self, spec: Spec, fields: Iterable[str] | None = None) -> None:
        """Make one; arguments as for `Assembler`."""
        self._assembler = Assembler(spec, fields)
        self._cameras = {camera.name: camera for camera in spec.cameras}
        self._selector: Selector[tuple[int, int]] = Selector(spec, self._assembler.streams)
        self.topics = {stream.topic: stream.type for stream in self._assembler.streams}

    @property
    def faults(self) -> list[Fault]:
        """The messages that were refused since the last reset."""
        return self._assembler.faults

    def counts(self) -> dict[str, int]:
        """How many rows were held or are missing, how many messages were left out, by why, since the last reset."""
        made = self._assembler
        return {
            "held": made.held,
            "missing": made.missing.total(),
            "repeated": made.repeated.total(),
            "late": made.late.total(),
            "alone": made.alone.total(),
            "faulty": len(made.faults),
        }

    def reset(self) -> None:
        """Forget everything, as before an episode."""
        self._assembler.reset()
        self._selector.forget()

    def feed(self, topic: str, message: Any, receipt_ns: int, received_ns: int | None = None) -> list[Row]:
        """Take one message and return the rows that it makes certain, images decoded.

        Args:
            topic: as the Spec names it.
            message: with the fields of the ROS message as attributes.
            receipt_ns: when it was received, on the clock of the day as in a bag.
            received_ns: the same on the clock that `Row.received` is to be on; None: on that one.

        Raises:
            InputError: its clock went back, it lacks a selected field or name, or an image cannot be decoded.
        """
        received = receipt_ns if received_ns is None else received_ns
        for index, stream in enumerate(self._assembler.streams):
            if stream.topic == topic:
                about = (stamp_of(message, stream, receipt_ns), received)
                self._take(self._selector.select(index, message, about))
            elif stream.timeline == "receipt":
                self._assembler.advance(index, receipt_ns)
        return [self._decoded(row) for row in self._assembler.rows()]

    def _take(self, found: Sequence[Selected[tuple[int, int]]]) -> None:
        for index, (stamp, received), value in found:
            if isinstance(value, InputError):
                raise value
            self._assembler.feed(index, stamp, value, received)

    def finish(self) -> list[Row]:
        """Return the rows that are left when nothing more will come."""
        return [self._decoded(row) for row in self._assembler.rows(final=True)]

    def _decoded(self, row: Row) -> Row:
        images = {n: decode_image(row.values[n], camera) for n, camera in self._cameras.items() if n in row.values}
        return replace(row, values={**row.values, **images})


def selection_of(spec: Spec, stream: StreamSpec) -> Selection | None:
    """Return what one stream selects from its messages; None for a camera, whose payload is the message."""
    return Selector(spec, spec.streams).selections[spec.streams.index(stream)]
