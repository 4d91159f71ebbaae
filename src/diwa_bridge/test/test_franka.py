"""The bridge against simulators that speak the arm's network protocol: motion, rest, reflexes, a cut network.

``DIWA_DRILLS=20`` repeats the drills as often; once is enough for each change.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("franky", reason="needs franky-control")

from robot_rig import Rig, Simulator, any_machine, raised_threads, rest_after_s, simulator

from diwa_bridge.arm import franka
from diwa_bridge.arm import gripper as gripper_module
from diwa_bridge.arm.franka import Arm, ArmLostError
from diwa_bridge.arm.gripper import Gripper
from diwa_runtime.actions import motion_units
from diwa_runtime.errors import InputError
from diwa_runtime.geometry import quaternion_to_euler, wrapped
from diwa_runtime.robot import RobotMode
from diwa_runtime.spec import ActionScale

pytestmark = pytest.mark.franka
DRILLS = int(os.environ.get("DIWA_DRILLS", "1"))
HAND_PORT = 1338
FORTH = np.array([0.004, 0.0, 0.0, 0.0, 0.0, 0.0])


@pytest.fixture(scope="module", autouse=True)
def busy() -> Iterator[None]:
    with any_machine():
        yield


@pytest.fixture(scope="module")
def functional() -> Iterator[Simulator]:
    with simulator("franky-sim", "127.0.0.21") as running:
        yield running


@pytest.fixture(scope="module")
def strict() -> Iterator[Simulator]:
    with simulator("franka-sim", "127.0.0.22") as running:
        yield running


@pytest.fixture
def arm_and_hand(functional: Simulator) -> Iterator[Rig]:
    rig = Rig(functional.hostname, gripper=True)
    yield rig
    rig.close()


@pytest.fixture
def strict_arm(strict: Simulator) -> Iterator[Rig]:
    rig = Rig(strict.hostname)
    yield rig
    rig.close()


def positions_of(rig: Rig, since: int = 0) -> tuple[np.ndarray, np.ndarray]:
    newest = rig.snapshots[since:]
    return np.array([s.stamp_ns for s in newest]) / 1e9, np.array([s.tcp_position for s in newest])


def test_it_goes_where_it_is_sent_and_says_what_it_accepted(arm_and_hand: Rig) -> None:
    rig = arm_and_hand
    assert rig.bridge.servo is not None
    assert rig.bridge.servo.limits.arm.name == "fr3", "by what the robot says of itself"
    rig.drive(lambda _: FORTH, 30)
    ended = len(rig.snapshots) - 1
    rig.robot_seconds(0.6)
    times, positions = positions_of(rig, ended)
    assert rest_after_s(times - times[0], positions) < 0.3
    accepted = sum(snapshot.accepted_action[:6] * motion_units(ActionScale()) for snapshot in rig.snapshots)
    moved = positions[-1] - rig.snapshots[0].tcp_position
    assert accepted[0] > 0.05
    assert moved[0] == pytest.approx(accepted[0], abs=0.02)
    assert np.abs(moved[1:]).max() < 0.005
    assert rig.bridge.mode is RobotMode.IDLE
    spacing = np.diff([snapshot.stamp_ns for snapshot in rig.snapshots]) / 1e9
    assert abs(spacing.mean() - 1 / 30) < 0.002, "by the robot's clock, however slow it runs"


def test_an_arm_of_another_protocol_is_refused_with_what_fits_each_arm() -> None:
    header, too_old, port = struct.Struct("<III"), 1, 1337

    def answer() -> None:
        with server.accept()[0] as connection:
            command, number, _ = header.unpack(connection.recv(header.size))
            connection.sendall(header.pack(command, number, header.size + 3) + struct.pack("<BH", too_old, 6))
            connection.recv(100)  # until it is closed at the other end

    with socket.create_server(("127.0.0.26", port)) as server, ThreadPoolExecutor(1) as robot:
        robot.submit(answer)
        with pytest.raises(InputError, match=r"server version: 6.*an FR3 needs system 5\.9\.0.*a Panda.*0\.9\.2"):
            Arm("127.0.0.26", 0.1).connect()


def test_real_time_priority_is_for_the_thread_that_sends_alone(arm_and_hand: Rig) -> None:
    """libfranka raises the thread that connects, where it may; what that one starts would inherit it."""
    rig = arm_and_hand
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    rig.drive(lambda _: FORTH, 3)
    rig.poll_until(lambda: len(raised_threads() - rig.raised_before) <= 1)


def test_the_gripper_closes_and_opens(arm_and_hand: Rig) -> None:
    rig = arm_and_hand
    still = np.zeros(6)
    gripper = rig.bridge._gripper
    assert gripper is not None
    # Not before the call has returned: this simulator forgets what comes after a call that is stopped.
    rig.command_fingers(1.0, lambda: gripper.width > 0.07 and not gripper.moving)
    rig.command_fingers(-1.0, lambda: gripper.width < 0.01)
    rig.robot_seconds(0.1)
    assert rig.snapshots[-1].gripper_command == -1
    assert rig.snapshots[-1].gripper_width < 0.01
    rig.drive(lambda _: still, 3, gripper=0.05)  # within the hysteresis
    assert rig.snapshots[-1].gripper_command == -1
    assert gripper.fault == ""


def test_a_grasp_that_does_not_return_does_not_hold_up_the_end() -> None:
    """This simulator never answers a call that was stopped, and franky would wait for it with the interpreter held."""
    with simulator("franky-sim", "127.0.0.25") as running:
        rig = Rig(running.hostname, gripper=True)
        gripper = rig.bridge._gripper
        assert gripper is not None
        before = gripper.width
        rig.command_fingers(-1.0, lambda: gripper.width < before - 0.001)
        rig.close()  # while it closes


def test_a_hand_that_no_longer_answers_is_noticed_and_connected_anew(
    arm_and_hand: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gripper_module, "SILENT_S", 0.5)
    monkeypatch.setattr(gripper_module, "CLOSE_S", 0.1)
    rig = arm_and_hand
    gripper = rig.bridge._gripper
    assert isinstance(gripper, Gripper)
    rig.drive(lambda _: FORTH, 2)
    assert gripper._process is not None
    os.kill(gripper._process.pid, signal.SIGSTOP)  # as a call that does not return
    rig.poll_until(lambda: rig.bridge.mode is RobotMode.FAULT)
    assert "has not answered" in rig.bridge.fault
    monkeypatch.undo()
    rig.recover()
    assert rig.bridge.mode is RobotMode.IDLE, rig.bridge.fault


def test_a_hand_that_never_answers_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gripper_module, "CONNECT_S", 4.0)
    monkeypatch.setattr(gripper_module, "CLOSE_S", 0.1)
    with socket.create_server(("127.0.0.26", HAND_PORT)):  # takes the connection, and that is all
        gripper = Gripper("127.0.0.26")
        gripper.connect()
    assert "gripper of 127.0.0.26: it has not answered" in gripper.fault
    assert gripper._process is None


def test_the_hands_process_ends_with_its_bridge(functional: Simulator) -> None:
    code = (
        "import sys, time; from diwa_bridge.arm.gripper import Gripper\n"
        "gripper = Gripper(sys.argv[1]); gripper.connect()\n"
        "print(gripper.fault or gripper._process.pid, flush=True); time.sleep(60)"
    )
    bridge = subprocess.Popen(
        [sys.executable, "-c", code, functional.hostname],
        text=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert bridge.stdout is not None
    hand = Path("/proc") / bridge.stdout.readline().strip() / "cmdline"
    assert b"diwa_bridge.arm.hand" in hand.read_bytes()
    bridge.kill()
    bridge.wait()
    bridge.stdout.close()
    end = time.monotonic() + 20
    while hand.exists() and hand.read_bytes():  # without a command line it is gone but not yet waited for
        assert time.monotonic() < end
        time.sleep(0.05)


def test_f06_no_stream_of_commands_breaks_a_limit_of_the_arm(strict_arm: Rig) -> None:
    rig, rng = strict_arm, np.random.default_rng(0)
    motions = rng.uniform(-1, 1, (120, 6)) * np.array([0.02] * 3 + [0.05] * 3)
    motions[40:80] = np.repeat(motions[40:44], 10, axis=0)  # long ways at full speed, and back at once
    rig.drive(lambda number: motions[number], len(motions))
    rig.robot_seconds(0.5)
    assert rig.bridge.mode is RobotMode.IDLE, rig.bridge.fault
    _, positions = positions_of(rig)
    assert np.linalg.norm(np.diff(positions, axis=0), axis=1).sum() > 0.1, "it did move"


@pytest.mark.parametrize("axis", range(3), ids=["roll", "pitch", "yaw"])
def test_it_turns_the_way_it_is_told(strict_arm: Rig, axis: int) -> None:
    rig = strict_arm
    rig.robot_seconds(0.1)
    before = quaternion_to_euler(rig.snapshots[-1].tcp_quaternion)
    turn = np.zeros(6)
    turn[3 + axis] = 0.005
    rig.drive(lambda _: turn, 20)
    rig.robot_seconds(0.4)
    turned = wrapped(quaternion_to_euler(rig.snapshots[-1].tcp_quaternion) - before)
    accepted = sum(snapshot.accepted_action[3:6] * 0.05 for snapshot in rig.snapshots)
    assert accepted[axis] > 0.06
    # It goes on after the last command until it knows of the silence: on a busy machine for longer.
    assert accepted[axis] - 0.01 < turned[axis] < 2 * accepted[axis]
    assert np.abs(np.delete(turned, axis)).max() < 0.01


def test_f07_reflexes_are_recovered_from(strict_arm: Rig) -> None:
    rig = strict_arm
    for _ in range(DRILLS):
        rig.raise_reflex()
        rig.poll_until(lambda: rig.bridge.mode is RobotMode.FAULT)
        assert "reflex" in rig.bridge.fault
        rig.recover()
        assert rig.bridge.mode is RobotMode.IDLE, rig.bridge.fault
        since = len(rig.snapshots)
        rig.robot_seconds(0.3)
        _, still = positions_of(rig, since)
        assert np.ptp(still, axis=0).max() < 1e-3, "the arm moved without being asked"
        # Towards the middle: a way that leads on a little from drill to drill ends where the arm is stretched out.
        rig.drive(lambda _: FORTH * (-1 if rig.snapshots[-1].tcp_position[0] > 0.5 else 1), 10)
        assert rig.bridge.mode is RobotMode.MOVING


def test_a_cut_network_is_noticed_and_connected_anew() -> None:
    with simulator("franka-sim", "127.0.0.23") as running:
        rig = Rig(running.hostname)
        try:
            for _ in range(DRILLS):
                rig.drive(lambda _: FORTH * 0.3, 5)
                running.kill()
                rig.poll_until(lambda: rig.bridge.mode is RobotMode.FAULT)
                assert "lost" in rig.bridge.fault
                since = len(rig.snapshots)
                rig.poll_until(lambda: len(rig.snapshots) > since + 3)  # noqa: B023, called at once
                assert rig.snapshots[-1].mode is RobotMode.FAULT, "states go on, and say so"
                rig.recover()
                assert rig.bridge.mode is RobotMode.FAULT, "nobody is there"
                running.start()
                rig.recover()
                assert rig.bridge.mode is RobotMode.IDLE, rig.bridge.fault
                rig.drive(lambda _: FORTH * -0.3, 5)
                assert rig.bridge.mode is RobotMode.MOVING
        finally:
            rig.close()


def test_nobody_there_is_one_line() -> None:
    with pytest.raises(ArmLostError, match=r"127\.0\.0\.29: .*is it on, unlocked, and FCI enabled"):
        Arm("127.0.0.29", 0.1).connect()


def test_f21_a_frozen_bridge_leaves_the_arm_at_rest(tmp_path: Path) -> None:
    """SIGSTOP of the process that drives: what the arm does then only the arm can say."""
    trace = tmp_path / "trace"
    with simulator("franka-sim", "127.0.0.24", trace) as running:
        for drill in range(DRILLS):
            code = (
                "import sys, time; sys.path.insert(0, sys.argv[2])\n"
                "import numpy as np; from robot_rig import Rig, any_machine\n"
                "busy = any_machine(); busy.__enter__(); rig = Rig(sys.argv[1]); sign = int(sys.argv[3])\n"
                "while True:\n"
                "    rig.drive(lambda _: sign * np.array([0, 0.004, 0, 0, 0, 0.0]), 30); sign = -sign\n"
                "    print('moving', flush=True)"
            )
            bridge = subprocess.Popen(
                [sys.executable, "-c", code, running.hostname, str(Path(__file__).parent), str((-1) ** drill)],
                text=True,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
            try:
                assert bridge.stdout is not None
                assert bridge.stdout.readline() == "moving\n"
                lines = len(trace.read_text().splitlines())
                bridge.send_signal(signal.SIGSTOP)
                while len(trace.read_text().splitlines()) < lines + 250:
                    time.sleep(0.05)
            finally:
                bridge.kill()
                bridge.wait()
                assert bridge.stdout is not None
                bridge.stdout.close()
            rows = np.array([line.split() for line in trace.read_text().splitlines()[lines:-1]], dtype=np.float64)
            assert np.ptp(rows[:, 1:], axis=0).max() > 0.001, "it did move when it was frozen"
            assert rest_after_s(rows[:, 0] - rows[0, 0], rows[:, 1:]) < 0.3


def test_f05_an_arm_that_takes_the_call_and_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(franka, "CONNECT_S", 1.0)
    with simulator("franky-sim", "127.0.0.47") as running:
        assert running._process is not None
        running._process.send_signal(signal.SIGSTOP)
        arm = Arm(running.hostname, 0.1)
        with pytest.raises(ArmLostError, match="takes the call and says nothing for 1 s"):
            arm.connect()
        with pytest.raises(ArmLostError, match="not connected"):
            arm.read()
