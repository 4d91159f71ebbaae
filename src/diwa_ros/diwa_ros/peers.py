"""Who else is on a topic: a sender's name in a message proves nothing, the middleware's own list does."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rclpy.clock import Clock, ClockType
from rclpy.node import Node

LOOK_S = 0.2
"""How often a node looks whether it is alone on its topics."""
MOST_NAMES = 4
UNNAMED = "a node that has not said its name yet"


def publishers_of(node: Node, topic: str) -> list[str]:
    """Return the full names of the nodes that publish a topic, one for each publisher, sorted.

    A process that was killed stays in the list until the middleware's lease runs out (20 s with Fast DDS).
    """
    found = node.get_publishers_info_by_topic(node.resolve_topic_name(topic))
    return sorted(_name(info.node_namespace, info.node_name) for info in found)


def several_publish(node: Node, topic: str) -> str | None:
    """Say who publish a topic that is to have one publisher, or None: there is at most one."""
    if node.count_publishers(topic) < 2:  # a number is quicker had than names
        return None
    names = publishers_of(node, topic)
    more = [f"{len(names) - MOST_NAMES} more"] if len(names) > MOST_NAMES else []
    who = " and ".join(names[:MOST_NAMES] + more)
    return f"{topic} is published by {who}; only one may (a node that was killed counts for 20 s more)"


def full_name(node: Node) -> str:
    """Return a node's name with its namespace and without the first slash: ``left/diwa_bridge``, ``diwa_bridge``."""
    return str(node.get_fully_qualified_name()).lstrip("/")


class Rivals:
    """Looks again and again whether topics that are to have one publisher have more, until it is closed.

    Attributes:
        who: which of the topics has several, and who they are, one line; "" = none has.
    """

    def __init__(self, node: Node, topics: Iterable[str], on_change: Callable[[], None] = lambda: None) -> None:
        """Look from now on; `on_change` is called after each change of `who`."""
        self._node, self._topics, self._on_change = node, tuple(topics), on_change
        self.who = self._said = ""
        self._timer = node.create_timer(LOOK_S, self.look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def close(self) -> None:
        """Look no more."""
        self._node.destroy_timer(self._timer)

    def look(self) -> None:
        """Look now. It is acted upon at once, and said when it looks the same again: a name may come a moment later."""
        before = self.who
        self.who = next((who for topic in self._topics if (who := several_publish(self._node, topic))), "")
        if self.who != before:
            self._on_change()
        elif self.who != self._said:
            self._said = self.who
            if self.who:
                self._node.get_logger().error(self.who)
            else:
                self._node.get_logger().info(f"{' and '.join(self._topics)}: one publisher again")


def _name(namespace: str, name: str) -> str:
    return UNNAMED if "_UNKNOWN_" in name else f"{namespace.rstrip('/')}/{name}"
