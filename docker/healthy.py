"""Whether a topic is alive: exit code 0 as soon as a message comes, 1 if none does. What the images' health checks run.

usage: healthy.py TOPIC [SECONDS]
"""

from __future__ import annotations

import sys
import time

import rclpy
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data

from diwa_runtime.interfaces import message_class


def is_alive(node: Node, topic: str, seconds: float) -> bool:
    """Whether a message comes on a topic, of whatever type, within so many seconds; what was latched does not count."""
    heard: list[bytes] = []
    end = time.monotonic() + seconds
    listening = False
    while not heard and time.monotonic() < end:
        if not listening and (publishers := node.get_publishers_info_by_topic(topic)):
            message = message_class(publishers[0].topic_type)
            node.create_subscription(message, topic, heard.append, qos_profile_sensor_data, raw=True)
            listening = True
        rclpy.spin_once(node, timeout_sec=0.05)
    return bool(heard)


def main(topic: str, seconds: str = "5") -> int:
    """Say what was found and return the exit code."""
    rclpy.init()
    node = Node("healthy", enable_rosout=False, start_parameter_services=False)
    alive = is_alive(node, topic, float(seconds))
    print(f"{topic}: {'alive' if alive else f'no message within {seconds} s'}")
    node.destroy_node()
    rclpy.shutdown()
    return 0 if alive else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
