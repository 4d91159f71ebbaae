"""The faults that the policy node survives, by their number: the real node over real topics."""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("diwa_msgs.msg", reason="needs a built and sourced workspace (make test)")
rclpy = pytest.importorskip("rclpy")

from policy_rig import PATIENT, STATE, VISION, FakeRobot, Rig, node_environment, write_skill  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rosgraph_msgs.msg import Clock as ClockMessage  # noqa: E402

from diwa_msgs.msg import EndEffectorDelta, RobotState  # noqa: E402
from diwa_policy_node.messages import time_of  # noqa: E402
from diwa_policy_node.skills.overlap import SeamLimits  # noqa: E402
from diwa_runtime.robot import Outcome  # noqa: E402
from diwa_runtime.rows.streams import NANOSECONDS, nanoseconds_of  # noqa: E402

pytestmark = pytest.mark.ros


@pytest.fixture
def skills(tmp_path: Path) -> Path:
    return write_skill(tmp_path / "skills")


def running(rig: Rig, robot: FakeRobot) -> Any:
    """Bring the node up and a goal under way; return its handle."""
    rig.bring_up()
    handle = rig.send()
    rig.spin_until(lambda: len(robot.commands) > 3)
    return handle


def held(rig: Rig, robot: FakeRobot, sent: int) -> None:
    """See that nothing more is commanded, beyond what was on its way."""
    for _ in range(10):
        robot.tick()  # whatever the test has silenced, time goes on
        rig.executor.spin_once(timeout_sec=0.01)
    assert len(robot.commands) <= sent + 1


SWIFT = {"hold_after_s": 0.5, "give_up_after_s": 1.5}
"""Patience for what a busy machine may do to a process, and no more."""


def a_nan_pose(state: RobotState) -> RobotState:
    state.tcp_pose.position.z = float("nan")
    return state


def an_infinite_joint(state: RobotState) -> RobotState:
    state.joint_positions = np.array([0, 0, 0, float("inf"), 0, 0, 0])
    return state


def no_unit_quaternion(state: RobotState) -> RobotState:
    state.tcp_pose.orientation.w = 0.3
    return state


def an_infinite_acceptance(state: RobotState) -> RobotState:
    state.accepted_rotation.y = float("inf")
    return state


@pytest.mark.parametrize("spoil", [a_nan_pose, an_infinite_joint, no_unit_quaternion, an_infinite_acceptance])
def test_f01_an_unsound_state_is_never_answered(make_rig: Callable[..., Rig], skills: Path, spoil: Any) -> None:
    rig = make_rig(skills, **SWIFT)
    robot = rig.robot()
    handle = running(rig, robot)
    robot.spoil = spoil
    spoilt = len(robot.states)
    outcome, reason = rig.result(handle)
    assert outcome is Outcome.FAULT
    assert "robot/state: not finite" in reason
    answered = [command.header.stamp for command in robot.commands]
    assert not any(state.header.stamp in answered for state in robot.states[spoilt:])


def test_f01_a_scene_of_the_wrong_size_ends_the_goal(make_rig: Callable[..., Rig], skills: Path) -> None:
    rig = make_rig(skills, **PATIENT)
    robot = rig.robot()
    handle = running(rig, robot)
    robot.spec = type(STATE)(scene=STATE.scene[:-3])
    outcome, reason = rig.result(handle)
    assert outcome is Outcome.FAULT
    assert "scene/state" in reason
    assert "no value named pink_roll, pink_pitch, pink_yaw" in reason


def test_f01_an_empty_frame_ends_the_goal(make_rig: Callable[..., Rig], tmp_path: Path) -> None:
    rig = make_rig(write_skill(tmp_path, VISION), allow_moved_camera=True, **PATIENT)
    robot = rig.robot(VISION)
    handle = running(rig, robot)
    robot.picture = b""
    outcome, reason = rig.result(handle)
    assert outcome is Outcome.FAULT
    assert "an image of 0 bytes cannot be decoded" in reason


@pytest.mark.parametrize("offset_s", [-10, 0, 10])
def test_f02_silence_ends_the_motion_whatever_the_senders_clock_says(
    make_rig: Callable[..., Rig], skills: Path, offset_s: int
) -> None:
    rig = make_rig(skills, **SWIFT)
    robot = rig.robot()
    robot.offset_ns = offset_s * NANOSECONDS
    handle = running(rig, robot)
    robot.spoil = lambda _: None
    last_state = len(robot.states)
    outcome, reason = rig.result(handle)
    assert outcome is Outcome.FAULT
    assert "robot/state silent for" in reason
    assert len(robot.states) == last_state
    assert robot.commands[-1].header.stamp in [state.header.stamp for state in robot.states]
    robot.spoil = lambda state: state
    held(rig, robot, len(robot.commands))


def test_f02_under_sim_time_a_clock_that_stands_still_does_not_hide_silence(
    make_rig: Callable[..., Rig], skills: Path
) -> None:
    rig = make_rig(skills, use_sim_time=True, **SWIFT)
    robot = rig.robot()
    clock = rig.peer.create_publisher(ClockMessage, "/clock", 10)
    clock.publish(ClockMessage(clock=time_of(5 * NANOSECONDS)))  # and never again
    handle = running(rig, robot)
    robot.spoil = lambda _: None
    outcome, reason = rig.result(handle)
    assert outcome is Outcome.FAULT
    assert "silent" in reason


NODE = "from diwa_policy_node.node import main; main()"
SIMULATOR = "from diwa_sim.node import main; main()"


@pytest.fixture
def start_process() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start nodes as processes of their own, which are gone when the test ends."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(code: str, **parameters: Any) -> subprocess.Popen[bytes]:
        flags = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
        command = [sys.executable, "-c", code, "--ros-args", *flags]
        processes.append(subprocess.Popen(command, env=node_environment(), stderr=subprocess.PIPE))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def test_a_process_that_is_told_to_stop_tells_its_client(
    make_rig: Callable[..., Rig], skills: Path, start_process: Callable[..., Any]
) -> None:
    rig = make_rig(None)
    robot = rig.robot()
    process = start_active_policy(rig, start_process, skills, **PATIENT)
    ended = rig.send().get_result_async()
    rig.spin_until(lambda: len(robot.commands) > 10)
    process.send_signal(signal.SIGINT)
    rig.spin_until(ended.done)
    result = ended.result().result
    assert (result.outcome, result.reason) == (Outcome.CANCELLED, "the process ends")
    rig.spin_until(lambda: process.poll() is not None)
    assert process.returncode == 0
    held(rig, robot, len(robot.commands))


def start_policy(start_process: Callable[..., Any], skills: Path, **parameters: Any) -> Any:
    return start_process(NODE, skills=f"[{skills}]", autostart="true", log_folder='""', **parameters)


def start_active_policy(rig: Rig, start_process: Callable[..., Any], skills: Path, **parameters: Any) -> Any:
    """Start the node as a process, and wait until it takes goals."""
    process = start_policy(start_process, skills, **parameters)
    rig.spin_until(lambda: any(value_of(status, "active") == "True" for status in rig.diagnostics))
    return process


def test_f09_the_robot_holds_when_the_policys_process_is_killed(
    make_rig: Callable[..., Rig], skills: Path, start_process: Callable[..., Any]
) -> None:
    from diwa_sim.node import SimulatorNode

    rig = make_rig(None)
    simulator = rig.add(SimulatorNode(context=rig.context))
    states: list[RobotState] = []
    rig.peer.create_subscription(RobotState, "robot/state", states.append, 100)
    simulator.start()
    process = start_policy(start_process, skills, allow_far_start="true", **PATIENT)
    rig.spin_until(lambda: any(status.state == status.STATE_IDLE for status in rig.statuses))
    maps = Path(f"/proc/{process.pid}/maps").read_text()
    assert "onnxruntime" in maps
    assert "libtorch" not in maps, "the robot's computer needs no torch"
    rig.spin_until(lambda: any(value_of(status, "active") == "True" for status in rig.diagnostics))
    rig.send()
    rig.spin_until(lambda: bool(states) and states[-1].mode == RobotState.MODE_MOVING)
    process.kill()
    process.wait()
    seen = len(states)
    rig.spin_until(lambda: len(states) > seen + 15)
    assert {state.mode for state in states[seen + 2 :]} == {RobotState.MODE_IDLE}
    assert not any(state.accepted_translation.x for state in states[seen + 2 :])


def value_of(status: Any, key: str) -> str | None:
    return next((pair.value for pair in status.values if pair.key == key), None)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["dies", "hangs"])
def test_f09_the_client_and_everybody_is_told_when_the_robots_process_is_gone(
    make_rig: Callable[..., Rig], skills: Path, start_process: Callable[..., Any], how: signal.Signals
) -> None:
    rig = make_rig(skills, allow_far_start=True, first_observation_s=20.0, **SWIFT)
    process = start_process(SIMULATOR)
    rig.bring_up()
    handle = rig.send()
    rig.spin_until(lambda: len(rig.feedback) > 5)
    process.send_signal(how)
    outcome, reason = rig.result(handle)
    assert outcome is Outcome.FAULT
    assert "robot/state silent" in reason
    rig.spin_until(lambda: any(s.name == "diwa_policy: skill" and s.level == s.ERROR for s in rig.diagnostics))
    rig.spin_until(lambda: any(s.name == "diwa_policy: streams" and s.level == s.ERROR for s in rig.diagnostics))


def test_f21_a_frozen_policy_leaves_the_robot_held_and_does_not_go_on_when_it_wakes(
    make_rig: Callable[..., Rig], skills: Path, start_process: Callable[..., Any]
) -> None:
    rig = make_rig(None)
    robot = rig.robot()
    process = start_active_policy(rig, start_process, skills, **{**PATIENT, **SWIFT})
    handle = rig.send()
    rig.spin_until(lambda: len(robot.commands) > 5)
    process.send_signal(signal.SIGSTOP)
    states = len(robot.states)
    rig.spin_until(lambda: len(robot.states) > states + 60)
    sent = len(robot.commands)
    process.send_signal(signal.SIGCONT)
    outcome, reason = rig.result(handle)
    assert outcome is Outcome.FAULT
    assert "stood still for" in reason
    held(rig, robot, sent)


@pytest.mark.parametrize(
    ("trouble", "word"),
    [("unplugged", "camera/wrist/image/compressed silent for"), ("stuck", "one and the same picture")],
)
def test_f21_a_camera_that_is_unplugged_or_stuck_ends_the_goal(
    make_rig: Callable[..., Rig], tmp_path: Path, trouble: str, word: str
) -> None:
    rig = make_rig(write_skill(tmp_path, VISION), allow_moved_camera=True, hold_after_s=0.5, give_up_after_s=1.0)
    robot = rig.robot(VISION)
    handle = running(rig, robot)
    if trouble == "unplugged":
        robot.silent.add("wrist")
    else:
        robot.picture = robot._image(0).data.tobytes()
    outcome, reason = rig.result(handle)
    assert outcome is Outcome.FAULT
    assert word in reason
    held(rig, robot, len(robot.commands))


@pytest.mark.parametrize(("jump_s", "word"), [(10, "jumps by"), (-10, "time goes backwards")])
def test_f21_a_clock_that_jumps_ends_the_goal(
    make_rig: Callable[..., Rig], skills: Path, jump_s: int, word: str
) -> None:
    rig = make_rig(skills, **PATIENT)
    robot = rig.robot()
    handle = running(rig, robot)
    robot.offset_ns = jump_s * NANOSECONDS
    outcome, reason = rig.result(handle)
    assert outcome is Outcome.FAULT
    assert word in reason


class Canary:
    """Writes a file if anybody unpickles it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (self.path, "w"))


def a_pickle_beside(folder: Path, canary: bytes) -> str:
    (folder / "weights.pkl").write_bytes(canary)
    return "weights.pkl: is no part of a bundle"


def a_pickle_as_a_graph(folder: Path, canary: bytes) -> str:
    (folder / "policy.onnx").write_bytes(canary)
    return "policy.onnx"


def a_pickle_as_the_manifest(folder: Path, canary: bytes) -> str:
    (folder / "manifest.json").write_bytes(canary)
    return "manifest.json"


def a_flipped_bit(folder: Path, _: bytes) -> str:
    raw = bytearray((folder / "filter.onnx").read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / "filter.onnx").write_bytes(bytes(raw))
    return "filter.onnx: sha256 differs"


def a_link_out_of_the_folder(folder: Path, _: bytes) -> str:
    (folder / "reward.onnx").unlink()
    (folder / "reward.onnx").symlink_to("/etc/hostname")
    return "reward.onnx: is a link"


@pytest.mark.parametrize(
    "spoil", [a_pickle_beside, a_pickle_as_a_graph, a_pickle_as_the_manifest, a_flipped_bit, a_link_out_of_the_folder]
)
def test_f13_f15_a_hostile_bundle_is_refused_by_name_and_nothing_of_it_runs(
    make_rig: Callable[..., Rig],
    skills: Path,
    tmp_path: Path,
    spoil: Callable[[Path, bytes], str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    canary = tmp_path / "canary"
    word = spoil(skills / "open_drawer", pickle.dumps(Canary(str(canary))))
    rig = make_rig(skills, **PATIENT)
    rig.robot()
    policy = rig.policy
    assert policy is not None
    rig.spin_until(lambda: policy.robot.spec is not None)
    assert policy.trigger_configure() is TransitionCallbackReturn.FAILURE
    assert word in capfd.readouterr().err
    assert not canary.exists()


def test_f13_a_process_that_is_to_start_by_itself_ends_with_one_line(
    make_rig: Callable[..., Rig], skills: Path, start_process: Callable[..., Any]
) -> None:
    a_flipped_bit(skills / "open_drawer", b"")
    rig = make_rig(None)
    rig.robot()
    process = start_policy(start_process, skills)
    rig.spin_until(lambda: process.poll() is not None)
    said = process.stderr.read().decode()
    assert process.returncode == 2
    assert "filter.onnx: sha256 differs" in said
    assert "Traceback" not in said


def test_f17_slow_first_inferences_never_jerk_the_arm(
    make_rig: Callable[..., Rig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.7 s for the first plan, 0.3 s for the next ones, 0.1 s later or earlier than it was estimated."""
    folder = write_skill(tmp_path, chunk=16, noise_scale=2.0)
    rig = make_rig(folder, overlapped=True, **PATIENT)
    robot = rig.robot()
    policy = rig.bring_up()
    assert policy.runner is not None
    bundle = policy.runner.skills["open_drawer"]
    quick, delays = bundle.policy, iter([0.7, 0.3, 0.3, 0.4, 0.2])
    monkeypatch.setattr(bundle, "policy", lambda *given: (time.sleep(next(delays, 0.3)), quick(*given))[1])
    handle = rig.send()
    rig.spin_until(lambda: robot.moved_m != 0 and len(robot.commands) > 110)
    rig.spin_until(handle.cancel_goal_async().done)
    rig.result(handle)
    # By the robot's stamps: a busy machine may let a tick go by, and what counts then is what was executed in it.
    executed = {stamp_of(state): xyz(state.accepted_translation) for state in robot.states}
    way = np.array([xyz(command.translation) for command in robot.commands])
    before = np.array([executed[stamp_of(command)] for command in robot.commands])
    assert not way[0].any(), "it stands still until it knows what to do"
    assert way.any()
    acceleration = np.linalg.norm(way - before, axis=1) * STATE.rate_hz**2
    assert acceleration.max() <= SeamLimits().acceleration * (1 + 1e-5)


def stamp_of(message: Any) -> int:
    return nanoseconds_of(message.header.stamp)


def xyz(vector: Any) -> list[float]:
    return [vector.x, vector.y, vector.z]


def test_f17_an_answer_that_comes_too_late_is_not_sent(
    make_rig: Callable[..., Rig], skills: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(skills, **{**PATIENT, "hold_after_s": 0.2})
    robot = rig.robot()
    policy = rig.bring_up()
    assert policy.runner is not None
    bundle = policy.runner.skills["open_drawer"]
    quick, delays = bundle.policy, iter([0.0, 0.5])
    monkeypatch.setattr(bundle, "policy", lambda *given: (time.sleep(next(delays, 0.0)), quick(*given))[1])
    handle = rig.send()
    rig.spin_until(lambda: any(status.inference_time > 0.4 for status in rig.statuses))
    late = next(status for status in rig.statuses if status.inference_time > 0.4)
    assert late.state == late.STATE_HOLDING
    assert policy.runner.late >= 1
    rig.spin_until(handle.cancel_goal_async().done)
    rig.result(handle)
    assert late.header.stamp not in [command.header.stamp for command in robot.commands]


def test_f18_an_arm_far_from_every_training_start_is_not_moved(make_rig: Callable[..., Rig], skills: Path) -> None:
    rig = make_rig(skills, **PATIENT)
    robot = rig.robot()
    rig.bring_up()
    robot.moved_m = 100.0
    states = len(robot.states)
    rig.spin_until(lambda: len(robot.states) > states + 2)
    outcome, reason = rig.run()
    assert outcome is Outcome.REFUSED
    assert "tcp_x is 100.000, training started from -10.000 to 10.000: 4.5 ranges away" in reason
    assert not robot.commands


def test_f18_no_command_steps_further_than_the_arm_may(make_rig: Callable[..., Rig], tmp_path: Path) -> None:
    rig = make_rig(write_skill(tmp_path, noise_scale=1e6), **PATIENT)
    robot = rig.robot()
    running(rig, robot)
    rig.spin_until(lambda: len(robot.commands) > 20)
    for command in robot.commands:
        way, turn = command.translation, command.rotation
        assert max(abs(way.x), abs(way.y), abs(way.z)) <= 0.02 + 1e-9
        assert max(abs(turn.x), abs(turn.y), abs(turn.z)) <= 0.05 + 1e-9


@pytest.mark.parametrize("source", ["teleop", "policy"])
def test_f19_a_second_commander_ends_the_goal(make_rig: Callable[..., Rig], skills: Path, source: str) -> None:
    rig = make_rig(skills, **PATIENT)
    robot = rig.robot()
    handle = running(rig, robot)
    rig.peer.create_publisher(EndEffectorDelta, "robot/command", 10).publish(EndEffectorDelta(source=source))
    outcome, reason = rig.result(handle)
    assert outcome is Outcome.FAULT
    assert f"{source}' commands the robot too" in reason


def test_f19_a_robot_that_obeys_another_is_noticed(make_rig: Callable[..., Rig], skills: Path) -> None:
    rig = make_rig(skills, **{**PATIENT, "unanswered_s": 0.5})
    robot = rig.robot()
    robot.obeys = False
    rig.bring_up()
    outcome, reason = rig.run()
    assert outcome is Outcome.FAULT
    assert "the robot took no command for 0.5 s" in reason


def test_a_stop_of_the_robot_ends_the_goal(make_rig: Callable[..., Rig], skills: Path) -> None:
    rig = make_rig(skills, **PATIENT)
    robot = rig.robot()
    handle = running(rig, robot)
    robot.mode = RobotState.MODE_STOPPED
    assert rig.result(handle) == (Outcome.STOPPED, "the robot is stopped; call robot/release")
    assert rig.run() == (Outcome.REFUSED, "the robot is stopped; call robot/release")


def test_an_arm_that_is_held_ends_the_goal_as_blocked_and_the_next_may_come(
    make_rig: Callable[..., Rig], skills: Path, tmp_path: Path
) -> None:
    def a_hand_that_stays(state: RobotState) -> RobotState:
        state.tcp_pose.position.x = 0.0
        return state

    rig = make_rig(skills, **PATIENT, blocked_s=0.6, log_folder=str(tmp_path / "logs"))
    robot = rig.robot()
    robot.spoil = a_hand_that_stays
    rig.bring_up()

    outcome, reason = rig.run()

    assert outcome is Outcome.BLOCKED
    assert "the hand no longer follows: in 0.6 s it was to go" in reason
    assert "mostly along +x of its base, and went 0.0;" in reason
    held(rig, robot, len(robot.commands))
    (log,) = (tmp_path / "logs").iterdir()
    assert json.loads(log.read_text().splitlines()[-1])["outcome"] == "BLOCKED"
    robot.spoil = lambda state: state
    assert rig.run(timeout=0.2)[0] is Outcome.TIMEOUT
