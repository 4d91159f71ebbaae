"""`record`: live topics into an MCAP bag, undecoded, for machines that have no `ros2 bag record`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from diwa_ros.process import ros_process, spin_until_told
from diwa_runtime.cli import run_verb
from diwa_runtime.config import load_config
from diwa_runtime.errors import InputError
from diwa_runtime.interfaces import message_class
from diwa_sim.bags import BagWriter, kept_on_failure, typestore

DEPTH = 1000
"""Messages that wait while the disk is slow: at 30 Hz, half a minute of one topic."""
NEVER_RECORDED = ("/rosout", "/parameter_events")
LOOK_AGAIN_S = 0.2


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
        """Record into the open `bag`; `options` are rclpy's."""
        super().__init__("diwa_recorder", **options)
        self._bag = bag
        self._wanted = {self.resolve_topic_name(topic) for topic in topics}
        self._known = typestore().fielddefs
        self.counts: dict[str, int] = {}
        self.create_timer(LOOK_AGAIN_S, self.subscribe_to_new)

    def subscribe_to_new(self) -> None:
        """Subscribe to every wanted topic that has a publisher and is not recorded yet."""
        for topic, types in self.get_topic_names_and_types():
            wanted = topic in self._wanted if self._wanted else topic not in NEVER_RECORDED
            if topic not in self.counts and wanted and types[0] in self._known and self.count_publishers(topic):
                self._subscribe(topic, types[0])

    def _subscribe(self, topic: str, kind: str) -> None:
        self.counts[topic] = 0
        self.create_subscription(message_class(kind), topic, self._writer_of(topic, kind), self._qos(topic), raw=True)

    def _writer_of(self, topic: str, kind: str) -> Callable[[bytes, dict[str, Any]], None]:
        def write(data: bytes, info: dict[str, Any]) -> None:
            self._bag.write_serialized((topic.lstrip("/"), kind), data, info["received_timestamp"])
            self.counts[topic] += 1

        return write

    def _qos(self, topic: str) -> QoSProfile:
        """Ask for what every publisher of the topic offers: reliable and latched where they are."""
        offers = [info.qos_profile for info in self.get_publishers_info_by_topic(topic)]
        reliable = all(offer.reliability == ReliabilityPolicy.RELIABLE for offer in offers)
        latched = all(offer.durability == DurabilityPolicy.TRANSIENT_LOCAL for offer in offers)
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
    print(f"{config.output}: {sum(node.counts.values())} messages of {len(node.counts)} topics")


def main() -> None:
    """Run `record` with the process's arguments."""
    sys.exit(run_verb(record))
