"""Drawing the table. OpenGL is loaded when the first image is asked for, never before.

Without a screen set MUJOCO_GL=egl or MUJOCO_GL=osmesa (docs: the package's README names the system packages).
"""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

_COARSE_BELOW_PX = 160
"""Images lower than this are drawn with coarse shapes, without sky and smoothing: for policies, not for people."""


class Renderer:
    """Draws any of the model's cameras at any size; holds one OpenGL context for each size."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._contexts: dict[tuple[int, int], mujoco.Renderer] = {}
        self._lights = {
            name: (model.geom(name).id, model.material(f"{name}_off").id, model.material(f"{name}_on").id)
            for name in ("bulb", "led")
        }

    def draw(
        self, data: mujoco.MjData, camera: str, height: int, width: int, *, bulb: bool, led: bool
    ) -> NDArray[np.uint8]:
        """Return the camera's image, uint8 RGB (height, width, 3), with the lights as told."""
        for name, lit in (("bulb", bulb), ("led", led)):
            geom, off, on = self._lights[name]
            self._model.geom_matid[geom] = on if lit else off
        if (height, width) not in self._contexts:
            self._contexts[height, width] = self._make_context(height, width)
        context = self._contexts[height, width]
        mujoco.mj_camlight(self._model, data)  # a reset or a step leaves the cameras where they were
        context.update_scene(data, camera)
        return context.render()

    def close(self) -> None:
        """Free the contexts."""
        for context in self._contexts.values():
            context.close()
        self._contexts.clear()

    def _make_context(self, height: int, width: int) -> mujoco.Renderer:
        coarse = height < _COARSE_BELOW_PX
        quality = self._model.vis.quality
        quality.numslices, quality.numstacks = (10, 4) if coarse else (32, 16)
        quality.offsamples = 0 if coarse else 4
        context = mujoco.Renderer(self._model, height, width)
        flags = context.scene.flags
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION, mujoco.mjtRndFlag.mjRND_HAZE):
            flags[flag] = False
        flags[mujoco.mjtRndFlag.mjRND_SKYBOX] = not coarse
        return context
