"""How well the world model predicts when it sees nothing: a few frames of context, then actions alone.

Averaged over everything a constant can beat a model whose contacts are not learned, so windows in which something moved
or flipped are reported apart, and so are chunks in which the hand was held by something.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diwa_runtime.spec import TCP_POSITION
from diwa_trainer.dataset import Dataset, Episode
from diwa_trainer.dataset.following import (
    FOLLOWED_SHARE,
    LEAST_SHARE,
    Following,
    Motion,
    expected_motion,
    learn_following,
    motions,
)
from diwa_trainer.world.observations import action_at, observation_at
from diwa_trainer.world.rules import has_two_levels
from diwa_trainer.world.usable import LEAST_WINDOWS, usable_of_all, usable_steps
from diwa_trainer.world.world_model import WorldModel

CONTEXT, HORIZON = 10, 50
SHOWN_HORIZONS = (1, 5, 10, 25, 50)
EXAMPLES = 4
SHOWN_CODES = 4
TCP_MOVED_M, CODE_MOVED = 0.02, 0.5
"""What counts as moved, of the TCP and of a code in its deviations; of what tasks watch, half of what they ask for."""
CHUNK, MOST_CHUNKS = 4, 512
"""Steps of a chunk, as policies act (`DiffusionConfig.chunk`), and how many chunks of a kind are imagined at most."""
HELD_SHARE, FREE_SHARE = 0.25, 0.75
"""Of what its actions ask for, a held hand moves less in a chunk, a free one more."""


@torch.no_grad()
def predict(model: WorldModel, dataset: Dataset, rows: NDArray[np.int64], context: int, seed: int) -> Tensor:
    """Predict standardised features (B, T, F) of windows of rows (B, T), as `foresee` does; on the model's device."""
    return model.decode(foresee(model, dataset, rows, context, seed))


@torch.no_grad()
def foresee(model: WorldModel, dataset: Dataset, rows: NDArray[np.int64], context: int, seed: int) -> Tensor:
    """Return latents (B, T, Z) of windows of rows (B, T): the posterior's for `context`, then the prior's."""
    generator = torch.Generator().manual_seed(seed)
    actions = action_at(dataset, rows, model.device)
    observed = model.observe(observation_at(dataset, rows[:, :context], model.device), actions[:, :context], generator)
    latents = [observed.latents]
    latent = observed.latents[:, -1]
    for t in range(context, rows.shape[1]):
        latent = model.rssm.imagine_step(latent, actions[:, t - 1], generator)
        latents.append(latent[:, None])
    return torch.cat(latents, 1)


def measurable(episodes: Sequence[Episode]) -> list[Episode]:
    """Return the episodes that are long enough to measure on: of play, or where none of it is, of any kind."""
    long = [episode for episode in episodes if len(episode) >= CONTEXT + HORIZON]
    return [episode for episode in long if episode.kind == "play"] or long


@torch.no_grad()
def open_loop_report(
    model: WorldModel, dataset: Dataset, episodes: Sequence[Episode], seed: int, windows: int = 256
) -> dict[str, Any]:
    """Measure open-loop errors on windows of held-out play (or, without any, of demonstrations), as plain data.

    Returns:
        ``horizons``; ``features``: for TCP and each watched scene value the mean absolute (TCP: Euclidean) error at the
        horizons by model, constant and linear baselines, all in SI units, over all windows and over those in which
        it moved, and for how many steps the model is ``usable``; the fewest of these, ``usable`` of all, with what they
        are limited by; ``flips`` of the lights; ``contacts`` of the hand, in episodes of all kinds, None where its
        actions do not explain how it moves; ``posterior`` error of the first and of the last context frame;
        ``examples`` of truth and prediction over time.
    """
    rng = np.random.default_rng(seed)
    rows = dataset.windows(rng, windows, CONTEXT + HORIZON, measurable(episodes), fields=())["row"]
    predicted = predict(model, dataset, rows, CONTEXT, seed)
    series = _series(model, dataset, rows, predicted)
    least = _least_moves(dataset, series)
    features = {name: _errors(truth, guess, least[name]) for name, (truth, guess) in series.items()}
    usable = usable_of_all({name: feature["usable"] for name, feature in features.items()}, HORIZON)
    return {
        "context": CONTEXT,
        "horizons": list(SHOWN_HORIZONS),
        "windows": windows,
        "features": features,
        "usable": usable and {"steps": usable[0], "seconds": usable[0] / dataset.spec.rate_hz, "limited_by": usable[1]},
        "flips": {name: _flips(*series[name], middle) for name, middle in _lights(model, dataset).items()},
        "contacts": _contacts(model, dataset, episodes, rng, seed),
        "examples": _examples(series),
    }


def _series(
    model: WorldModel, dataset: Dataset, rows: NDArray[np.int64], predicted: Tensor
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Truth and prediction (B, T, D) of the TCP's position and of each scene value that tasks watch.

    Without a scene, of the slowest parts of what eyes see.
    """
    series = {"tcp": (dataset.proprio[rows][..., :3].astype(np.float64), _tcp(model, predicted))}
    other = predicted[..., len(model.proprio) :]
    if model.scene is None:
        for i, name in enumerate(model.feature_names[len(model.proprio) :][:SHOWN_CODES]):
            truth = dataset.take("seen", rows)[..., [i]].astype(np.float64)
            series[name] = (truth, _numpy(other[..., [i]]))
        return series
    for name in dataset.spec.watched:
        truth = dataset.scene[rows][..., [dataset.spec.scene.index(name)]].astype(np.float64)
        series[name] = (truth, _numpy(model.scene.physical(other, name)[..., None]))
    return series


def _tcp(model: WorldModel, predicted: Tensor) -> NDArray[np.float64]:
    """The TCP's position (..., 3), m, in predicted features (..., F)."""
    proprio = predicted[..., : len(model.proprio)]
    return _numpy(torch.stack([model.proprio.physical(proprio, name) for name in TCP_POSITION], -1))


def _least_moves(dataset: Dataset, names: Iterable[str]) -> dict[str, float]:
    """By what each quantity moves at least where it is said to have moved, in its own units."""
    watched = {name: change / 2 for name, change in dataset.spec.watched.items()}
    return {name: watched.get(name, CODE_MOVED) for name in names} | {"tcp": TCP_MOVED_M}


def _lights(model: WorldModel, dataset: Dataset) -> dict[str, float]:
    """What tasks watch and has two levels in the recordings, and the middle between them."""
    if model.scene is None:
        return {}
    columns = {name: dataset.scene[:, dataset.spec.scene.index(name)] for name in dataset.spec.watched}
    lights = {name: column for name, column in columns.items() if has_two_levels(torch.from_numpy(column))}
    return {name: float(column.min() / 2 + column.max() / 2) for name, column in lights.items()}


def _numpy(values: Tensor) -> NDArray[np.float64]:
    return values.double().numpy(force=True)


def _errors(truth: NDArray[np.float64], guess: NDArray[np.float64], least_move: float) -> dict[str, Any]:
    last = truth[:, CONTEXT - 1 : CONTEXT]
    velocity = last - truth[:, CONTEXT - 2 : CONTEXT - 1]
    future = truth[:, CONTEXT:]
    ahead = np.arange(1, HORIZON + 1)[None, :, None]
    tables = {
        "model": _distance(guess[:, CONTEXT:], future),
        "constant": _distance(np.broadcast_to(last, future.shape), future),
        "linear": _distance(last + velocity * ahead, future),
    }
    moved = tables["constant"].max(1) > least_move
    at = np.array(SHOWN_HORIZONS) - 1
    mean = _distance(np.broadcast_to(truth.mean((0, 1)), future.shape), future)
    moved_curve = {who: table[moved].mean(0) for who, table in (tables | {"mean": mean}).items()} if moved.any() else {}
    return {
        "all": {who: table.mean(0)[at].tolist() for who, table in tables.items()},
        "moved": {who: moved_curve[who][at].tolist() if moved_curve else None for who in tables},
        "moved_windows": int(moved.sum()),
        "usable": usable_steps(*moved_curve.values()) if moved.sum() >= LEAST_WINDOWS else None,
        "curve": {who: table.mean(0).tolist() for who, table in tables.items()},
        "moved_curve": {who: curve.tolist() for who, curve in moved_curve.items()} or None,
        "posterior_first": float(_distance(guess[:, 0], truth[:, 0]).mean()),
        "posterior_last": float(_distance(guess[:, CONTEXT - 1], truth[:, CONTEXT - 1]).mean()),
    }


def _distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.linalg.norm(a - b, axis=-1)


def _flips(truth: NDArray[np.float64], guess: NDArray[np.float64], middle: float) -> dict[str, Any]:
    """Of windows in which a light differs at the end: how many the model foresaw; of the others: false flips."""
    before, after, foreseen = (
        values > middle for values in (truth[:, CONTEXT - 1, 0], truth[:, -1, 0], guess[:, -1, 0])
    )
    flipped = before != after
    return {
        "flipped": int(flipped.sum()),
        "foreseen": int((flipped & (foreseen == after)).sum()),
        "unflipped": int((~flipped).sum()),
        "false": int((~flipped & (foreseen != after)).sum()),
    }


def _contacts(
    model: WorldModel, dataset: Dataset, episodes: Sequence[Episode], rng: np.random.Generator, seed: int
) -> dict[str, Any] | None:
    """Of chunks in which the hand was held: in how many it is imagined to go through; of free ones: to be held."""
    recorded = list(motions(dataset))
    following = learn_following([motion for _, motion in recorded])
    if following is None or not following.is_clear:
        return None
    rows, asked, moved = _chunks(recorded, set(episodes), following)
    tells = np.linalg.norm(asked, axis=-1) > LEAST_SHARE * CHUNK * following.usual_m
    done = _share_of(asked, moved)

    def imagined(those: NDArray[np.bool_]) -> NDArray[np.float64]:
        found = np.flatnonzero(tells & those)
        count = min(len(found), MOST_CHUNKS)
        if not count:
            return np.zeros(0)
        drawn = found[((np.arange(count) + rng.random()) * len(found) / count).astype(np.int64)]
        tcp = _tcp(model, predict(model, dataset, rows[drawn], CONTEXT, seed))
        return _share_of(asked[drawn], tcp[:, -1] - tcp[:, CONTEXT - 1])

    held, free = imagined(done < HELD_SHARE), imagined(done > FREE_SHARE)
    return {
        "held": len(held),
        "through": float((held > FOLLOWED_SHARE).mean()) if len(held) else None,
        "free": len(free),
        "stuck": float((free < FOLLOWED_SHARE).mean()) if len(free) else None,
    }


def _chunks(
    recorded: Iterable[tuple[Episode, Motion]], chosen: Collection[Episode], following: Following
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Rows (N, T) of every context and chunk of chosen episodes, how far the hand should move then, and did (N, 3)."""
    rows, asked, moved = [], [], []
    for episode, motion in recorded:
        if episode in chosen:
            window = np.arange(max(0, len(episode) - CONTEXT - CHUNK + 1))[:, None] + np.arange(CONTEXT + CHUNK)
            steps = window[:, CONTEXT - 1 : -1]  # each until the next row: from the context's last frame to the chunk's
            rows.append(episode.start + window)
            asked.append(expected_motion(motion[0], following)[steps].sum(1))
            moved.append(motion[1][steps].sum(1))
    return np.concatenate(rows), np.concatenate(asked), np.concatenate(moved)


def _share_of(asked: NDArray[np.float64], moved: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far hands moved (N, 3) along what was asked of them (N, 3), as a share of it (N,); 0 where nothing was."""
    size = np.square(asked).sum(-1)
    return np.divide((asked * moved).sum(-1), size, out=np.zeros_like(size), where=size > 0)


def _examples(series: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]) -> dict[str, Any]:
    """For each quantity every third of the windows in which it moved most: truth and prediction over time."""
    examples: dict[str, Any] = {}
    for name, (truth, guess) in series.items():
        moved = np.ptp(truth, axis=1).max(-1)
        chosen = np.argsort(-moved, kind="stable")[: 3 * EXAMPLES : 3]
        examples[name] = [
            {"truth": truth[i].round(4).tolist(), "predicted": guess[i].round(4).tolist()} for i in chosen
        ]
    return examples
