"""The trained networks of a run, saved and loaded: world model, diffusion policy, reward classifier.

Each is one safetensors file in its run's folder, frozen when it is loaded. What later verbs ask of a file stands here.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diwa_runtime.config import config_from, to_plain
from diwa_runtime.files import written_whole
from diwa_runtime.same_spec import check_same_spec
from diwa_runtime.spec import Spec
from diwa_trainer.dataset import Dataset
from diwa_trainer.dataset.npy import open_array
from diwa_trainer.devices.device import CPU
from diwa_trainer.policy.diffusion import DiffusionConfig, DiffusionPolicy
from diwa_trainer.policy.reward import Classifier, ClassifierConfig
from diwa_trainer.runs.artifacts import Artifact, load_artifact, save_artifact
from diwa_trainer.world.eyes.eyes import Eyes, EyesConfig
from diwa_trainer.world.eyes.modes import make_eyes
from diwa_trainer.world.eyes.seen import see
from diwa_trainer.world.world_model import Sight, WorldModel, WorldModelConfig

EYES, WORLD_MODEL, PRETRAINED, FINETUNED, CLASSIFIER = (
    "eyes", "world_model", "pretrained_policy", "finetuned_policy", "reward_classifier",
)  # fmt: skip
"""What a file says that it holds."""

EYES_FILE, SEEN_FILE = "eyes.safetensors", "seen.npy"
WORLD_MODEL_FILE, POLICY_FILE, CLASSIFIER_FILE = "world_model.safetensors", "policy.safetensors", "reward.safetensors"


def save_eyes(folder: Path, eyes: Eyes, about: dict[str, Any]) -> None:
    """Save a run's eyes; errors as `save_artifact`."""
    save_artifact(folder / EYES_FILE, EYES, eyes, eyes.config, eyes.spec, about)


def load_eyes(folder: Path) -> tuple[Eyes, Artifact]:
    """Build the frozen eyes of a run.

    Raises:
        InputError: the run is not done, or its file is damaged.
    """
    artifact = load_artifact(Path(folder) / EYES_FILE, EYES, "train_eyes", ("dataset",))
    config = artifact.config_as(EyesConfig)
    return artifact.network(lambda: _as_saved(make_eyes(artifact.spec, config), artifact)), artifact


def save_world_model(folder: Path, model: WorldModel, about: dict[str, Any]) -> None:
    """Save a run's world model; errors as `save_artifact`."""
    if model.eyes is not None:
        about = {**about, "eyes": to_plain(model.eyes.config)}
    save_artifact(folder / WORLD_MODEL_FILE, WORLD_MODEL, model, model.config, model.spec, about)


def load_world_model(folder: Path) -> tuple[WorldModel, Artifact]:
    """Build the frozen world model of a run, with its eyes if it has any.

    Raises:
        InputError: the run is not done, or its file is damaged.
    """
    artifact = load_artifact(Path(folder) / WORLD_MODEL_FILE, WORLD_MODEL, "train_world_model")
    config = artifact.config_as(WorldModelConfig)

    def build() -> WorldModel:
        sizes = artifact.about.get("eyes")
        eyes = None
        if sizes is not None:
            eyes = make_eyes(artifact.spec, config_from(EyesConfig, sizes, str(artifact.path)))
            eyes = _as_saved(eyes, artifact, "eyes.")
        return WorldModel(artifact.spec, config, eyes)

    return artifact.network(build), artifact


def _as_saved(eyes: Eyes, artifact: Artifact, prefix: str = "") -> Eyes:
    """Take off the decoders that a file lacks, as older ones do: they are for the eye of the reader alone."""
    for name in list(eyes.others):
        if not any(weight.startswith(f"{prefix}others.{name}.") for weight in artifact.weights):
            del eyes.others[name]
    return eyes


def open_as_seen(dataset: Path, world_model: Path, device: torch.device = CPU) -> tuple[Dataset, WorldModel, Artifact]:
    """Open recordings as a run's world model sees them, and the model, on a device.

    Where it has cameras: what was seen in the recordings that it learned from is kept beside it; others are looked at.

    Raises:
        InputError: dataset or model cannot be read, or what was seen is not there.
        SpecMismatchError: they are of different Specs.
    """
    recordings = Dataset.open(dataset)
    model, file = load_world_model(world_model)
    model.to(device)
    check_same_spec(recordings.spec, str(dataset), model.spec, str(world_model), "training")
    if model.sight is None:
        return recordings, model, file
    if file.about.get("dataset") != recordings.fingerprint:
        return recordings.with_seen(see(model.sight, recordings, np.arange(len(recordings)))), model, file
    return recordings.with_seen(load_seen(Path(world_model), recordings, model.sight)), model, file


def save_seen(folder: Path, seen: NDArray[np.float32]) -> None:
    """Keep what was seen in each row's pictures (N, S), whole or not at all."""
    with written_whole(folder / SEEN_FILE) as temporary, temporary.open("wb") as file:
        np.save(file, seen, allow_pickle=False)


def load_seen(folder: Path, dataset: Dataset, sight: Sight) -> NDArray[np.float32]:
    """Read what a run of `train_eyes` or `train_world_model` keeps of each row's pictures: (N, S)."""
    shape = (len(dataset), sight.size)
    return np.array(open_array(folder / SEEN_FILE, np.dtype("<f4"), shape, f"delete {folder} and make it anew"))


def save_policy(folder: Path, kind: str, policy: DiffusionPolicy, spec: Spec, about: dict[str, Any]) -> None:
    """Save a policy, `PRETRAINED` or `FINETUNED`; errors as `save_artifact`."""
    save_artifact(folder / POLICY_FILE, kind, policy, policy.config, spec, about)


def iteration_folder(iteration: int) -> str:
    """Return the name of the folder of a kept policy."""
    return f"iteration_{iteration:04d}"


def iteration_folders(folder: Path) -> list[Path]:
    """Return the folders of a run's kept policies, and nothing that is only named like one."""
    return [path for path in folder.iterdir() if re.fullmatch(r"iteration_\d{4,}", path.name) and not path.is_symlink()]


def delete_policy(folder: Path) -> None:
    """Delete a kept policy, and its folder where nothing else lies there."""
    (folder / POLICY_FILE).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def load_policy(folder: Path, kind: str, made_by: str) -> tuple[DiffusionPolicy, Artifact]:
    """Build the frozen policy of a run.

    Raises:
        InputError: the run is not done, or its file is damaged.
    """
    facts = ("task", "latent_size", "world_model", *(["policy"] if kind == FINETUNED else []))
    artifact = load_artifact(Path(folder) / POLICY_FILE, kind, made_by, facts)
    config = artifact.config_as(DiffusionConfig)
    return artifact.network(lambda: DiffusionPolicy(config, artifact.about["latent_size"])), artifact


def save_classifier(folder: Path, classifier: Classifier, spec: Spec, about: dict[str, Any]) -> None:
    """Save a run's reward classifier; errors as `save_artifact`."""
    save_artifact(folder / CLASSIFIER_FILE, CLASSIFIER, classifier, classifier.config, spec, about)


def load_classifier(folder: Path) -> tuple[Classifier, Artifact]:
    """Build the frozen classifier of a run.

    Raises:
        InputError: the run is not done, or its file is damaged.
    """
    facts = ("task", "latent_size", "threshold", "world_model")
    artifact = load_artifact(Path(folder) / CLASSIFIER_FILE, CLASSIFIER, "train_reward", facts)
    config = artifact.config_as(ClassifierConfig)
    return artifact.network(lambda: Classifier(config, artifact.about["latent_size"])), artifact
