"""The trained networks of a run, saved and loaded: world model, diffusion policy, reward classifier.

Each is one safetensors file in its run's folder, frozen when it is loaded. What later verbs ask of a file stands here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diwa_runtime.spec import Spec
from diwa_trainer.policy.diffusion import DiffusionConfig, DiffusionPolicy
from diwa_trainer.policy.reward import Classifier, ClassifierConfig
from diwa_trainer.runs.artifacts import Artifact, load_artifact, save_artifact
from diwa_trainer.world.world_model import WorldModel, WorldModelConfig

WORLD_MODEL, PRETRAINED, FINETUNED, CLASSIFIER = (
    "world_model", "pretrained_policy", "finetuned_policy", "reward_classifier",
)  # fmt: skip
"""What a file says that it holds."""

WORLD_MODEL_FILE, POLICY_FILE, CLASSIFIER_FILE = "world_model.safetensors", "policy.safetensors", "reward.safetensors"


def save_world_model(folder: Path, model: WorldModel, about: dict[str, Any]) -> None:
    """Save a run's world model; errors as `save_artifact`."""
    save_artifact(folder / WORLD_MODEL_FILE, WORLD_MODEL, model, model.config, model.spec, about)


def load_world_model(folder: Path) -> tuple[WorldModel, Artifact]:
    """Build the frozen world model of a run.

    Raises:
        InputError: the run is not done, or its file is damaged.
    """
    artifact = load_artifact(Path(folder) / WORLD_MODEL_FILE, WORLD_MODEL, "train_world_model")
    config = artifact.config_as(WorldModelConfig)
    return artifact.network(lambda: WorldModel(artifact.spec, config)), artifact


def save_policy(folder: Path, kind: str, policy: DiffusionPolicy, spec: Spec, about: dict[str, Any]) -> None:
    """Save a policy, `PRETRAINED` or `FINETUNED`; errors as `save_artifact`."""
    save_artifact(folder / POLICY_FILE, kind, policy, policy.config, spec, about)


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
