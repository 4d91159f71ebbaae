"""What the verdict is worth: imagined beside real success of every evaluated checkpoint of every record."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diwa_trainer.policy.verdict import Candidate, Tally, calibrate, choose
from results_page.records import FINETUNED, Policy, Real, Record

FIRST = 20
"""Real episodes that are counted in; the others say what was to be foreseen."""
Point = tuple[Candidate, Real]


@dataclass(frozen=True)
class Tuning:
    """A fine-tuning of a record, by the task and the name of its policy."""

    record: Record
    task: str
    name: str

    @property
    def policy(self) -> Policy:
        """What came of it."""
        return self.record.tasks[self.task].policies[self.name]

    @property
    def base(self) -> Real:
        """The base policy's episodes."""
        return self.record.tasks[self.task].base

    @property
    def designed(self) -> bool:
        """Whether choices were made on its task."""
        return self.task in self.record.design

    @property
    def points(self) -> tuple[Point, ...]:
        """The base policy and those of the fine-tuned ones that were evaluated, by iteration."""
        return tuple(self.policy.points(self.base).values())

    @property
    def checkpoints(self) -> tuple[Point, ...]:
        """Those points that are not the base policy."""
        return tuple(point for point in self.points if point[0].iteration)

    @property
    def below_best(self) -> float:
        """How far the real success of the policy that was kept lies below the best of all points."""
        kept = next(real for one, real in self.points if one.iteration == self.policy.kept.iteration)
        return max(real.rate for _, real in self.points) - kept.rate

    @property
    def below_best_judged_apart(self) -> float | None:
        """As `below_best`, but the best by every other episode, and the distance by those between, both ways round.

        The best of several is best in part by luck, and luck does not carry over. But half of the episodes do not
        always find the best, so this is too little where `below_best` is too much. None where outcomes were not kept.
        """
        outcomes = {one.iteration: real.outcomes for one, real in self.points if real.outcomes is not None}
        if len(outcomes) < len(self.points):
            return None
        halves = [{name: np.mean(each[first::2]) for name, each in outcomes.items()} for first in (0, 1)]
        kept = self.policy.kept.iteration
        return float(
            np.mean(
                [by[max(chosen_by, key=chosen_by.__getitem__)] - by[kept] for chosen_by, by in (halves, halves[::-1])]
            )
        )

    def decision(self, one: Candidate) -> str:
        """What the verdict would say of a checkpoint if it were the only one."""
        return choose([self.policy.judged[0], one], self.policy.judged_episodes).decision


def tunings(records: Sequence[Record]) -> list[Tuning]:
    """Return the fine-tunings of all records."""
    return [
        Tuning(record, task, name)
        for record in records
        for task, found in record.tasks.items()
        for name in found.policies
    ]


def points_of(found: Sequence[Tuning]) -> list[Point]:
    """Return all points; the base policy that several were fine-tuned from counts once."""
    return [point for one in found for point in (one.points if one.name == FINETUNED else one.checkpoints)]


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Return the rank correlation of two series (N,), ties with their mean rank; NaN where one has no order.

    Raises:
        ValueError: of different lengths.
    """
    ranks = _ranks(np.asarray(first, float)), _ranks(np.asarray(second, float))
    if len(ranks[0]) != len(ranks[1]):
        raise ValueError(f"series of {len(ranks[0])} and {len(ranks[1])}")
    a, b = (one - one.mean() for one in ranks)
    length = math.sqrt(float((a @ a) * (b @ b)))
    return float(a @ b) / length if length else math.nan


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]


@dataclass(frozen=True)
class Foreseen:
    """Mean absolute errors of what was said of the episodes after the `FIRST`, over so many checkpoints.

    Attributes:
        imagined: imagined success alone.
        with_base: with the base policy's first episodes.
        with_both: with the first episodes of the checkpoint too: the second tier of the verdict.
        counted: the share of those first episodes alone.
        ranks: Spearman's correlation of each of these four with what came.
    """

    checkpoints: int
    imagined: float
    with_base: float
    with_both: float
    counted: float
    ranks: tuple[float, float, float, float]


def foreseen(found: Sequence[Tuning]) -> Foreseen | None:
    """Judge what the verdict says with a few real episodes counted in; None where no outcomes are kept."""
    both = [pair for one in found for pair in _said_and_came(one)]
    if not both:
        return None
    said, came = np.array([said for said, _ in both]), np.array([came for _, came in both])
    imagined, with_base, with_both, counted = np.abs(said - came[:, None]).mean(0).tolist()
    first, second, third, fourth = (spearman(column, came) for column in said.T)
    return Foreseen(len(both), imagined, with_base, with_both, counted, (first, second, third, fourth))


def _said_and_came(tuning: Tuning) -> Iterator[tuple[tuple[float, ...], float]]:
    """Yield of each checkpoint four rates that were to be expected, as `Foreseen` has them, and the rate that came."""
    if tuning.base.outcomes is None:
        return
    base, tried = tuning.policy.judged[0], Tally(sum(tuning.base.outcomes[:FIRST]), len(tuning.base.outcomes[:FIRST]))
    for one, real in tuning.checkpoints:
        if real.outcomes is None or len(real.outcomes) < 2 * FIRST:
            continue
        first, others = real.outcomes[:FIRST], real.outcomes[FIRST:]
        counted = Tally(sum(first), FIRST)
        said = (
            one.success,
            calibrate(base, one, None, tried).rate,
            calibrate(base, one, counted, tried).rate,
            counted.rate,
        )
        yield said, sum(others) / len(others)


@dataclass(frozen=True)
class Decided:
    """How many checkpoints that beat the base policy, and that do not, the verdict would accept."""

    good: int
    good_refused: int
    bad: int
    bad_accepted: int


def decided(found: Sequence[Tuning]) -> Decided:
    """Count decisions. Good is a checkpoint whose real success lies above the base policy's, bad any other."""
    made = [
        (real.rate > one.base.rate, one.decision(said) == "accept") for one in found for said, real in one.checkpoints
    ]
    good = [accepted for is_good, accepted in made if is_good]
    bad = [accepted for is_good, accepted in made if not is_good]
    return Decided(len(good), len(good) - sum(good), len(bad), sum(bad))


def ranking(group: Sequence[Tuning]) -> float:
    """Spearman's correlation of imagined and real success over all policies of some fine-tunings."""
    points = points_of(group)
    return spearman([said.success for said, _ in points], [real.rate for _, real in points])


def below_best(group: Sequence[Tuning]) -> list[float]:
    """How far each kept policy lies below the best of its fine-tuning, points, where others were evaluated too."""
    return [100 * one.below_best for one in group if one.policy.checkpoints]


def below_best_judged_apart(group: Sequence[Tuning]) -> list[float]:
    """As `below_best`, by halves of the episodes, where all outcomes were kept."""
    found = [one.below_best_judged_apart for one in group if one.policy.checkpoints]
    return [100 * below for below in found if below is not None]


def mean_points(below: Sequence[float]) -> str:
    """Return the mean of such distances as text; what rounds to nothing has no sign."""
    return f"{round(float(np.mean(below)), 1) + 0.0:.1f}"
