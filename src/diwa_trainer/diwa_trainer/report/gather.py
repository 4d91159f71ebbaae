"""Reading run folders for the report: what is there, as plain data; what is not there is None and is named as missing.

The files and their keys stand in `docs/report.md`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from diwa_runtime.errors import InputError
from diwa_runtime.reading import read_bytes, reason_of
from diwa_trainer.runs.result_files import (
    EVALUATION,
    FILM_LIMIT_BYTES,
    METRICS,
    SUMMARY,
    read_metrics,
    read_result,
)

BASE, FINETUNED = "base", "finetuned"
CONFIG_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True)
class RunFolder:
    """One verb's folder, which need not be there."""

    path: Path

    def json(self, name: str) -> dict[str, Any] | None:
        """Return the content of a JSON file, or None if it is not there.

        Raises:
            InputError: as `read_result`.
        """
        return _read_json(self.path / name)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What the run ended with; empty if it did not."""
        return self.json(SUMMARY) or {}

    @cached_property
    def config(self) -> str | None:
        """The run's `config.yaml` as text."""
        path = self.path / "config.yaml"
        if not os.path.lexists(path):
            return None
        try:
            return read_bytes(path, CONFIG_LIMIT_BYTES).decode("utf-8", errors="replace")
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read ({reason_of(error)}); take it out of the folder") from None

    @cached_property
    def metrics(self) -> list[dict[str, float | None]]:
        """The lines of `metrics.jsonl`; errors as `read_metrics`."""
        return read_metrics(self.path / METRICS)

    def film(self, name: str) -> bytes | None:
        """Return a film or a picture of the run, or None if it is not there; errors as `json`."""
        path = self.path / name
        return _film(path) if path.is_file() else None

    def curve(self, name: str) -> tuple[list[float], list[float | None]]:
        """Return steps and values of one metric, where it was logged."""
        found = [(row["step"], row[name]) for row in self.metrics if name in row and row.get("step") is not None]
        return [float(step) for step, _ in found if step is not None], [value for _, value in found]


@dataclass(frozen=True)
class Evaluation:
    """One evaluation and its films.

    Attributes:
        name: of the policy: `base`, `finetuned`, a variant, or `<policy>_<iteration>`.
        data: the content of `evaluation.json`.
        videos: MP4 files by seed.
    """

    name: str
    data: Mapping[str, Any]
    videos: Mapping[int, bytes]

    @property
    def label(self) -> str:
        """The policy's name as people write it."""
        return self.name.replace(FINETUNED, "fine-tuned").replace("_", " ")

    @property
    def rate(self) -> float:
        """Share of episodes that succeeded."""
        return self.data["successes"] / self.data["episodes"]

    @property
    def successes(self) -> dict[int, bool]:
        """Success by seed."""
        return {episode["seed"]: episode["success"] for episode in self.data["episodes_detail"]}


@dataclass(frozen=True)
class TaskRuns:
    """All runs of one task.

    Attributes:
        evaluations: by the policy's name, the base first.
        finetunes: the fine-tuning runs by name, `finetuned` first.
    """

    name: str
    pretrained: RunFolder
    reward: RunFolder
    finetunes: Mapping[str, RunFolder]
    evaluations: Mapping[str, Evaluation]


@dataclass(frozen=True)
class Runs:
    """A pipeline's folder."""

    path: Path
    eyes: RunFolder
    world_model: RunFolder
    tasks: tuple[TaskRuns, ...]


def gather(folder: Path) -> Runs:
    """Find the runs in a pipeline's folder.

    Raises:
        InputError: there is no such folder, no run in it, or a file in it is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name the one that `pipeline` or the policy node wrote")
    try:
        return _gathered(folder)
    except OSError as error:
        raise InputError(f"{error.filename or folder}: cannot be read ({reason_of(error)})") from None


def _gathered(folder: Path) -> Runs:
    runs = Runs(
        path=folder,
        eyes=RunFolder(folder / "eyes"),
        world_model=RunFolder(folder / "world_model"),
        tasks=tuple(_task(path) for path in sorted(folder.iterdir()) if _is_task(path)),
    )
    if not is_pipeline(folder):
        raise InputError(
            f"{folder}: holds neither a pipeline's runs (world_model, TASK/pretrained, ...) nor run logs (*.jsonl); "
            "name the folder that `pipeline` or the policy node wrote"
        )
    return runs


def is_pipeline(folder: Path) -> bool:
    """Whether a folder holds what `gather` reads."""
    folder = Path(folder)
    return folder.is_dir() and ((folder / "world_model").is_dir() or any(_is_task(path) for path in folder.iterdir()))


def _is_task(path: Path) -> bool:
    return path.is_dir() and any(
        entry.is_dir() and (entry.name in ("pretrained", "reward", FINETUNED) or entry.name.startswith("evaluation_"))
        for entry in path.iterdir()
    )


def _task(path: Path) -> TaskRuns:
    folders = {entry.name: RunFolder(entry) for entry in sorted(path.iterdir()) if entry.is_dir()}
    tuned = {name: run for name, run in folders.items() if name == FINETUNED or (run.path / "preflight.json").is_file()}
    evaluations = [_evaluation(run) for name, run in folders.items() if name.startswith("evaluation_")]
    found = [evaluation for evaluation in evaluations if evaluation is not None]
    return TaskRuns(
        name=path.name,
        pretrained=RunFolder(path / "pretrained"),
        reward=RunFolder(path / "reward"),
        finetunes=dict(sorted(tuned.items(), key=lambda item: (item[0] != FINETUNED, item[0]))),
        evaluations={e.name: e for e in sorted(found, key=lambda e: (e.name != BASE, e.name != FINETUNED, e.name))},
    )


def _evaluation(run: RunFolder) -> Evaluation | None:
    data = run.json(EVALUATION)
    if data is None:
        return None
    videos = {}
    for seed, name in (data.get("videos") or {}).items():
        path = run.path / "videos" / Path(name).name
        if path.is_file():
            videos[int(seed)] = _film(path)
    return Evaluation(run.path.name.removeprefix("evaluation_"), data, videos)


def _film(path: Path) -> bytes:
    try:
        return read_bytes(path, FILM_LIMIT_BYTES)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({reason_of(error)}); take it out of the folder") from None


def _read_json(path: Path) -> dict[str, Any] | None:
    return read_result(path) if os.path.lexists(path) else None
