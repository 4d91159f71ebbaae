"""All that rows need of one bag, in memory: the numbers of every stream, the marks, and when each frame was taken."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diwa_runtime import events
from diwa_runtime.errors import InputError
from diwa_runtime.rows.assembler import selection_of
from diwa_runtime.rows.streams import nanoseconds_of, stamp_of, streams_of
from diwa_runtime.spec import Spec, StreamSpec
from diwa_trainer.ingest.bags import Bag, Read, reader_of
from diwa_trainer.ingest.marks import WHOLE_BAG, Cuts, Event, cut, without_stale
from diwa_trainer.ingest.mcap import Message

ADVICE = {"scene": "publish it, for only scenes can be trained on, or keep the bag as a dataset of --mode vision"}
"""What to do where no message of a field was recorded."""


@dataclass
class StreamData:
    """One stream of a bag: stamps (ns) in order and a value each; a frame's value is its number in the bag."""

    stream: StreamSpec
    stamps: list[int] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)

    def between(self, start: int, end: int) -> tuple[list[int], list[Any]]:
        """Return stamps and values with `start` <= stamp <= `end`."""
        at = slice(bisect_left(self.stamps, start), bisect_right(self.stamps, end))
        return self.stamps[at], self.values[at]


@dataclass(frozen=True)
class Recording:
    """What was read of a bag.

    Attributes:
        bag: where it lies.
        streams: in the order of `streams_of(spec, fields)`.
        cuts: its episodes.
    """

    bag: Bag
    streams: tuple[StreamData, ...]
    cuts: Cuts


def read_recording(bag: Bag, spec: Spec, fields: Sequence[str], skip_damaged: bool = False) -> Recording:
    """Read a bag once, all but its images.

    Args:
        bag: what to read; its `losses` are filled.
        spec: names streams and layouts.
        fields: the fields of a row beside its action.
        skip_damaged: leave out damaged chunks.

    Raises:
        InputError: a topic is missing or of another type, time goes backwards, or messages do not fit the Spec.
        DamagedError: what was recorded is damaged, and damage is not to be skipped.
    """
    wanted = streams_of(spec, (*fields, "action"))
    cameras = {camera.name for camera in spec.cameras}
    streams = [StreamData(stream) for stream in wanted]
    selections = [selection_of(spec, stream) for stream in wanted]
    topics = TopicNames({stream.topic: stream.type for stream in wanted} | {events.TOPIC: events.TYPE})
    marks: list[Event] = []
    for topic, message, receipt_ns in decoded(bag, topics, skip_damaged):
        if topic == events.TOPIC:
            marks.append(_event(message))
            continue
        for data, selection in zip(streams, selections, strict=True):
            if data.stream.topic == topic:
                value = len(data.values) if data.stream.field in cameras else selection.values(message)  # type: ignore[union-attr]
                data.stamps.append(stamp_of(message, data.stream, receipt_ns))
                data.values.append(value)
    _check_topics(topics, wanted)
    for data in streams:
        _check_order(data)
    first = min((data.stamps[0] for data in streams if data.stamps), default=0)
    marks = without_stale(marks, first)
    return Recording(bag, tuple(streams), cut(marks) if marks else WHOLE_BAG)


def frames_of(bag: Bag, spec: Spec, skip_damaged: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield (camera's name, message) of every frame, in the bag's order."""
    streams = streams_of(spec, [camera.name for camera in spec.cameras])
    fields = {stream.topic: stream.field for stream in streams}
    topics = TopicNames({stream.topic: stream.type for stream in streams})
    for topic, message, _ in decoded(bag, topics, skip_damaged):
        yield fields[topic], message


class TopicNames:
    """Which of a bag's topics is which of the Spec's; the Spec's are relative to a namespace that is not told.

    Attributes:
        found: full name by the Spec's name.
        others: what else the bag has.
    """

    def __init__(self, types: Mapping[str, str]) -> None:
        """Look for topics of these names and types."""
        self._types = dict(types)
        self.found: dict[str, str] = {}
        self.others: set[str] = set()

    def of(self, topic: str, kind: str) -> str | None:
        """Return the Spec's name of a topic of the bag; None where the Spec does not name it.

        Raises:
            InputError: it is of another type, or two of the bag's topics fit the same name.
        """
        name = next((name for name in self._types if f"/{topic}".endswith(f"/{name}")), None)
        if name is None:
            self.others.add(topic)
            return None
        if self.found.setdefault(name, topic) != topic:
            raise InputError(f"both {self.found[name]} and {topic} could be {name!r}; record one robot a bag")
        if kind != self._types[name]:
            raise InputError(
                f"topic {topic} is of type {kind}, the Spec has {self._types[name]}; give a Spec for this robot"
            )
        return name


def decoded(bag: Bag, topics: TopicNames, skip_damaged: bool) -> Iterator[tuple[str, Any, int]]:
    """Yield (the Spec's topic, message, time of receipt in ns) of all messages of these topics, in the bag's order."""
    # Channels are told apart by identity: comparing them would compare the texts of their definitions.
    readers: dict[int, tuple[str, Read] | None] = {}
    seen: list[Message] = []
    for message in bag.messages(skip_damaged):
        channel = message.channel
        if id(channel) not in readers:
            seen.append(message)
            name = topics.of(channel.topic, channel.type)
            readers[id(channel)] = None if name is None else (name, reader_of(channel))
        reader = readers[id(channel)]
        if reader is not None:
            yield reader[0], reader[1](message.data), message.receipt_ns


def _event(message: Any) -> Event:
    return Event(nanoseconds_of(message.header.stamp), int(message.kind), str(message.task), int(message.seed))


def _check_topics(topics: TopicNames, wanted: Sequence[StreamSpec]) -> None:
    for stream in wanted:
        if stream.topic not in topics.found:
            has = ", ".join(sorted({*topics.others, *topics.found.values()})) or "no topics"
            raise InputError(
                f"no messages of topic {stream.topic!r}, which {stream.field!r} needs (it has {has}); "
                f"{ADVICE.get(stream.field, 'record it')}"
            )


def _check_order(data: StreamData) -> None:
    stamps: NDArray[np.int64] = np.array(data.stamps, np.int64)
    backwards = np.flatnonzero(np.diff(stamps) < 0)
    if len(backwards):
        at = int(backwards[0])
        raise InputError(
            f"{data.stream.topic}: time goes backwards by {(stamps[at] - stamps[at + 1]) / 1e9:.6f} s at message "
            f"{at + 2} (stamp {stamps[at + 1]} ns after {stamps[at]} ns); record it again with one clock"
        )
