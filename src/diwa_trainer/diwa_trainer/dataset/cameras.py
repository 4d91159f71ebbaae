"""What a dataset's pictures come from: a note in `dataset.json`, by bag and camera."""

from __future__ import annotations

from typing import Any

from diwa_runtime.cameras import CameraSource, CameraSources, joined
from diwa_trainer.dataset.dataset import Dataset

CAMERAS = "cameras"
"""The note's name; by a bag's sha256, of each camera what `CameraSource` has."""


def sources_from_json(data: Any) -> dict[str, CameraSource]:
    """Return what one bag's pictures come from.

    Raises:
        ValueError: it is none of ours.
    """
    if not isinstance(data, dict):
        raise ValueError("must be by camera")
    return {str(camera): CameraSource.from_json(source) for camera, source in data.items()}


def noted_sources(dataset: Dataset) -> dict[str, dict[str, CameraSource]]:
    """Return the note; empty where an older DiWA made the dataset, or nothing of it can be used."""
    try:
        return {str(sha256): sources_from_json(one) for sha256, one in dataset.notes[CAMERAS].items()}
    except (KeyError, AttributeError, ValueError):
        return {}


def camera_sources(dataset: Dataset) -> CameraSources:
    """Return what each camera's pictures come from, in all bags."""
    return joined(noted_sources(dataset).values())
