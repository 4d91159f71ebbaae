"""Who publishes a topic that is to have one publisher: found out, acted upon, said once, and over again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy")

from rclpy.node import Node  # noqa: E402
from ros_rig import RosRig, rigs  # noqa: E402
from std_msgs.msg import String  # noqa: E402

from diwa_ros.peers import UNNAMED, Rivals, full_name, publishers_of, several_publish  # noqa: E402

pytestmark = pytest.mark.ros


class Rig(RosRig):
    """Robots that publish a topic, each in a namespace."""

    def robot(self, name: str, namespace: str = "", topic: str = "robot/state") -> Node:
        node = Node(name, namespace=namespace, context=self.context)
        node.create_publisher(String, topic, 10)
        return self.add(node)

    def ends(self, node: Node) -> None:
        self.nodes.remove(node)
        self.executor.remove_node(node)
        node.destroy_node()


@pytest.fixture
def make_rig() -> Iterator[Callable[..., Rig]]:
    yield from rigs(Rig)


def test_a_name_has_its_namespace_but_no_first_slash(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    assert full_name(rig.robot("diwa_bridge")) == "diwa_bridge"
    assert full_name(rig.robot("diwa_bridge", "left")) == "left/diwa_bridge"
    assert full_name(rig.robot("diwa_bridge", "/lab/left")) == "lab/left/diwa_bridge"


def test_two_publishers_are_named_also_of_one_name_and_other_namespaces_do_not_count(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig()
    first = rig.robot("diwa_bridge", "left")
    rig.robot("diwa_bridge", "right")
    rig.spin_until(lambda: publishers_of(first, "robot/state") == ["/left/diwa_bridge"])
    assert several_publish(first, "robot/state") is None
    rig.robot("diwa_bridge", "left")
    rig.spin_until(lambda: several_publish(first, "robot/state"))
    said = several_publish(first, "robot/state")
    assert said is not None
    assert said.startswith("robot/state is published by /left/diwa_bridge and /left/diwa_bridge; only one may")


def test_a_rival_is_acted_upon_said_once_and_over_when_it_is_gone(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig()
    node, said, acted = rig.robot("one"), list[str](), list[str]()
    logger = node.get_logger()
    monkeypatch.setattr(logger, "error", said.append)
    monkeypatch.setattr(logger, "info", said.append)
    monkeypatch.setattr(node, "get_logger", lambda: logger)
    rivals: Any = Rivals(node, ("robot/spec", "robot/state"), lambda: acted.append(rivals.who))
    rig.spin_until(lambda: publishers_of(node, "robot/state") == ["/one"])
    rivals.look()
    assert (rivals.who, acted) == ("", [])
    other = rig.robot("two")
    rig.spin_until(lambda: said)
    for _ in range(5):
        rivals.look()
    rig.ends(other)
    rig.spin_until(lambda: len(said) == 2)
    assert "/one and /two" in acted[0]
    assert acted[1:] == [""]
    assert said == [acted[0], "robot/spec and robot/state: one publisher again"]


def test_a_publisher_whose_name_has_not_come_yet_counts_all_the_same() -> None:
    class Info:
        node_namespace, node_name = "_NODE_NAMESPACE_UNKNOWN_", "_NODE_NAME_UNKNOWN_"

    class Early:
        def resolve_topic_name(self, topic: str) -> str:
            return topic

        def get_publishers_info_by_topic(self, _: str) -> list[Info]:
            return [Info(), Info()]

        def count_publishers(self, _: str) -> int:
            return 2

    early: Any = Early()
    assert UNNAMED in str(several_publish(early, "robot/state"))
