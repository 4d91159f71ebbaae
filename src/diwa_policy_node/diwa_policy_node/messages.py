"""Between the core's values and ROS messages, as pure functions."""

from __future__ import annotations

import math

from builtin_interfaces.msg import Time

from diwa_msgs.msg import EndEffectorDelta, PolicyStatus, ShadowDivergence
from diwa_policy_node.skills.goal import Decision
from diwa_ros.messages import filled
from diwa_runtime.actions import GRIPPER, motion_of
from diwa_runtime.logs.divergence import Divergence, DivergenceSum
from diwa_runtime.robot import RunState
from diwa_runtime.robot_messages import BASE_FRAME, end_effector_delta
from diwa_runtime.rows.streams import NANOSECONDS
from diwa_runtime.spec import ActionScale


def time_of(stamp_ns: int) -> Time:
    """Turn nanoseconds into a stamp."""
    seconds, nanoseconds = divmod(stamp_ns, NANOSECONDS)
    return Time(sec=seconds, nanosec=nanoseconds)


def command_of(decision: Decision, scale: ActionScale, source: str) -> EndEffectorDelta:
    """Turn a decision into the command that answers its observation."""
    motion, gripper = motion_of(decision.action, scale), float(decision.action[GRIPPER])
    return filled(EndEffectorDelta(), end_effector_delta(motion, gripper, decision.stamp_ns, source))


def status_of(decision: Decision | None, state: RunState, skill: str) -> PolicyStatus:
    """Return the status after a decision, or without one."""
    message = PolicyStatus(skill=skill, state=int(state), success_probability=math.nan)
    message.header.frame_id = BASE_FRAME
    if decision is not None:
        message.header.stamp = time_of(decision.stamp_ns)
        message.step = decision.step
        message.success_probability = decision.probability
        message.observation_age, message.inference_time = decision.observation_age_s, decision.inference_s
    return message


def divergence_of(divergence: Divergence, means: DivergenceSum, skill: str) -> ShadowDivergence:
    """Return one tick's divergence and the means so far."""
    message = ShadowDivergence(
        skill=skill,
        translation=divergence.translation_m,
        rotation=divergence.rotation_rad,
        gripper_agrees=divergence.gripper_agrees,
        ticks=means.ticks,
        mean_translation=means.translation_m,
        mean_rotation=means.rotation_rad,
        mean_still_translation=means.still_m,
        mean_still_rotation=means.still_rad,
        gripper_agreement=means.gripper_agreement,
    )
    message.header.stamp, message.header.frame_id = time_of(divergence.stamp_ns), BASE_FRAME
    return message
