"""The play table run tick by tick as a robot is: it holds unless told, stops, faults and recovers. ROS-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.actions import GRIPPER, HOLD_ACTION, motion_units
from diwa_runtime.command_gate import Command, CommandGate
from diwa_runtime.robot import RobotMode
from diwa_runtime.spec import SCENE_NAMES, ActionScale, TaskSpec
from diwa_sim.environment import DivergenceError, PlayTable
from diwa_sim.snapshot import Snapshot


@dataclass(frozen=True)
class Tick:
    """What one control tick did.

    Attributes:
        snapshot: the table after it.
        stamp_ns: simulated time of the snapshot.
        mode: the robot's mode.
        answered_ns: stamp of the observation that the newest command taken in answers; 0 = none.
        achieved: what was achieved in this very tick: the table's task, once an episode, or where the table has none
            (play) any task, each time anew.
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
        self._watch: _Watch | None = None
        self._succeeded = False
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
        self._answered_ns, self._succeeded, self.fault = 0, False, ""
        self._watch = _Watch(self._env.contract.tasks, self._snapshot.scene) if self._env.task is None else None
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
        except DivergenceError as error:
            return self._fail(str(error))
        snapshot = self._snapshot = self._env.snapshot()
        self._held[GRIPPER] = snapshot.gripper_command
        return self._tick(snapshot, self._newly_achieved(info["success"]))

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

    def shut_for(self, why: str) -> None:
        """Take no command from now on, for this reason, and hold; "" = take them again."""
        self._gate.shut_for(why, not_before_ns=self._now_ns)

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

    def _newly_achieved(self, success: bool) -> tuple[str, ...]:
        if self._watch is not None:
            return self._watch.newly_achieved(self._env.snapshot().scene)
        fresh = success and not self._succeeded
        self._succeeded = success
        return (self._env.task.name,) if fresh and self._env.task is not None else ()

    def _tick(self, snapshot: Snapshot, achieved: tuple[str, ...] = ()) -> Tick:
        return Tick(snapshot, self._now_ns, self._mode, self._answered_ns, achieved)


class _Watch:
    """Says in play, which nobody cuts into segments, which tasks are achieved, each as often as it is.

    A task counts from where its field was last furthest from success, not from the reset: a drawer that is open there
    can be opened all the same, once it has been closed. What has been achieved must stop holding before it counts anew.
    """

    def __init__(self, tasks: Sequence[TaskSpec], scene: NDArray[np.float64]) -> None:
        self._tasks = [(task, SCENE_NAMES.index(task.field)) for task in tasks]
        self._from = {task.name: scene for task in tasks}
        self._holding: set[str] = set()

    def newly_achieved(self, scene: NDArray[np.float64]) -> tuple[str, ...]:
        fresh = []
        for task, index in self._tasks:
            start = self._from[task.name]
            holds = task.achieved(start, scene, SCENE_NAMES)
            if holds and task.name not in self._holding:
                self._holding.add(task.name)
                fresh.append(task.name)
            elif not holds and (task.name in self._holding or (scene[index] - start[index]) * task.change < 0):
                self._holding.discard(task.name)
                self._from[task.name] = scene
        return tuple(fresh)


def action_of(command: Command, scale: ActionScale) -> NDArray[np.float64]:
    """Turn a command in SI units into an action (7,) in the Spec's; limits are the environment's."""
    return np.array([*(command.motion / motion_units(scale)), command.gripper])
