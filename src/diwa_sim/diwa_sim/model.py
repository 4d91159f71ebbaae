"""The play table as a MuJoCo model: where each joint lies in the state vector, and where the handles are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

import mujoco
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FIXTURES = ("slider", "drawer", "button", "switch")
"""The table's joints in the order of the scene vector."""
BLOCKS = ("red", "blue", "pink")

TABLE_HEIGHT_M = 0.46
"""Height of the table top in the world frame, as in CALVIN."""
FINGER_TRAVEL_M = 0.04
HOME_JOINTS: Array = np.array([0.75, 0.15, 0.0, -2.25, 0.0, 2.4, 0.0])
"""Joint angles (7,) rad above the table's middle, hand down: where inverse kinematics start and tend to."""
HOME_JOINTS.setflags(write=False)


@dataclass(frozen=True)
class Layout:
    """Where the things to touch are (world frame, metres) while their joints are at 0, and how far the joints go."""

    drawer_handle: Array
    slider_handle: Array
    switch_lever: Array
    button_top: Array
    ranges: dict[str, float]


@dataclass(frozen=True)
class TableModel:
    """The compiled model and the addresses that the environment needs.

    Attributes:
        fixture_qpos: addresses of `FIXTURES` in qpos.
        block_qpos: (3, 7) addresses of the blocks' free joints: position 3, quaternion wxyz 4.
        arm_qpos, arm_qvel: addresses of the 7 arm joints; they are consecutive.
        finger_qpos: addresses of both fingers.
        tcp_site: the point between the fingertips.
    """

    mujoco: mujoco.MjModel
    layout: Layout
    fixture_qpos: NDArray[np.int64]
    block_qpos: NDArray[np.int64]
    arm_qpos: slice
    arm_qvel: slice
    finger_qpos: slice
    tcp_site: int
    hand_body: int


def _assets() -> dict[str, bytes]:
    folder = resources.files("diwa_sim") / "assets"
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.name.endswith(".xml")}


def _compile(name: str) -> mujoco.MjModel:
    assets = _assets()
    return mujoco.MjModel.from_xml_string(assets[name].decode(), {k: v for k, v in assets.items() if k != name})


@cache
def load_arm() -> mujoco.MjModel:
    """Compile the arm without the table: 9 joints, the last two being the fingers. Shared; don't change it."""
    return _compile("arm.xml")


def load_table() -> TableModel:
    """Compile the play table."""
    model = _compile("play_table.xml")
    qpos = {model.joint(i).name: int(model.jnt_qposadr[i]) for i in range(model.njnt)}
    arm = qpos["joint_1"]
    velocity = int(model.jnt_dofadr[model.joint("joint_1").id])
    return TableModel(
        mujoco=model,
        layout=_layout(model),
        fixture_qpos=np.array([qpos[name] for name in FIXTURES]),
        block_qpos=np.array([[qpos[name] + i for i in range(7)] for name in BLOCKS]),
        arm_qpos=slice(arm, arm + 7),
        arm_qvel=slice(velocity, velocity + 7),
        finger_qpos=slice(qpos["finger_left"], qpos["finger_left"] + 2),
        tcp_site=model.site("tcp").id,
        hand_body=model.body("hand").id,
    )


def _layout(model: mujoco.MjModel) -> Layout:
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    points = {
        name: data.site(name).xpos.copy() for name in ("drawer_handle", "slider_handle", "switch_lever", "button_top")
    }
    return Layout(**points, ranges={name: float(model.joint(name).range[1]) for name in FIXTURES})
