"""`export`: trained networks in, bundle out: what a robot runs, and what `evaluate` judges."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diwa_runtime.bundle import Bundle, write_bundle
from diwa_runtime.bundle.bundle import BUNDLE
from diwa_runtime.bundle.manifest import FieldStatistics, ImageStatistics, Manifest, Normalisation
from diwa_runtime.config.bounds import COUNTS, check_bounds
from diwa_runtime.errors import InputError
from diwa_runtime.files import remove_orphans_of
from diwa_trainer.dataset.cameras import camera_sources
from diwa_trainer.deploy.graphs import make_graphs
from diwa_trainer.runs.artifacts import Artifact, check_lineage, check_world_model
from diwa_trainer.runs.result_files import VERDICT, read_result
from diwa_trainer.runs.run import tell
from diwa_trainer.runs.trained import (
    FINETUNED,
    PRETRAINED,
    iteration_folder,
    load_classifier,
    load_policy,
    open_as_seen,
)
from diwa_trainer.samples.stretches import demonstrations
from diwa_trainer.world.features import CLAMP

PATIENCE = 2
"""A skill has failed after so many times its longest demonstration, unless whoever runs it says otherwise."""


@dataclass(frozen=True)
class ExportConfig:
    """Put filter, policy and reward into one folder that needs neither torch nor this package."""

    dataset: Path = field(metadata={"help": "recordings that the training started from; their statistics travel along"})
    world_model: Path = field(metadata={"help": "run folder of train_world_model"})
    policy: Path = field(metadata={"help": "run folder of pretrain: the base policy"})
    reward: Path = field(metadata={"help": "run folder of train_reward"})
    output: Path = field(metadata={"help": "the bundle"})
    finetuned: Path | None = field(
        default=None, metadata={"help": "run folder of finetune; none: export the base policy"}
    )
    iteration: int | None = field(
        default=None, metadata={"help": "a kept iteration of finetune; none: the one that its verdict chose"}
    )

    def __post_init__(self) -> None:
        check_bounds(self, iteration=COUNTS)


def run(config: ExportConfig) -> None:
    """Export the bundle, replacing an older one; one that is there already and of the same parts stays.

    Raises:
        InputError: parts that were not trained on one another.
    """
    dataset, model, model_file = open_as_seen(config.dataset, config.world_model)
    pretrained, base_file = load_policy(config.policy, PRETRAINED, "pretrain")
    classifier, reward_file = load_classifier(config.reward)
    finetuned, policy_file = pretrained, base_file
    if config.finetuned is not None:
        folder = config.finetuned if config.iteration is None else config.finetuned / iteration_folder(config.iteration)
        finetuned, policy_file = load_policy(folder, FINETUNED, "finetune")
    check_lineage(model_file, base_file, reward_file)
    _check_finetuned(model_file, base_file, policy_file)
    task = base_file.about["task"]
    shown = demonstrations(dataset, task, 1)
    starts = np.array([episode.start for episode in shown])
    manifest = Manifest(
        skill=task,
        spec=model.spec,
        normalisation={
            name: Normalisation(features.names, tuple(features.mean.tolist()), tuple(features.std.tolist()), CLAMP)
            for name, features in (("proprio", model.proprio), ("scene", model.scene))
            if features is not None
        },
        proprio_starts=FieldStatistics.of(dataset.proprio[starts], dataset.spec.proprio),
        provenance={
            "dataset": dataset.fingerprint,
            "world_model": model_file.sha256,
            "policy": base_file.sha256,
            "reward": reward_file.sha256,
            "finetuned": policy_file.sha256 if config.finetuned is not None else None,
            "iterations": policy_file.about.get("iterations", 0),
            "verdict": _verdict(config),
        },
        chunk_length=finetuned.config.chunk,
        denoising_steps=finetuned.config.denoising_steps,
        latent_size=model.latent_size,
        # What a policy was tuned for; a base policy's file does not state it, nor did a tuned one's at first.
        success_threshold=policy_file.about.get("threshold", reward_file.about["threshold"]),
        max_steps=PATIENCE * max(episode.end - episode.start for episode in shown),
        camera_starts={name: ImageStatistics.of(images[starts]) for name, images in dataset.images.items()},
        camera_sources=camera_sources(dataset),
    )
    remove_orphans_of(config.output, BUNDLE)
    if _is_there(config.output, manifest):
        tell(config.output, "is done already")
        return
    write_bundle(config.output, manifest, make_graphs(model, pretrained, finetuned, classifier))
    tell(config.output, f"bundle of {task} written")


def _verdict(config: ExportConfig) -> dict[str, Any] | None:
    """What fine-tuning said of the policy that it kept; None for a base policy, and for another kept iteration."""
    if config.finetuned is None or config.iteration is not None or not (config.finetuned / VERDICT).is_file():
        return None
    verdict = read_result(config.finetuned / VERDICT)
    base, chosen = verdict["candidates"][0], verdict["chosen"]
    said = {name: verdict[name] for name in ("decision", "why")}
    return {**said, "imagined": chosen["success"], "imagined_base": base["success"], "outside": chosen["outside"]}


def _is_there(folder: Path, manifest: Manifest) -> bool:
    try:
        found = Bundle.load(folder).manifest
    except InputError:  # not a BundleError alone: an older bundle's Spec may be what cannot be read
        return False
    return (found.skill, found.provenance) == (manifest.skill, manifest.provenance)


def _check_finetuned(model: Artifact, base: Artifact, finetuned: Artifact) -> None:
    check_world_model(model, finetuned)
    if finetuned is not base and finetuned.about["policy"] != base.sha256:
        raise InputError(f"{finetuned.path}: was not fine-tuned from {base.path}; name the policy that it came from")
