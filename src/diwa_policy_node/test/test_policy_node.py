"""The policy node over real topics: its life cycle, its action, what it shows, and shadow mode."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("diwa_msgs.msg", reason="needs a built and sourced workspace (make test)")
pytest.importorskip("rclpy")

from policy_rig import PATIENT, STATE, VISION, Rig, write_skill
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter

from diwa_msgs.action import RunSkill
from diwa_msgs.msg import EndEffectorDelta, PolicyStatus, RobotState, ShadowDivergence
from diwa_policy_node.robot_link import Receipts
from diwa_policy_node.settings import PARAMETERS
from diwa_runtime.cameras import CameraSource
from diwa_runtime.errors import DiwaError
from diwa_runtime.robot import Outcome, RobotMode, RunState

pytestmark = pytest.mark.ros

FAILURE = TransitionCallbackReturn.FAILURE


@pytest.fixture
def skills(tmp_path: Path) -> Path:
    return write_skill(tmp_path / "skills")


def test_numbers_are_the_messages_constants() -> None:
    for kinds, message, prefix in (
        (RobotMode, RobotState, "MODE_"),
        (RunState, PolicyStatus, "STATE_"),
        (Outcome, RunSkill.Result, ""),
    ):
        for kind in kinds:
            assert getattr(message, prefix + kind.name) == int(kind), kind


def test_a_skill_runs_and_the_robot_obeys(make_rig: Callable[..., Rig], skills: Path) -> None:
    rig = make_rig(skills, **PATIENT)
    robot = rig.robot()
    rig.bring_up()
    outcome, reason = rig.run(timeout=1.0)
    assert outcome is Outcome.TIMEOUT, reason
    assert robot.moved_m > 0.1
    stamps = [command.header.stamp for command in robot.commands]
    assert all(stamp in [state.header.stamp for state in robot.states] for stamp in stamps), "each answers a state"
    assert {command.source for command in robot.commands} == {"policy"}
    assert [feedback.step for feedback in rig.feedback] == list(range(1, len(rig.feedback) + 1))
    assert {status.state for status in rig.statuses if status.skill} == {PolicyStatus.STATE_RUNNING}
    sent = len(robot.commands)
    states = len(robot.states)
    rig.spin_until(lambda: len(robot.states) > states + 10)
    assert len(robot.commands) == sent, "nothing is commanded when nothing runs"


def test_success_is_the_bundles_own_reward(make_rig: Callable[..., Rig], tmp_path: Path) -> None:
    rig = make_rig(write_skill(tmp_path, judge_bias=10.0), success_frames=5, **PATIENT)
    robot = rig.robot()
    rig.bring_up()
    outcome, reason = rig.run()
    assert (outcome, reason) == (Outcome.SUCCESS, "open_drawer achieved, by the bundle's own reward")
    assert len(robot.commands) == 4, "the fifth frame in a row is the last"
    assert rig.run(timeout=0.1)[0] is Outcome.TIMEOUT, "one node sees all kinds of ends"


def test_skills_run_one_after_the_other_as_one_goal(make_rig: Callable[..., Rig], tmp_path: Path) -> None:
    for skill in ("open_drawer", "close_drawer"):
        write_skill(tmp_path, skill=skill, judge_bias=10.0)
    rig = make_rig(tmp_path, success_frames=3, **PATIENT)
    rig.robot()
    rig.bring_up()
    outcome, reason = rig.run("open_drawer", next=["close_drawer"])
    assert (outcome, reason) == (Outcome.SUCCESS, "open_drawer, close_drawer achieved, by the bundle's own reward")
    assert [feedback.skill for feedback in rig.feedback] == ["open_drawer"] * 2 + ["close_drawer"] * 2


def test_a_cancelled_goal_stops_at_once_and_another_may_follow(make_rig: Callable[..., Rig], skills: Path) -> None:
    rig = make_rig(skills, **PATIENT)
    robot = rig.robot()
    rig.bring_up()
    handle = rig.send()
    rig.spin_until(lambda: len(robot.commands) > 3)
    refused = rig.run()
    assert refused == (Outcome.REFUSED, "'open_drawer' runs; cancel it first")
    cancelled = handle.cancel_goal_async()
    rig.spin_until(cancelled.done)
    assert rig.result(handle) == (Outcome.CANCELLED, "the client cancelled")
    assert rig.run(timeout=0.2)[0] is Outcome.TIMEOUT


@pytest.mark.parametrize(("goal", "word"), [({"skill": "open_drawr"}, "did you mean"), ({"timeout": -1.0}, "timeout")])
def test_an_impossible_goal_is_refused_with_the_reason(
    make_rig: Callable[..., Rig], skills: Path, goal: dict[str, Any], word: str
) -> None:
    rig = make_rig(skills, **PATIENT)
    rig.robot()
    rig.bring_up()
    outcome, reason = rig.run(**goal)
    assert outcome is Outcome.REFUSED
    assert word in reason


def test_it_is_configured_for_a_robot_only_and_for_this_one(
    make_rig: Callable[..., Rig], skills: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rig = make_rig(skills, **PATIENT)
    policy = rig.policy
    assert policy is not None
    assert policy.trigger_configure() is FAILURE
    assert "no robot has said on robot/spec" in capfd.readouterr().err
    robot = rig.robot(replace(STATE, rate_hz=60.0))
    rig.spin_until(lambda: policy.robot.spec is not None)
    assert policy.trigger_configure() is FAILURE
    assert "disagree in 'rate_hz' (30.0 against 60.0)" in capfd.readouterr().err
    robot.say_spec(STATE)
    rig.spin_until(lambda: policy.robot.spec == STATE)
    rig.bring_up()


def test_a_robot_that_becomes_another_ends_the_goal(make_rig: Callable[..., Rig], skills: Path) -> None:
    rig = make_rig(skills, **PATIENT)
    robot = rig.robot()
    rig.bring_up()
    handle = rig.send()
    rig.spin_until(lambda: len(robot.commands) > 3)
    robot.say_spec(replace(STATE, rate_hz=60.0))
    outcome, reason = rig.result(handle)
    assert outcome is Outcome.FAULT
    assert "rate_hz" in reason
    refused, why = rig.run()
    assert refused is Outcome.REFUSED
    assert "rate_hz" in why


def test_a_shutdown_tells_the_client_of_the_goal_that_runs(make_rig: Callable[..., Rig], skills: Path) -> None:
    rig = make_rig(skills, **PATIENT)
    robot = rig.robot()
    policy = rig.bring_up()
    handle = rig.send()
    rig.spin_until(lambda: len(robot.commands) > 3)
    policy.trigger_shutdown()
    assert rig.result(handle) == (Outcome.CANCELLED, "the node is cleaned up")
    assert rig.run() == (Outcome.REFUSED, "the node is not active")


def test_receipts_are_earlier_than_now_by_what_a_message_waited() -> None:
    receipts = Receipts()
    assert receipts.of(noted_ns=1_000, day_ns=1_300, steady_ns=50_000) == 49_700
    assert receipts.of(noted_ns=900, day_ns=1_300, steady_ns=50_000) == 49_700, "never before the last one"
    assert receipts.of(noted_ns=0, day_ns=1_300, steady_ns=50_500) == 50_500, "a middleware that notes nothing"
    assert receipts.of(noted_ns=9_000, day_ns=1_300, steady_ns=50_600) == 50_600, "the clock of the day was set back"


def test_it_is_active_only_with_live_streams_and_takes_goals_only_then(
    make_rig: Callable[..., Rig], skills: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rig = make_rig(skills, **PATIENT)
    robot = rig.robot()
    robot.silent.add("scene")
    policy = rig.policy
    assert policy is not None
    rig.spin_until(lambda: policy.robot.spec is not None)
    assert policy.trigger_configure() is TransitionCallbackReturn.SUCCESS
    assert policy.trigger_activate() is FAILURE
    assert "scene/state has never come" in capfd.readouterr().err
    assert not rig.client.server_is_ready()
    robot.silent.clear()
    rig.spin_until(lambda: policy.runner is not None and policy.runner.observations.watch.age_s("scene/state", 0) < 1e9)
    assert policy.trigger_activate() is TransitionCallbackReturn.SUCCESS
    handle = rig.send()
    rig.spin_until(lambda: len(robot.commands) > 3)
    policy.trigger_deactivate()
    sent = len(robot.commands)
    assert rig.result(handle) == (Outcome.CANCELLED, "the node was deactivated")
    states = len(robot.states)
    rig.spin_until(lambda: len(robot.states) > states + 10)
    assert len(robot.commands) <= sent + 1, "one may have been on its way"
    assert rig.run() == (Outcome.REFUSED, "the node is not active")
    assert policy.trigger_cleanup() is TransitionCallbackReturn.SUCCESS
    rig.bring_up()
    assert rig.run(timeout=0.2)[0] is Outcome.TIMEOUT


def test_it_starts_by_itself_when_asked_to(make_rig: Callable[..., Rig], skills: Path) -> None:
    rig = make_rig(skills, autostart=True, **PATIENT)
    rig.robot()
    rig.spin_until(lambda: rig.policy is not None and rig.policy._active)
    assert rig.run(timeout=0.2)[0] is Outcome.TIMEOUT


def test_told_to_hold_in_the_moment_of_its_activation_it_does_not_come_up_again(
    make_rig: Callable[..., Rig], skills: Path
) -> None:
    rig = make_rig(skills, autostart=True, **PATIENT)
    robot = rig.robot()
    policy = rig.policy
    assert policy is not None
    policy.on_active = lambda: policy.hold("somebody wants it so")
    rig.spin_until(lambda: policy.goals.serves)
    states = len(robot.states)
    rig.spin_until(lambda: len(robot.states) > states + 10)
    assert rig.run() == (Outcome.REFUSED, "the node is not active")


def test_diagnostics_tell_rates_times_and_what_became_of_the_last_goal(
    make_rig: Callable[..., Rig], skills: Path
) -> None:
    rig = make_rig(skills, **PATIENT)
    rig.robot()
    rig.bring_up()
    rig.run(timeout=0.3)

    def last(name: str) -> dict[str, str]:
        found = [status for status in rig.diagnostics if status.name == f"diwa_policy: {name}"]
        return {pair.key: pair.value for pair in found[-1].values} if found else {}

    rig.spin_until(lambda: last("skill").get("last_outcome") == "TIMEOUT")
    assert "not achieved within 0.3 s" in last("skill")["last_reason"]
    rig.diagnostics.clear()
    rig.spin_until(lambda: bool(last("inference")))
    assert float(last("streams")["robot/state rate_hz"]) > 5
    assert float(last("streams")["robot/state age_s"]) < 1
    assert float(last("inference")["median_ms"]) > 0


def test_a_run_leaves_a_log(make_rig: Callable[..., Rig], skills: Path, tmp_path: Path) -> None:
    rig = make_rig(skills, log_folder=str(tmp_path / "logs"), **PATIENT)
    robot = rig.robot()
    rig.bring_up()
    rig.run(timeout=0.5, seed=4)
    (path,) = (tmp_path / "logs").glob("*_open_drawer.jsonl")
    start, *steps, end = [json.loads(line) for line in path.read_text().splitlines()]
    assert start["seed"] == 4
    assert end["outcome"] == "TIMEOUT"
    sent = [step["action"][0] * 0.02 for step in steps if step["send"]]
    assert sent == [command.translation.x for command in robot.commands]


def test_shadow_mode_shows_what_it_would_do_and_commands_nothing(make_rig: Callable[..., Rig], skills: Path) -> None:
    rig = make_rig(skills, shadow=True, **PATIENT)
    robot = rig.robot()
    proposed: list[EndEffectorDelta] = []
    apart: list[ShadowDivergence] = []
    rig.peer.create_subscription(EndEffectorDelta, "policy/shadow_command", proposed.append, 100)
    rig.peer.create_subscription(ShadowDivergence, "policy/divergence", apart.append, 100)
    rig.bring_up()
    operator = rig.peer.create_publisher(EndEffectorDelta, "robot/command", 10)

    def teleoperate(state: RobotState) -> RobotState:
        message = EndEffectorDelta(source="teleop", gripper=1.0)
        message.translation.y = 0.004
        operator.publish(message)
        return state

    robot.spoil = teleoperate
    handle = rig.send()
    rig.spin_until(lambda: len(apart) > 20)
    rig.spin_until(handle.cancel_goal_async().done)
    assert {command.source for command in robot.commands} == {"teleop"}
    assert {command.source for command in proposed} == {"policy"}
    assert {status.state for status in rig.statuses if status.skill} == {PolicyStatus.STATE_SHADOW}
    answers = {(c.header.stamp.sec, c.header.stamp.nanosec): c for c in proposed}
    before = {
        (s.header.stamp.sec, s.header.stamp.nanosec): t for s, t in zip(robot.states, robot.states[1:], strict=False)
    }
    for message in apart[5:20]:
        key = (message.header.stamp.sec, message.header.stamp.nanosec)
        ours, done = answers[key].translation, before[key].accepted_translation
        expected = np.linalg.norm([ours.x - done.x, ours.y - done.y, ours.z - done.z])
        assert message.translation == pytest.approx(expected, rel=1e-4)
    assert apart[-1].ticks == len(apart)
    assert apart[-1].mean_translation == pytest.approx(np.mean([m.translation for m in apart]), rel=1e-3)


def test_parameters_are_described_and_fixed(make_rig: Callable[..., Rig], skills: Path) -> None:
    policy = make_rig(skills).policy
    assert policy is not None
    for name in PARAMETERS:
        assert policy.describe_parameter(name).description, name
        assert policy.describe_parameter(name).read_only, name
    assert not policy.set_parameters([Parameter("shadow", value=True)])[0].successful


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"hold_after_s": 100.0}, "parameter hold_after_s"),
        ({"shadow": "yes"}, "parameter shadow"),
        ({"hold_after_s": 0.5}, "give_up_after_s must not be less"),
        ({"source": ""}, "parameter source names no source; name your source"),
    ],
)
def test_an_impossible_parameter_is_one_clear_line(
    make_rig: Callable[..., Rig], skills: Path, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(DiwaError, match=message) as error:
        make_rig(skills, **parameters)
    assert "\n" not in str(error.value)


DOCS = Path(__file__).resolve().parents[3]


def test_the_page_lists_every_parameter_with_its_default_and_range() -> None:
    page = (DOCS / "docs" / "policy_node.md").read_text(encoding="utf-8")
    for name, parameter in PARAMETERS.items():
        default = "none" if parameter.default == [""] else str(parameter.default)
        shown = default.lower() if isinstance(parameter.default, bool) else default
        span = "" if parameter.low is None else f"{parameter.low:g} to {parameter.high:g}"
        assert f"| `{name}` | {shown} | {span} | {parameter.about} |" in page


def test_the_front_page_names_executables_parameters_and_skills_that_exist() -> None:
    text = (DOCS / "README.md").read_text(encoding="utf-8")
    commands = [line.split() for line in text.splitlines() if line.startswith("    ros2 run diwa_")]
    commands = [command for command in commands if command[2] != "diwa_trainer"]  # its verbs have tests of their own
    assert len(commands) == 4
    for _, _, package, executable, *words in commands:
        setup = (DOCS / "src" / package / "setup.py").read_text(encoding="utf-8")
        assert f'"{executable} = ' in setup, (package, executable)
        if package == "diwa_policy_node" and "--ros-args" in words:
            named = {word.partition(":=")[0] for word in words if ":=" in word}
            assert named <= PARAMETERS.keys()


def test_a_camera_that_is_not_the_one_recorded_is_said_in_a_line_and_stops_nothing(
    make_rig: Callable[..., Rig], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recorded = {
        "static": (CameraSource("RealSense 1", "", "jpeg", 480, 640),),
        "wrist": (CameraSource("", "", "jpeg", 16, 16),),
    }
    rig = make_rig(write_skill(tmp_path, VISION, camera_sources=recorded), allow_moved_camera=True, **PATIENT)
    rig.robot(VISION)
    rig.bring_up()
    assert rig.run(timeout=0.2)[0] is Outcome.TIMEOUT
    said = [line for line in capfd.readouterr().err.splitlines() if "recorded from" in line]
    assert len(said) == 1
    assert "open_drawer: camera 'static': recorded from RealSense 1, 640 x 480 jpeg; now it is 16 x 16 jpeg" in said[0]
    assert "wrist" not in said[0]
