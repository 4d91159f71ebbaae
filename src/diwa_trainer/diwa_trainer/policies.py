"""Diffusion policies as files."""

from __future__ import annotations

from pathlib import Path

from diwa_trainer.artifacts import Artifact, load_artifact
from diwa_trainer.diffusion import DiffusionConfig, DiffusionPolicy

WEIGHTS = "policy.safetensors"
PRETRAINED, FINETUNED = "pretrained_policy", "finetuned_policy"


def load_policy(folder: Path, kind: str, made_by: str) -> tuple[DiffusionPolicy, Artifact]:
    """Build the frozen policy of a run.

    Raises:
        InputError: the run is not done, or its file is damaged.
    """
    facts = ("task", "latent_size", "world_model", *(["policy"] if kind == FINETUNED else []))
    artifact = load_artifact(Path(folder) / WEIGHTS, kind, made_by, facts)
    config = artifact.config_as(DiffusionConfig)
    return artifact.network(lambda: DiffusionPolicy(config, artifact.about["latent_size"])), artifact
