"""What a skill observes: streams in, rows out, and why none comes. ROS-free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from diwa_policy_node.skills.robot_watch import robot_topic_of
from diwa_policy_node.skills.stream_watch import StampRate, StreamWatch, StuckCameras
from diwa_runtime.cameras import CameraSource, CameraSources, unlike
from diwa_runtime.errors import InputError
from diwa_runtime.rows.live import LiveAssembler
from diwa_runtime.rows.row import Row
from diwa_runtime.rows.streams import NANOSECONDS, stamp_of
from diwa_runtime.spec import Spec


class Observations:
    """The streams that a Spec observes, as rows.

    Attributes:
        topics: message type by topic: what to feed.
        robot_topic: where the robot says its mode; not one of `topics` where the Spec observes nothing from there.
        watch: which of them live.
    """

    def __init__(
        self,
        spec: Spec,
        cameras: StuckCameras,
        clock_ns: Callable[[], int],
        day_ns: Callable[[], int],
    ) -> None:
        """Observe a robot.

        Args:
            spec: of the observations.
            cameras: tells which camera is stuck.
            clock_ns: the steady clock of every `received_ns`.
            day_ns: the clock of the day, by which streams without stamps go, as in a bag.
        """
        self._assembler = LiveAssembler(spec)
        self.topics = self._assembler.topics
        self.robot_topic = robot_topic_of(self.topics)
        names = {camera.name for camera in spec.cameras}
        self._camera_topics = {stream.topic: stream.field for stream in spec.streams if stream.field in names}
        self._pictures: dict[str, Any] = {}
        self._cameras = cameras
        self.watch = StreamWatch([*self.topics, self.robot_topic])
        self._reference = next(stream for stream in spec.streams if stream.field == "proprio")
        self._summed = {stream.topic for stream in spec.streams if stream.align == "integrate"}
        self._stamp_rate, self._rate_hz = StampRate(), spec.rate_hz
        self._clock_ns, self._day_ns, self._day_ahead_ns = clock_ns, day_ns, 0
        self._dropped_before: Counter[str] = Counter()

    def note(self, topic: str, message: Any, received_ns: int) -> None:
        """Take note that a message came, whether or not a goal runs."""
        self.watch.note(topic, received_ns)
        if topic in self._camera_topics:
            self._pictures[self._camera_topics[topic]] = message
        if topic == self._reference.topic:
            with suppress(InputError):  # no stamp: whoever feeds it on is told
                self._stamp_rate.note(stamp_of(message, self._reference, received_ns))

    def cameras_unlike(self, recorded: CameraSources, devices: Mapping[str, str]) -> list[str]:
        """Say of each camera whose newest picture comes from something else than the recordings how it differs.

        Args:
            recorded: what those came from.
            devices: what the cameras' nodes say that they are, by camera.
        """
        now = {name: CameraSource.of(message).on(devices.get(name, "")) for name, message in self._pictures.items()}
        return [why for name, one in now.items() if (why := unlike(name, recorded.get(name, ()), one))]

    def begin_goal(self) -> None:
        """Forget what was dropped before."""
        self._dropped_before.clear()
        self._assembler.reset()

    def begin_skill(self) -> None:
        """Begin anew: what comes from now on has nothing before it."""
        self._dropped_before.update(self._assembler.counts())
        self._assembler.reset()
        self._cameras.reset()
        self._day_ahead_ns = self._day_ns() - self._clock_ns()  # once a skill: the clock of the day may be set

    def feed(self, topic: str, message: Any, received_ns: int) -> list[Row]:
        """Take a message; return the rows that it makes certain.

        Raises:
            InputError: a camera is stuck, or as `LiveAssembler.feed`.
        """
        if topic in self._camera_topics and (why := self._cameras.objection(topic, message, received_ns)):
            raise InputError(f"{why}; look at the camera")
        return self._assembler.feed(topic, message, received_ns + self._day_ahead_ns, received_ns)

    def arm_is_at(self, row: Row) -> None:
        """Take note of where the arm is, by which a stuck camera shows."""
        self._cameras.moved_to(row.values["proprio"][:3])

    def is_faulty(self, stamp_ns: int) -> bool:
        """Whether a message of that stamp was refused."""
        return any(fault.stamp == stamp_ns for fault in self._assembler.faults)

    def why_none(self, now_ns: int, silent_after_s: float) -> str:
        """Say why no observation comes."""
        if silent := self.watch.silent(now_ns, silent_after_s):
            return "; ".join(silent)
        if self._assembler.faults:
            fault = self._assembler.faults[-1]
            return f"{fault.topic}: {fault.reason}"
        return "the streams come, but their stamps do not fit together; look at the clocks of those who send"

    def is_summed(self, topic: str) -> bool:
        """Whether each message of a topic counts, because what it says is added up."""
        return topic in self._summed

    def too_slow(self, least_share: float) -> str | None:
        """Say at which rate the robot says its state, if at less than that share of the Spec's."""
        rate_hz = self._stamp_rate.rate_hz
        if rate_hz is None or rate_hz >= least_share * self._rate_hz:
            return None
        return f"{self._reference.topic} comes at {rate_hz:.1f} Hz, the Spec has {self._rate_hz:g}"

    @property
    def dropped(self) -> dict[str, int]:
        """What could not be used since the goal began, by what it was."""
        return {name: count + self._dropped_before[name] for name, count in self._assembler.counts().items()}


def gap_reason(rows: list[Row], last_stamp_ns: int, observed_ns: int, longest_gap_s: float) -> str | None:
    """Say why rows (the newest last) do not follow the last observation, or None: they do.

    Args:
        rows: made since.
        last_stamp_ns: of the last observation.
        observed_ns: when it was received.
        longest_gap_s: what the assembler bridges.
    """
    if not any(row.first for row in rows):
        return None
    gap_s = (rows[-1].stamp - last_stamp_ns) / NANOSECONDS
    silence_s = (rows[-1].received - observed_ns) / NANOSECONDS
    if abs(silence_s - gap_s) < longest_gap_s / 2:
        return f"no whole observation came for {silence_s:.2f} s, longer than {longest_gap_s:g} s cannot be bridged"
    return f"the observations' time jumps by {gap_s:.2f} s; look at the sender's clock"
