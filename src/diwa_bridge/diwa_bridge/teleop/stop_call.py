"""The call of `robot/stop`, again and again until it is answered: a robot that was killed looks alive for a while."""

from __future__ import annotations

from typing import Any

from rclpy.node import Node
from std_srvs.srv import Trigger

AGAIN_S = 0.5
"""A robot that lives answers within some ms."""
TRIES = 20


class StopCall:
    """Calls `robot/stop`."""

    def __init__(self, node: Node) -> None:
        """Call as `node`."""
        self._node = node
        self._client = node.create_client(Trigger, "robot/stop")
        self._asked: list[Any] = []
        self._tries = 0
        self._next_s = 0.0

    @property
    def is_pending(self) -> bool:
        """Whether it was called and nobody has answered yet."""
        return self._tries > 0

    def begin(self, now_s: float) -> None:
        """Call it, from now on until it is answered, `TRIES` times at most."""
        self._tries = 0
        self._node.get_logger().warning("robot/stop called")
        self._try(now_s)

    def look(self, now_s: float) -> None:
        """See what became of it; to be called often."""
        if not self.is_pending:
            return
        answers = [future.result() for future in self._asked if future.done() and future.exception() is None]
        if answers:
            self._node.get_logger().warning(f"robot/stop: {answers[0].message}")
            self._end()
        elif now_s >= self._next_s and self._tries < TRIES:
            if self._tries == 1:
                self._node.get_logger().error(
                    "robot/stop: nobody answers, use the robot's own stop; it is called again meanwhile"
                )
            self._try(now_s)
        elif now_s >= self._next_s:
            after_s = TRIES * AGAIN_S
            self._node.get_logger().error(
                f"robot/stop: nobody has answered for {after_s:.0f} s, given up; the robot is not stopped by this"
            )
            self._end()

    def _try(self, now_s: float) -> None:
        self._tries, self._next_s = self._tries + 1, now_s + AGAIN_S
        if self._client.service_is_ready():
            self._asked.append(self._client.call_async(Trigger.Request()))

    def _end(self) -> None:
        self._tries = 0
        while self._asked:
            self._client.remove_pending_request(self._asked.pop())
