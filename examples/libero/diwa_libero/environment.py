"""One of LIBERO-90's kitchens behind Gymnasium's interface, without a renderer.

Robot, physics, controller, starts and judge are the benchmark's. What is ours is the Spec.
"""

from __future__ import annotations

from typing import Any, cast

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from diwa_libero.benchmark import make_benchmark, reset
from diwa_libero.control import Control
from diwa_libero.experts import Expert, make_expert
from diwa_libero.scenes import RATE_HZ, SCENES, Scene, scene_named, scene_of
from diwa_runtime.actions import ACTION_SIZE, GRIPPER, HOLD_ACTION, accept_action
from diwa_runtime.errors import ConfigError
from diwa_runtime.geometry import quaternion_to_euler
from diwa_runtime.spec import Spec
from diwa_sim.snapshot import Snapshot

Observation = dict[str, NDArray[Any]]

STARTS = (0.0, 10.0)
"""Of the spread of starts."""
SETTLING_STEPS = 10
"""How long the arm holds before an episode begins: bodies fall onto the table, and the gripper opens."""
AS_THE_TASK = 0.5
"""Share of play's episodes whose drawers and knob start as the judged task's do; else they are anywhere."""
_TCP_SITE = "gripper0_grip_site"
_WXYZ_TO_XYZW = [1, 2, 3, 0]
_SEEDS = 2**32


class Kitchen(gymnasium.Env[Observation, NDArray[np.floating]]):
    """A Panda before a cabinet or a stove.

    `reset(seed=s)` determines the episode: the same seed and actions give bit-equal observations.
    """

    metadata = {"render_modes": [], "render_fps": int(RATE_HZ)}  # noqa: RUF012

    def __init__(
        self,
        task: str | None = None,
        scene: str | None = None,
        max_episode_steps: int | None = None,
        start: float = 1.0,
        render_mode: str | None = None,
    ) -> None:
        """Build the kitchen.

        Args:
            task: one of the scene's tasks; None is play, which never terminates and starts with open drawers too.
            scene: one of `diwa_libero.scenes.SCENES`; None is the one in which the benchmark judges that task.
            max_episode_steps: truncate here; None is never (`gymnasium.make` adds its own limit).
            start: spread of the arm's joints at a start; 1 is the benchmark's.
            render_mode: None; there is no renderer.

        Raises:
            InputError: no such scene or task.
            ConfigError: no such start, a render mode, or neither scene nor task.
        """
        if not STARTS[0] <= start <= STARTS[1]:
            raise ConfigError(f"start must be from {STARTS[0]:g} to {STARTS[1]:g}, not {start}")
        if render_mode is not None:
            raise ConfigError("the kitchen draws no pictures: use state mode and --videos 0")
        if scene is None and task is None:
            raise ConfigError(f"name a scene to play in: {', '.join(SCENES)}")
        self.scene: Scene = scene_named(scene) if scene is not None else scene_of(task or "")
        self.contract: Spec = self.scene.spec()
        self.task = self.contract.task(task) if task is not None else None
        self.render_mode = None
        self._max_episode_steps = max_episode_steps
        self._benchmark = make_benchmark(self.scene, start)
        self._sim = self._benchmark.sim
        self._model, self._data = self._sim.model._model, self._sim.data._data
        self._substeps = int(self._benchmark.control_timestep / self._benchmark.model_timestep)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACTION_SIZE,), np.float32)
        self.observation_space = _observation_space(self.contract)
        self._site = self._model.site(_TCP_SITE).id
        self._arm = [self._model.joint(f"robot0_joint{number}").qposadr[0] for number in range(1, 8)]
        self._arm_speed = [self._model.joint(f"robot0_joint{number}").dofadr[0] for number in range(1, 8)]
        self._fingers = [self._model.joint(f"gripper0_finger_joint{number}").qposadr[0] for number in (1, 2)]
        self._joints = [self._model.joint(joint.joint).qposadr[0] for joint in self.scene.joints]
        self._signs = np.array([joint.sign for joint in self.scene.joints])
        self._fixture = self._model.body(f"{self.scene.fixture}_main").id
        self._objects = [self._model.joint(f"{name}_joint0").qposadr[0] for name in self.scene.objects]
        self._watched = [(task, self.contract.scene.index(task.field)) for task in self.contract.tasks]
        self._started = False

    @property
    def layout(self) -> Scene:
        """What moves, and how far."""
        return self.scene

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode as the benchmark does, from the seed; `options` is not used."""
        super().reset(seed=seed, options=options)
        reset(self._benchmark, int(self.np_random.integers(_SEEDS)))
        self._control = Control(self._benchmark.robots[0], self._model, self._data)
        if self.task is None and self.np_random.random() >= AS_THE_TASK:
            self._data.qpos[self._joints] = self._signs * [
                self.np_random.uniform(0.0, joint.travel) for joint in self.scene.joints
            ]
        self._step_count = 0
        self._gripper = 1.0
        self._achieved: tuple[str, ...] = ()
        self._started = True
        mujoco.mj_forward(self._model, self._data)
        for _ in range(SETTLING_STEPS):
            self._advance(HOLD_ACTION)
        self._snapshot = self._take_snapshot(HOLD_ACTION.copy())
        self._scene_start = self._snapshot.scene
        return self._observation(), self._info()

    def step(self, action: NDArray[np.floating]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Execute one action (7,) for 1/20 s.

        Raises:
            ValueError: the action has another size or is not finite.
        """
        accepted = accept_action(action)
        if not self._started:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        self._gripper = float(accepted[GRIPPER])
        self._step_count += 1
        self._advance(accepted)
        self._snapshot = self._take_snapshot(accepted)
        self._update_achieved()
        info = self._info()
        truncated = self._max_episode_steps is not None and self._step_count >= self._max_episode_steps
        return self._observation(), float(info["success"]), info["success"], truncated, info

    def snapshot(self) -> Snapshot:
        """Return the current instant as sensors would report it."""
        return self._snapshot

    def judged_done(self) -> bool:
        """Ask the benchmark whether its task is done."""
        return bool(self._benchmark._check_success())

    def expert(self, noise: float = 0.0, rng: np.random.Generator | None = None, task: str | None = None) -> Expert:
        """Return a scripted policy for `task` (default: the environment's).

        Args:
            noise: standard deviation of the Gaussian noise added to each of the six motion components.
            rng: the noise's source; needed when `noise` is not 0.
            task: name of the task, needed in a play environment.
        """
        chosen = self.contract.task(task) if task is not None else self.task
        if chosen is None:
            raise ValueError("a play environment has no task of its own: name one")
        return make_expert(chosen, self.scene, noise, rng)

    def _advance(self, accepted: NDArray[np.floating]) -> None:
        """Run physics and controller for one step."""
        action = np.asarray(accepted, np.float64).copy()
        action[GRIPPER] = -action[GRIPPER]  # robosuite closes at +1
        self._control.move(action, self._substeps)

    def _take_snapshot(self, accepted: NDArray[np.float32]) -> Snapshot:
        data = self._data
        mujoco.mj_kinematics(self._model, data)
        quaternions = np.empty((1 + len(self._objects), 4))
        mujoco.mju_mat2Quat(quaternions[0], data.site_xmat[self._site])
        scene = np.empty(len(self.contract.scene))
        joints = len(self._joints)
        scene[:2] = data.xpos[self._fixture, :2]
        scene[2 : 2 + joints] = self._signs * data.qpos[self._joints]
        scene[2 + joints] = self.judged_done()
        poses = scene[3 + joints :].reshape(-1, 6)
        for i, address in enumerate(self._objects):
            poses[i, :3] = data.qpos[address : address + 3]
            quaternions[1 + i] = data.qpos[address + 3 : address + 7]
        quaternions = quaternions[:, _WXYZ_TO_XYZW]
        eulers = quaternion_to_euler(quaternions)
        poses[:, 3:] = eulers[1:]
        return Snapshot(
            stamp_s=self._step_count / RATE_HZ,
            tcp_position=data.site_xpos[self._site].copy(),
            tcp_quaternion=quaternions[0],
            tcp_euler=eulers[0],
            joint_positions=data.qpos[self._arm].copy(),
            joint_velocities=data.qvel[self._arm_speed].copy(),
            gripper_width=float(data.qpos[self._fingers[0]] - data.qpos[self._fingers[1]]),
            gripper_command=self._gripper,
            scene=scene,
            accepted_action=accepted,
        )

    def _update_achieved(self) -> None:
        """Remember each task whose predicate has held since the reset."""
        start, now = self._scene_start, self._snapshot.scene
        for task, index in self._watched:
            new = now[index] != start[index] and task.name not in self._achieved
            if new and task.achieved(start, now, self.contract.scene):
                self._achieved = (*self._achieved, task.name)

    def _observation(self) -> Observation:
        return self._snapshot.observation(self.contract.observation_fields)

    def _info(self) -> dict[str, Any]:
        return {
            "success": self.task is not None and self.task.name in self._achieved,
            "tasks": self._achieved,
            "action": self._snapshot.accepted_action.copy(),
        }


def _observation_space(contract: Spec) -> gymnasium.Space[Observation]:
    boxes = {
        "proprio": gymnasium.spaces.Box(-np.inf, np.inf, (len(contract.proprio),), np.float32),
        "scene": gymnasium.spaces.Box(-np.inf, np.inf, (len(contract.scene),), np.float32),
    }
    return cast(gymnasium.Space[Observation], gymnasium.spaces.Dict(dict(boxes)))
