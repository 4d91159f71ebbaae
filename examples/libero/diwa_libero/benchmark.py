"""LIBERO's own environment: made without cameras, reset from a seed, and kept from talking."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from diwa_libero.scenes import RATE_HZ, Scene


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Swallow what the benchmark prints, logs and warns of."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


os.environ.setdefault("MUJOCO_GL", "egl")  # robosuite wants a name even where nothing is drawn
with _quiet():
    from libero.libero import get_libero_path
    from libero.libero.envs.env_wrapper import ControlEnv

NOISE_RAD = 0.02
"""Standard deviation of each of the arm's joints at a start."""


def make_benchmark(scene: Scene, start: float) -> Any:
    """Build the benchmark's environment of a scene, whose resets take milliseconds, for they keep the model.

    Args:
        scene: which.
        start: factor on the noise of the arm's joints at a start.
    """
    file = Path(get_libero_path("bddl_files")) / "libero_90" / f"{scene.problem}.bddl"
    with _quiet():
        return ControlEnv(
            bddl_file_name=str(file),
            use_camera_obs=False,
            has_offscreen_renderer=False,
            hard_reset=False,
            control_freq=int(RATE_HZ),
            initialization_noise={"magnitude": NOISE_RAD * start, "type": "gaussian"},
        ).env


def reset(benchmark: Any, seed: int) -> None:
    """Place everything anew, as the benchmark's own samplers do; the seed alone decides.

    They draw from NumPy's global generator, which is given back as it was.
    """
    before = np.random.get_state()  # noqa: NPY002 (the benchmark's own)
    np.random.seed(seed)  # noqa: NPY002
    try:
        with _quiet():
            benchmark.reset()
    finally:
        np.random.set_state(before)  # noqa: NPY002
    benchmark.robots[0].gripper.current_action = np.zeros(2)  # its reset leaves it as the episode before ended
