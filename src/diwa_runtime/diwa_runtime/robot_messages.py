"""What a robot tells, as messages: plain fields by name, for bag writer, simulator and bridge alike.

Every function is pure and returns a dict that mirrors the message's definition; nested messages are nested dicts.
`robot/state` says what the assembler reads back, so values keep their full precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.errors import InputError
from diwa_runtime.events import NO_SEED, EventKind
from diwa_runtime.robot import RobotMode
from diwa_runtime.rows.images import JPEG_QUALITY, encode_jpeg
from diwa_runtime.rows.streams import NANOSECONDS
from diwa_runtime.spec import SCENE_NAMES, ActionScale

Fields = dict[str, Any]

ROBOT_STATE = ("robot/state", "diwa_msgs/msg/RobotState")
JOINT_STATES = ("joint_states", "sensor_msgs/msg/JointState")
SCENE_STATE = ("scene/state", "diwa_msgs/msg/SceneState")
BASE_FRAME = "base"
JOINT_NAMES = tuple(f"panda_joint{number}" for number in range(1, 8))
FINGER_NAMES = ("panda_finger_joint1", "panda_finger_joint2")


class RobotSnapshot(Protocol):
    """One instant of an arm and its gripper, and what they executed since the one before."""

    @property
    def tcp_position(self) -> NDArray[np.float64]:
        """(3,) m, base frame."""

    @property
    def tcp_quaternion(self) -> NDArray[np.float64]:
        """(4,) as (x, y, z, w)."""

    @property
    def joint_positions(self) -> NDArray[np.float64]:
        """(7,) rad."""

    @property
    def joint_velocities(self) -> NDArray[np.float64]:
        """(7,) rad/s."""

    @property
    def gripper_width(self) -> float:
        """Distance between the fingers, m."""

    @property
    def gripper_command(self) -> float:
        """Last accepted, +1 open or -1 closed."""

    @property
    def accepted_action(self) -> NDArray[np.floating]:
        """(7,) in the Spec's units, summed up over all commands since the snapshot before."""


def image_topic(camera: str) -> tuple[str, str]:
    """Return topic and type of a camera's compressed images."""
    return f"camera/{camera}/image/compressed", "sensor_msgs/msg/CompressedImage"


def robot_state(
    snapshot: RobotSnapshot,
    stamp_ns: int,
    scale: ActionScale,
    mode: int = RobotMode.MOVING,
    answered_ns: int = 0,
) -> Fields:
    """Return the fields of diwa_msgs/msg/RobotState.

    Args:
        snapshot: the robot's state and what it executed since the snapshot before.
        stamp_ns: the message's stamp.
        scale: what an action of 1 means; the message has metres and radians.
        mode: one of RobotState.MODE_*.
        answered_ns: stamp of the observation that the newest command answers; 0: none.
    """
    accepted = np.asarray(snapshot.accepted_action, dtype=np.float64)
    return {
        "header": header(stamp_ns),
        "tcp_pose": {
            "position": _vector(snapshot.tcp_position),
            "orientation": dict(zip("xyzw", map(float, snapshot.tcp_quaternion), strict=True)),
        },
        "joint_positions": np.asarray(snapshot.joint_positions, np.float64),
        "joint_velocities": np.asarray(snapshot.joint_velocities, np.float64),
        "gripper_width": float(snapshot.gripper_width),
        "gripper_command": float(snapshot.gripper_command),
        "accepted_translation": _vector(accepted[:3] * scale.translation_m),
        "accepted_rotation": _vector(accepted[3:6] * scale.rotation_rad),
        "answered_stamp": _time(answered_ns),
        "mode": int(mode),
    }


def joint_states(snapshot: RobotSnapshot, stamp_ns: int) -> Fields:
    """Return the fields of sensor_msgs/msg/JointState: seven joints and two fingers, each half of the width."""
    fingers = [snapshot.gripper_width / 2] * 2
    return {
        "header": header(stamp_ns),
        "name": [*JOINT_NAMES, *FINGER_NAMES],
        "position": np.concatenate([snapshot.joint_positions, fingers]).astype(np.float64),
        "velocity": np.concatenate([snapshot.joint_velocities, [0.0, 0.0]]).astype(np.float64),
        "effort": np.zeros(0),
    }


def scene_state(scene: NDArray[np.floating], stamp_ns: int, names: Sequence[str] = SCENE_NAMES) -> Fields:
    """Return the fields of diwa_msgs/msg/SceneState."""
    return {"header": header(stamp_ns), "names": list(names), "values": np.asarray(scene, np.float64)}


def compressed_image(image: NDArray[np.uint8], stamp_ns: int, camera: str, quality: int = JPEG_QUALITY) -> Fields:
    """Return the fields of sensor_msgs/msg/CompressedImage: a JPEG of an RGB image (H, W, 3)."""
    data = np.frombuffer(encode_jpeg(image, quality), np.uint8)
    return {"header": header(stamp_ns, f"camera_{camera}"), "format": "jpeg", "data": data}


def end_effector_delta(motion: NDArray[np.floating], gripper: float, stamp_ns: int, source: str) -> Fields:
    """Return the fields of diwa_msgs/msg/EndEffectorDelta.

    Args:
        motion: translation 3 (m) and rotation 3 (rad).
        gripper: > 0 opens.
        stamp_ns: of the observation that it answers.
        source: who commands.
    """
    return {
        "header": header(stamp_ns),
        "translation": _vector(motion[:3]),
        "rotation": _vector(motion[3:]),
        "gripper": gripper,
        "source": source,
    }


def episode_event(kind: EventKind, stamp_ns: int, task: str | None = None, seed: int | None = None) -> Fields:
    """Return the fields of diwa_msgs/msg/EpisodeEvent; no task is play.

    Raises:
        InputError: the seed is more than the message can hold.
    """
    if seed is not None and abs(seed) >= 2**63:
        raise InputError(f"a seed of {seed.bit_length()} bits does not fit into a mark; it must be below 2^63")
    return {
        "header": header(stamp_ns),
        "kind": int(kind),
        "task": task or "",
        "seed": NO_SEED if seed is None else seed,
    }


def header(stamp_ns: int, frame: str = BASE_FRAME) -> Fields:
    """Return the fields of std_msgs/msg/Header.

    Raises:
        InputError: the stamp is more than a message can hold, as after January 2038.
    """
    return {"stamp": _time(stamp_ns), "frame_id": frame}


def _time(stamp_ns: int) -> Fields:
    seconds, nanoseconds = divmod(stamp_ns, NANOSECONDS)
    if abs(seconds) >= 2**31:
        raise InputError(f"a stamp of {seconds} s does not fit into a message; is this machine's clock set right?")
    return {"sec": seconds, "nanosec": nanoseconds}


def _vector(values: NDArray[np.floating]) -> Fields:
    return dict(zip("xyz", map(float, values), strict=True))
