"""What is in a dataset, feature by feature: the first thing to look at before training."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from diwa_trainer.dataset import Dataset
from diwa_trainer.world.features import Features
from diwa_trainer.world.rules import LEAST_TRAVEL, body_of, free_bodies, has_two_levels, travel
from diwa_trainer.world.world_model import WorldModel


def summarise_dataset(dataset: Dataset, model: WorldModel) -> dict[str, Any]:
    """Count episodes and rows, and give for each feature its mean, deviation and largest standardised value."""
    kinds = Counter((episode.kind, episode.task or "", episode.outcome or "") for episode in dataset.episodes)
    rows: Counter[tuple[str, str, str]] = Counter()
    for episode in dataset.episodes:
        rows[episode.kind, episode.task or "", episode.outcome or ""] += len(episode)
    return {
        "rows": len(dataset),
        "hours": len(dataset) / dataset.spec.rate_hz / 3600,
        "episodes": [
            {"kind": kind, "task": task, "outcome": outcome, "episodes": count, "rows": rows[kind, task, outcome]}
            for (kind, task, outcome), count in sorted(kinds.items())
        ],
        "dropped": [{"bag": d.bag, "reason": d.reason, "count": d.count} for d in dataset.dropped],
        "features": [
            *_feature_rows(model.proprio, torch.from_numpy(dataset.proprio)),
            *(_feature_rows(model.scene, torch.from_numpy(dataset.scene)) if model.scene is not None else ()),
        ],
    }


def told_of_scene(dataset: Dataset) -> str:
    """Say which of the scene's values count how much in a world model, as `rules` finds it: by name and by motion."""
    names, watched = dataset.spec.scene, dataset.spec.watched
    free = free_bodies(names, watched)
    kinds: dict[str, list[str]] = {
        "watched by tasks": [], "learned": [], "free bodies, hardly learned": [], "never moved, not learned": [],
    }  # fmt: skip
    for column, name in enumerate(names):
        values = torch.from_numpy(dataset.scene[:, column])
        if name in watched:
            kind = "watched by tasks"
        elif body_of(name) in free:
            kind = "free bodies, hardly learned"
        else:
            still = travel(values, has_two_levels(values)) < LEAST_TRAVEL
            kind = "never moved, not learned" if still else "learned"
        kinds[kind].append(body_of(name) or name if kind.startswith("free") else name)
    return "; ".join(f"{kind}: {', '.join(dict.fromkeys(those))}" for kind, those in kinds.items() if those)


def _feature_rows(features: Features, raw: torch.Tensor) -> list[dict[str, Any]]:
    standardised = (features.raw_features(raw.to(features.mean.device)) - features.mean) / features.std
    largest = standardised.abs().amax(0).tolist()
    return [
        {"name": name, "mean": mean, "std": std, "largest_standardised": top}
        for name, mean, std, top in zip(
            features.names, features.mean.tolist(), features.std.tolist(), largest, strict=True
        )
    ]
