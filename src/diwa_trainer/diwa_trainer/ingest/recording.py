"""All that rows need of one bag, in memory: the numbers of every stream, the marks, and when each frame was taken."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from diwa_runtime import events
from diwa_runtime.cameras import DEVICE_TYPE, CameraSource, device_topic
from diwa_runtime.errors import InputError
from diwa_runtime.rows.order import LAST_STAMP, Verdict
from diwa_runtime.rows.selection import Selector
from diwa_runtime.rows.streams import NANOSECONDS, nanoseconds_of, stamp_of, streams_of
from diwa_runtime.spec import Spec
from diwa_runtime.stream_spec import StreamSpec, Timeline
from diwa_trainer.ingest.bags import Bag
from diwa_trainer.ingest.definitions import Read
from diwa_trainer.ingest.marks import Cuts, Event, Marks
from diwa_trainer.ingest.mcap import Message
from diwa_trainer.ingest.stream_data import UNSENT, About, StreamData
from diwa_trainer.ingest.topics import TopicNames, messages_of

ADVICE = {"scene": "publish it, for only scenes can be trained on, or keep the bag as a dataset of --mode vision"}
"""What to do where no message of a field was recorded."""


@dataclass(frozen=True)
class Recording:
    """What was read of a bag.

    Attributes:
        bag: where it lies.
        streams: in the order of `streams_of(spec, fields)`.
        cuts: its episodes.
        left_out: how many messages were left out, by what is wrong with them.
        names: by topic and path, the names beside values that are selected by their place.
        cameras: what each camera's pictures come from.
    """

    bag: Bag
    streams: tuple[StreamData, ...]
    cuts: Cuts
    left_out: Mapping[str, int]
    names: Mapping[str, tuple[str, ...]]
    cameras: Mapping[str, CameraSource]


def read_recording(bag: Bag, spec: Spec, fields: Sequence[str], skip_damaged: bool = False) -> Recording:
    """Read a bag once, all but its images.

    Args:
        bag: what to read; its `losses` are filled.
        spec: names streams and layouts.
        fields: the fields of a row beside its action.
        skip_damaged: leave out damaged chunks.

    Raises:
        InputError: a topic is missing or of another type, none of its messages can be used, or its clock went back.
        NamesChangedError: values are selected by their place, which changes.
        DamagedError: what was recorded is damaged, and damage is not to be skipped.
    """
    reading = _Reading(spec, fields)
    for topic, read, message in messages_of(bag, reading.topics, skip_damaged):
        reading.add(topic, read, message)
    return reading.finish(bag)


def frames_of(bag: Bag, spec: Spec, skip_damaged: bool = False) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield (camera's name, what reads the message) of every frame, in the bag's order."""
    streams = streams_of(spec, [camera.name for camera in spec.cameras])
    fields = {stream.topic: stream.field for stream in streams}
    topics = TopicNames({stream.topic: stream.type for stream in streams})
    for topic, read, message in messages_of(bag, topics, skip_damaged):
        yield fields[topic], partial(read, message.data)


class _Reading:
    """Takes the messages of a bag as they lie in it."""

    def __init__(self, spec: Spec, fields: Sequence[str]) -> None:
        wanted = streams_of(spec, (*fields, "action"))
        self._device_topics = {
            device_topic(camera.name): camera.name for camera in spec.cameras if camera.name in fields
        }
        self._devices: dict[str, str] = {}
        self._cameras: dict[str, CameraSource] = {}
        types = {stream.topic: stream.type for stream in wanted} | dict.fromkeys(self._device_topics, DEVICE_TYPE)
        self.topics = TopicNames(types | {events.TOPIC: events.TYPE})
        self._streams = [StreamData(stream) for stream in wanted]
        self._selector: Selector[About] = Selector(spec, wanted)
        self._is_camera = [selection is None for selection in self._selector.selections]
        self._max_gap = round(spec.max_gap_s * NANOSECONDS)
        self._of_topic: defaultdict[str, dict[Timeline, list[int]]] = defaultdict(dict)
        for index, stream in enumerate(wanted):
            self._of_topic[stream.topic].setdefault(stream.timeline, []).append(index)
        self._counts: Counter[str] = Counter()
        self._left_out: defaultdict[str, set[int]] = defaultdict(set)
        self._errors: dict[int, InputError] = {}
        self._reasons: dict[str, str] = {}
        self._marks = Marks()

    def add(self, topic: str, read: Read, message: Message) -> None:
        """Take the next message of a topic; what cannot be used is left out and counted."""
        number = self._counts[topic]
        self._counts[topic] += 1
        try:
            decoded = read(message.data)
            if topic == events.TOPIC:
                self._marks.add(_event(decoded), message.receipt_ns)
        except InputError as error:
            if topic == events.TOPIC:
                self._marks.stray["mark that cannot be read"] += 1
            for indices in self._of_topic[topic].values():
                self._note_unusable(indices, number, error)
            return
        if topic in self._device_topics:
            self._devices[self._device_topics[topic]] = str(decoded.data)
        for indices in self._of_topic[topic].values():
            try:
                about = _about(decoded, self._streams[indices[0]].stream, message.receipt_ns, number)
            except InputError as error:
                self._note_unusable(indices, number, error)
                continue
            for index in indices:
                if self._is_camera[index]:
                    camera = self._streams[index].stream.field
                    self._cameras.setdefault(camera, CameraSource.of(decoded))
                payload = number if self._is_camera[index] else decoded
                for found in self._selector.select(index, payload, about):
                    self._take(*found)

    def _take(self, index: int, about: About, value: Any) -> None:
        if isinstance(value, InputError):
            self._note_unusable([index], about.number, value)
        elif 0 <= about.stamp <= LAST_STAMP:
            self._streams[index].abouts.append(about)
            self._streams[index].values.append(value)
        else:
            self._note(index, about.number, Verdict.ALONE)

    def _note_unusable(self, indices: Sequence[int], number: int, error: InputError) -> None:
        for index in indices:
            self._errors.setdefault(index, error)
            topic = self._streams[index].stream.topic
            reason = self._reasons.setdefault(topic, f"message of {topic} that cannot be read ({error})")
            self._left_out[reason].add(number)

    def _note(self, index: int, number: int, verdict: Verdict) -> None:
        self._left_out[f"message of {self._streams[index].stream.topic} {verdict.value}"].add(number)

    def finish(self, bag: Bag) -> Recording:
        """Put all in order and return it; errors as `read_recording`."""
        self.topics.check(events.TOPIC)
        for index, data in enumerate(self._streams):
            self._check_usable(index, data)
        for index, data in enumerate(self._streams):
            self._put_in_order(index, data)
        first = min((data.stamps[0] for data in self._streams if data.stamps), default=0)
        names = {
            f"{selection.stream.topic}: {path!r}": found
            for selection in self._selector.selections
            if selection is not None
            for path, found in selection.names.items()
        }
        left_out = {reason: len(numbers) for reason, numbers in self._left_out.items()}
        cameras = {camera: source.on(self._devices.get(camera, "")) for camera, source in self._cameras.items()}
        return Recording(bag, tuple(self._streams), self._marks.cut(first), left_out, names, cameras)

    def _check_usable(self, index: int, data: StreamData) -> None:
        """Refuse a stream without any message, and say why there is none."""
        stream = data.stream
        if data.abouts:
            return
        self.topics.check(stream.topic)
        if stream.topic not in self.topics.found:
            has = ", ".join(sorted({*self.topics.others, *self.topics.found.values()})) or "no topics"
            raise InputError(
                f"no messages of topic {stream.topic!r}, which {stream.field!r} needs (it has {has}); "
                f"{ADVICE.get(stream.field, 'record it')}"
            )
        if index in self._errors:
            raise self._errors[index]
        by_name = any(":" in path for path in stream.select)
        why = f"has a name that {list(stream.select)} stands for" if by_name else "has a time that can be"
        raise InputError(
            f"{stream.topic}: none of its {self._counts[stream.topic]} messages {why}; give a Spec for this robot"
        )

    def _put_in_order(self, index: int, data: StreamData) -> None:
        """Leave out what does not stand in its place in time."""
        for number, verdict in data.put_in_order(self._max_gap):
            self._note(index, number, verdict)


def _about(message: Any, stream: StreamSpec, receipt_ns: int, number: int) -> About:
    stamp = stamp_of(message, stream, receipt_ns)
    sent = stamp if stream.timeline == "sensor" else _sent(message)
    return About(stamp, sent, min(receipt_ns, LAST_STAMP), number)


def _sent(message: Any) -> int:
    """Return when a message was sent by its own word, ns; UNSENT where it has none that can be."""
    try:
        stamp = nanoseconds_of(message.header.stamp)
    except AttributeError:
        return UNSENT
    return stamp if 0 <= stamp <= LAST_STAMP else UNSENT


def _event(message: Any) -> Event:
    try:
        return Event(nanoseconds_of(message.header.stamp), int(message.kind), str(message.task), int(message.seed))
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{events.TOPIC}: {error}") from None
