"""How well eyes see: figures of rows held out and of rows learned from, and pictures of what they see worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diwa_trainer.dataset import Dataset, Episode
from diwa_trainer.world.eyes.beside import beside, captioned
from diwa_trainer.world.eyes.code_eyes import CodeEyes
from diwa_trainer.world.eyes.decoder import PictureDecoder
from diwa_trainer.world.eyes.eyes import Eyes
from diwa_trainer.world.eyes.marked import UNKNOWN, marked_states
from diwa_trainer.world.eyes.scene_eyes import SceneEyes
from diwa_trainer.world.eyes.seen import BLOCK, rows_of, see

JUDGED_ROWS = 4000
"""Rows at most that eyes are judged on, of those held out and of those learned from."""
BINS = 24
"""Of estimates and truth, along each axis."""
WORST = 6
"""Rows that are shown, one of an episode."""


@dataclass(frozen=True)
class Judgement:
    """What is said of eyes.

    Attributes:
        report: plain data, as `docs/report.md` has `eyes.json`.
        worst: images (H, W, 3) of the rows that are seen worst: each camera's picture, right of it as it is redrawn.
    """

    report: dict[str, Any]
    worst: list[NDArray[np.uint8]]


@torch.no_grad()
def judge(
    eyes: Eyes,
    dataset: Dataset,
    seen: NDArray[np.float32],
    learned: Sequence[Episode],
    held_out: Sequence[Episode],
    seed: int,
    folds: bool = False,
) -> Judgement:
    """Say how well frozen eyes see rows that were held out, and rows that they learned from.

    Mode `hybrid`: how wrong the estimates of the scene are. Mode `vision`: how wrong pictures are that are redrawn from
    the code, and what a line through it knows of what marks tell.

    Args:
        seen: (N, S), what the later verbs take to be seen in each row; of those held out by these very eyes.
        folds: whether what is seen in the rows learned from is of other eyes than these.
    """
    rng = np.random.default_rng(seed)
    rows = {"held_out": _some(rng, rows_of(held_out)), "learned": _some(rng, rows_of(learned))}
    said = {of: torch.from_numpy(seen[drawn]) for of, drawn in rows.items()}
    if folds:
        said["learned"] = torch.from_numpy(see(eyes, dataset, rows["learned"]))
    redrawing = {of: _redrawing_errors(eyes, dataset, drawn, said[of]) for of, drawn in rows.items()}
    report: dict[str, Any] = {
        "redrawn": {
            camera: {of: float(errors[camera].mean()) for of, errors in redrawing.items()}
            for camera in decoders_of(eyes)
        }
    }
    if isinstance(eyes, SceneEyes):
        report |= _estimates(eyes, dataset, rows, said, torch.from_numpy(seen[rows["learned"]]))
        wrong = _wrong(eyes, dataset, rows["held_out"], said["held_out"]).numpy()
    else:
        first = dataset.spec.cameras[0].name
        report |= {
            "features": [],
            "error": report["redrawn"][first],
            "marks": _marks(eyes, dataset, rows_of(held_out), seen),
        }
        wrong = redrawing["held_out"][first]
    shown = _worst_of(wrong, rows["held_out"], held_out)
    return Judgement(
        report | {"worst": [_described(eyes, dataset, rows["held_out"][i], said["held_out"][i]) for i in shown]},
        _pictures(eyes, dataset, rows["held_out"][shown], said["held_out"][shown]),
    )


def decoders_of(eyes: Eyes) -> dict[str, PictureDecoder]:
    """Each camera's decoder, by its name."""
    assert isinstance(eyes, SceneEyes | CodeEyes)
    return {eyes.decoder.camera: eyes.decoder, **dict(eyes.others.decoders())}


def _some(rng: np.random.Generator, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.sort(rng.choice(rows, min(JUDGED_ROWS, len(rows)), replace=False))


def _redrawing_errors(
    eyes: Eyes, dataset: Dataset, rows: NDArray[np.int64], said: Tensor
) -> dict[str, NDArray[np.float32]]:
    """By camera the error of each row's picture (N,), redrawn from what was said of the row and its pose."""
    errors: dict[str, list[NDArray[np.float32]]] = {camera: [] for camera in decoders_of(eyes)}
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        numbers = eyes.redrawn_from(said[start : start + BLOCK], _pose(eyes, dataset, block))
        for camera, decoder in decoders_of(eyes).items():
            errors[camera].append(decoder.errors(numbers, torch.from_numpy(dataset.take(camera, block))).numpy())
    return {camera: np.concatenate(found) for camera, found in errors.items()}


def _pose(eyes: Eyes, dataset: Dataset, rows: NDArray[np.int64]) -> Tensor:
    pose: Tensor = eyes.proprio(torch.from_numpy(dataset.take("proprio", rows)))
    return pose


def _truth(eyes: SceneEyes, dataset: Dataset, rows: NDArray[np.int64]) -> Tensor:
    truth: Tensor = eyes.scene(torch.from_numpy(dataset.take("scene", rows)))
    return truth


def _wrong(eyes: SceneEyes, dataset: Dataset, rows: NDArray[np.int64], said: Tensor) -> Tensor:
    """Absolute error of each row (N,) in standard units, its features weighed as in the world model."""
    return (said - _truth(eyes, dataset, rows)).abs() @ (eyes.weight / eyes.weight.sum())


def _estimates(
    eyes: SceneEyes, dataset: Dataset, rows: Mapping[str, NDArray[np.int64]], said: Mapping[str, Tensor], folds: Tensor
) -> dict[str, Any]:
    """Mean absolute errors by feature and as one number, and estimates beside the truth of what tasks watch."""
    rows, said = {**rows, "folds": rows["learned"]}, {**said, "folds": folds}
    errors = {of: (said[of] - _truth(eyes, dataset, rows[of])).abs().mean(0) for of in rows}
    truth = _truth(eyes, dataset, rows["held_out"])
    two_valued = {name for name, flag in zip(eyes.names, eyes.two_valued, strict=True) if flag}
    pairs = {
        name: (eyes.scene.physical(truth, name).numpy(), eyes.scene.physical(said["held_out"], name).numpy())
        for name in dataset.spec.watched
    }
    return {
        "features": [
            {"name": name, "two_valued": name in two_valued}
            | {of: float(error[i] * eyes.scene.std[i]) for of, error in errors.items()}
            for i, name in enumerate(eyes.names)
        ],
        "error": {of: float(_wrong(eyes, dataset, rows[of], said[of]).mean()) for of in rows},
        "estimates": {name: _counted(*pair) for name, pair in pairs.items() if name not in two_valued},
        "lights": {name: _confused(*pair) for name, pair in pairs.items() if name in two_valued},
    }


def _counted(truth: NDArray[np.float32], estimate: NDArray[np.float32]) -> dict[str, Any]:
    """How many rows lie where: `counts` (BINS, BINS) by truth, then estimate, between `low` and `high`."""
    low, high = float(min(truth.min(), estimate.min())), float(max(truth.max(), estimate.max()))
    high = high if high > low else low + 1.0
    counts, _, _ = np.histogram2d(truth, estimate, BINS, [[low, high], [low, high]])
    return {"low": low, "high": high, "counts": counts.astype(int).tolist()}


def _confused(truth: NDArray[np.float32], estimate: NDArray[np.float32]) -> dict[str, int]:
    middle = 0.5 * (truth.min() + truth.max())
    on, seen_on = truth > middle, estimate > middle
    return {
        "off": int((~on).sum()), "off_seen_on": int((~on & seen_on).sum()),
        "on": int(on.sum()), "on_seen_off": int((on & ~seen_on).sum()),
    }  # fmt: skip


def _marks(
    eyes: Eyes, dataset: Dataset, rows: NDArray[np.int64], seen: NDArray[np.float32]
) -> dict[str, dict[str, int]]:
    """By watched value: of how many held-out rows marks tell the state, and how often the code's line says the same."""
    assert isinstance(eyes, CodeEyes)
    if not eyes.config.marks:
        return {}
    states = marked_states(dataset)[rows]
    said = (eyes.told(eyes.normalised(torch.from_numpy(seen[rows]))) > 0).numpy()
    known, right = states != UNKNOWN, (states == 1) == said
    return {
        name: {"rows": int(known[:, i].sum()), "right": int((known & right)[:, i].sum())}
        for i, name in enumerate(dataset.spec.watched)
        if known[:, i].any()
    }


def _worst_of(wrong: NDArray[np.float32], rows: NDArray[np.int64], episodes: Sequence[Episode]) -> NDArray[np.int64]:
    """Which of the rows are worst, the worst first, at most one of an episode."""
    worst = [
        inside[np.argmax(wrong[inside])]
        for episode in episodes
        if len(inside := np.flatnonzero((rows >= episode.start) & (rows < episode.end)))
    ]
    return np.array(sorted(worst, key=lambda i: -wrong[i])[:WORST], np.int64)


def _described(eyes: Eyes, dataset: Dataset, row: np.int64, said: Tensor) -> dict[str, Any]:
    """Where a row was recorded, what its watched values were and what is seen of them; no values without a scene."""
    episode = next(one for one in dataset.episodes if one.start <= row < one.end)
    where = {"recording": episode.bag, "step": int(row) - episode.start}
    if not isinstance(eyes, SceneEyes):
        return {**where, "values": {}}
    both = {"truth": _truth(eyes, dataset, np.array([row]))[0], "seen": said}
    return {
        **where,
        "values": {
            name: {of: float(eyes.scene.physical(features, name)) for of, features in both.items()}
            for name in dataset.spec.watched
        },
    }


def _pictures(eyes: Eyes, dataset: Dataset, rows: NDArray[np.int64], said: Tensor) -> list[NDArray[np.uint8]]:
    drawn = eyes.pictures(said, _pose(eyes, dataset, rows))
    recorded = {camera: dataset.take(camera, rows) for camera in drawn}
    pairs = beside(recorded, {camera: images.numpy() for camera, images in drawn.items()})
    return [captioned(pair, "redrawn") for pair in pairs]
