"""Whatever the fields of a message hold, nothing is raised, and what is commanded is sound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("diwa_msgs.msg", reason="needs a built and sourced workspace (make test)")

from hypothesis import given, settings
from hypothesis import strategies as st
from policy_rig import write_skill

from diwa_msgs.msg import RobotState, SceneState
from diwa_policy_node.skills.goal import Goal, RunLimits
from diwa_policy_node.skills.loading import load_skills
from diwa_policy_node.skills.runner import SkillRunner
from diwa_runtime.rows.streams import NANOSECONDS, nanoseconds_of
from diwa_runtime.spec import Spec

pytestmark = pytest.mark.ros

PERIOD_NS = NANOSECONDS // 30
ODD = st.sampled_from([0.0, -0.0, 1e-300, 1.0, -1.0, 1e8, 1e9, 1e300, float("inf"), float("-inf"), float("nan")])
NUMBER = ODD | st.floats(-2, 2)
SCENE = Spec().scene


@st.composite
def states(draw: st.DrawFn) -> RobotState:
    state = RobotState(gripper_width=draw(NUMBER), gripper_command=draw(NUMBER), mode=draw(st.integers(0, 255)))
    vectors = (state.tcp_pose.position, state.accepted_translation, state.accepted_rotation)
    for vector in (*vectors, state.tcp_pose.orientation):
        for axis in ("x", "y", "z"):
            setattr(vector, axis, draw(NUMBER))
    state.tcp_pose.orientation.w = draw(NUMBER)
    state.joint_positions = np.array(draw(st.lists(NUMBER, min_size=7, max_size=7)))
    state.answered_stamp.sec = draw(st.integers(-(2**31), 2**31 - 1))
    state.answered_stamp.nanosec = draw(st.integers(0, 2**32 - 1))
    return state


@st.composite
def scenes(draw: st.DrawFn) -> SceneState:
    names = draw(st.sampled_from([list(SCENE), list(SCENE)[::-1], list(SCENE)[1:], [], ["", *SCENE]]))
    values = draw(st.lists(NUMBER, min_size=len(SCENE), max_size=len(SCENE)) | st.lists(NUMBER, max_size=2))
    return SceneState(names=names, values=values)


def stamped(message: Any, stamp_ns: int) -> Any:
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, NANOSECONDS)
    return message


class Running:
    """A goal that has run for a few ticks on sound messages."""

    def __init__(self, skills: Path) -> None:
        self.now_ns, self.stamp_ns = 10 * NANOSECONDS, 1_000 * NANOSECONDS
        self.runner = SkillRunner(load_skills([skills]), RunLimits(), lambda: self.now_ns)
        for tick in range(6):
            if tick == 2:
                assert self.runner.start(Goal(("open_drawer",)), self.now_ns) is None
            sound = RobotState(gripper_width=0.04, gripper_command=1.0)
            sound.tcp_pose.orientation.w = 1.0
            self.step(sound, SceneState(names=list(SCENE), values=[0.0] * len(SCENE)))
        assert self.runner.running

    def step(self, state: RobotState, scene: SceneState, moved_ns: int = 0) -> list[Any]:
        self.now_ns, self.stamp_ns = self.now_ns + PERIOD_NS, self.stamp_ns + PERIOD_NS
        decisions = [self.runner.on_message("scene/state", stamped(scene, self.stamp_ns), self.now_ns)]
        self.runner.on_robot(state.mode, nanoseconds_of(state.answered_stamp))
        stamp_ns = min(max(self.stamp_ns + moved_ns, -(2**31) * NANOSECONDS), (2**31 - 1) * NANOSECONDS)
        decisions.append(self.runner.on_message("robot/state", stamped(state, stamp_ns), self.now_ns))
        self.runner.check(self.now_ns)
        return [decision for decision in decisions if decision is not None]


@pytest.fixture(scope="module")
def skills(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_skill(tmp_path_factory.mktemp("skills"))


@settings(max_examples=60)
@given(
    messages=st.lists(
        st.tuples(states(), scenes(), st.sampled_from([0, 1, -1, PERIOD_NS, -PERIOD_NS, 2**60, -(2**60)])),
        min_size=1,
        max_size=4,
    )
)
def test_no_message_raises_and_every_command_is_sound(skills: Path, messages: list[Any]) -> None:
    running = Running(skills)
    for state, scene, moved_ns in messages:
        for decision in running.step(state, scene, moved_ns):
            assert np.isfinite(decision.action).all()
            assert (np.abs(decision.action) <= 1).all()
            json.dumps(decision.to_json(), allow_nan=False)
    ended = running.runner.take_ended()
    assert running.runner.running or (ended is not None and ended.reason and "\n" not in ended.reason)
