"""What stops, forgets and restarts the bridge, one by one: each guard is seen where no other one stands before it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from dutiful_arm import MS, DutifulArm, Hand
from test_bridge import SCALE, Rig

from diwa_bridge.arm import recovery
from diwa_bridge.arm.bridge import Bridge
from diwa_bridge.arm.franka import ArmError, ArmLostError, Condition
from diwa_bridge.arm.limits import ServoLimits
from diwa_runtime.command_gate import Command, CommandGate
from diwa_runtime.robot import RobotMode


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(recovery, "PAUSE_S", 0.0)
    made = Rig(DutifulArm(), Hand()).start()
    made.tick(50)
    yield made
    made.arm.broken = None
    made.bridge.close()


def fingers(rig: Rig, gripper: float = -1.0, back: int = 1) -> str | None:
    """Command the fingers alone, in answer to one of the last states."""
    answers_ns = rig.snapshots[-back].stamp_ns
    return rig.bridge.offer(Command(np.zeros(6), gripper, "policy", answers_ns), rig.now_ns)


def stop(rig: Rig) -> None:
    rig.bridge.stop()


def release(rig: Rig) -> None:
    rig.bridge.stop()
    rig.command()
    rig.bridge.release()


def shut(rig: Rig) -> None:
    rig.bridge.shut_for("two robots")
    rig.bridge.shut_for("")


def reflex(rig: Rig) -> None:
    rig.arm.condition = Condition.REFLEX
    rig.tick(10)
    rig.arm.condition = Condition.GUIDED
    rig.tick(10)


@pytest.mark.parametrize("begin_anew", [stop, release, shut, reflex])
def test_whatever_stops_it_nobody_commands_any_more_and_answers_to_states_of_before_are_refused(
    rig: Rig, begin_anew: Callable[[Rig], None]
) -> None:
    rig.command()
    before = rig.snapshots[-2].stamp_ns
    begin_anew(rig)
    assert rig.bridge.gate.commander is None
    old = Command(np.zeros(6), 1.0, "policy", before)
    assert "from before the reset" in str(rig.bridge.offer(old, rig.now_ns))


def test_what_was_commanded_during_a_stop_moves_nothing_after_it(rig: Rig) -> None:
    release(rig)
    rig.tick(100)
    assert not rig.arm.sent


def test_a_stop_slows_the_arm_down_at_once_and_not_after_a_silence(rig: Rig) -> None:
    rig.drive(20)
    fastest = rig.arm.sent[-1][0]
    rig.bridge.stop()
    sent = len(rig.arm.sent)
    rig.tick(6)
    assert rig.arm.sent[sent][0] < fastest / 2


@pytest.mark.parametrize("condition", [Condition.READY, Condition.GUIDED], ids=lambda condition: condition.name)
def test_while_it_is_stopped_the_fingers_do_nothing_and_nothing_counts_as_taken(rig: Rig, condition: Condition) -> None:
    rig.bridge.stop()
    rig.arm.condition = condition
    rig.tick(20)
    assert fingers(rig) is None
    rig.tick(20)
    assert (rig.snapshots[-1].gripper_command, rig.snapshots[-1].answered_ns) == (1.0, 0)


def test_a_fault_stays_one_where_it_is_stopped(rig: Rig) -> None:
    rig.arm.condition = Condition.USER_STOPPED
    rig.tick(10)
    rig.bridge.stop()
    assert rig.bridge.mode is RobotMode.FAULT


def test_a_fault_before_the_first_state_is_stamped_as_of_now() -> None:
    """How long nothing was said is counted from the first state, not from when the machine was switched on."""
    rig = Rig(DutifulArm(), Hand()).start()
    began_ns = rig.bridge._clock.newest_ns
    rig.now_ns += 12_000 * 10**9
    rig.arm.condition = Condition.USER_STOPPED

    rig.tick(100)

    assert rig.snapshots[0].mode is RobotMode.FAULT
    assert 0 < rig.snapshots[0].stamp_ns - began_ns < 10**9
    rig.bridge.close()


def test_the_first_reason_of_a_fault_stays_until_the_connection_is_lost(rig: Rig) -> None:
    rig.arm.condition, rig.arm.errors = Condition.REFLEX, ("cartesian_reflex",)
    rig.tick(10)
    rig.arm.broken = ArmError("something after that")
    rig.tick(10)
    assert "cartesian_reflex" in rig.bridge.fault
    rig.arm.broken = ArmLostError("the cable")
    rig.tick(10)
    assert "the cable" in rig.bridge.fault


@pytest.mark.parametrize("frozen_after_s", [0.06, 0.3])
def test_the_arm_counts_as_lost_after_the_time_that_is_set(frozen_after_s: float) -> None:
    rig = Rig(DutifulArm())
    rig.bridge = Bridge(rig.arm, None, ServoLimits, CommandGate(500 * MS), SCALE, frozen_after_s)
    rig.start().tick(1)
    rig.arm.frozen = True
    rig.tick(round(frozen_after_s * 1000) // 4)
    assert not rig.bridge.fault
    rig.tick(1)
    assert f"no new state for {frozen_after_s:g} s" in rig.bridge.fault
    rig.bridge.close()


@pytest.mark.parametrize(("paused_ms", "stalls"), [(60, 0), (110, 1)])
def test_a_standstill_of_the_process_counts_from_the_servos_silence_on(rig: Rig, paused_ms: int, stalls: int) -> None:
    rig.now_ns += paused_ms * MS
    rig.tick(10)
    assert rig.bridge.stalls == stalls


def test_the_time_that_a_fault_lasted_is_no_standstill(rig: Rig) -> None:
    rig.arm.condition = Condition.REFLEX
    rig.tick(10)
    rig.arm.broken = ArmLostError("the cable")
    rig.tick(100)
    rig.arm.broken = None
    rig.recover()
    rig.tick(20)
    assert (rig.bridge.fault, rig.bridge.stalls) == ("", 0)


def test_a_lost_arm_is_not_looked_at_again_and_its_last_state_is_said_at_rest_and_at_the_control_rate(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = rig.arm.read
    monkeypatch.setattr(rig.arm, "read", lambda: replace(read(), joint_velocities=np.ones(7)))
    rig.tick(20)
    assert rig.snapshots[-1].joint_velocities.all()
    rig.arm.broken = ArmLostError("the cable")
    rig.tick(1)
    rig.arm.broken = None  # it answers again, by itself
    rig.arm.position += 0.1
    before = len(rig.snapshots)
    rig.tick(250)
    states = rig.snapshots[before:]
    assert 25 <= len(states) <= 31
    assert not any(state.joint_velocities.any() or state.tcp_position[0] > 0.5 for state in states)


def test_at_the_start_recovering_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rig, tries = Rig(DutifulArm(condition=Condition.REFLEX)), list[int]()

    def recover() -> None:
        tries.append(1)
        raise ArmError("it did not clear its errors")

    monkeypatch.setattr(rig.arm, "recover", recover)
    with pytest.raises(ArmError, match="did not clear"):
        rig.start()
    assert len(tries) == 1


def test_states_that_were_missed_are_not_made_up_for(rig: Rig) -> None:
    for _ in range(250):  # a second
        rig.arm.step()
    before = len(rig.snapshots)
    rig.tick(10)
    assert len(rig.snapshots) - before <= 2


def test_only_a_fault_is_recovered_from_and_once_at_a_time(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rig.bridge.recover() is None
    rig.arm.condition = Condition.REFLEX
    rig.tick(10)
    goes_on = threading.Event()
    monkeypatch.setattr(rig.arm, "recover", goes_on.wait)
    assert rig.bridge.recover() is not None
    assert rig.bridge.recover() is None
    goes_on.set()


def test_an_arm_that_is_held_at_its_start_can_be_guided() -> None:
    rig = Rig(DutifulArm(condition=Condition.GUIDED)).start()
    assert (rig.bridge.mode, rig.bridge.servo is None) == (RobotMode.FAULT, False)
    rig.tick(10)
    assert rig.bridge.mode is RobotMode.GUIDED
    rig.bridge.close()


def test_the_arm_is_told_how_much_its_joints_allow_where_it_is(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    eases: list[float] = []
    reading = rig.arm.read()
    stretched = replace(reading.state, jacobian=0.1 * np.eye(6, 7))
    monkeypatch.setattr(rig.arm, "read", lambda: replace(reading, state=stretched, time_ns=rig.arm.now_ns))
    monkeypatch.setattr(rig.arm, "send", lambda _, ease: eases.append(ease))
    rig.drive(5)
    rig.tick(100)  # at rest again
    assert rig.bridge.servo is not None
    assert eases[-1] == rig.bridge.servo.ease < 1


def test_how_well_commands_arrive_is_what_was_measured_while_it_moved_last(rig: Rig) -> None:
    rig.arm.success_rate = 0.93
    rig.tick(20)
    assert rig.bridge.success_rate == 1.0
    rig.drive(5)
    assert rig.bridge.success_rate == 0.93


def test_it_says_where_the_arm_is_outside_of_its_workspace(rig: Rig) -> None:
    assert rig.bridge.outside == ""
    rig.arm.position[1] = 0.5
    rig.tick(5)
    assert rig.bridge.outside == "TCP 5.0 cm beyond the workspace in y"


def test_a_goodbye_lets_go_of_the_hand_too(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []
    monkeypatch.setattr(Hand, "close", lambda _: closed.append(True))
    rig.bridge.close()
    assert closed


def test_an_arm_that_was_lost_moves_again_once_it_is_recovered_and_commanded(rig: Rig) -> None:
    rig.arm.broken = ArmLostError("the cable")
    rig.tick(10)
    rig.arm.broken = None
    rig.recover()
    at = rig.arm.position[0]
    rig.drive(10)
    assert rig.arm.position[0] > at + 0.005


def test_a_connection_that_is_lost_while_it_recovers_is_made_anew_in_the_next_try(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    recovering, connected = iter([ArmLostError("the cable"), None]), rig.arm.connected

    def recover() -> None:
        if (error := next(recovering)) is not None:
            raise error

    monkeypatch.setattr(rig.arm, "recover", recover)
    recovery.Recovery(rig.arm, None).recovered()
    assert rig.arm.connected == connected + 1


def test_after_a_goodbye_nothing_is_tried_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def recover() -> None:
        tries.append(1)
        raise ArmError("it did not clear its errors")

    monkeypatch.setattr(rig.arm, "recover", recover)
    work = recovery.Recovery(rig.arm, None)
    work.close()
    with pytest.raises(ArmError, match="did not clear"):
        work.recovered()
    assert len(tries) == 1
