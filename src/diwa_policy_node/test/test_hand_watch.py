"""A hand that no longer follows: found after its time, said with its direction, and never in what a skill does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from robot_messages import PERIOD
from test_runner import Robot

from diwa_policy_node.skills.goal import Goal, RunLimits
from diwa_policy_node.skills.hand_watch import HandWatch
from diwa_runtime.actions import HOLD_ACTION
from diwa_runtime.robot import Outcome, RunState
from diwa_runtime.rows.row import Row
from diwa_runtime.spec import Spec

SPEC = Spec()
SCALE_M = SPEC.action_scale.translation_m


def first_said(asked: Any, moved: Any, blocked_s: float = 0.5, share: float = 0.1) -> tuple[int, str] | None:
    """Feed rows in which so much was asked for (T, 3) and the hand went so far (T, 3), m; when it is first said."""
    hand = HandWatch(SPEC, blocked_s, share)
    positions = np.cumsum(moved, 0)
    for tick, (way, position) in enumerate(zip(np.asarray(asked), positions, strict=True)):
        executed = HOLD_ACTION.copy()
        executed[:3] = way / SCALE_M
        proprio = np.concatenate([position, np.zeros(12)]).astype(np.float32)
        why = hand.objection(Row(tick * PERIOD, {"proprio": proprio}, executed))
        if why is not None:
            return tick, why
    return None


def along(*way: float, rows: int = 60) -> np.ndarray:
    return np.tile(way, (rows, 1)).astype(float)


STILL = along(0, 0, 0)


@pytest.mark.parametrize(
    ("asked", "moved"),
    [
        (along(0.01, 0, 0), along(0.01, 0, 0)),
        (along(0.01, 0, 0), along(0, 0.002, 0)),  # slides along what it leans on
        (along(0.01, 0, 0), along(0.0011, 0, 0)),
        (along(0.001, 0, 0), STILL),  # next to nothing is asked for
        (along(0.01, 0, 0) * np.where(np.arange(60) % 2, 1, -1)[:, None], STILL),  # to and fro is nowhere
        (np.where(np.arange(60)[:, None] % 20 < 12, along(0.01, 0, 0), 0), along(0.001, 0, 0)),
        (
            np.where(np.arange(60)[:, None] < 14, along(0, 0, -0.01), 0.01),
            np.where(np.arange(60)[:, None] < 14, 0, 0.01),
        ),
    ],
    ids=["follows", "slides", "just enough", "rests", "trembles", "presses again and again", "pressed, then lifted"],
)
def test_a_hand_that_goes_somewhere_or_is_told_nothing_is_not_blocked(asked, moved):
    assert first_said(asked, moved) is None


@pytest.mark.parametrize("blocked_s", [0.2, 0.5, 1.5])
def test_a_hand_that_stays_is_blocked_after_that_time_and_not_before(blocked_s):
    tick, why = first_said(along(0, 0.002, -0.01), along(0, 0, -0.0004), blocked_s)

    assert tick == round(blocked_s * SPEC.rate_hz)
    assert f"in {blocked_s:.1f} s it was to go {100 * np.hypot(0.01, 0.002) * tick:.1f} cm, mostly along -z" in why
    assert f"went {100 * 0.0004 * tick:.1f};" in why


def test_what_the_hand_did_before_it_stood_still_does_not_count_against_it():
    moved = np.where(np.arange(60)[:, None] < 30, along(0.01, 0, 0), 0)

    tick, _ = first_said(along(0.01, 0, 0), moved)

    assert 30 < tick <= 30 + 15, "as soon as the newest half second holds nothing but the last of the way"


def test_a_larger_share_asks_for_more_and_no_time_is_for_ever():
    slow = along(0.002, 0, 0)
    assert first_said(along(0.01, 0, 0), slow, share=0.1) is None
    assert first_said(along(0.01, 0, 0), slow, share=0.3) is not None
    assert first_said(along(0.01, 0, 0), STILL, blocked_s=0.0) is None


def held(folder: Path, steps: int, **limits: Any) -> Robot:
    """A skill that goes right, and an arm that is held after its fifth step."""
    robot = Robot(folder, RunLimits(**limits))
    robot.run(steps=5)
    robot.is_held = True
    for _ in range(steps):
        robot.step()
    return robot


def test_a_skill_whose_hand_is_held_ends_as_blocked_and_the_arm_holds(tmp_path):
    robot = held(tmp_path, 48)

    outcome, reason = robot.ended

    assert outcome is Outcome.BLOCKED
    assert "mostly along +x" in reason
    assert robot.step() is None, "nothing is commanded any more"
    assert robot.runner.state(robot.now_ns) is RunState.IDLE, "the next goal may come"
    assert robot.runner.start(Goal(("open_drawer",)), robot.now_ns) is None


@pytest.mark.parametrize("limits", [{"blocked_s": 0.0}, {"blocked_s": 5.0}, {"blocked_share": 0.0}, {"shadow": True}])
def test_it_does_not_where_that_is_switched_off_or_the_policy_only_watches(tmp_path, limits):
    robot = held(tmp_path, 48, **limits)
    ended = robot.runner.take_ended()
    assert ended is None or ended.outcome is Outcome.TIMEOUT


def test_a_skill_that_succeeds_at_that_very_step_has_succeeded(tmp_path):
    blocked_at = held(tmp_path / "blocked", 60).runner.take_ended().steps
    robot = held(tmp_path / "succeeds", blocked_at - 6, success_frames=1)
    assert robot.runner.running

    robot.drawer = 0.2
    robot.step()

    assert robot.ended[0] is Outcome.SUCCESS


def test_each_skill_of_a_sequence_has_its_own_time(tmp_path):
    robot = Robot(tmp_path, RunLimits(), open_drawer=0.1, go_on=0.5)
    robot.is_held = True
    robot.run("open_drawer", "go_on", steps=30)
    robot.drawer = 0.2
    for _ in range(40):
        robot.step()
    assert robot.runner.running == "go_on"
    for _ in range(10):
        robot.step()
    assert robot.ended[0] is Outcome.BLOCKED
