from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from diwa_runtime.command_gate import Command, CommandGate
from diwa_runtime.robot import RobotMode
from diwa_runtime.spec import SCENE_NAMES, ActionScale
from diwa_sim.environment import PlayTable
from diwa_sim.live_table import LiveTable, Tick, action_of
from diwa_sim.model import FIXTURES

PERIOD_NS = 33_333_333


class Rig:
    """A live table and the gate before it."""

    def __init__(self) -> None:
        self.env = PlayTable(task="open_drawer")
        self.gate = CommandGate(silence_ns=500_000_000)
        self.table = LiveTable(self.env, self.gate, origin_ns=1000)
        self.first = self.table.reset(seed=3)

    def command(self, x: float = 0.01, gripper: float = -1.0, answers_ns: int = 0) -> None:
        motion = np.array([x, 0, 0, 0, 0, 0])
        assert self.gate.offer(Command(motion, gripper, "policy", answers_ns), self.table.now_ns) is None

    def diverge(self) -> Tick:
        self.env._data.qvel[0] = 1e12
        return self.table.tick()


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.chdir(tmp_path)  # MuJoCo logs where it stands
    return Rig()


def test_a_command_is_executed_in_the_next_tick_alone(rig: Rig) -> None:
    rig.command(answers_ns=rig.table.now_ns)
    moved, held = rig.table.tick(), rig.table.tick()
    assert (moved.mode, held.mode) == (RobotMode.MOVING, RobotMode.IDLE)
    np.testing.assert_array_equal(moved.snapshot.accepted_action, np.float32([0.5, 0, 0, 0, 0, 0, -1]))
    np.testing.assert_array_equal(held.snapshot.accepted_action, np.float32([0, 0, 0, 0, 0, 0, -1]))
    assert held.answered_ns == rig.first.stamp_ns


def test_the_clock_moves_one_period_a_tick_and_never_back(rig: Rig) -> None:
    stamps = [rig.first.stamp_ns, rig.table.tick().stamp_ns, rig.table.reset(4).stamp_ns, rig.table.tick().stamp_ns]
    assert stamps[0] == 1000 + PERIOD_NS
    assert np.diff(stamps).tolist() == [PERIOD_NS] * 3


def test_a_stop_latches_until_it_is_released(rig: Rig) -> None:
    rig.command()
    rig.table.stop()
    rig.command()
    stopped = rig.table.tick()
    assert stopped.mode is RobotMode.STOPPED
    assert not stopped.snapshot.accepted_action[:6].any()
    rig.command()
    assert rig.table.release()
    assert rig.table.tick().mode is RobotMode.IDLE, "what was commanded during the stop must stay undone"
    assert not rig.table.release()
    rig.command(answers_ns=rig.table.now_ns)
    assert rig.table.tick().mode is RobotMode.MOVING


def test_a_stop_survives_a_reset(rig: Rig) -> None:
    rig.table.stop()
    assert rig.table.reset(seed=1).mode is RobotMode.STOPPED


def test_a_fault_freezes_the_arm_until_it_is_recovered(rig: Rig) -> None:
    assert rig.table.recover(0) is None
    rig.command()
    moved = rig.table.tick()
    fault = rig.diverge()
    rig.command()
    still = rig.table.tick()
    assert (fault.mode, still.mode) == (RobotMode.FAULT, RobotMode.FAULT)
    assert "diverged" in rig.table.fault
    assert not still.snapshot.accepted_action[:6].any()
    np.testing.assert_array_equal(still.snapshot.joint_positions, moved.snapshot.joint_positions)
    recovered = rig.table.recover(5)
    assert recovered is not None
    assert recovered.mode is RobotMode.IDLE
    assert rig.table.tick().mode is RobotMode.IDLE


def test_a_stop_during_a_fault_is_kept(rig: Rig) -> None:
    assert rig.diverge().mode is RobotMode.FAULT
    rig.table.stop()
    assert rig.table.mode is RobotMode.FAULT
    recovered = rig.table.recover(5)
    assert recovered is not None
    assert recovered.mode is RobotMode.STOPPED
    assert rig.table.release()
    assert rig.table.mode is RobotMode.IDLE


def test_success_is_told_once(rig: Rig) -> None:
    expert = rig.env.expert()
    told: list[str] = []
    for _ in range(120):
        action = expert.act(rig.env.snapshot().observation(("proprio", "scene")))
        motion = action[:6] * np.repeat([0.02, 0.05], 3)
        rig.gate.offer(Command(motion, action[6], "expert"), rig.table.now_ns)
        told += rig.table.tick().achieved
    assert told == ["open_drawer"]


def test_play_tells_of_a_task_each_time_it_is_achieved_anew() -> None:
    env = PlayTable(task=None)
    table = LiveTable(env, CommandGate(silence_ns=500_000_000))
    drawer, address = SCENE_NAMES.index("drawer"), env._table.fixture_qpos[FIXTURES.index("drawer")]
    # Half open as it starts: from there neither way is success.
    assert any(0.1 < table.reset(seed).snapshot.scene[drawer] < 0.12 for seed in range(100))
    told = []
    for drawer_m in (0.0, 0.19, 0.19, 0.119, 0.125, 0.0, 0.0, 0.19, 0.01):
        env._data.qpos[address] = drawer_m
        env._data.qvel[:] = 0.0
        told.append("+".join(table.tick().achieved))
    assert told == ["", "open_drawer", "", "", "", "close_drawer", "", "open_drawer", "close_drawer"]


def test_a_command_in_si_becomes_an_action_in_the_specs_units() -> None:
    command = Command(np.array([0.02, -0.01, 0.0, 0.05, 0.0, -0.1]), -0.3, "policy")
    np.testing.assert_allclose(action_of(command, ActionScale()), [1, -0.5, 0, 1, 0, -2, -0.3])


def shut(rig: Rig) -> None:
    rig.table.shut_for("two robots")
    rig.table.shut_for("")


@pytest.mark.parametrize(
    "begin_anew",
    [lambda rig: rig.table.stop(), lambda rig: rig.table.reset(4), shut],
    ids=["stop", "reset", "shut"],
)
def test_whatever_stops_it_nobody_commands_any_more_and_what_was_commanded_before_stays_undone(
    rig: Rig, begin_anew: Callable[[Rig], object]
) -> None:
    rig.command(answers_ns=rig.first.stamp_ns)
    rig.table.tick()
    rig.command(answers_ns=rig.first.stamp_ns)
    begin_anew(rig)
    assert rig.gate.commander is None
    old = Command(np.zeros(6), 1.0, "teleop", rig.first.stamp_ns)
    assert "from before the reset" in str(rig.gate.offer(old, rig.table.now_ns))
    assert not rig.table.tick().snapshot.accepted_action[:6].any()


def test_a_reset_has_taken_no_command_and_holds_the_new_episodes_gripper(rig: Rig) -> None:
    rig.command(gripper=-1.0, answers_ns=rig.first.stamp_ns)
    assert rig.table.tick().answered_ns == rig.first.stamp_ns
    first = rig.table.reset(4)
    assert (first.answered_ns, first.snapshot.gripper_command) == (0, 1.0)
    assert rig.table.tick().snapshot.accepted_action[6] == 1.0


def test_in_a_fault_the_arm_is_said_to_stand_still(rig: Rig) -> None:
    rig.command(x=0.02)
    assert rig.table.tick().snapshot.joint_velocities.any()
    fault = rig.diverge()
    assert fault.mode is RobotMode.FAULT
    assert not fault.snapshot.joint_velocities.any()
