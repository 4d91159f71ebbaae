"""The bridge over an arm that does as it is told: every fault leaves it still, and nothing moves until asked."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait
from dataclasses import replace

import numpy as np
import pytest
from dutiful_arm import MS, DutifulArm, Hand
from hypothesis import given, settings
from hypothesis import strategies as st

from diwa_bridge.arm import recovery
from diwa_bridge.arm.bridge import Bridge
from diwa_bridge.arm.clock import RobotClock
from diwa_bridge.arm.franka import ArmError, ArmLostError, Condition
from diwa_bridge.arm.limits import PANDA, ServoLimits
from diwa_bridge.arm.snapshots import BridgeSnapshot
from diwa_runtime.actions import motion_units
from diwa_runtime.command_gate import Command, CommandGate
from diwa_runtime.errors import InputError
from diwa_runtime.robot import RobotMode
from diwa_runtime.spec import ActionScale

SCALE = ActionScale()


class Rig:
    def __init__(self, arm: DutifulArm, hand: Hand | None = None) -> None:
        self.arm = arm
        gate = CommandGate(500 * MS)
        self.bridge = Bridge(arm, hand, ServoLimits, gate, SCALE, frozen_after_s=0.1)
        self.now_ns = time.monotonic_ns()
        self.snapshots: list[BridgeSnapshot] = []

    def start(self) -> Rig:
        self.bridge.start()
        return self

    def tick(self, count: int = 1) -> None:
        for _ in range(count):
            self.arm.step()
            self.now_ns += 4 * MS
            snapshot = self.bridge.poll(self.now_ns)
            if snapshot is not None:
                self.snapshots.append(snapshot)

    def command(self, x: float = 0.005, source: str = "policy") -> str | None:
        motion = np.array([x, 0.0, 0.0, 0.0, 0.0, 0.0])
        return self.bridge.offer(Command(motion, 1.0, source, self.snapshots[-1].stamp_ns), self.now_ns)

    def drive(self, commands: int, x: float = 0.005) -> None:
        """Answer each snapshot, as a policy does."""
        for _ in range(commands):
            before = len(self.snapshots)
            while len(self.snapshots) == before:
                self.tick()
            self.command(x)

    def recover(self) -> None:
        work = self.bridge.recover()
        assert work is not None
        wait([work], 10)
        self.tick()

    @property
    def is_still(self) -> bool:
        before = self.arm.position.copy()
        self.tick(100)
        return bool((self.arm.position == before).all())


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(recovery, "PAUSE_S", 0.0)
    made = Rig(DutifulArm()).start()
    yield made
    made.arm.broken = None
    made.bridge.close()


def test_states_come_at_the_control_rate_and_say_what_was_accepted_of_each_command(rig: Rig) -> None:
    rig.drive(60, 0.02)
    rig.tick(100)
    stamps = np.diff([snapshot.stamp_ns for snapshot in rig.snapshots])
    np.testing.assert_allclose(stamps.mean() / MS, 1000 / 30, rtol=0.02)
    assert stamps.min() > 25 * MS
    accepted = sum(snapshot.accepted_action[:6] * motion_units(SCALE) for snapshot in rig.snapshots)
    assert 0.1 < accepted[0] < 60 * 0.02, "a tenth of the arm's speed is less than what was asked for"
    # It went where the accepted motions add up to, but for what was left when the commands ended.
    assert abs(rig.arm.position[0] - 0.45 - accepted[0]) < 0.03
    assert not accepted[1:].any()
    assert rig.snapshots[-1].answered_ns in {snapshot.stamp_ns for snapshot in rig.snapshots}


def test_it_moves_only_while_commanded(rig: Rig) -> None:
    rig.tick(100)
    assert not rig.arm.sent
    assert rig.bridge.mode is RobotMode.IDLE
    rig.drive(10)
    assert rig.bridge.mode is RobotMode.MOVING
    rig.tick(63)  # 0.1 s of silence and 0.15 s to come to rest
    assert rig.is_still
    assert rig.bridge.mode is RobotMode.IDLE
    assert not rig.arm.sent[-1].any()
    sent = len(rig.arm.sent)
    rig.tick(100)
    assert len(rig.arm.sent) == sent, "an arm at rest is left alone"


def test_it_is_at_rest_before_it_is_let_go_of(rig: Rig) -> None:
    rig.drive(10)
    assert rig.arm.sent[-1].any()
    rig.bridge.close()
    assert rig.arm.settled


def test_f01_what_is_not_finite_is_refused_and_nothing_is_sent(rig: Rig) -> None:
    rig.tick(20)
    assert "not finite" in str(rig.command(math.nan))
    rig.tick(100)
    assert not rig.arm.sent


@pytest.mark.parametrize(
    ("error", "said"),
    [(ArmError("motion aborted by reflex"), "reflex"), (ArmLostError("the connection is lost"), "lost")],
    ids=["f05 a call fails", "f05 the connection breaks"],
)
def test_a_fault_stops_it_is_said_and_states_go_on(rig: Rig, error: ArmError, said: str) -> None:
    rig.drive(10)
    rig.arm.broken = error
    before = len(rig.snapshots)
    rig.tick(50)
    assert rig.bridge.mode is RobotMode.FAULT
    assert said in rig.bridge.fault
    assert "robot/recover" in rig.bridge.fault
    faulty = rig.snapshots[before:]
    assert len(faulty) >= 5
    assert all(snapshot.mode is RobotMode.FAULT for snapshot in faulty)
    assert (np.diff([snapshot.stamp_ns for snapshot in rig.snapshots]) > 0).all()
    rig.command()
    sent = len(rig.arm.sent)
    rig.arm.broken = None
    rig.tick(100)
    assert len(rig.arm.sent) == sent, "a fault ends by robot/recover alone"


def test_f07_after_a_reflex_it_is_still_until_recovered_and_asked(rig: Rig) -> None:
    rig.drive(10)
    rig.arm.condition, rig.arm.errors = Condition.REFLEX, ("cartesian_reflex",)
    rig.tick(50)
    assert "cartesian_reflex" in rig.bridge.fault
    rig.arm.position += 0.1  # somebody pushes it away
    rig.recover()
    assert rig.bridge.mode is RobotMode.IDLE
    assert rig.bridge.fault == ""
    assert rig.is_still
    assert rig.snapshots[-1].answered_ns == 0, "nothing that was commanded before counts"
    at = rig.arm.position.copy()
    rig.drive(3, 0.001)
    assert np.linalg.norm(rig.arm.position - at) < 0.01, "the target is where the arm is, not where it was"


def test_recovery_is_bounded_and_says_why_it_did_not_help(rig: Rig) -> None:
    rig.arm.condition, rig.arm.recovers = Condition.REFLEX, False
    rig.tick(50)
    rig.recover()
    assert rig.bridge.mode is RobotMode.FAULT
    assert "did not clear its errors" in rig.bridge.fault
    rig.arm.recovers = True
    rig.recover()
    assert rig.bridge.mode is RobotMode.IDLE


def test_a_frozen_arm_counts_as_lost_and_is_connected_anew(rig: Rig) -> None:
    rig.drive(10)
    newest = rig.snapshots[-1].stamp_ns
    rig.arm.frozen = True
    rig.tick(40)
    assert rig.bridge.mode is RobotMode.FAULT
    assert "no new state for 0.1 s" in rig.bridge.fault
    rig.arm.frozen = False
    connected = rig.arm.connected
    rig.recover()
    assert rig.arm.connected == connected + 1
    assert rig.bridge.mode is RobotMode.IDLE
    assert rig.is_still
    assert (np.diff([snapshot.stamp_ns for snapshot in rig.snapshots]) > 0).all(), "although its clock began anew"
    assert rig.snapshots[-1].stamp_ns > newest


def test_an_arm_that_stays_away_is_tried_a_bounded_number_of_times(rig: Rig) -> None:
    rig.arm.broken = ArmLostError("nobody answers")
    rig.tick(50)
    connected = rig.arm.connected
    rig.recover()
    assert rig.arm.connected == connected + recovery.TRIES
    assert "nobody answers" in rig.bridge.fault


def test_a_stop_holds_through_a_recovery_until_released(rig: Rig) -> None:
    rig.drive(10)
    rig.bridge.stop()
    assert rig.bridge.mode is RobotMode.STOPPED
    rig.drive(10)
    rig.tick(40)
    assert rig.is_still
    rig.arm.condition = Condition.REFLEX
    rig.tick(10)
    rig.recover()
    assert rig.bridge.mode is RobotMode.STOPPED
    rig.drive(10)
    assert rig.is_still
    assert rig.bridge.release()
    assert not rig.bridge.release()
    assert rig.is_still
    at = rig.arm.position[0]
    rig.drive(10)
    assert rig.arm.position[0] > at + 0.005


def test_a_stop_during_a_fault_is_kept(rig: Rig) -> None:
    rig.arm.condition = Condition.USER_STOPPED
    rig.tick(10)
    assert "button" in rig.bridge.fault
    rig.bridge.stop()
    rig.recover()
    assert rig.bridge.mode is RobotMode.STOPPED


def test_what_was_commanded_during_a_stop_or_fault_is_not_made_up_for(rig: Rig) -> None:
    rig.drive(3)
    rig.bridge.stop()
    rig.command(0.02)
    rig.bridge.release()
    rig.tick(100)
    assert rig.is_still


def test_guided_by_hand_it_is_not_commanded(rig: Rig) -> None:
    rig.drive(5)
    rig.arm.condition = Condition.GUIDED
    sent = len(rig.arm.sent)
    rig.drive(5)
    assert rig.bridge.mode is RobotMode.GUIDED
    assert len(rig.arm.sent) == sent
    since = len(rig.snapshots)
    for _ in range(50):
        rig.arm.position += 0.002
        rig.tick()
    rig.tick(10)
    guided = sum(snapshot.accepted_action[:6] * motion_units(SCALE) for snapshot in rig.snapshots[since:])
    np.testing.assert_allclose(guided, [0.1] * 3 + [0.0] * 3, atol=1e-9)  # what a demonstration by hand is learned from
    rig.command()  # somebody commands all the while
    rig.arm.condition = Condition.READY
    assert rig.is_still


def test_f02_a_command_that_waited_while_the_process_was_frozen_moves_nothing(rig: Rig) -> None:
    rig.drive(20)
    rig.command()
    rig.now_ns += 2000 * MS
    for _ in range(500):  # the arm's motion ran out meanwhile
        rig.arm.step()
    assert rig.is_still
    assert rig.bridge.mode is RobotMode.IDLE


def test_f02_a_command_that_lay_around_before_it_was_heard_is_refused_and_counted(rig: Rig) -> None:
    rig.tick(20)
    old = Command(np.full(6, 0.01), 1.0, "policy", rig.snapshots[-1].stamp_ns)
    assert rig.bridge.offer(old, rig.now_ns, waited_ns=99 * MS) is None
    assert "lay around" in str(rig.bridge.offer(old, rig.now_ns, waited_ns=101 * MS))
    assert sum(rig.bridge.gate.refused.values()) == 1


def test_what_the_arm_lagged_behind_its_target_is_not_taken_for_guiding(rig: Rig) -> None:
    rig.drive(20, 0.02)
    taken = len(rig.snapshots)
    while len(rig.snapshots) == taken:  # the one that says what was accepted of the last command
        rig.tick()
    assert rig.bridge.servo is not None
    reading = rig.arm.read()
    assert np.abs(rig.bridge.servo.lead(reading.state)).max() > 1e-3
    rig.arm.condition = Condition.GUIDED
    rig.tick(30)
    assert rig.bridge.mode is RobotMode.GUIDED
    assert not any(snapshot.accepted_action[:6].any() for snapshot in rig.snapshots[taken + 1 :])


def test_an_arm_in_somebodys_hands_is_not_recovered(rig: Rig) -> None:
    rig.arm.condition = Condition.USER_STOPPED
    rig.tick(10)
    rig.arm.condition = Condition.GUIDED
    rig.tick(10)
    rig.recover()
    assert "let go of it first" in rig.bridge.fault


@pytest.mark.parametrize("part", ["position", "jacobian"])
def test_a_state_that_is_not_finite_stops_it_and_is_never_published(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    rig.drive(5)
    reading = rig.arm.read()
    broken = replace(reading.state, **{part: np.full_like(getattr(reading.state, part), math.nan)})
    monkeypatch.setattr(rig.arm, "read", lambda: replace(reading, state=broken, time_ns=rig.arm.now_ns))
    rig.tick(50)
    assert "not finite" in rig.bridge.fault
    assert all(np.isfinite(snapshot.tcp_position).all() for snapshot in rig.snapshots)
    assert rig.snapshots[-1].mode is RobotMode.FAULT


def test_a_stop_outlasts_guiding(rig: Rig) -> None:
    rig.tick(10)
    rig.bridge.stop()
    for condition in (Condition.GUIDED, Condition.READY):
        rig.arm.condition = condition
        rig.tick(50)
        assert rig.bridge.mode is RobotMode.STOPPED


def test_an_arm_that_is_guided_at_its_start_can_be_recorded_and_waits_for_recovery() -> None:
    rig = Rig(DutifulArm(condition=Condition.USER_STOPPED, success_rate=0.5)).start()
    rig.tick(20)
    assert rig.bridge.mode is RobotMode.FAULT
    assert "button" in rig.bridge.fault
    rig.arm.condition = Condition.GUIDED
    rig.tick(10)
    assert rig.bridge.mode is RobotMode.GUIDED
    since = len(rig.snapshots)
    for _ in range(20):
        rig.arm.position += 0.001
        rig.tick()
    rig.tick(20)
    guided = sum(snapshot.accepted_action[:6] * motion_units(SCALE) for snapshot in rig.snapshots[since:])
    np.testing.assert_allclose(guided[:3], 0.02, atol=1e-9)
    rig.arm.condition = Condition.READY
    rig.tick(20)
    assert rig.bridge.mode is RobotMode.FAULT
    assert "FAULT" in str(rig.command())
    rig.bridge.close()


def test_f08_what_hears_too_little_is_not_recovered_either(rig: Rig) -> None:
    rig.arm.condition = Condition.REFLEX
    rig.tick(10)
    rig.arm.success_rate = 0.5
    rig.recover()
    assert "only 50 %" in rig.bridge.fault
    rig.tick(20)
    assert "FAULT" in str(rig.command())
    rig.tick(50)
    assert not rig.arm.sent


def test_states_go_on_after_a_reconnection_that_was_not_recovered(rig: Rig) -> None:
    rig.tick(1000)
    rig.arm.broken = ArmLostError("the cable")
    rig.tick(20)
    rig.arm.broken, rig.arm.recovers = None, False
    rig.recover()
    assert "did not help" in rig.bridge.fault
    before = len(rig.snapshots)
    rig.tick(100)
    assert len(rig.snapshots) >= before + 10, "its clock began anew, and so did what is due"
    assert (np.diff([snapshot.stamp_ns for snapshot in rig.snapshots]) > 0).all()


def test_the_hand_follows_fails_and_stands_still_with_the_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "PAUSE_S", 0.0)
    hand = Hand()
    rig = Rig(DutifulArm(), hand).start()
    rig.tick(20)
    rig.bridge.offer(Command(np.zeros(6), -1.0, "policy", rig.snapshots[-1].stamp_ns), rig.now_ns)
    rig.tick(20)
    assert rig.snapshots[-1].gripper_command == rig.snapshots[-1].accepted_action[6] == -1.0
    rig.bridge.stop()
    assert hand.halted == 1
    rig.bridge.release()
    hand.fault = "gripper: jammed"
    rig.tick(10)
    assert "jammed" in rig.bridge.fault
    assert hand.halted == 2
    rig.recover()
    assert rig.bridge.mode is RobotMode.IDLE
    rig.bridge.close()


def test_a_hand_that_was_not_homed_ends_the_start_and_later_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "PAUSE_S", 0.0)
    rig = Rig(DutifulArm(), Hand(homed=False))
    with pytest.raises(ArmError, match="home it in Desk"):
        rig.start()
    rig.bridge.close()
    hand = Hand()
    rig = Rig(DutifulArm(), hand).start()
    rig.tick(20)
    hand.fault = "gripper: switched off"
    rig.tick(10)
    hand.homed = False  # switched on again
    rig.recover()
    assert "home it in Desk; robot/recover did not help" in rig.bridge.fault
    rig.bridge.close()


@pytest.mark.parametrize("began", [Condition.READY, Condition.USER_STOPPED], ids=lambda began: began.name)
def test_guided_by_hand_the_fingers_do_as_commanded_also_in_a_user_stop(began: Condition) -> None:
    hand = Hand()
    rig = Rig(DutifulArm(), hand).start()
    rig.tick(20)

    def close() -> str | None:
        return rig.bridge.offer(Command(np.zeros(6), -1.0, "teleop", rig.snapshots[-1].stamp_ns), rig.now_ns)

    rig.arm.condition = began
    rig.tick(20)
    rig.arm.condition = Condition.GUIDED
    rig.tick(20)
    assert close() is None
    rig.tick(20)
    assert (rig.snapshots[-1].gripper_command, rig.snapshots[-1].mode) == (-1.0, RobotMode.GUIDED)
    hand.command, hand.fault = 1.0, "gripper: jammed"
    close()
    rig.tick(20)
    assert rig.snapshots[-1].gripper_command == 1.0, "never said of fingers that hear nothing"
    rig.arm.condition = Condition.USER_STOPPED
    rig.tick(20)
    assert "FAULT" in str(close())
    assert not rig.arm.sent
    rig.bridge.close()


def test_what_is_said_to_the_fingers_while_it_recovers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "PAUSE_S", 0.05)
    rig = Rig(DutifulArm()).start()
    rig.arm.condition = Condition.USER_STOPPED
    rig.tick(20)
    rig.arm.condition = Condition.GUIDED
    rig.tick(20)
    work = rig.bridge.recover()
    assert "FAULT" in str(rig.command())
    assert work is not None
    wait([work], 10)
    rig.bridge.close()


def test_f08_an_arm_that_hears_too_little_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "PAUSE_S", 0.0)
    rig = Rig(DutifulArm(success_rate=0.89))
    with pytest.raises(ArmError, match="only 89 % of the commands arrive"):
        rig.start()
    rig.bridge.close()
    rig = Rig(DutifulArm(success_rate=0.93)).start()
    assert rig.bridge.mode is RobotMode.IDLE
    assert rig.bridge.success_rate == 0.93
    rig.bridge.close()


def test_f19_a_second_commander_is_refused(rig: Rig) -> None:
    rig.drive(5)
    assert "may not command" in str(rig.command(source="teleop"))


def test_stamps_follow_a_robots_clock_that_runs_at_another_speed() -> None:
    clock, drift = RobotClock(), 1.0001
    clock.start(0, 10**18)
    late = []
    for tick in range(30 * 60):
        epoch_ns = 10**18 + round(tick * 33 * MS * drift) + (tick % 7) * MS  # heard a little late, more or less
        late.append(epoch_ns - clock.stamp(tick * 33 * MS, epoch_ns))
    assert max(late[300:]) < 9 * MS, "of 6 ms of jitter and 6 ms of drift in a minute"
    assert min(late[300:]) > -2 * MS


def test_stamps_never_go_back() -> None:
    clock = RobotClock()
    clock.start(1000, 50_000)
    stamps = [clock.stamp(1000, 50_000), clock.stamp(1500, 50_500), clock.hold(20)]
    clock.start(3, 40_000)  # the machine's own clock was set back, the robot's began anew
    stamps += [clock.stamp(3, 40_000), clock.stamp(4, 40_001)]
    assert stamps == [50_000, 50_500, 50_520, 50_521, 50_522]


def test_while_it_is_shut_it_comes_to_rest_refuses_and_counts_and_then_goes_on(rig: Rig) -> None:
    rig.drive(10)
    rig.bridge.shut_for("two robots on one topic")
    assert rig.command() == "two robots on one topic"
    rig.drive(10)
    assert rig.is_still
    assert rig.bridge.gate.refused["two robots on one topic"] == 11
    rig.bridge.shut_for("")
    assert rig.is_still, "what was commanded meanwhile stays undone"
    at = rig.arm.position[0]
    rig.drive(10)
    assert rig.arm.position[0] > at + 0.005


def test_the_last_bit_of_a_hands_way_counts_too(rig: Rig) -> None:
    rig.arm.condition = Condition.GUIDED
    rig.tick(20)
    since = len(rig.snapshots)
    for _ in range(50):
        rig.arm.position[0] += 0.001
        rig.tick()
    rig.arm.position[0] += 0.004
    rig.arm.condition = Condition.READY
    rig.tick(20)
    guided = sum(snapshot.accepted_action[0] * SCALE.translation_m for snapshot in rig.snapshots[since:])
    assert guided == pytest.approx(0.054)


def test_what_was_accepted_just_before_a_fault_is_said_after_a_recovery_that_was_quicker_than_a_state(rig: Rig) -> None:
    said = len(rig.snapshots)
    while not rig.bridge._snapshots._executed.any():
        rig.tick()
        if len(rig.snapshots) > said:
            rig.command()
    accepted = rig.bridge._snapshots._executed.copy()
    since = len(rig.snapshots)
    rig.arm.condition = Condition.REFLEX
    rig.tick()
    rig.recover()
    rig.tick(20)
    told = sum(snapshot.accepted_action[:6] * motion_units(SCALE) for snapshot in rig.snapshots[since:])
    np.testing.assert_allclose(told, accepted)


@pytest.fixture(scope="module")
def no_pause() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recovery, "PAUSE_S", 0.0)
        yield


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["command", "late", "stop", "release", "guide", "reflex", "lose", "recover", "shut"]),
        st.integers(1, 40),
    ),
    max_size=25,
)


@pytest.mark.usefixtures("no_pause")
@settings(max_examples=100)
@given(EVENTS)
def test_what_was_accepted_is_said_once_and_wholly_whatever_happens_between_two_states(
    events: list[tuple[str, int]],
) -> None:
    """`robot/state` carries sums: late polls, faults and recoveries lose none of them and say none twice."""
    rig = Rig(DutifulArm()).start()
    rig.tick(20)
    took: list[np.ndarray] = []
    servo = rig.bridge.servo
    assert servo is not None
    accepts = servo.command
    servo.command = lambda *given: took.append(accepts(*given)) or took[-1]  # type: ignore[method-assign,func-returns-value]
    for event, count in events:
        happen(rig, event, count)
    rig.arm.broken = None
    rig.tick(40)
    said = sum(snapshot.accepted_action[:6] * motion_units(SCALE) for snapshot in rig.snapshots)
    np.testing.assert_allclose(said, sum(took, np.zeros(6)), atol=1e-12)
    assert (np.diff([snapshot.stamp_ns for snapshot in rig.snapshots]) > 0).all()
    rig.bridge.close()


def happen(rig: Rig, event: str, count: int) -> None:
    """Let something happen to the arm, and time pass; a hand that guides holds it still."""
    if event == "late":  # the process stood still, the arm's clock did not
        for _ in range(count):
            rig.arm.step()
        rig.now_ns += 4 * MS * count
    elif event == "recover":
        if (work := rig.bridge.recover()) is not None:
            wait([work], 10)
    elif event in ("stop", "release"):
        getattr(rig.bridge, event)()
    elif event == "shut":
        rig.bridge.shut_for("" if rig.bridge.gate.shut else "two robots")
    elif event == "lose":
        rig.arm.broken = None if rig.arm.broken else ArmLostError("the cable")
    elif event != "command":
        rig.arm.condition = {"guide": Condition.GUIDED, "reflex": Condition.REFLEX}[event]
    for _ in range(count if event == "command" else 1):
        rig.command(0.01)
        rig.tick(3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"joint_velocities": np.array([math.nan, *[0.0] * 6])}, "not finite"),
        ({"quaternion": np.zeros(4)}, "orientation that is none"),
        ({"quaternion": np.full(4, 1e300)}, "beyond 1e9"),
    ],
    ids=["velocity", "no turn", "huge"],
)
def test_a_reading_that_cannot_be_is_a_fault_and_is_never_published(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, changes: dict[str, np.ndarray], said: str
) -> None:
    rig.drive(5)
    reading = rig.arm.read()
    monkeypatch.setattr(rig.arm, "read", lambda: replace(reading, **changes, time_ns=rig.arm.now_ns))
    rig.tick(50)
    assert said in rig.bridge.fault
    assert rig.snapshots[-1].mode is RobotMode.FAULT
    assert all(np.isfinite(s.joint_velocities).all() and s.tcp_quaternion.any() for s in rig.snapshots)


def test_a_standstill_of_the_process_is_counted(rig: Rig) -> None:
    rig.drive(10)
    assert rig.bridge.stalls == 0
    rig.now_ns += 300 * MS
    rig.tick(100)
    assert (rig.bridge.stalls, round(rig.bridge.stalled_s, 1)) == (1, 0.3)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InputError("the version does not fit"), "the version does not fit; robot/recover did not help"),
        (RuntimeError("bad state"), "RuntimeError: bad state; robot/recover did not help"),
    ],
)
def test_whatever_a_recovery_ends_with_is_a_fault_that_is_said(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    rig.arm.condition = Condition.REFLEX
    rig.tick(10)

    def fail() -> None:
        raise error

    monkeypatch.setattr(rig.arm, "recover", fail)
    rig.recover()
    assert (rig.bridge.mode, rig.bridge.fault) == (RobotMode.FAULT, said)
    monkeypatch.undo()
    rig.recover()
    assert rig.bridge.mode is RobotMode.IDLE


def test_another_arm_at_the_same_address_is_not_driven_with_the_limits_of_the_first(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.arm.condition = Condition.REFLEX
    rig.tick(10)
    monkeypatch.setattr(rig.arm, "limits", lambda: replace(PANDA, translation_velocity=1.0))
    rig.recover()
    assert "another kind of arm" in rig.bridge.fault
    assert "FAULT" in str(rig.command())


def test_a_recovery_that_never_ends_holds_up_no_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "CLOSE_S", 0.05)
    rig, never = Rig(DutifulArm()).start(), threading.Event()
    rig.arm.condition = Condition.REFLEX
    rig.tick(10)
    monkeypatch.setattr(rig.arm, "recover", never.wait)
    rig.bridge.recover()
    before = len(rig.snapshots)
    rig.tick(50)
    assert len(rig.snapshots) > before + 3, "states go on"
    rig.bridge.close()
    assert rig.bridge.recovering
    never.set()
