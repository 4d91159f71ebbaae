"""`record`: live topics into an MCAP bag, undecoded, for machines that have no `ros2 bag record`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rclpy.exceptions import InvalidTopicNameException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.validate_topic_name import validate_topic_name

from diwa_ros.parameters import refuse_unknown_types
from diwa_ros.process import ros_process, spin_until_told
from diwa_runtime.cli import run_verb
from diwa_runtime.config import load_config
from diwa_runtime.errors import ConfigError, InputError, one_line
from diwa_runtime.interfaces import message_class
from diwa_sim.bags import BagWriter, kept_on_failure, typestore
from diwa_sim.lost_messages import Losses

DEPTH = 1000
"""Messages that wait while the disk is slow: at 30 Hz, half a minute of one topic."""
NEVER_RECORDED = ("/rosout", "/parameter_events")
LOOK_AGAIN_S = 0.2
LOST_KEY = "diwa_lost"
"""Custom data of a bag that lacks messages: a JSON object, how many by topic."""


@dataclass(frozen=True)
class RecordConfig:
    """Record live topics until Ctrl-C.

    Attributes:
        output: the bag's folder, which must not be there yet.
        topics: names of the topics; none = every one of a known type.
    """

    output: Path
    topics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if os.path.lexists(self.output):
            raise InputError(f"{self.output}: is there already; a bag is never written over, name another --output")


class Recorder(Node):
    """Subscribes to topics as they appear and writes each message as it was received.

    Attributes:
        counts: messages written, by topic.
    """

    def __init__(self, bag: BagWriter, topics: Sequence[str] = (), **options: Any) -> None:
        """Record into the open `bag`; `options` are rclpy's.

        Raises:
            ConfigError: a topic has a name that none can have.
        """
        super().__init__("diwa_recorder", **options)
        refuse_unknown_types(self)
        self._bag = bag
        try:
            for topic in topics:
                validate_topic_name(topic)
            self._wanted = {self.resolve_topic_name(topic) for topic in topics}
        except (InvalidTopicNameException, RuntimeError) as error:  # rcl's own kinds are private
            raise ConfigError(f"--topics: {one_line(error)}") from None
        self._known = typestore().fielddefs
        self.counts: dict[str, int] = {}
        self._losses: dict[str, Losses] = {}
        self._senders: dict[str, int] = {}
        self._unknown: set[str] = set()
        self.create_timer(LOOK_AGAIN_S, self.subscribe_to_new)

    @property
    def lost(self) -> dict[str, int]:
        """How many messages were sent and did not come, by topic."""
        return {topic: losses.count for topic, losses in self._losses.items() if losses.count}

    @property
    def silent(self) -> list[str]:
        """Topics that were asked for by name and of which nothing came."""
        return sorted(topic for topic in self._wanted if not self.counts.get(topic))

    def subscribe_to_new(self) -> None:
        """Subscribe to every wanted topic that has a publisher and is not recorded yet."""
        for topic, types in self.get_topic_names_and_types():
            wanted = topic in self._wanted if self._wanted else topic not in NEVER_RECORDED
            publishers = self.count_publishers(topic) if wanted else 0
            if not publishers:
                continue
            self._senders[topic] = max(publishers, self._senders.get(topic, 0))
            if types[0] not in self._known:
                self._say_unknown(topic, types[0])
            elif topic not in self.counts:
                self._subscribe(topic, types[0])

    def say_lost(self) -> None:
        """Note in the bag what it lacks."""
        if self.lost:
            self._bag.note(LOST_KEY, json.dumps(self.lost))

    def _say_unknown(self, topic: str, kind: str) -> None:
        if topic not in self._unknown:
            self._unknown.add(topic)
            self.get_logger().warning(f"{topic} is not recorded: its type {kind} is not known here")

    def _subscribe(self, topic: str, kind: str) -> None:
        self.counts[topic], self._losses[topic] = 0, Losses()
        self.create_subscription(message_class(kind), topic, self._writer_of(topic, kind), self._qos(topic), raw=True)

    def _writer_of(self, topic: str, kind: str) -> Callable[[bytes, dict[str, Any]], None]:
        def write(data: bytes, info: dict[str, Any]) -> None:
            self._bag.write_serialized((topic.lstrip("/"), kind), data, info["received_timestamp"])
            self.counts[topic] += 1
            if self._losses[topic].add(info["publication_sequence_number"], self._senders[topic]):
                why = f"{topic}: {self._losses[topic].count} messages are lost by now; disk or machine are too slow"
                self.get_logger().warning(why, throttle_duration_sec=1.0)

        return write

    def _qos(self, topic: str) -> QoSProfile:
        """Ask for what every publisher of the topic offers: reliable and latched where they are."""
        offers = [info.qos_profile for info in self.get_publishers_info_by_topic(topic)]
        reliable = all(offer.reliability == ReliabilityPolicy.RELIABLE for offer in offers)
        # Of one that has just gone nothing is known: what is not latched is heard from all.
        latched = bool(offers) and all(offer.durability == DurabilityPolicy.TRANSIENT_LOCAL for offer in offers)
        return QoSProfile(
            depth=DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )


def record(argv: Sequence[str]) -> None:
    """Record until Ctrl-C; the bag appears under its name when it is whole.

    Raises:
        StorageError: the disk refused; what was recorded until then is kept, and the message says where.
        KeyboardInterrupt: told to stop a second time before the bag was whole; likewise.
    """
    config = load_config(RecordConfig, argv)
    with ros_process(args=[]), BagWriter(config.output, place=kept_on_failure) as bag:
        node = Recorder(bag, config.topics)
        spin_until_told(node)
        node.say_lost()
    print(f"{config.output}: {sum(node.counts.values())} messages of {len(node.counts)} topics")
    if node.lost:
        missing = ", ".join(f"{count} of {topic}" for topic, count in node.lost.items())
        print(f"lost: {missing}; disk or machine were too slow", file=sys.stderr)
    if node.silent:
        print(f"nothing came of {', '.join(node.silent)}; is the name right?", file=sys.stderr)


def main() -> None:
    """Run `record` with the process's arguments."""
    sys.exit(run_verb(record))
