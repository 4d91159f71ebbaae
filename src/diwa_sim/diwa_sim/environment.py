"""The play table behind Gymnasium's interface."""

from __future__ import annotations

from typing import Any, cast

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from diwa_runtime.actions import ACTION_SIZE, HOLD_ACTION, accept_action
from diwa_runtime.errors import DiwaError
from diwa_runtime.geometry import quaternion_to_euler
from diwa_runtime.spec import SCENE_NAMES, CameraSpec, Mode, Spec
from diwa_sim.appearance import change_light, turn_camera
from diwa_sim.controller import TcpController, finger_target
from diwa_sim.experts import Expert, make_expert
from diwa_sim.model import FINGER_TRAVEL_M, Layout, load_table
from diwa_sim.rendering import Renderer
from diwa_sim.snapshot import Snapshot
from diwa_sim.starts import Start, sample_start, start_difficulty

Observation = dict[str, NDArray[Any]]

RATE_HZ = 30.0
_PRESSED_M, _RELEASED_M = 0.010, 0.007
_SLIDER, _DRAWER, _BUTTON, _SWITCH, _BULB, _LED = range(6)
_BLOCK_SCENE = 6
_WXYZ_TO_XYZW = [1, 2, 3, 0]
_DIVERGED = {
    int(mujoco.mjtWarning.mjWARN_BADQPOS): "a position",
    int(mujoco.mjtWarning.mjWARN_BADQVEL): "a velocity",
    int(mujoco.mjtWarning.mjWARN_BADQACC): "an acceleration",
}


class DivergenceError(DiwaError):
    """The physics left what is finite and sensible; the episode cannot go on."""


class PlayTable(gymnasium.Env[Observation, NDArray[np.floating]]):
    """A Panda at a table with a drawer, a sliding door, a lever with a bulb, a button with an LED and three blocks.

    `reset(seed=s)` determines the episode: the same seed and actions give bit-equal observations.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": int(RATE_HZ)}  # noqa: RUF012

    def __init__(
        self,
        task: str | None = "open_drawer",
        mode: Mode = "state",
        image_size: int = 64,
        max_episode_steps: int | None = None,
        start: str | float = "wide",
        render_mode: str | None = None,
        render_size: tuple[int, int] = (480, 640),
        light: float = 1.0,
        static_turned_deg: float = 0.0,
        ends_at_success: bool = True,
    ) -> None:
        """Build the table.

        Args:
            task: one of `diwa_runtime.spec.TASKS`; None is play, which never terminates.
            mode: `diwa_runtime.spec.Mode`; only the modes with cameras need OpenGL.
            image_size: height and width of the cameras' images.
            max_episode_steps: truncate here; None is never (`gymnasium.make` adds its own limit).
            start: spread of the start states, a preset of `diwa_sim.starts.PRESETS` or a factor from 0 to 2.
            render_mode: None or ``rgb_array``.
            render_size: height and width of `render`'s frames.
            light: factor on the room's light.
            static_turned_deg: how far the static camera is turned to its left; 0.2 is a pixel of 64.
            ends_at_success: terminate there; otherwise the episode goes on, and ``info["success"]`` stays true.

        Raises:
            InputError: no such task or mode.
            ConfigError: no such start, light or turn.
        """
        cameras = tuple(CameraSpec(name, image_size, image_size) for name in ("static", "wrist"))
        self.contract = Spec(mode=mode, rate_hz=RATE_HZ, cameras=cameras)
        self.task = self.contract.task(task) if task is not None else None
        self.render_mode = render_mode
        self._render_size = render_size
        self._max_episode_steps = max_episode_steps
        self._ends_at_success = ends_at_success
        self._difficulty = start_difficulty(start)
        self._table = load_table()
        self._model = self._table.mujoco
        change_light(self._model, light)
        turn_camera(self._model, "static", static_turned_deg)
        self._data = mujoco.MjData(self._model)
        self._substeps = round(1.0 / RATE_HZ / self._model.opt.timestep)
        self._controller = TcpController(self.contract.action_scale)
        self._renderer: Renderer | None = None
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACTION_SIZE,), np.float32)
        self.observation_space = _observation_space(self.contract)
        self._watched = [(task, SCENE_NAMES.index(task.field)) for task in self.contract.tasks]
        self._started = False

    @property
    def layout(self) -> Layout:
        """Where the handles are."""
        return self._table.layout

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; `options` is not used."""
        super().reset(seed=seed, options=options)
        self._place(sample_start(self.np_random, self._difficulty, self.task, self.layout))
        self._step_count = 0
        self._gripper = 1.0
        self._achieved: tuple[str, ...] = ()
        self._started = True
        self._snapshot = self._take_snapshot(HOLD_ACTION.copy())
        self._scene_start = self._snapshot.scene
        return self._observation(), self._info()

    def step(self, action: NDArray[np.floating]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Execute one action (7,) for 1/30 s.

        Raises:
            ValueError: the action has another size or is not finite.
            DivergenceError: the physics diverged; `snapshot` stays the last sound one, and only `reset` goes on.
        """
        accepted = accept_action(action)
        if not self._started:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        before = self._snapshot
        joints = self._controller.move(accepted, before.tcp_position, before.tcp_euler)
        self._gripper = float(accepted[-1])
        self._data.ctrl[:7] = joints
        self._data.ctrl[7:] = finger_target(self._gripper)
        self._step_count += 1
        self._advance()
        self._update_lights()
        self._snapshot = self._take_snapshot(accepted)
        self._update_achieved()
        info = self._info()
        truncated = self._max_episode_steps is not None and self._step_count >= self._max_episode_steps
        terminated = info["success"] and self._ends_at_success
        return self._observation(), float(info["success"]), terminated, truncated, info

    def snapshot(self) -> Snapshot:
        """Return the current instant as sensors would report it."""
        return self._snapshot

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
        return make_expert(chosen, self.layout, noise, rng, look=lambda: self._snapshot.scene)

    def render(self) -> NDArray[np.uint8] | None:
        """Return a frame (H, W, 3) of the overview camera in render mode ``rgb_array``, else None."""
        if self.render_mode != "rgb_array":
            return None
        return self.camera_image("overview", *self._render_size)

    def camera_image(self, camera: str, height: int, width: int) -> NDArray[np.uint8]:
        """Draw what ``static``, ``wrist`` or ``overview`` sees now, uint8 RGB (height, width, 3)."""
        if self._renderer is None:
            self._renderer = Renderer(self._model)
        return self._renderer.draw(self._data, camera, height, width, bulb=self._bulb, led=self._led)

    def close(self) -> None:
        """Free the OpenGL context, if there is one."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _place(self, start: Start) -> None:
        """Put arm and table into a start state with nothing left of the episode before."""
        table, data = self._table, self._data
        mujoco.mj_resetData(self._model, data)
        joints = self._controller.reset(start.tcp_position, start.tcp_euler)
        fixtures = {**start.fixtures, "button": 0.0}
        data.qpos[table.fixture_qpos] = [fixtures[name] for name in ("slider", "drawer", "button", "switch")]
        data.qpos[table.arm_qpos] = joints
        data.qpos[table.finger_qpos] = FINGER_TRAVEL_M
        for address, position, yaw in zip(table.block_qpos, start.block_positions, start.block_yaws, strict=True):
            data.qpos[address[:3]] = position
            data.qpos[address[3:]] = (np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2))
        data.ctrl[:7] = joints
        data.ctrl[7:] = FINGER_TRAVEL_M
        self._button_pressed = False
        self._led = start.led
        self._bulb = fixtures["switch"] > self.layout.ranges["switch"] / 2

    def _advance(self) -> None:
        """Run the physics for one step."""
        try:
            mujoco.mj_step(self._model, self._data, nstep=self._substeps)
            reason = self._divergence()
        except mujoco.FatalError as error:
            reason = f"MuJoCo: {error}"
        if reason:
            self._started = False
            raise DivergenceError(
                f"the physics diverged in step {self._step_count} of the episode with seed {self.np_random_seed} "
                f"({reason}); only a reset goes on from here"
            )

    def _divergence(self) -> str:
        """Say what MuJoCo found not finite or beyond 1e10 since the reset; "" is nothing."""
        counts = self._data.warning.number
        return " and ".join(f"{what} is not finite or huge" for kind, what in _DIVERGED.items() if counts[kind])

    def _update_lights(self) -> None:
        """The lever sets the bulb by its side of mid-travel; each fresh press past mid-travel toggles the LED."""
        qpos = self._data.qpos
        addresses = self._table.fixture_qpos
        button = qpos[addresses[_BUTTON]]
        if button > _PRESSED_M and not self._button_pressed:
            self._button_pressed, self._led = True, not self._led
        elif button < _RELEASED_M:
            self._button_pressed = False
        self._bulb = bool(qpos[addresses[_SWITCH]] > self.layout.ranges["switch"] / 2)

    def _take_snapshot(self, accepted: NDArray[np.float32]) -> Snapshot:
        data, table = self._data, self._table
        mujoco.mj_kinematics(self._model, data)
        quaternions = np.empty((4, 4))
        blocks = data.qpos[table.block_qpos]
        quaternions[:3] = blocks[:, 3:]
        quaternions[3] = data.xquat[table.hand_body]
        quaternions = quaternions[:, _WXYZ_TO_XYZW]
        eulers = quaternion_to_euler(quaternions)
        scene = np.empty(len(SCENE_NAMES))
        scene[:4] = data.qpos[table.fixture_qpos]
        scene[_BULB], scene[_LED] = self._bulb, self._led
        scene[_BLOCK_SCENE:].reshape(3, 6)[:, :3] = blocks[:, :3]
        scene[_BLOCK_SCENE:].reshape(3, 6)[:, 3:] = eulers[:3]
        images = {
            camera.name: self.camera_image(camera.name, camera.height, camera.width)
            for camera in (self.contract.cameras if self.contract.uses_cameras else ())
        }
        return Snapshot(
            stamp_s=self._step_count / RATE_HZ,
            tcp_position=data.site_xpos[table.tcp_site].copy(),
            tcp_quaternion=quaternions[3],
            tcp_euler=eulers[3],
            joint_positions=data.qpos[table.arm_qpos].copy(),
            joint_velocities=data.qvel[table.arm_qvel].copy(),
            gripper_width=float(data.qpos[table.finger_qpos].sum()),
            gripper_command=self._gripper,
            scene=scene,
            accepted_action=accepted,
            images=images,
        )

    def _update_achieved(self) -> None:
        """Remember each task whose predicate has held since the reset. Asked only of what has changed: it is slow."""
        start, now = self._scene_start, self._snapshot.scene
        changed = now != start
        for task, index in self._watched:
            if changed[index] and task.name not in self._achieved and task.achieved(start, now, SCENE_NAMES):
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
    boxes: dict[str, gymnasium.Space[Any]] = {
        "proprio": gymnasium.spaces.Box(-np.inf, np.inf, (len(contract.proprio),), np.float32),
        "scene": gymnasium.spaces.Box(-np.inf, np.inf, (len(contract.scene),), np.float32),
    }
    for camera in contract.cameras:
        boxes[camera.name] = gymnasium.spaces.Box(0, 255, (camera.height, camera.width, 3), np.uint8)
    space = gymnasium.spaces.Dict({name: boxes[name] for name in contract.observation_fields})
    return cast(gymnasium.Space[Observation], space)
