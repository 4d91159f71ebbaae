"""Small eyes for the toy, and a run of every verb behind them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from toy import SPEC, TRAINERS, tiny_configs, write_toy

from diwa_runtime.spec import CameraSpec, Spec
from diwa_trainer.verbs import export, train_eyes
from diwa_trainer.verbs.export import ExportConfig
from diwa_trainer.verbs.train_eyes import TrainEyesConfig
from diwa_trainer.world.eyes.eyes import EyesConfig

TINY_EYES = EyesConfig(channels=(4, 8, 8), camera_code=16, hidden=32, code=4)
CAMERAS = (CameraSpec("static", 16, 16), CameraSpec("wrist", 16, 16))


def spec_of(mode: str) -> Spec:
    """Return the toy's Spec with two small cameras."""
    return dataclasses.replace(SPEC, mode=mode, cameras=CAMERAS)


def config_of(data: Path, output: Path, **changes: object) -> TrainEyesConfig:
    """Return settings of small eyes that learn in a few seconds, in numbers that no clock chooses."""
    every = {
        "eyes": TINY_EYES, "updates": 300, "batch": 64, "log_every": 100, "learning_rate": 3e-3, "precision": "float32",
    }  # fmt: skip
    return TrainEyesConfig(data, output, **{**every, **changes})


def train_with_eyes(folder: Path, mode: str) -> None:
    """Write a dataset of pictures, train its eyes, and run every verb behind them up to a bundle."""
    data = write_toy(folder / "dataset", spec=spec_of(mode))
    train_eyes.run(config_of(data, folder / "eyes"))
    configs = tiny_configs(data, folder)
    configs["train_world_model"] = dataclasses.replace(configs["train_world_model"], eyes=folder / "eyes")
    for verb, config in configs.items():
        TRAINERS[verb](config)
    parts = {name: folder / name for name in ("dataset", "world_model", "reward", "finetuned")}
    export.run(ExportConfig(policy=folder / "pretrained", output=folder / "bundle", **parts))
