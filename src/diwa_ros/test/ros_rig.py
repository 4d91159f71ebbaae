"""What the tests of all nodes stand on: nodes in a context of their own, and one executor that the test turns."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

TIMEOUT_S = 60.0
DOMAIN = 1 + os.getpid() % 100
"""A domain of its own: two test runs on one machine must not hear each other."""


@contextmanager
def hangup_heard() -> Iterator[None]:
    """Let SIGHUP reach this process and what it starts meanwhile, even where the whole run was started by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


class RosRig:
    """A peer, and whatever nodes the test adds; they are destroyed with it, in that order.

    Attributes:
        peer: who listens, commands and calls.
    """

    def __init__(self, peer: str = "peer", domain: int = DOMAIN) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.nodes: list[Any] = []
        self.peer = self.add(Node(peer, context=self.context))

    def options(self, **parameters: Any) -> dict[str, Any]:
        """What makes a node of this rig, with these parameters."""
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        return {"context": self.context, "parameter_overrides": overrides}

    def add(self, node: Any) -> Any:
        self.nodes.append(node)
        self.executor.add_node(node)
        return node

    def listen(self, kind: Any, topic: str, qos: Any = 100) -> list[Any]:
        """Return what is heard on a topic from now on."""
        received: list[Any] = []
        self.peer.create_subscription(kind, topic, received.append, qos)
        return received

    def spin_until(self, reached: Callable[[], object]) -> None:
        end = time.monotonic() + TIMEOUT_S
        while not reached():
            assert time.monotonic() < end, f"what the test waits for did not come {self.why()}"
            self.executor.spin_once(timeout_sec=0.05)

    def why(self) -> str:
        """Say what may be the reason that something did not come."""
        return ""

    def call(self, name: str) -> Trigger.Response:
        client = self.peer.create_client(Trigger, name)
        self.spin_until(client.service_is_ready)
        answer = client.call_async(Trigger.Request())
        self.spin_until(answer.done)
        return answer.result()

    def close(self) -> None:
        self.executor.shutdown()
        for node in self.nodes:
            node.destroy_node()
        rclpy.shutdown(context=self.context)


def rigs(kind: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Give what makes rigs, for a fixture; they are closed when the test ends, however it ends."""
    made: list[Any] = []

    def make(*arguments: Any, **parameters: Any) -> Any:
        made.append(kind(*arguments, **parameters))
        return made[-1]

    yield make
    for rig in made:
        rig.close()
