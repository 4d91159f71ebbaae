"""An arm and a hand that do as they are told, without a network: tests break them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from diwa_bridge.arm.franka import ArmError, ArmLostError, Condition, Reading
from diwa_bridge.arm.limits import FR3, ArmLimits
from diwa_bridge.arm.servo import ArmState
from diwa_runtime.geometry import euler_to_quaternion

DOWN = np.array([math.pi, 0.0, 0.0])
MS = 1_000_000


@dataclass
class DutifulArm:
    """An arm without inertia that holds a velocity for 0.1 s; tests break it."""

    position: np.ndarray = field(default_factory=lambda: np.array([0.45, 0.0, 0.35]))
    now_ns: int = 0
    condition: Condition = Condition.READY
    errors: tuple[str, ...] = ()
    success_rate: float = 1.0
    broken: Exception | None = None
    recovers: bool = True
    frozen: bool = False
    settled: bool = False
    connected: int = 0
    sent: list[np.ndarray] = field(default_factory=list)
    _twist: np.ndarray = field(default_factory=lambda: np.zeros(6))
    _until_ns: int = 0

    def connect(self) -> None:
        self.connected += 1
        if isinstance(self.broken, ArmLostError):
            raise self.broken
        self.now_ns, self._until_ns = 5 * MS, 0  # its clock starts anew

    def close(self) -> None:
        pass

    def limits(self) -> ArmLimits:
        return replace(FR3, translation_velocity=1.7)

    def read(self) -> Reading:
        if self.broken is not None:
            raise self.broken
        state = ArmState(self.position.copy(), DOWN.copy(), np.array([0, -0.78, 0, -2.36, 0, 1.57, 0.78]), np.eye(6, 7))
        quaternion = euler_to_quaternion(DOWN)
        return Reading(self.now_ns, state, quaternion, np.zeros(7), self.condition, self.errors, self.success_rate)

    def send(self, twist: np.ndarray, ease: float = 1.0) -> None:
        assert 0 < ease <= 1
        if self.broken is not None:
            raise self.broken
        if self.condition is not Condition.READY:
            raise ArmError("rejected")
        self.sent.append(twist.copy())
        self._twist, self._until_ns = twist.copy(), self.now_ns + 100 * MS

    def settle(self) -> None:
        """Let the motion run out."""
        assert not self.sent[-1].any(), "told to stand before it is waited for"
        self.settled = True

    def recover(self) -> None:
        if not self.recovers:
            raise ArmError("the arm did not clear its errors")
        self.condition, self.errors = Condition.READY, ()

    def measure_communication(self) -> float:
        return self.success_rate

    def step(self) -> None:
        """Let 4 ms pass."""
        if not self.frozen:
            if self.now_ns < self._until_ns and self.condition is Condition.READY:
                self.position += 0.004 * self._twist[:3]
            self.now_ns += 4 * MS


@dataclass
class Hand:
    width: float = 0.08
    command: float = 1.0
    fault: str = ""
    halted: int = 0
    homed: bool = True

    def connect(self) -> None:
        """As after being switched on, where it is not homed."""
        self.fault = "" if self.homed else "gripper: it does not know its width; home it in Desk"

    def close(self) -> None:
        pass

    def wish(self, value: float) -> float:
        self.command = math.copysign(1.0, value)
        return self.command

    def halt(self) -> None:
        self.halted += 1
