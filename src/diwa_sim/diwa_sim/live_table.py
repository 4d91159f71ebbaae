"""The play table run tick by tick as a robot is: it holds unless told, stops, faults and recovers. ROS-free."""

from __future__ import annotations

from dataclasses import dataclass, replace

import mujoco
import numpy as np
from numpy.typing import NDArray

from diwa_runtime.actions import GRIPPER, HOLD_ACTION, motion_units
from diwa_runtime.command_gate import Command, CommandGate
from diwa_runtime.robot import RobotMode
from diwa_runtime.spec import ActionScale
from diwa_sim.environment import PlayTable
from diwa_sim.snapshot import Snapshot


@dataclass(frozen=True)
class Tick:
    """What one control tick did.

    Attributes:
        snapshot: the table after it.
        stamp_ns: simulated time of the snapshot.
        mode: the robot's mode.
        answered_ns: stamp of the observation that the newest command taken in answers; 0 = none.
        achieved: what was achieved in this very tick: the table's task, or any task where the table has none (play).
    """

    snapshot: Snapshot
    stamp_ns: int
    mode: RobotMode
    answered_ns: int
    achieved: tuple[str, ...] = ()


class LiveTable:
    """A play table on a clock of its own, which moves one period a tick and never goes back."""

    def __init__(self, env: PlayTable, gate: CommandGate, origin_ns: int = 0) -> None:
        """Run `env`; its first snapshot, after `reset`, is stamped one period after `origin_ns`."""
        self._env = env
        self._gate = gate
        self._now_ns = origin_ns
        self._period_ns = round(1e9 / env.contract.rate_hz)
        self._mode = RobotMode.IDLE
        self._stopped = False
        self._answered_ns = 0
        self._achieved: tuple[str, ...] = ()
        self._held = HOLD_ACTION.copy()
        self._snapshot: Snapshot | None = None
        self.fault = ""

    @property
    def now_ns(self) -> int:
        """Simulated time of the newest snapshot."""
        return self._now_ns

    @property
    def mode(self) -> RobotMode:
        """The robot's mode."""
        return self._mode

    def reset(self, seed: int) -> Tick:
        """Start an episode; a stop stays latched."""
        self._env.reset(seed=seed)
        self._snapshot = self._env.snapshot()
        self._now_ns += self._period_ns
        self._answered_ns, self._achieved, self.fault = 0, (), ""
        self._held[GRIPPER] = self._snapshot.gripper_command
        self._gate.clear(not_before_ns=self._now_ns)
        self._mode = RobotMode.STOPPED if self._stopped else RobotMode.IDLE
        return self._tick(self._snapshot)

    def tick(self) -> Tick:
        """Execute what the gate gives, or hold, for one period."""
        assert self._snapshot is not None, "call reset() before tick()"
        self._now_ns += self._period_ns
        command = self._gate.take()
        if self._mode is RobotMode.FAULT:
            return self._tick(self._snapshot)
        action: NDArray[np.floating] = self._held
        if self._mode is not RobotMode.STOPPED:
            self._mode = RobotMode.IDLE if command is None else RobotMode.MOVING
            if command is not None:
                action = action_of(command, self._env.contract.action_scale)
                self._answered_ns = command.answers_ns
        try:
            *_, info = self._env.step(action)
        except mujoco.FatalError as error:
            return self._fail(f"the physics engine gave up ({error})")
        snapshot = self._env.snapshot()
        if not np.isfinite(snapshot.proprio()).all():
            return self._fail("the arm's state is not finite")
        self._snapshot = snapshot
        self._held[GRIPPER] = self._snapshot.gripper_command
        return self._tick(snapshot, self._newly_achieved(info["tasks"]))

    def stop(self) -> None:
        """Hold from the next tick on, whatever is commanded, until `release`, also through a fault and its recovery."""
        self._stopped = True
        if self._mode is not RobotMode.FAULT:
            self._mode = RobotMode.STOPPED
        self._gate.clear(not_before_ns=self._now_ns)

    def release(self) -> bool:
        """End a stop; False = there was none. What was commanded meanwhile stays undone."""
        if not self._stopped:
            return False
        self._stopped = False
        if self._mode is RobotMode.STOPPED:
            self._mode = RobotMode.IDLE
        self._gate.clear(not_before_ns=self._now_ns)
        return True

    def recover(self, seed: int) -> Tick | None:
        """End a fault with a fresh episode; None = there was no fault."""
        if self._mode is not RobotMode.FAULT:
            return None
        return self.reset(seed)

    def _fail(self, reason: str) -> Tick:
        """Freeze at the last sound snapshot, in which nothing was accepted."""
        assert self._snapshot is not None
        self._mode, self.fault = RobotMode.FAULT, reason
        self._snapshot = replace(
            self._snapshot, accepted_action=self._held.copy(), joint_velocities=np.zeros_like(self._held, np.float64)
        )
        return self._tick(self._snapshot)

    def _newly_achieved(self, tasks: tuple[str, ...]) -> tuple[str, ...]:
        own = self._env.task
        fresh = tuple(task for task in tasks if task not in self._achieved and (own is None or task == own.name))
        self._achieved += fresh
        return fresh

    def _tick(self, snapshot: Snapshot, achieved: tuple[str, ...] = ()) -> Tick:
        return Tick(snapshot, self._now_ns, self._mode, self._answered_ns, achieved)


def action_of(command: Command, scale: ActionScale) -> NDArray[np.float64]:
    """Turn a command in SI units into an action (7,) in the Spec's; limits are the environment's."""
    return np.array([*(command.motion / motion_units(scale)), command.gripper])
