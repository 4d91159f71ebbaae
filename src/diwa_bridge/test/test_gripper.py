"""The gripper whose hand's process says what cannot be: a fault that is said, and nobody waits."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import pytest

pytest.importorskip("franky", reason="needs franky-control")

from diwa_bridge.arm import gripper as gripper_module
from diwa_bridge.arm import hand
from diwa_bridge.arm.gripper import Gripper

PATIENCE_S = 20.0
SOUND = {"width": 0.04, "max_width": 0.08, "grasped": False, "moving": False}


class Process:
    """Stands in for the hand's process, which ends at once when it is told to."""

    def wait(self, _: float | None = None) -> int:
        return 0

    def kill(self) -> None:
        pass


class Puppet(Gripper):
    """A gripper whose hand is the test."""

    def __init__(self, first: bytes) -> None:
        super().__init__("nowhere")
        self.first = first
        self.theirs: Connection | None = None

    def _start(self) -> Connection:
        ours, self.theirs = Pipe()
        self.theirs.send_bytes(self.first)
        self._process: Any = Process()
        return ours

    def told(self) -> list[bytes]:
        assert self.theirs is not None
        words = []
        while self.theirs.poll():
            words.append(self.theirs.recv_bytes())
        return words

    def close(self) -> None:
        if self.theirs is not None:
            self.theirs.close()  # as a process that has ended
            self.theirs = None
        super().close()


def state(**changes: Any) -> bytes:
    return json.dumps({**SOUND, **changes}).encode()


@pytest.fixture
def puppet() -> Iterator[Puppet]:
    made = Puppet(state())
    made.connect()
    yield made
    made.close()


@pytest.mark.parametrize(
    "lie",
    [state(width=float("nan")), state(max_width=float("inf")), state(width="wide"), state(width=1e300), b"{}", b"\xff"],
    ids=["nan", "inf", "text", "huge", "nothing", "noise"],
)
def test_a_hand_that_says_what_cannot_be_is_a_fault(puppet: Puppet, lie: bytes) -> None:
    first = Puppet(lie)
    first.connect()
    assert "what it says cannot be" in first.fault
    assert puppet.theirs is not None
    puppet.theirs.send_bytes(lie)
    end = time.monotonic() + PATIENCE_S
    while not puppet.fault:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert "what it says cannot be" in puppet.fault
    assert puppet.width == 0.04, "the last one that could be"


def test_a_width_that_is_not_known_is_no_homed_hand() -> None:
    puppet = Puppet(state(max_width=gripper_module.HOMED_M / 2))
    puppet.connect()
    assert "home it in Desk" in puppet.fault


def test_fingers_are_told_to_stand_once_however_often_the_arm_fails(puppet: Puppet) -> None:
    puppet.wish(1.0)
    for _ in range(50):  # some hundreds are more than a connection takes to a hand that no longer reads
        puppet.halt()
    assert puppet.told() == [hand.OPEN, hand.HALT]
    puppet.wish(1.0)
    assert puppet.told() == [hand.OPEN], "the next wish is followed whatever it is"
