"""Drawing the table. OpenGL is loaded when the first image is asked for, never before."""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray


class Renderer:
    """Draws any of the model's cameras at any size; holds one OpenGL context for each size."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._contexts: dict[tuple[int, int], mujoco.Renderer] = {}
        self._materials = {
            light: [model.material(f"{light}_{state}").id for state in ("off", "on")] for light in ("bulb", "led")
        }

    def draw(
        self, data: mujoco.MjData, camera: str, height: int, width: int, *, bulb: bool, led: bool
    ) -> NDArray[np.uint8]:
        """Return the camera's image, uint8 RGB (height, width, 3), with the lights as told."""
        for name, lit in (("bulb", bulb), ("led", led)):
            self._model.geom_matid[self._model.geom(name).id] = self._materials[name][int(lit)]
        if (height, width) not in self._contexts:
            self._contexts[height, width] = mujoco.Renderer(self._model, height, width)
        context = self._contexts[height, width]
        mujoco.mj_camlight(self._model, data)  # a reset or a step leaves the cameras where they were
        context.update_scene(data, camera)
        return context.render()

    def close(self) -> None:
        """Free the contexts."""
        for context in self._contexts.values():
            context.close()
        self._contexts.clear()
