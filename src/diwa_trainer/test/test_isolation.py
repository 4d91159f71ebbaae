"""Imports point one way: no ROS and no simulator in the trainer, neither torch nor ROS in the runtime."""

import os
import pkgutil
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

import diwa_runtime
from diwa_runtime.config.values import dataclass_of, fields_of
from diwa_trainer.__main__ import VERBS
from diwa_trainer.verbs.finetune import FinetuneConfig

FORBIDDEN = {
    "diwa_trainer.verbs.finetune": ("gymnasium", "rclpy", "mujoco", "diwa_sim"),
    "diwa_trainer": ("rclpy", "mujoco", "diwa_sim", "diwa_bridge", "diwa_policy_node"),
    "diwa_runtime": ("rclpy", "torch", "mujoco", "diwa_sim", "diwa_trainer"),
}


def modules_of(package: ModuleType) -> list[str]:
    """All modules of a package, those in its rooms too."""
    return [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]


@pytest.mark.parametrize(
    ("package", "modules"),
    [
        ("diwa_trainer.verbs.finetune", ["diwa_trainer.verbs.finetune"]),
        ("diwa_trainer", ["diwa_trainer.__main__", *(f"diwa_trainer.verbs.{verb}" for verb in VERBS)]),
        ("diwa_runtime", modules_of(diwa_runtime)),
    ],
)
def test_importing_all_of_it_loads_nothing_that_it_must_not_know(package, modules):
    script = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    loaded = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()

    assert not {name.partition(".")[0] for name in loaded} & set(FORBIDDEN[package])


def settings_of(cls: type, prefix: str = "") -> dict[str, Any]:
    """Name and type of every setting, nested ones by dots."""
    settings: dict[str, Any] = {}
    for name, kind in fields_of(cls).items():
        inner = dataclass_of(kind)
        settings |= settings_of(inner, f"{prefix}{name}.") if inner else {prefix + name: kind}
    return settings


def test_fine_tuning_has_no_setting_that_could_name_an_environment():
    """Offline means offline: beside numbers its inputs' folders, and the names of a reward, a support and a device."""
    settings = settings_of(FinetuneConfig)
    numbers = {int, float, bool, float | None}

    assert {name for name, kind in settings.items() if kind not in numbers} == {
        "dataset", "world_model", "policy", "reward", "output", "reward_kind", "support.kind", "device",
    }  # fmt: skip
