"""Who else is on a topic: a sender's name in a message proves nothing, the middleware's own list does."""

from __future__ import annotations

from rclpy.node import Node


def publishers_of(node: Node, topic: str) -> list[str]:
    """Return the full names of the nodes that publish a topic, one for each publisher, sorted.

    A process that was killed stays in the list until the middleware's lease runs out (20 s with Fast DDS).
    """
    found = node.get_publishers_info_by_topic(node.resolve_topic_name(topic))
    return sorted(f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in found)


def several_publish(node: Node, topic: str) -> str | None:
    """Say who publish a topic that is to have one publisher, or None: there is at most one."""
    if node.count_publishers(topic) < 2:  # a number is quicker had than names
        return None
    names = publishers_of(node, topic)
    return f"{topic} is published by {' and '.join(names)}; only one may (a node that was killed counts for 20 s more)"


def full_name(node: Node) -> str:
    """Return a node's name with its namespace and without the first slash: ``left/diwa_bridge``, ``diwa_bridge``."""
    return str(node.get_fully_qualified_name()).lstrip("/")
