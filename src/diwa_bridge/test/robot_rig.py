"""Simulators of the arm's network protocol as processes, and a bridge that is polled as its node would."""

from __future__ import annotations

import os
import subprocess
import time
import unittest
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from diwa_bridge.arm.bridge import Bridge
from diwa_bridge.arm.franka import Arm, ArmError
from diwa_bridge.arm.gripper import Gripper
from diwa_bridge.arm.limits import ServoLimits
from diwa_bridge.arm.recovery import WARNED_BELOW
from diwa_bridge.arm.snapshots import BridgeSnapshot
from diwa_runtime.command_gate import Command, CommandGate
from diwa_runtime.errors import InputError
from diwa_runtime.spec import ActionScale

ROOT = Path(__file__).resolve().parents[3]
SERVERS = Path(__file__).resolve().parent / "simulators"
START_S, PATIENCE_S = 60.0, 60.0
FROZEN_S = 1.0
"""On a busy machine a simulator does not answer each 0.1 s."""
WORKSPACE: dict[str, Any] = {"low": (0.25, -0.45, 0.02), "high": (0.75, 0.45, 0.80)}


class NotInstalledError(InputError, unittest.SkipTest):
    """There is no simulator of that kind: one line for a benchmark, and pytest takes it for a skip."""


def check_installed(kind: str) -> None:
    """Refuse a kind that scripts/robot-simulators did not install whole.

    Raises:
        NotInstalledError: there is none.
    """
    if not (ROOT / ".simulators" / kind / ".setup-stamp").exists():
        raise NotInstalledError(f"{kind} is not installed; scripts/robot-simulators does it")


class Simulator:
    """One process; it can be killed and started again under the same name."""

    def __init__(self, kind: str, hostname: str, trace: Path | None = None) -> None:
        """Say what to run: ``franky-sim`` or ``franka-sim``."""
        self.hostname, self._kind, self._trace = hostname, kind, trace
        self._process: subprocess.Popen[str] | None = None
        self.python = ROOT / ".simulators" / kind / "bin" / "python"
        check_installed(kind)

    def start(self) -> None:
        """Start it, and wait until it says that it listens."""
        assets = next((ROOT / ".simulators").glob("franky-sim/lib/python*/site-packages/franky_sim/assets"))
        words = [self.hostname]
        if self._kind == "franka-sim":
            words += [str(assets), *([str(self._trace)] if self._trace else [])]
        # What the wheels' ROS and the workspace put there is not for another environment's Python.
        environment = {
            name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LD_LIBRARY_PATH")
        }
        server = SERVERS / f"{self._kind.replace('-', '_')}_server.py"
        self._process = subprocess.Popen(
            [str(self.python), str(server), *words],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            if line == "READY\n":
                return
        raise AssertionError(f"{self._kind} did not start")

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None


@contextmanager
def any_machine() -> Iterator[None]:
    """Refuse no arm, and warn of none, because this machine is busy and fewer commands arrive in time than must."""
    measure = Arm.measure_communication
    with patch.object(Arm, "measure_communication", lambda arm: max(measure(arm), WARNED_BELOW)):
        yield


@contextmanager
def simulator(kind: str, hostname: str, trace: Path | None = None) -> Iterator[Simulator]:
    """Run one for the block."""
    made = Simulator(kind, hostname, trace)
    made.start()
    try:
        yield made
    finally:
        made.kill()


def raised_threads() -> set[int]:
    """Return the threads of this process with a real-time priority."""
    raised = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # one that ends meanwhile
            if os.sched_getscheduler(int(task.name)) != os.SCHED_OTHER:
                raised.add(int(task.name))
    return raised


class Rig:
    """A bridge to a simulated arm, polled like the node polls it, and paced by the robot's clock."""

    def __init__(self, hostname: str, gripper: bool = False, speed: float = 0.1) -> None:
        """Connect."""
        self.raised_before = raised_threads()  # an arm of another test may still be at its end
        self.arm = Arm(hostname, speed)
        self.bridge = Bridge(
            self.arm,
            Gripper(hostname) if gripper else None,
            lambda arm: ServoLimits(arm, speed=speed, **WORKSPACE),
            CommandGate(500_000_000),
            ActionScale(),
            frozen_after_s=FROZEN_S,
        )
        self.snapshots: list[BridgeSnapshot] = []
        self.bridge.start()

    def close(self) -> None:
        """Let go of the arm."""
        self.bridge.close()

    def poll(self) -> None:
        """Turn once."""
        snapshot = self.bridge.poll(time.monotonic_ns())
        if snapshot is not None:
            self.snapshots.append(snapshot)
        time.sleep(0.002)

    def poll_until(self, reached: Callable[[], object], turn: Callable[[], None] | None = None) -> None:
        """Turn until something is so: poll, or what else is given."""
        end = time.monotonic() + PATIENCE_S
        while not reached():
            assert time.monotonic() < end, f"never; {self.bridge.mode.name}, {self.bridge.fault}"
            (turn or self.poll)()

    def robot_seconds(self, seconds: float) -> None:
        """Turn for a while of the robot's time."""
        self.poll_until(lambda: bool(self.snapshots))
        end_ns = self.snapshots[-1].stamp_ns + round(seconds * 1e9)
        self.poll_until(lambda: self.snapshots[-1].stamp_ns >= end_ns)

    def drive(self, motion: Callable[[int], np.ndarray], count: int, gripper: float = 1.0) -> None:
        """Have `count` motions (6,) done, one a snapshot; what a stalled bridge dropped is commanded anew."""
        done, end = 0, time.monotonic() + PATIENCE_S
        self.next_snapshot()
        while done < count:
            assert time.monotonic() < end, f"{done} of {count} done; {self.bridge.mode.name}, {self.bridge.fault}"
            answered_ns = self.command(motion(done), gripper)
            self.next_snapshot()
            done += self.snapshots[-1].answered_ns == answered_ns

    def command(self, motion: np.ndarray, gripper: float = 1.0) -> int:
        """Answer the newest snapshot with a motion (6,); return that snapshot's stamp."""
        command = Command(motion, gripper, "policy", self.snapshots[-1].stamp_ns)
        assert self.bridge.gate.offer(command, time.monotonic_ns()) is None
        return command.answers_ns

    def next_snapshot(self) -> None:
        """Turn until there is a newer one."""
        before = len(self.snapshots)
        self.poll_until(lambda: len(self.snapshots) > before)

    def command_fingers(self, gripper: float, reached: Callable[[], object]) -> None:
        """Say it again and again until something is so: a bridge that stalled has dropped what it was told."""
        self.poll_until(reached, lambda: self.drive(lambda _: np.zeros(6), 1, gripper))

    def recover(self) -> None:
        """Call for recovery, and turn until it is over."""
        work = self.bridge.recover()
        assert work is not None
        self.poll_until(lambda: work.done())
        self.poll()

    def raise_reflex(self) -> None:
        """Go round the servo and ask the arm for what it cannot do."""
        jerky = Arm(self.arm.hostname, 1.0)
        jerky._robot, jerky._model = self.arm._robot, self.arm._model
        franky_factor = type(self.arm._robot.relative_dynamics_factor)
        self.arm._robot.relative_dynamics_factor = franky_factor(1.0)
        with suppress(ArmError):
            for _ in range(20):
                jerky.send(np.array([0.0, 0.5, 0.0, 0.0, 0.0, 0.0]))
                time.sleep(0.02)
        self.arm._robot.relative_dynamics_factor = franky_factor(self.arm.speed)


def rest_after_s(times_s: np.ndarray, positions: np.ndarray, left_m: float = 5e-4) -> float:
    """Return how long it took until the TCP was within `left_m` of where it stayed: times (N,), positions (N, 3)."""
    away = np.linalg.norm(positions - positions[-1], axis=1) > left_m
    return float(times_s[int(np.flatnonzero(away)[-1]) + 1] - times_s[0]) if away.any() else 0.0
