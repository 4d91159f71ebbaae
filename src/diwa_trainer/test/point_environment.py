"""A point that must reach zero on a line, behind the observation contract: small enough to know every answer."""

from __future__ import annotations

import math
import os
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from diwa_runtime.actions import accept_action
from diwa_runtime.spec import Spec

STRIDE, LIMIT, REACHED = 0.1, 0.5, 0.05


class Expert:
    """Walks towards zero."""

    def act(self, observation: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the action for where the point is."""
        return np.array([-10 * observation["proprio"][0], 0, 0, 0, 0, 0, 1], np.float32)


class Point(gymnasium.Env[dict[str, NDArray[Any]], NDArray[np.floating]]):
    """`proprio[0]` is where the point is, at most 1 from zero; it accepts at most half of an action."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(
        self,
        task: str = "open_drawer",
        rate_hz: float = 30.0,
        reports_success: bool = True,
        draws: bool = True,
        dies: bool = False,
        fails_at: float = math.inf,
        ends_at_success: bool = True,
        render_mode: str | None = None,
    ) -> None:
        self.task, self.render_mode = task, render_mode
        self._ends_at_success = ends_at_success
        self._reports_success, self._draws, self._dies = reports_success, draws, dies
        self._fails_at = fails_at
        self.contract = Spec(rate_hz=rate_hz)
        self.action_space = gymnasium.spaces.Box(-1, 1, (7,), np.float32)
        self.observation_space = gymnasium.spaces.Dict(
            {name: gymnasium.spaces.Box(-np.inf, np.inf, (size,)) for name, size in (("proprio", 15), ("scene", 24))}
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Put the point somewhere."""
        if self._dies:
            os._exit(3)
        super().reset(seed=seed, options=options)
        self.position, self._steps = float(self.np_random.uniform(-1, 1)), 0
        self._fail_in_time()
        return self._observation(), {}

    def step(self, action: NDArray[np.floating]) -> Any:
        """Move it."""
        self._steps += 1
        self._fail_in_time()
        accepted = accept_action(action)
        accepted[:6] = np.clip(accepted[:6], -LIMIT, LIMIT)
        self.position += STRIDE * float(accepted[0])
        success = abs(self.position) < REACHED
        info = {"success": success, "action": accepted} if self._reports_success else {}
        return self._observation(), 0.0, success and self._ends_at_success, False, info

    def render(self) -> Any:
        """Draw it."""
        if not self._draws:
            raise RuntimeError("no OpenGL here")
        frame = np.zeros((48, 64, 3), np.uint8)
        frame[20:28, int(np.clip(32 + 28 * self.position, 0, 63))] = 255
        return frame

    def expert(self) -> Expert:
        """Return the scripted policy."""
        return Expert()

    def _fail_in_time(self) -> None:
        if self._steps >= self._fails_at:
            raise ZeroDivisionError("the solver\ndiverged")

    def _observation(self) -> dict[str, NDArray[Any]]:
        proprio = np.zeros(15, np.float32)
        proprio[0] = self.position
        return {"proprio": proprio, "scene": np.zeros(24, np.float32)}


class Plain(Point):
    """A point whose constructor takes nothing."""

    def __init__(self) -> None:
        super().__init__()


gymnasium.register("Point-v0", entry_point=Point)
gymnasium.register("Plain-v0", entry_point="point_environment:Plain")
gymnasium.register("Dumb-v0", entry_point="gymnasium.envs.classic_control.cartpole:CartPoleEnv")
