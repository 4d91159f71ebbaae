"""Running skills: what is decided for which observation, and how everything that goes wrong ends in standstill."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from robot_messages import PERIOD, SECOND, robot_state, scene_state
from toy_bundle import ToyWeights, toy_graphs, toy_manifest

from diwa_policy_node.skills.goal import Decision, Goal, RunLimits
from diwa_policy_node.skills.robot_watch import RobotWatch
from diwa_policy_node.skills.run_record import RunRecord
from diwa_policy_node.skills.runner import SkillRunner
from diwa_policy_node.skills.start_gate import GateLimits
from diwa_runtime.bundle import Bundle, write_bundle
from diwa_runtime.bundle.session import PolicySession
from diwa_runtime.logs.divergence import DivergenceSum
from diwa_runtime.robot import Outcome, RobotMode, RunState
from diwa_runtime.spec import Spec

SPEC = Spec()
GRIPPER_COMMAND, DRAWER = SPEC.proprio.index("gripper_command"), len(SPEC.proprio) + SPEC.scene.index("drawer")
START_NS = 1_000 * SECOND
"""Where the observations' stamps begin; receipt has another clock."""


def write_skill(folder: Path, name: str, drawer: float = 0.1, max_steps: int = 60, spec: Spec = SPEC) -> None:
    """A policy that goes right while the gripper is open, and succeeds when the drawer is open further than that."""
    latent = 4
    observe = np.zeros((39, latent), np.float32)
    observe[GRIPPER_COMMAND, 0] = observe[DRAWER, 1] = 1.0
    decide, judge = np.zeros((latent, 7), np.float32), np.zeros(latent, np.float32)
    decide[0, :3], decide[0, 6], judge[1] = (0.5, 0.0, 0.0), 1.0, 100.0
    zeros = np.zeros((latent, latent), np.float32), np.zeros((7, latent), np.float32)
    weights = ToyWeights(zeros[0], observe, zeros[1], decide, judge, judge_bias=-100 * drawer, noise_scale=0.02)
    manifest = replace(toy_manifest(spec, latent), skill=name, max_steps=max_steps)
    write_bundle(folder / name, manifest, toy_graphs(spec, weights))


class Robot:
    """A robot at 30 Hz, its sensor clock far from the clock of receipt, and a runner that hears it."""

    spec, state_topic = SPEC, "robot/state"
    period = PERIOD
    scene_ahead_ns = 0
    """By how much the scene's clock is ahead of the robot's."""

    def __init__(self, folder: Path, limits: RunLimits | None = None, **skills: float) -> None:
        for name, drawer in (skills or {"open_drawer": 0.1}).items():
            write_skill(folder, name, drawer, spec=self.spec)
        bundles = {path.name: Bundle.load(path) for path in sorted(folder.iterdir())}
        self.now_ns, self.tick, self.drawer, self.thinking_ns = 5 * SECOND, 0, 0.0, 0
        self.x, self.is_held = 0.0, False
        self.last: Decision | None = None
        self.decisions: list[Decision] = []
        self.runner = SkillRunner(bundles, limits, self.clock, lambda: self.now_ns + START_NS - 5 * SECOND)

    def clock(self) -> int:
        """Every look at the clock finds it later by half of the time that an inference takes."""
        self.now_ns += self.thinking_ns
        return self.now_ns

    def step(self, state: Callable[[Any], Any] = lambda message: message, obeys: bool = True) -> Decision | None:
        """One control period; `state` may spoil the robot's message."""
        self.tick += 1
        self.now_ns += self.period
        stamp = START_NS + self.tick * self.period
        last = self.last.action if self.last is not None and self.last.send and obeys else np.zeros(7)
        accepted = np.repeat([0.02, 0.05], 3) * last[:6]
        self.x += 0.0 if self.is_held else accepted[0]
        message = robot_state(stamp, self.x, accepted)
        self.runner.on_robot(RobotMode.MOVING, self.last.stamp_ns if self.last is not None and obeys else 0)
        scene = scene_state(stamp + self.scene_ahead_ns, self.drawer)
        self.runner.on_message("scene/state", scene, self.now_ns)
        self.last = self.runner.on_message(self.state_topic, state(message), self.now_ns)
        self.runner.check(self.now_ns)
        if self.last is not None:
            self.decisions.append(self.last)
        return self.last

    def wait(self, seconds: float) -> None:
        """Silence, while the watchdog looks."""
        for _ in range(round(seconds / 0.02)):
            self.now_ns += SECOND // 50
            self.runner.check(self.now_ns)

    def run(self, *skills: str, steps: int = 5, **goal: Any) -> None:
        self.step()
        assert self.runner.start(Goal(skills or ("open_drawer",), **goal), self.now_ns) is None
        for _ in range(steps):
            self.step()

    @property
    def ended(self) -> tuple[Outcome, str]:
        ended = self.runner.take_ended()
        assert ended is not None, "the goal runs still"
        assert not self.runner.running
        return ended.outcome, ended.reason


@pytest.fixture
def robot(tmp_path: Path) -> Robot:
    return Robot(tmp_path)


def test_actions_are_those_of_a_session_on_the_same_observations(robot: Robot) -> None:
    robot.run(steps=9, seed=7)
    session, executed = PolicySession(robot.runner.skills["open_drawer"], seed=7), None
    expected = []
    for tick in range(2, 11):
        row = robot_state(START_NS + tick * PERIOD)
        proprio = np.array([0, 0, 0, 0, 0, 0, row.gripper_width, *row.joint_positions, 1.0], np.float32)
        expected.append(session.step({"proprio": proprio, "scene": np.zeros(24, np.float32)}, executed))
        executed = expected[-1]
    np.testing.assert_array_equal([decision.action for decision in robot.decisions], expected)
    assert [decision.begins_chunk for decision in robot.decisions] == [True, False, False, False] * 2 + [True]
    assert all(decision.send for decision in robot.decisions)


def test_a_decision_answers_the_stamp_of_its_observation(robot: Robot) -> None:
    robot.run(steps=3)
    assert [decision.stamp_ns for decision in robot.decisions] == [START_NS + tick * PERIOD for tick in (2, 3, 4)]


def test_nothing_is_decided_without_a_goal(robot: Robot) -> None:
    for _ in range(5):
        assert robot.step() is None
    assert robot.runner.state(robot.now_ns) is RunState.IDLE


def test_success_needs_several_frames_in_a_row_and_survives_a_dip(tmp_path: Path) -> None:
    robot = Robot(tmp_path, RunLimits(success_frames=2, success_release=0.3))
    robot.run(steps=3)
    for drawer, running in ((0.2, True), (0.0, True), (0.2, True), (0.099, True), (0.2, False)):
        robot.drawer = drawer  # at 0.099 the probability is 0.475: below the threshold, but not by 0.3
        robot.step()
        assert bool(robot.runner.running) is running, drawer
    assert robot.ended[0] is Outcome.SUCCESS
    assert robot.last is None, "nothing is commanded once the skill is achieved"


def test_a_sequence_goes_on_when_the_skill_before_has_succeeded(tmp_path: Path) -> None:
    robot = Robot(tmp_path, open_drawer=0.1, wider=0.2)
    robot.run("open_drawer", "wider", steps=3)
    assert robot.runner.running == "open_drawer"
    robot.tick += 3
    robot.step()
    robot.drawer = 0.15
    for _ in range(4):
        robot.step()
    assert robot.runner.running == "wider"
    assert robot.decisions[-1].begins_chunk or robot.decisions[-2].begins_chunk, "a fresh session, a fresh chunk"
    robot.drawer = 0.25
    for _ in range(2):
        robot.step()
    outcome, reason = robot.ended
    assert (outcome, "wider" in reason) == (Outcome.SUCCESS, True)
    assert robot.runner.observations.dropped["held"] == 3, "what the first skill missed counts for the goal"


@pytest.mark.parametrize(("timeout_s", "steps"), [(0.0, 60), (0.5, 15)], ids=["the bundle's", "the goal's"])
def test_a_skill_that_takes_too_long_times_out(robot: Robot, timeout_s: float, steps: int) -> None:
    robot.run(steps=steps, timeout_s=timeout_s)
    assert len(robot.decisions) == steps
    robot.step()
    assert robot.ended[0] is Outcome.TIMEOUT
    assert len(robot.decisions) == steps


@pytest.mark.parametrize(
    ("goal", "reason"),
    [
        (Goal(("open_drawr",)), "did you mean 'open_drawer'"),
        (Goal(("open_drawer", "fly")), "no skill 'fly'"),
        (Goal(()), "no skill is named"),
        (Goal(("open_drawer",), timeout_s=float("nan")), "timeout"),
        (Goal(("open_drawer",), timeout_s=-1.0), "timeout"),
        (Goal(("open_drawer",), seed=-1), "seed"),
    ],
    ids=["misspelt", "unknown", "none", "nan", "negative", "seed"],
)
def test_a_goal_that_cannot_be_is_refused(robot: Robot, goal: Goal, reason: str) -> None:
    robot.step()
    assert reason in str(robot.runner.start(goal, robot.now_ns))
    assert not robot.runner.running


def test_one_goal_at_a_time(robot: Robot) -> None:
    robot.run()
    assert "'open_drawer' runs" in str(robot.runner.start(Goal(("open_drawer",)), robot.now_ns))
    robot.runner.cancel()
    assert robot.ended[0] is Outcome.CANCELLED
    assert robot.step() is None
    assert robot.runner.start(Goal(("open_drawer",)), robot.now_ns) is None


def test_no_goal_without_live_streams(robot: Robot) -> None:
    refused = str(robot.runner.start(Goal(("open_drawer",)), robot.now_ns))
    assert "robot/state has never come" in refused
    assert "scene/state has never come" in refused
    robot.step()
    robot.wait(0.3)
    assert "robot/state silent for 0.3" in str(robot.runner.start(Goal(("open_drawer",)), robot.now_ns))


@pytest.mark.parametrize("mode", [RobotMode.GUIDED, RobotMode.STOPPED, RobotMode.FAULT])
def test_a_robot_that_is_not_ready_refuses_and_ends_a_goal(robot: Robot, mode: RobotMode) -> None:
    robot.run()
    robot.runner.on_robot(mode, 0)
    outcome, reason = robot.ended
    assert outcome is (Outcome.STOPPED if mode is RobotMode.STOPPED else Outcome.FAULT)
    assert robot.runner.start(Goal(("open_drawer",)), robot.now_ns) == reason


def test_a_robot_in_a_mode_that_is_not_known_ends_the_goal(robot: Robot) -> None:
    robot.run()
    robot.runner.on_robot(99, 0)
    outcome, reason = robot.ended
    assert outcome is Outcome.FAULT
    assert "mode 99" in reason
    assert robot.runner.start(Goal(("open_drawer",)), robot.now_ns) is not None


def test_f02_messages_that_waited_for_their_turn_are_as_old_as_they_are(robot: Robot) -> None:
    """A burst after a pause of this process: each is handled at once, but was received earlier."""
    robot.run(steps=3)
    received_ns = [robot.now_ns + (index + 1) * PERIOD for index in range(5)]
    robot.now_ns = received_ns[-1]
    sent = []
    for received in received_ns:
        robot.tick += 1
        stamp = START_NS + robot.tick * PERIOD
        robot.runner.on_message("scene/state", scene_state(stamp), received)
        decision = robot.runner.on_message("robot/state", robot_state(stamp), received)
        assert decision is not None
        sent.append(decision.send)
    assert sent == [False, True, True, True, True], "the first had waited for 0.13 s"


@pytest.mark.parametrize("ahead_s", [0.15, 0.3, 0.9])
def test_f02_what_a_clock_that_is_ahead_makes_look_fresh_is_never_acted_upon(tmp_path: Path, ahead_s: float) -> None:
    """By its stamp each scene fits the robot's state; by its receipt it is so much older."""
    robot = Robot(tmp_path, RunLimits(first_observation_s=2.0))
    robot.scene_ahead_ns = round(ahead_s * SECOND)
    robot.run(steps=60)
    assert not any(decision.send for decision in robot.decisions)
    if ahead_s > 0.2:
        outcome, reason = robot.ended
        assert outcome is Outcome.FAULT
        assert "stamps do not fit together" in reason


def test_a_clock_that_is_a_little_ahead_does_no_harm(tmp_path: Path) -> None:
    robot = Robot(tmp_path)
    robot.scene_ahead_ns = PERIOD
    robot.run(steps=8)
    assert len(robot.decisions) > 5
    assert all(decision.send for decision in robot.decisions)


def test_a_stream_without_stamps_goes_by_the_clock_of_the_day_as_in_a_bag(tmp_path: Path) -> None:
    class Mixed(Robot):
        spec = replace(
            SPEC, streams=tuple(replace(s, timeline="receipt") if s.field == "scene" else s for s in SPEC.streams)
        )

    robot = Mixed(tmp_path)
    robot.run(steps=5)
    assert [decision.send for decision in robot.decisions[-3:]] == [True] * 3


def test_a_robot_that_has_not_said_its_mode_refuses_a_goal(robot: Robot) -> None:
    robot.step()
    robot.runner._robot = RobotWatch(0.5)
    assert "in which mode" in str(robot.runner.start(Goal(("open_drawer",)), robot.now_ns))


def test_a_robot_of_which_nothing_is_observed_is_listened_to_all_the_same(tmp_path: Path) -> None:
    """F09: else a stop would not be heard."""

    class Elsewhere(Robot):
        state_topic = "arm/state"
        spec = replace(
            SPEC,
            streams=tuple(
                replace(s, topic="arm/state", type="arm_msgs/msg/Arm") if s.topic == "robot/state" else s
                for s in SPEC.streams
            ),
        )

    robot = Elsewhere(tmp_path)
    robot.runner.observations.watch.note("robot/state", robot.now_ns)
    robot.run(steps=3)
    assert robot.runner.running
    for _ in range(5):  # the arm's observations go on
        robot.step()
    assert robot.ended == (Outcome.FAULT, "robot/state silent for 0.23 s: a stop would not be heard")


def test_f02_silence_holds_after_a_tenth_of_a_second_and_then_ends(robot: Robot) -> None:
    """Age is counted from the receipt: the sensor's clock is far from ours, and has nothing to say in it."""
    robot.run()
    robot.wait(0.08)
    assert robot.runner.state(robot.now_ns) is RunState.RUNNING
    robot.wait(0.04)
    assert robot.runner.state(robot.now_ns) is RunState.HOLDING
    robot.wait(0.1)
    outcome, reason = robot.ended
    assert outcome is Outcome.FAULT
    assert "robot/state silent for 0.2" in reason
    assert robot.runner.state(robot.now_ns) is RunState.FAULT


def test_f02_a_short_silence_is_bridged_by_holding(robot: Robot) -> None:
    robot.run(steps=3)
    robot.wait(0.1)
    robot.tick += 3  # the sensor's time went on
    assert robot.step() is not None
    assert robot.decisions[-1].step == 3 + 4, "the ticks that were missed count for the policy too"
    assert robot.runner.observations.dropped["held"] == 3


def test_f02_an_observation_that_became_whole_too_late_is_not_acted_upon(tmp_path: Path) -> None:
    robot = Robot(tmp_path, RunLimits(give_up_after_s=1.0))
    robot.run(steps=3)
    sent = len(robot.decisions)
    for _ in range(12):  # the scene's topic is dead; after 0.2 s the assembler stops waiting for it
        robot.tick += 1
        robot.now_ns += PERIOD
        decision = robot.runner.on_message("robot/state", robot_state(START_NS + robot.tick * PERIOD), robot.now_ns)
        robot.runner.check(robot.now_ns)
        if decision is not None:
            robot.decisions.append(decision)
    late = robot.decisions[sent:]
    assert late, "rows that waited in vain do come"
    assert not any(decision.send for decision in late)
    assert min(decision.observation_age_s for decision in late) > 0.1


def test_f01_an_observation_that_is_not_finite_is_never_answered(robot: Robot) -> None:
    robot.run(steps=3)

    def spoil(message: Any) -> Any:
        message.gripper_width = float("nan")
        return message

    for _ in range(8):
        assert robot.step(state=spoil) is None
    outcome, reason = robot.ended
    assert outcome is Outcome.FAULT
    assert "robot/state: not finite" in reason


def test_f01_one_such_observation_is_left_out(robot: Robot) -> None:
    robot.run(steps=3)

    def spoil(message: Any) -> Any:
        message.tcp_pose.orientation.w = 0.5
        return message

    assert robot.step(state=spoil) is None
    assert robot.step() is not None
    assert robot.runner.observations.dropped["faulty"] == 1


def nan_accepted(message: Any) -> Any:
    message.accepted_translation.x = float("nan")
    return message


def test_f01_a_state_of_which_only_a_part_is_sound_is_not_answered_either(robot: Robot) -> None:
    """What was accepted is a stream of its own; without it nobody knows what the latent should be told."""
    robot.run(steps=3)
    for _ in range(8):
        assert robot.step(state=nan_accepted) is None
    outcome, reason = robot.ended
    assert outcome is Outcome.FAULT
    assert "robot/state: not finite" in reason


def test_ticks_that_were_held_before_such_an_observation_count_all_the_same(robot: Robot) -> None:
    robot.run(steps=3)
    robot.wait(0.06)
    robot.tick += 2
    assert robot.step(state=nan_accepted) is None
    assert robot.step() is not None
    assert robot.decisions[-1].step == 3 + 2 + 1


def test_f02_a_stamp_that_comes_again_does_not_make_an_observation_young(robot: Robot) -> None:
    robot.run(steps=3)
    robot.tick += 1
    stamp = START_NS + robot.tick * PERIOD
    robot.runner.on_message("robot/state", robot_state(stamp), robot.now_ns)
    robot.now_ns += round(0.14 * SECOND)
    robot.runner.on_message("robot/state", robot_state(stamp), robot.now_ns)
    decision = robot.runner.on_message("scene/state", scene_state(stamp), robot.now_ns)
    assert decision is not None
    assert decision.observation_age_s == pytest.approx(0.14)
    assert not decision.send


def test_messages_from_before_the_goal_are_not_its_first_frame(robot: Robot) -> None:
    robot.step()
    waiting_ns, robot.now_ns = robot.now_ns, robot.now_ns + SECOND // 100
    assert robot.runner.start(Goal(("open_drawer",)), robot.now_ns) is None
    stamp = START_NS + (robot.tick + 1) * PERIOD
    robot.runner.on_message("scene/state", scene_state(stamp), waiting_ns)
    assert robot.runner.on_message("robot/state", robot_state(stamp), waiting_ns) is None
    robot.tick += 1
    decision = robot.step()
    assert decision is not None
    assert decision.step == 1


@pytest.mark.parametrize(
    ("jump", "word"), [(300, "jumps by 10.0"), (30, "jumps by 1.0"), (-300, "time goes backwards")]
)
def test_f21_a_clock_that_jumps_ends_the_goal(robot: Robot, jump: int, word: str) -> None:
    robot.run(steps=3)
    robot.tick += jump
    assert [robot.step(), robot.step()] == [None, None], "one message far behind may be alone; two are a clock"
    outcome, reason = robot.ended
    assert outcome is Outcome.FAULT
    assert word in reason


def test_one_message_of_a_wrong_time_does_not_end_the_goal(robot: Robot) -> None:
    robot.run(steps=3)
    for wrong in (-1, 3600 * SECOND, -3600 * SECOND):
        robot.step()
        scene = scene_state(START_NS + robot.tick * PERIOD + wrong, robot.drawer)
        assert robot.runner.on_message("scene/state", scene, robot.now_ns) is None
        assert robot.step() is not None, "the next observation is answered"
    assert (robot.runner.observations.dropped["late"], robot.runner.observations.dropped["alone"]) == (1, 2)


@pytest.mark.parametrize(("rate_hz", "hold_s", "give_up_s"), [(30.0, 0.1, 0.2), (5.0, 0.3, 0.6), (2.0, 0.75, 1.5)])
def test_a_slow_control_rate_is_no_silence(rate_hz: float, hold_s: float, give_up_s: float) -> None:
    limits = RunLimits().at(rate_hz)
    assert (limits.hold_after_s, limits.give_up_after_s) == pytest.approx((hold_s, give_up_s))


def test_at_five_hertz_a_skill_runs_to_its_end(tmp_path: Path) -> None:
    class Slow(Robot):
        spec, period = replace(SPEC, rate_hz=5.0), SECOND // 5

        def step(self, *given: Any, **named: Any) -> Decision | None:
            for late_ns in range(0, self.period, SECOND // 50):  # the watchdog looks meanwhile
                self.runner.check(self.now_ns + late_ns)
            return super().step(*given, **named)

    robot = Slow(tmp_path)
    robot.run(steps=8, timeout_s=1.0)
    assert [decision.send for decision in robot.decisions] == [True] * 5
    assert robot.ended == (Outcome.TIMEOUT, "'open_drawer' was not achieved within 1.0 s")


def test_f21_a_process_that_was_frozen_does_not_go_on(robot: Robot) -> None:
    robot.run(steps=3)
    robot.now_ns += SECOND  # nothing ran meanwhile, not even the watchdog
    assert robot.step() is None
    outcome, reason = robot.ended
    assert outcome is Outcome.FAULT
    assert "stood still for 1.0" in reason


def test_f17_an_inference_that_takes_too_long_is_not_sent(robot: Robot) -> None:
    robot.run(steps=3)
    robot.thinking_ns = round(0.05 * SECOND)
    decision = robot.step()
    assert decision is not None
    assert not decision.send
    assert decision.inference_s == pytest.approx(0.05)
    assert robot.runner.late == 1
    assert robot.runner.state(robot.now_ns) is RunState.HOLDING
    robot.thinking_ns = 0
    decision = robot.step()
    assert decision is not None
    assert decision.send, "the next observation is answered in time"


def test_f18_an_arm_far_from_every_training_start_is_refused_with_the_figure(tmp_path: Path) -> None:
    def far(message: Any) -> Any:
        message.tcp_pose.position.x = 199.0
        return message

    for allowed in (False, True):
        robot = Robot(tmp_path, RunLimits(gate=GateLimits(allow_far_start=allowed)))
        robot.step()
        assert robot.runner.start(Goal(("open_drawer",)), robot.now_ns) is None
        decision = robot.step(state=far)
        if allowed:
            assert decision is not None
            continue
        assert decision is None
        outcome, reason = robot.ended
        assert outcome is Outcome.REFUSED
        assert "tcp_x is 199.000" in reason
        assert "allow_far_start" in reason


def test_f19_somebody_else_who_commands_ends_the_goal(robot: Robot) -> None:
    robot.run()
    robot.runner.on_foreign_command("teleop", robot.now_ns)
    outcome, reason = robot.ended
    assert outcome is Outcome.FAULT
    assert "'teleop' commands the robot too" in reason


def test_f19_no_goal_begins_while_somebody_else_commands(robot: Robot) -> None:
    robot.step()
    robot.runner.on_foreign_command("teleop", robot.now_ns)
    assert "'teleop' commands the robot" in str(robot.runner.start(Goal(("open_drawer",)), robot.now_ns))
    for _ in range(16):
        robot.step()
    assert robot.runner.start(Goal(("open_drawer",)), robot.now_ns) is None


def test_answers_that_were_never_sent_are_not_held_against_the_robot(robot: Robot) -> None:
    robot.run(steps=3)
    robot.thinking_ns = round(0.04 * SECOND)  # each answer comes too late, but the process lives
    for _ in range(12):
        robot.step(obeys=True)
        robot.tick += 3
    assert robot.runner.late >= 5
    assert robot.runner.running, robot.runner.take_ended()


def test_f19_a_robot_that_takes_no_command_ends_the_goal(robot: Robot) -> None:
    robot.step()
    assert robot.runner.start(Goal(("open_drawer",)), robot.now_ns) is None
    for _ in range(20):
        robot.step(obeys=False)
    outcome, reason = robot.ended
    assert outcome is Outcome.FAULT
    assert "took no command for 0.5 s" in reason


def test_shadow_mode_commands_nothing_and_measures_how_far_it_is_from_the_operator(tmp_path: Path) -> None:
    robot = Robot(tmp_path, RunLimits(shadow=True))
    robot.step()
    robot.runner.on_robot(RobotMode.GUIDED, 0)
    assert robot.runner.start(Goal(("open_drawer",)), robot.now_ns) is None
    robot.runner.on_foreign_command("teleop", robot.now_ns)
    for _ in range(6):
        robot.tick += 1
        robot.now_ns += PERIOD
        stamp = START_NS + robot.tick * PERIOD
        robot.runner.on_message("scene/state", scene_state(stamp), robot.now_ns)
        operator = robot_state(stamp, accepted=(0.0, 0.01, 0.0, 0.0, 0.0, 0.1))
        decision = robot.runner.on_message("robot/state", operator, robot.now_ns)
        assert decision is not None
        assert not decision.send
        robot.decisions.append(decision)
    assert robot.decisions[0].divergence is None, "nothing was proposed before it"
    last, before = robot.decisions[-1].divergence, robot.decisions[-2]
    assert last is not None
    assert last.stamp_ns == before.stamp_ns
    expected = np.linalg.norm(0.02 * before.action[:3] - [0, 0.01, 0])
    assert last.translation_m == pytest.approx(expected, rel=1e-5)
    means = robot.runner.divergence
    assert means.ticks == 5
    assert means.gripper_agreement == 1.0
    assert (means.still_m, means.still_rad) == pytest.approx((0.01, 0.1))
    assert means.translation_m == pytest.approx(
        np.mean([d.divergence.translation_m for d in robot.decisions[1:] if d.divergence])
    )


def test_a_run_is_recorded_line_by_line(robot: Robot, tmp_path: Path) -> None:
    goal = Goal(("open_drawer",), seed=3)
    record = RunRecord(tmp_path / "logs", goal, robot.runner.skills, RunLimits())
    robot.run(steps=6, seed=3)
    for decision in robot.decisions:
        record.decided(decision)
    robot.runner.cancel("enough")
    ended = robot.runner.take_ended()
    assert ended is not None
    record.ended(ended, robot.runner.late, robot.runner.observations.dropped, DivergenceSum())
    (path,) = (tmp_path / "logs").iterdir()
    start, *steps, end = [json.loads(line) for line in path.read_text().splitlines()]
    assert (start["kind"], start["skills"], start["seed"]) == ("start", ["open_drawer"], 3)
    assert start["bundles"]["open_drawer"] == robot.runner.skills["open_drawer"].sha256
    assert [step["action"] for step in steps] == [decision.action.tolist() for decision in robot.decisions]
    assert (end["outcome"], end["reason"], end["steps"]) == ("CANCELLED", "enough", 6)
    assert end["seams"]["count"] == 1


def test_a_disk_that_refuses_ends_the_log_and_not_the_run(robot: Robot, tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    record = RunRecord(tmp_path / "logs", Goal(("open_drawer",)), robot.runner.skills, RunLimits())
    assert "no run log can be written" in record.trouble
    robot.run(steps=2)
    record.decided(robot.decisions[0])


def test_a_disk_that_fills_up_in_mid_run_is_said_and_the_run_goes_on(robot: Robot, tmp_path: Path) -> None:
    record = RunRecord(tmp_path / "logs", Goal(("open_drawer",)), robot.runner.skills, RunLimits())
    robot.run(steps=3)
    record.decided(robot.decisions[0])
    assert record._log is not None
    assert record._log._file is not None
    record._log._file.close()
    record._log._file = open("/dev/full", "w")  # noqa: SIM115
    record.decided(robot.decisions[1])
    assert "the run log ends here (No space left on device)" in record.trouble
    record.decided(robot.decisions[2])
    (path,) = (tmp_path / "logs").iterdir()
    assert len(path.read_text().splitlines()) == 2, "what was written before is whole"


def test_seams_are_those_between_commands_that_followed_each_other(robot: Robot) -> None:
    record = RunRecord(None, Goal(("open_drawer",)), robot.runner.skills, RunLimits())
    robot.run(steps=12)
    kept = [replace(d, send=not 3 <= index <= 5) for index, d in enumerate(robot.decisions)]
    for decision in kept:
        record.decided(decision)
    robot.runner.cancel()
    ended = robot.runner.take_ended()
    assert ended is not None
    seams = record.ended(ended, 0, {}, DivergenceSum())["seams"]
    assert seams["count"] == 1, "the hand-over at the fifth tick was never sent, the one at the ninth was"
