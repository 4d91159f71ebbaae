"""The part of docs/results.md on what was aimed at, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from results_page.checkpoints import (
    Tuning,
    below_best,
    below_best_judged_apart,
    foreseen,
    mean_points,
    points_of,
    ranking,
    tunings,
)
from results_page.records import DEFAULT, GOOD, LIBERO, PLAY_TABLE, Record, by_task

SIGNIFICANT = 0.01
SEEDS = 2
"""Training seeds of each task, at least."""


def goals(records: Sequence[Record]) -> list[str]:
    """Return the part: a row for each goal that the records say something of."""
    defaults = [record for record in records if record.condition == DEFAULT]
    rows = [
        *_gains([record for record in defaults if record.simulator == PLAY_TABLE], 35, 15, GOOD),
        *_gains([record for record in defaults if record.simulator == LIBERO], 30, 0, None),
        *_never_worse(records),
        *_best_weight(records),
        *_honesty(defaults),
        *_verdict(records),
    ]
    if not rows:
        return []
    return [
        "## What was aimed at",
        "By the defaults, pooled over training seeds; of the verdict, and of all fine-tunings, over all records.",
        "Why goals are missed, as far as it is known: [0013](decisions/0013-what-was-missed.md).",
        "",
        "| goal | aimed at | measured | |",
        "|---|---|---|---|",
        *rows,
        "",
    ]


def _row(goal: str, aim: str, came: str, met: bool) -> str:
    return f"| {goal} | {aim} | {came} | {'met' if met else '**missed**'} |"


def _gains(records: Sequence[Record], mean: float, least: float, each: float | None) -> list[str]:
    """Rows on one simulator's tasks: their mean gain and the worst, and where asked for how many reach `each`."""
    if not records:
        return []
    where, tasks = records[0].simulator, by_task(records).values()
    gains = [one.gain for one in tasks]
    rows = [
        _row(f"{where}: mean gain, points", f"{mean:+}", f"{np.mean(gains):+.1f}", bool(np.mean(gains) >= mean)),
        _row(f"{where}: the worst task's gain, points", f"{least:+}", f"{min(gains):+.1f}", min(gains) >= least),
    ]
    seeds = min(len(one.records) for one in tasks)
    rows.append(_row(f"{where}: training seeds of each task, at least", f"{SEEDS}", f"{seeds}", seeds >= SEEDS))
    if each is not None:
        count = len(tasks)
        reached = sum(one.tuned.rate >= each for one in tasks)
        certain = sum(all(policy.p < SIGNIFICANT for policy in one.policies) for one in tasks)
        said = f"{100 * each:.0f} %"
        rows += [
            _row(f"{where}: tasks that reach {said}", f"{count} of {count}", f"{reached} of {count}", reached == count),
            _row(
                f"{where}: tasks with p < {SIGNIFICANT} in every training seed",
                f"{count - 1} of {count}",
                f"{certain} of {count}",
                certain >= count - 1,
            ),
        ]
    return rows


def _never_worse(records: Sequence[Record]) -> list[str]:
    """Row on the worst that came of any fine-tuning, with good and bad models and rewards, with and without anchors."""
    gains = [
        100 * (policy.real.rate - task.base.rate)
        for record in records
        for task in record.tasks.values()
        for policy in task.policies.values()
    ]
    if not gains:
        return []
    worst = min(gains)
    goal = f"all {len(gains)} fine-tunings, of good and bad models: gain of the kept policy at worst, points"
    return [_row(goal, "-3", f"{worst:+.0f}", worst >= -3)]


def _best_weight(records: Sequence[Record]) -> list[str]:
    """Row on the defaults beside the best fixed BC weight, where several were tried."""
    below = []
    for record in records:
        for task in record.tasks.values():
            fixed = [one.real.rate for one in task.policies.values() if one.kl_budget is None]
            if len(fixed) > 1:
                below.append(100 * (max(fixed) - task.tuned.real.rate))
    if not below:
        return []
    goal = f"the defaults below the best fixed BC weight at most, points, {len(below)} run{'s' * (len(below) > 1)}"
    return [_row(goal, "3", f"{max(below):.0f}", max(below) <= 3)]


def _honesty(records: Sequence[Record]) -> list[str]:
    """Row on imagined success of the kept policies beside their real one, mean over tasks and training seeds."""
    kept = [found.tuned for record in records for found in record.tasks.values()]
    if not kept:
        return []
    gap = float(np.mean([one.kept.success - one.real.rate for one in kept]))
    most = max(one.kept.success - one.real.rate for one in kept)
    came = f"{gap:+.3f}; {most:+.2f} at most"
    return [
        _row(
            "imagined success of the kept policies, less real, by the defaults",
            "+0.05 at most, in the mean",
            came,
            gap <= 0.05,
        )
    ]


def _below(found: Sequence[Tuning], below: float) -> str:
    """Say how far that is by all episodes, which is too much, and by halves of them, which is too little."""
    apart = below_best_judged_apart(found)
    return f"{below:.2f}" + (f"; {mean_points(apart)} by halves" if apart else "")


def _verdict(records: Sequence[Record]) -> list[str]:
    """Rows on how well imagination ranks policies, which of them is kept, and what 20 real episodes add."""
    found = tunings(records)
    if not (each_below := below_best(found)):
        return []
    rank, below = ranking(found), float(np.mean(each_below))
    rows = [
        _row(
            f"Spearman of imagined and real success, {len(points_of(found))} policies",
            "0.80",
            f"{rank:.2f}",
            rank >= 0.8,
        ),
        _row(
            "real success of the kept policy below that of the best one of its fine-tuning, points",
            "3",
            _below(found, below),
            below <= 3,
        ),
    ]
    if (few := foreseen(found)) is not None:
        met = few.with_both <= 0.1
        goal = "mean error of the expected success rate, given 20 real episodes"
        rows.append(_row(goal, "0.10", f"{few.with_both:.3f}", met))
    return rows
