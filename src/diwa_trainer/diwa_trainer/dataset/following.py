"""How the hand follows its actions: with which gain, how many rows late, and in which rows it does not.

The TCP's displacement from row to row is taken for a sum of what the actions around asked for, `moved[t] = sum over
k of response[k] * asked[t - k]`, the same on all three axes. A hand that does in each row what its action asks for has
a response of 1 at lag 0; an arm that follows late has it spread over the lags after. A response before lag 0 cannot be:
then the actions are not where they belong.

Actions resemble their neighbours, so that their mere correlation with the motion hardly tells one lag from the next.
The response does, since each lag is weighed against the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.spec import ActionScale
from diwa_trainer.dataset.dataset import Dataset
from diwa_trainer.dataset.description import Episode

Float = NDArray[np.float64]
Motion = tuple[Float, Float]
"""Of an episode: what each row's action asks for, and how far the hand moved until the next row; both (T, 3) m."""

LAGS = range(-2, 7)
"""Rows from an action to a motion that may be its. The last stands for all that comes later too."""
ONSET_SHARE, EARLY_SHARE = 0.07, 0.25
"""The motion begins at the first lag at which it is so much of the largest. Before the action, where none can be, it is
to be more, for stamps that are off by part of a row put part of the motion there. A slow arm, critically damped with a
time constant of 8 rows, has 0.35 in the row of the action; in play of the table, actions a row off leave 0.02 there."""
LATE, ALONE, MOST = 0.06, 20.0, 8.0
"""All motion is as late as the last of `LAGS`, or later, where so small a share of it comes from the row of the action
on until then, and the last lag has so many times as much as any other. Arms that are late by 6 or 7 rows have shares to
.05 and ratios from 21 on. A slow arm whose commands are held for long has ratios to 22 too, but shares from .095 on.
Where the last has `MOST` times as much, and no more can be told, nothing is said of the lag."""
FOLLOWED_SHARE = 0.5
"""Of what it should move, a hand that moves less does not follow."""
LEAST_SHARE = 0.25
"""Of the usual motion (root mean square); where less is asked for, nothing can be told."""
NEIGHBOURS = 1
"""Rows before and after that count as well, for one row alone is noise."""
LEAST_USUAL_M = 2e-5
"""A hand that moves less than that in a row stands still, but for its noise."""
LEAST_EXPLAINED, LEAST_ROWS = 0.5, 100
"""Of the motion, from so many rows. Noise explains up to 0.5 of 60 rows, 0.3 of 100; actions of the play table 0.9."""
FIT_ROWS = 50_000
"""About so many rows are learned from: whole episodes, spread evenly."""
_FITS = 4
"""Each without the rows in which the hand did not follow, by the fit before."""


@dataclass(frozen=True)
class Following:
    """How a hand follows its actions.

    Attributes:
        response: (9,) metres moved for each metre asked for, so many rows (`LAGS`) after the action.
        explained: the share of the motion's squares that this explains, where the hand follows; 1 is all of it.
        usual_m: root mean square of what the hand should move in a row, m.
        rows: that it was learned from.
    """

    response: Float
    explained: float
    usual_m: float
    rows: int

    @property
    def is_clear(self) -> bool:
        """Whether the motion is the actions'; otherwise nothing else here means anything."""
        return self.explained >= LEAST_EXPLAINED and self.rows >= LEAST_ROWS and self.usual_m >= LEAST_USUAL_M

    @property
    def gain(self) -> float:
        """Metres moved in the end for each metre asked for."""
        return float(self.response.sum())

    @property
    def lag(self) -> int:
        """How many rows after an action its motion begins: 0 in the row of the action, below 0 before it.

        The last of `LAGS` means so many or more.
        """
        size = self.response * np.sign(self.response[np.abs(self.response).argmax()])
        last, before = size[-1], self.response[LAGS.index(0) : -1].sum()
        if last > ALONE * np.abs(size[:-1]).max() and abs(before) < LATE * abs(self.gain):
            return LAGS[-1]
        if last > MOST * np.abs(size[:-1]).max():
            return 0
        least = np.where(np.array(LAGS) < 0, EARLY_SHARE, ONSET_SHARE)
        return LAGS[int(np.argmax(size >= least * size[:-1].max()))]


def motion_in(positions: NDArray[Any], actions: NDArray[Any], scale: ActionScale) -> Motion:
    """Return what was asked for and what came of it in one episode.

    Args:
        positions: of the TCP (T, 3), m.
        actions: accepted after each row (T, 7), in the Spec's units.
        scale: what an action of 1 means.
    """
    asked = np.asarray(actions, np.float64)[:, :3] * scale.translation_m
    moved = np.zeros_like(asked)
    moved[:-1] = np.diff(np.asarray(positions, np.float64), axis=0)
    return asked, moved


def learn_following(episodes: Sequence[Motion]) -> Following | None:
    """Fit the response by least squares; None where there is no motion to learn it from.

    Of many episodes every n-th is taken, so that about `FIT_ROWS` rows are. Rows in which the hand does not follow, as
    it presses on something, are found and left out, by turns with the fit.
    """
    following: Following | None = None
    every = max(1, sum(len(asked) for asked, _ in episodes) // FIT_ROWS)
    for _ in range(_FITS):
        found = _fitted(episodes[::every], following)
        if found is None:
            break
        following = found
    return following


def expected_motion(asked: Float, following: Following) -> Float:
    """Return how far the hand should move after each row of an episode (T, 3), m, for what was asked (T, 3), m."""
    return sum(
        (share * _shifted(asked, lag) for lag, share in zip(LAGS, following.response, strict=True)),
        np.zeros_like(asked),
    )


def contact_rows(motion: Motion, following: Following) -> NDArray[np.bool_]:
    """Return in which of an episode's rows the hand does not follow its action, bool (T,).

    There it moves less than half as far as it should, over the row and its neighbours: it presses on something, carries
    too much, or is at the end of its reach. The last row, after which nothing was seen, is none.
    """
    asked, moved = motion
    expected, done = expected_motion(asked, following), _around(moved)
    expected[-1:] = 0  # as its motion, which nobody saw
    wanted = _around(expected)
    size = np.einsum("ti,ti->t", wanted, wanted)
    least = (LEAST_SHARE * following.usual_m * _around(np.ones((len(asked), 1)))[:, 0]) ** 2
    found: NDArray[np.bool_] = (size > least) & (np.einsum("ti,ti->t", wanted, done) < FOLLOWED_SHARE * size)
    found[-1:] = False
    return found


def motions(dataset: Dataset, episodes: Sequence[Episode] | None = None) -> Iterator[tuple[Episode, Motion]]:
    """Yield episodes, all of them by default, with what their actions asked for and what came of it."""
    for episode in dataset.episodes if episodes is None else episodes:
        rows = episode.rows
        yield episode, motion_in(dataset.proprio[rows, :3], dataset.action[rows], dataset.spec.action_scale)


def dataset_contact_rows(dataset: Dataset, episodes: Sequence[Episode]) -> NDArray[np.bool_]:
    """Return in which rows of these episodes the hand does not follow its action, by what is usual in them; bool (N,).

    N are all rows of the dataset; those of other episodes are False, and teach nothing. None is True where the actions
    do not explain how the hand moves.
    """
    found = np.zeros(len(dataset), np.bool_)
    recorded = list(motions(dataset, episodes))
    following = learn_following([motion for _, motion in recorded])
    if following is not None and following.is_clear:
        for episode, motion in recorded:
            found[episode.rows] = contact_rows(motion, following)
    return found


def _fitted(episodes: Sequence[Motion], before: Following | None) -> Following | None:
    """Fit by the normal equations, without the rows in which the hand did not follow by the fit before."""
    size = len(LAGS)
    square, product, total, rows = np.zeros((size, size)), np.zeros(size), 0.0, 0
    for motion in episodes:
        asked, moved = motion
        kept = slice(LAGS[-1], len(asked) + LAGS[0] - 1)  # where there are actions at all lags, and a row after
        around = np.stack([_shifted(asked, lag) for lag in LAGS], -1)[kept]
        came = moved[kept]
        if before is not None:
            follows = ~contact_rows(motion, before)[kept]
            around, came = around[follows], came[follows]
        square += np.einsum("tik,til->kl", around, around)
        product += np.einsum("tik,ti->k", around, came)
        total += float(np.einsum("ti,ti->", came, came))
        rows += len(came)
    if not np.trace(square) > 0 or not total > 0:
        return None
    response = np.linalg.lstsq(square, product, rcond=1e-9)[0].astype(np.float64)
    expected = float(response @ square @ response)
    explained = float(2 * response @ product - expected) / total
    return Following(response, explained, (expected / rows) ** 0.5, rows)


def _shifted(values: Float, rows: int) -> Float:
    """Return values (T, ...) so many rows later; nothing where there were none."""
    out = np.zeros_like(values)
    if abs(rows) < len(values):
        out[max(rows, 0) : len(values) + min(rows, 0)] = values[max(-rows, 0) : len(values) - max(rows, 0)]
    return out


def _around(values: Float) -> Float:
    """Return the sums of each row's values (T, ...) and its neighbours'."""
    return sum((_shifted(values, by) for by in range(-NEIGHBOURS, NEIGHBOURS + 1)), np.zeros_like(values))
