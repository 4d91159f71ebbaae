"""The limits of a run and the settings they come from: what each is set to is what a run is held to."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from robot_messages import SECOND
from test_overlap import SlowPlanner
from test_runner import Robot
from test_stream_watch import feed

from diwa_policy_node.skills.episode import SkillEpisode
from diwa_policy_node.skills.goal import Goal, RunLimits
from diwa_policy_node.skills.hand_watch import HandWatch
from diwa_policy_node.skills.overlap import SeamLimits
from diwa_policy_node.skills.robot_watch import RobotWatch
from diwa_policy_node.skills.start_gate import GateLimits
from diwa_runtime.robot import Outcome, RobotMode
from diwa_runtime.spec import ActionScale, Spec

GOAL = Goal(("open_drawer",))


def begun(folder: Path, **limits: Any) -> Robot:
    """A goal that waits for its first observation."""
    robot = Robot(folder, RunLimits(**limits))
    robot.step()
    assert robot.runner.start(GOAL, robot.now_ns) is None
    return robot


def held_over_a_gap(folder: Path, **limits: Any) -> Robot:
    """A goal three observations old, of which the next two did not come: the arm held for as many ticks."""
    robot = begun(folder, **limits)
    for _ in range(3):
        robot.step()
    robot.wait(0.06)
    robot.tick += 2
    return robot


def test_every_parameter_of_the_node_is_the_limit_of_its_name() -> None:
    pytest.importorskip("rclpy")
    from diwa_policy_node.settings import PARAMETERS, settings_of

    of_runs: dict[str, Any] = {
        "hold_after_s": 0.15, "give_up_after_s": 0.45, "first_observation_s": 2.5, "unanswered_s": 0.7,
        "least_rate": 0.6, "success_frames": 5, "success_release": 0.35, "blocked_s": 2.5, "blocked_share": 0.2,
        "stuck_after_s": 0.9, "stuck_moved_m": 0.07, "overlapped": True, "shadow": True,
    }  # fmt: skip
    seams: dict[str, Any] = {"acceleration": 3.0, "rotation_acceleration": 5.0, "blend_ticks": 4}
    gate = {"allow_far_start": True, "allow_moved_camera": False}
    given = {name: parameter.default for name, parameter in PARAMETERS.items()} | of_runs | seams | gate
    given |= {"start_proprio_limit": 3.5, "start_camera_limit": 1.7, "threads": 3, "source": "left", "autostart": True}
    settings = settings_of(given | {"skills": ["a", ""], "log_folder": "elsewhere"})
    gates = GateLimits(proprio=3.5, camera=1.7, allow_far_start=True, allow_moved_camera=False)
    assert settings.limits == RunLimits(**of_runs, seams=SeamLimits(**seams), gate=gates)
    assert (settings.threads, settings.source, settings.autostart) == (3, "left", True)
    assert (settings.skills, settings.log_folder) == ((Path("a"),), Path("elsewhere"))


def test_the_first_observation_may_take_as_long_as_is_set(tmp_path: Path) -> None:
    robot = begun(tmp_path, first_observation_s=0.5)
    robot.wait(0.48)
    assert robot.runner.running
    robot.wait(0.04)
    assert "no observation for 0.52 s" in robot.ended[1]


@pytest.mark.parametrize("wakes_by", ["check", "message"])
def test_f21_a_process_that_stood_still_for_longer_than_giving_up_takes_does_not_go_on(
    tmp_path: Path, wakes_by: str
) -> None:
    robot = begun(tmp_path, give_up_after_s=0.3)
    robot.now_ns += round(0.4 * SECOND)
    if wakes_by == "check":
        robot.runner.check(robot.now_ns)
    else:
        robot.step()
    assert "stood still for 0.4" in robot.ended[1]


def test_what_is_lost_counts_where_it_is_added_up_and_only_once_something_was_observed(tmp_path: Path) -> None:
    robot = begun(tmp_path)
    robot.runner.on_lost("robot/state", 1)
    robot.step()
    robot.runner.on_lost("scene/state", 2)
    assert robot.runner.running
    robot.runner.on_lost("robot/state", 2)
    assert "2 messages of robot/state were lost" in robot.ended[1]


def test_in_shadow_mode_the_robots_own_mode_ends_nothing(tmp_path: Path) -> None:
    robot = begun(tmp_path, shadow=True)
    robot.runner.on_robot(RobotMode.FAULT, 0)
    assert robot.runner.running


@pytest.mark.parametrize(("least_rate", "begins"), [(0.75, False), (0.6, True)])
def test_a_robot_at_two_thirds_of_its_rate_runs_where_that_is_set_to_do(
    tmp_path: Path, least_rate: float, begins: bool
) -> None:
    robot = Robot(tmp_path, RunLimits(least_rate=least_rate))
    robot.period = SECOND // 20
    for _ in range(20):
        robot.step()
    assert (robot.runner.start(GOAL, robot.now_ns) is None) is begins


def test_planning_ahead_goes_by_the_seams_and_the_seed_that_are_set(tmp_path: Path) -> None:
    robots = []
    for seed, acceleration in ((0, 0.1), (7, 9.0), (8, 9.0)):
        robot = Robot(tmp_path / f"{seed}", RunLimits(overlapped=True, seams=SeamLimits(acceleration, 17.0)))
        robot.runner._planner.close()  # type: ignore[union-attr]
        robot.runner._planner = SlowPlanner([1])  # type: ignore[assignment]
        robot.run(steps=6, seed=seed)
        robots.append(np.array([decision.action for decision in robot.decisions]))
    most = 0.1 / 30**2 / 0.02
    assert 0 < np.linalg.norm(np.diff(robots[0][:, :3], axis=0), axis=1).max() <= most * (1 + 1e-4)
    assert (robots[1] != robots[2]).any()


def test_a_camera_is_stuck_by_the_figures_that_are_set(tmp_path: Path) -> None:
    pictures, stuck = [b"same"] * 30, Robot(tmp_path, RunLimits(stuck_after_s=0.3, stuck_moved_m=0.05))
    first = feed(stuck.runner.observations._cameras, pictures, speed_m_s=0.1)[0]
    assert "for 0.5 s while the arm moved 5 cm" in first
    stuck.runner.observations._cameras.reset()
    first = feed(stuck.runner.observations._cameras, pictures, speed_m_s=1.0)[0]
    assert "for 0.3 s" in first


def test_another_commander_counts_for_as_long_as_is_set(tmp_path: Path) -> None:
    runner = Robot(tmp_path, RunLimits(unanswered_s=0.2)).runner
    runner.on_foreign_command("teleop", 0)
    assert runner.other_commander(round(0.19 * SECOND)) == "teleop"
    assert runner.other_commander(round(0.21 * SECOND)) is None


def test_as_many_frames_in_a_row_as_are_set_are_a_success(tmp_path: Path) -> None:
    robot = begun(tmp_path, success_frames=3)
    robot.drawer = 0.2
    for _ in range(2):
        robot.step()
    assert robot.runner.running
    robot.step()
    assert robot.ended[0] is Outcome.SUCCESS


@pytest.mark.parametrize(("release", "succeeds"), [(0.3, True), (0.1, False)])
def test_the_count_of_frames_begins_anew_below_the_release_that_is_set(
    tmp_path: Path, release: float, succeeds: bool
) -> None:
    robot = begun(tmp_path, success_frames=2, success_release=release)
    for drawer in (0.2, 0.096, 0.2):  # 0.096: a probability of 0.40, by a threshold of 0.5
        robot.drawer = drawer
        robot.step()
    assert bool(robot.runner.running) is not succeeds


def test_a_skills_own_time_is_in_its_robots_periods() -> None:
    manifest = SimpleNamespace(max_steps=60, spec=Spec(rate_hz=5.0))
    session: Any = SimpleNamespace(bundle=SimpleNamespace(manifest=manifest))
    assert SkillEpisode(GOAL, 0, session, 0, HandWatch(Spec(), 0, 0)).timeout_s == 12.0


def test_a_robot_of_a_slow_rate_has_three_periods_to_take_a_command() -> None:
    assert RunLimits(unanswered_s=0.5).at(5.0).unanswered_s == pytest.approx(0.6)


def test_the_change_that_a_seam_allows_is_in_the_robots_own_units_and_periods() -> None:
    spec = Spec(rate_hz=20.0, action_scale=ActionScale(translation_m=0.01, rotation_rad=0.04))
    changes = SeamLimits(acceleration=2.0, rotation_acceleration=5.0).change_per_tick(spec)
    assert changes == pytest.approx((2.0 / 400 / 0.01, 5.0 / 400 / 0.04))


def test_ticks_in_which_the_arm_held_are_ticks_of_the_chunk_too(tmp_path: Path) -> None:
    robot = held_over_a_gap(tmp_path)
    for _ in range(4):
        robot.step()
    assert [decision.begins_chunk for decision in robot.decisions[3:]] == [False, False, False, True]


def test_a_later_skill_that_must_not_start_where_the_arm_is_is_a_fault_and_no_refusal(tmp_path: Path) -> None:
    robot = Robot(tmp_path, RunLimits(success_frames=1), open_drawer=0.1, close_drawer=9.0)
    robot.run("open_drawer", "close_drawer", steps=2)
    robot.drawer = 0.2
    robot.step()
    assert robot.runner.running == "close_drawer"

    def far_away(message: Any) -> Any:
        message.joint_positions = np.full(7, 1000.0)
        return message

    robot.step(state=far_away)
    outcome, reason = robot.ended
    assert (outcome, "ranges away" in reason) == (Outcome.FAULT, True)


def test_a_success_at_the_last_observation_of_the_time_counts(tmp_path: Path) -> None:
    robot = Robot(tmp_path, RunLimits(success_frames=1))
    robot.run(steps=3, timeout_s=0.1)
    robot.drawer = 0.2
    robot.step()
    assert robot.ended[0] is Outcome.SUCCESS


def test_in_shadow_mode_what_was_done_over_a_gap_is_not_compared_with_one_decision(tmp_path: Path) -> None:
    robot = held_over_a_gap(tmp_path, shadow=True)
    for _ in range(2):
        robot.step()
    assert [decision.divergence is None for decision in robot.decisions] == [True, False, False, True, False]


def test_a_command_that_was_taken_is_not_held_against_the_robot_when_no_more_are_sent() -> None:
    watch, sent = RobotWatch(0.5), deque([100])
    watch.hear(RobotMode.MOVING, 100)
    assert not watch.has_ignored(sent, 10 * SECOND)


def test_a_new_skill_has_nothing_against_a_picture_of_before(tmp_path: Path) -> None:
    observations = Robot(tmp_path, RunLimits()).runner.observations
    cameras, picture = observations._cameras, SimpleNamespace(data=b"same")
    assert feed(cameras, [b"same"] * 20, speed_m_s=0.1)
    observations.begin_skill()
    cameras.moved_to(np.ones(3))
    assert cameras.objection("camera/static", picture, SECOND) is None


def test_what_was_dropped_is_added_up_over_a_goals_skills_and_begins_anew_with_the_next(tmp_path: Path) -> None:
    robot = Robot(tmp_path, RunLimits(success_frames=1), open_drawer=0.1, close_drawer=9.0)

    def spoil(message: Any) -> Any:
        message.tcp_pose.orientation.w = 0.5
        return message

    robot.run("open_drawer", "close_drawer", steps=2)
    robot.step(state=spoil)
    robot.drawer = 0.2
    robot.step()
    assert (robot.runner.running, robot.runner.observations.dropped["faulty"]) == ("close_drawer", 1)
    robot.runner.cancel()
    assert robot.runner.start(GOAL, robot.now_ns) is None
    assert robot.runner.observations.dropped["faulty"] == 0


def test_a_robot_is_slow_by_the_rate_of_its_own_spec(tmp_path: Path) -> None:
    slow = type("Slow", (Robot,), {"spec": Spec(rate_hz=10.0), "period": SECOND // 10})(tmp_path, RunLimits())
    for _ in range(20):
        slow.step()
    assert slow.runner.observations.too_slow(0.75) is None
