"""Drawing the table. OpenGL is loaded when the first image is asked for, never before.

Without a screen, EGL or OSMesa is taken, whichever the system has; MUJOCO_GL (egl, osmesa, glfw) overrules.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import importlib
import os
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from diwa_runtime.errors import ConfigError

_COARSE_BELOW_PX = 160
"""Images lower than this are drawn with coarse shapes, without sky and smoothing: for policies, not for people."""
_MAX_GEOMS = 200
_LIBRARIES = {"egl": "EGL", "osmesa": "OSMesa"}


def device() -> str:
    """Return by what pictures are drawn, for recordings to say."""
    return f"MuJoCo {mujoco.__version__}, {_backend()}"


class Renderer:
    """Draws any of the model's cameras at any size; holds one OpenGL context for each size."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._canvases: dict[tuple[int, int], _Canvas] = {}
        self._lights = {
            name: (model.geom(name).id, model.material(f"{name}_off").id, model.material(f"{name}_on").id)
            for name in ("bulb", "led")
        }

    def draw(
        self, data: mujoco.MjData, camera: str, height: int, width: int, *, bulb: bool, led: bool
    ) -> NDArray[np.uint8]:
        """Return the camera's image, uint8 RGB (height, width, 3), with the lights as told.

        Raises:
            ConfigError: this machine cannot draw; says what to install.
        """
        for name, lit in (("bulb", bulb), ("led", led)):
            geom, off, on = self._lights[name]
            self._model.geom_matid[geom] = on if lit else off
        if (height, width) not in self._canvases:
            self._canvases[height, width] = _Canvas(self._model, height, width)
        mujoco.mj_camlight(self._model, data)  # a reset or a step leaves the cameras where they were
        return self._canvases[height, width].draw(data, self._model.camera(camera).id)

    def close(self) -> None:
        """Free the contexts."""
        for canvas in self._canvases.values():
            canvas.close()
        self._canvases.clear()


class _Canvas:
    """An OpenGL context for images of one size."""

    def __init__(self, model: mujoco.MjModel, height: int, width: int) -> None:
        coarse = height < _COARSE_BELOW_PX
        quality = model.vis.quality
        quality.numslices, quality.numstacks = (10, 4) if coarse else (20, 10)
        quality.offsamples = 0 if coarse else 4
        model.vis.global_.offheight, model.vis.global_.offwidth = height, width
        self._model = model
        self._gl = _make_gl_context(height, width)
        self._gl.make_current()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(model, maxgeom=_MAX_GEOMS)
        for flag in ("SHADOW", "REFLECTION", "HAZE"):
            self._scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = False
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SKYBOX] = not coarse
        self._options = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._view = mujoco.MjrRect(0, 0, width, height)

    def draw(self, data: mujoco.MjData, camera: int) -> NDArray[np.uint8]:
        self._gl.make_current()
        self._camera.fixedcamid = camera
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self._model, data, self._options, None, self._camera, everything, self._scene)
        mujoco.mjr_render(self._view, self._scene, self._context)
        pixels = np.empty((self._view.height, self._view.width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(pixels, None, self._view, self._context)
        return np.ascontiguousarray(pixels[::-1])  # OpenGL counts rows from below

    def close(self) -> None:
        self._gl.make_current()
        self._context.free()
        self._gl.free()


def _backend() -> str:
    found = (name for name, library in _LIBRARIES.items() if ctypes.util.find_library(library))
    return os.environ.get("MUJOCO_GL", "").lower() or next(found, "none")


def _make_gl_context(height: int, width: int) -> Any:
    """Create an OpenGL context off screen.

    Raises:
        ConfigError: no OpenGL library that needs no screen.
    """
    os.environ.setdefault("LP_NUM_THREADS", "1")  # Mesa's threads cost more than they give at these sizes
    backend = _backend()
    # Mesa and Triton, a part of torch's CUDA builds, each bring an LLVM. Loaded after Mesa's, Triton's ends the process
    # with a segmentation fault; torch loads it at the first optimizer.
    with contextlib.suppress(ImportError):
        importlib.import_module("triton")
    try:
        return importlib.import_module(f"mujoco.{backend}").GLContext(width, height)
    except (ImportError, AttributeError, RuntimeError, OSError) as error:
        raise ConfigError(
            f"cannot draw images with OpenGL backend {backend!r} ({error}); install libegl1 and libgl1-mesa-dri "
            "(MUJOCO_GL=egl) or libosmesa6 (MUJOCO_GL=osmesa), or use mode 'state'"
        ) from None
