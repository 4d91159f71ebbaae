"""The bridge on a simulated arm that speaks Franka's network protocol: how closely, how soon, and how it comes to rest.

Times are the robot's own, for its simulator is slower than the wall clock when the machine is busy. The figures are the
simulator's and the servo's together; nothing here was measured on an arm.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from measuring import Benchmark, Effort, missing_modules
from numpy.typing import NDArray

BRIDGE = Path(__file__).resolve().parent.parent / "src" / "diwa_bridge"
sys.path += [str(BRIDGE), str(BRIDGE / "test")]  # its core needs no ROS, and without ROS nothing installs it

if TYPE_CHECKING:
    from robot_rig import Rig

SIMULATOR, HOSTNAME = "franky-sim", "127.0.0.41"
MOVED_M = 1e-4
SILENCE_S, REST_S = 0.1, 0.15


@dataclass(frozen=True)
class RobotRun:
    """What the arm did.

    Attributes:
        lead_mm: how far the target was ahead of the TCP at each servo tick that moved it (N,).
        delay_ms: from a command to an arm at rest until it had moved 0.1 mm (M,).
        rest_ms: from the last command until the TCP was within 0.5 mm of where it stayed (M,), silence included.
    """

    lead_mm: NDArray[np.float64]
    delay_ms: NDArray[np.float64]
    rest_ms: NDArray[np.float64]


@functools.cache
def measured_run(quick: bool) -> RobotRun:
    """Start and stop the arm again and again, along changing directions, and wander in between."""
    from robot_rig import Rig, rest_after_s, simulator

    from diwa_bridge.arm.servo import ArmState

    rng = np.random.default_rng(0)
    leads: list[float] = []
    delays: list[float] = []
    rests: list[float] = []
    with simulator(SIMULATOR, HOSTNAME) as running:
        rig = Rig(running.hostname)
        servo = rig.bridge.servo
        assert servo is not None, "made by the rig"
        tick = servo.tick

        def noted(state: ArmState, now_ns: int) -> NDArray[np.float64]:
            leads.append(1e3 * float(np.linalg.norm(servo.lead(state)[:3])))
            return tick(state, now_ns)

        try:
            for _ in range(2 if quick else 20):
                direction = rng.normal(size=3) * [1, 1, 0.5]
                motion = np.concatenate([0.003 * direction / np.linalg.norm(direction), np.zeros(3)])
                delays.append(_delay_s(rig, motion))
                servo.tick = noted  # type: ignore[method-assign]
                rig.drive(lambda number, motion=motion: motion * (1 if number < 20 else -1), 40)  # type: ignore[misc]
                servo.tick = tick  # type: ignore[method-assign]
                since = len(rig.snapshots) - 1
                rig.robot_seconds(0.8)
                times = np.array([snapshot.stamp_ns for snapshot in rig.snapshots[since:]]) / 1e9
                positions = np.array([snapshot.tcp_position for snapshot in rig.snapshots[since:]])
                rests.append(rest_after_s(times, positions))
        finally:
            rig.close()
    return RobotRun(np.array(leads), 1e3 * np.array(delays), 1e3 * np.array(rests))


def _delay_s(rig: Rig, motion: NDArray[np.float64]) -> float:
    """Command an arm at rest; return the robot's seconds until it moves."""
    rig.robot_seconds(0.1)
    start = rig.arm.read()
    rig.next_snapshot()
    rig.command(motion)
    commanded = rig.arm.read()
    number = 0
    while np.linalg.norm(rig.arm.read().state.position - start.state.position) < MOVED_M:
        before = len(rig.snapshots)
        rig.poll()
        if len(rig.snapshots) > before:
            rig.command(motion)
            number += 1
        if number > 30:
            raise RuntimeError(f"the arm does not move; {rig.bridge.mode.name} {rig.bridge.fault or ''}".rstrip())
    return (rig.arm.read().time_ns - commanded.time_ns) / 1e9


def lacks() -> str:
    """Say what there is not of franky and the simulated arm."""
    if missing_modules("franky"):
        return "there is no franky; make setup installs it"
    from robot_rig import NotInstalledError, check_installed

    try:
        check_installed(SIMULATOR)
    except NotInstalledError as error:
        return str(error)
    return ""


def row(figure_of: Callable[[RobotRun], float], reference: float) -> Callable[[Effort], tuple[float, float]]:
    """One figure of the run beside its limit."""

    def measure(effort: Effort) -> tuple[float, float]:
        return figure_of(measured_run(effort.quick)), reference

    return measure


_WHAT = "of the bridge on franky-sim, speed 0.1, commands at 30 Hz; 20 starts and stops, the robot's time"

BENCHMARKS = (
    Benchmark(
        "servo_tracking",
        "mm",
        None,
        f"median distance of the TCP behind its target while it moves, {_WHAT}",
        "the furthest that the target may be ahead",
        row(lambda run: float(np.median(run.lead_mm)), 60.0),
        one_run=True,
        lacks=lacks,
    ),
    Benchmark(
        "servo_delay",
        "ms",
        None,
        f"median time from a command to 0.1 mm of motion, {_WHAT}",
        "a control period",
        row(lambda run: float(np.median(run.delay_ms)), 1000 / 30),
        one_run=True,
        lacks=lacks,
    ),
    Benchmark(
        "servo_rest",
        "ms",
        1.0,
        f"longest time from the last command to rest, {_WHAT}",
        "the limit: 0.1 s of silence and 0.15 s to come to rest, seen at 30 Hz",
        row(lambda run: float(np.max(run.rest_ms)), 1000 * (SILENCE_S + REST_S + 1 / 30)),
        one_run=True,
        lacks=lacks,
    ),
)
