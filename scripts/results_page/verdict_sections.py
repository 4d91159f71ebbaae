"""The parts of docs/results.md on the verdict: of the kept policies, and over all evaluated checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from results_page.checkpoints import (
    FIRST,
    Tuning,
    below_best,
    below_best_judged_apart,
    decided,
    foreseen,
    mean_points,
    points_of,
    ranking,
    spearman,
    tunings,
)
from results_page.records import FINETUNED, Record, simulators_of


def verdicts(records: Sequence[Record]) -> list[str]:
    """Return the part on what imagination said of the kept policies, beside what came: a row a policy."""
    rows, gaps, missed = [], [], []
    for record in records:
        for task, found in record.tasks.items():
            for name, tuned in found.policies.items():
                real, (low, high) = tuned.real.rate, tuned.verdict["interval95"]
                gaps.append(tuned.kept.success - real)
                missed.append(abs(tuned.verdict["rate"] - real))
                who = record.name if name == FINETUNED else f"{record.name}, {tuned.label}"
                rows.append(
                    f"| {task} | {who} | {tuned.verdict['decision']} | {tuned.kept.iteration} | "
                    f"{tuned.judged[0].success:.2f} / {found.base.rate:.2f} | {tuned.kept.success:.2f} | "
                    f"{tuned.verdict['rate']:.2f} [{low:.2f}, {high:.2f}] | {real:.2f} |"
                )
    return [
        "## The verdict before deployment, and what came",
        "Imagined success, and what was to be expected of the kept policy once the base policy had been evaluated.",
        f"Over all records imagined success of the kept policies is {100 * np.mean(gaps):+.0f} points from the real",
        f"one in the mean, and what was expected is {100 * np.mean(missed):.0f} points off, in either direction.",
        "",
        "| task | record | verdict | iteration kept | base, imagined / real | kept, imagined | expected | real |",
        "|---|---|---|---|---|---|---|---|",
        *sorted(rows),
        "",
    ]


def checkpoints(records: Sequence[Record]) -> list[str]:
    """Return the part on the verdict over all evaluated checkpoints."""
    found = tunings(records)
    groups = {"all": found}
    for designed, name in ((True, "choices were made on"), (False, "kept out")):
        groups |= {
            f"{name}, {simulator}": [
                one for one in found if (one.designed, one.record.simulator) == (designed, simulator)
            ]
            for simulator in simulators_of(records)
        }
    groups = {name: group for name, group in groups.items() if any(one.policy.checkpoints for one in group)}
    if not groups:
        return []
    return [
        "## The verdict over checkpoints",
        "Every evaluated policy counts, kept or not, and the base policy once. Checkpoints have starts of their own;",
        "a kept one has those of the final evaluation besides. On some tasks choices were made while the verdict and",
        "the defaults were designed, on other starts; all others were kept out.",
        "",
        "| | policies | Spearman | in one fine-tuning | mean error | imagined less real | kept, below the best |",
        "|---|---|---|---|---|---|---|",
        *(f"| {name} | {_agreement(group)} |" for name, group in groups.items()),
        "",
        "*In one fine-tuning*: the mean over those with four policies or more. *Kept, below the best*: how far the",
        "kept policy's real success lies below the best one's of its fine-tuning, in the mean and at worst. That is",
        "too much, for the best of several is best in part by luck. *By halves*, the best is chosen by every other",
        "episode, and both are judged by those between. That is too little, for so the best is not always found:",
        f"{_apart(found)}.",
        "",
        "| | good ones, not accepted | bad ones, accepted |",
        "|---|---|---|",
        *(f"| {name} | {_decisions(group)} |" for name, group in groups.items()),
        "",
        "Good is a checkpoint of which a larger share of real episodes succeeds than of its base policy, bad any",
        "other. Accepted is what the verdict would accept if it were the only candidate beside the base policy.",
        "",
        *_few_real(groups),
    ]


def _agreement(group: Sequence[Tuning]) -> str:
    points = points_of(group)
    imagined, real = ([f(point) for point in points] for f in (lambda p: p[0].success, lambda p: p[1].rate))
    inner = [
        spearman([said.success for said, _ in one.points], [counted.rate for _, counted in one.points])
        for one in group
        if len(one.points) >= 4
    ]
    gaps = np.subtract(imagined, real)
    below = below_best(group)
    ranked = f"{_number(ranking(group))} | {_number(float(np.mean(inner)) if inner else math.nan)}"
    return (
        f"{len(points)} | {ranked} | {np.abs(gaps).mean():.2f} | {gaps.mean():+.2f} | "
        f"{np.mean(below):.0f} points, {max(below):.0f}"
    )


def _apart(group: Sequence[Tuning]) -> str:
    below = below_best_judged_apart(group)
    if not below:
        return "not known"
    error = np.std(below, ddof=1) / math.sqrt(len(below)) if len(below) > 1 else math.nan
    return f"{mean_points(below)} points in the mean (standard error {error:.1f}, {len(below)} fine-tunings)"


def _decisions(group: Sequence[Tuning]) -> str:
    counts = decided(group)
    return f"{counts.good_refused} of {counts.good} | {counts.bad_accepted} of {counts.bad}"


def _few_real(groups: Mapping[str, Sequence[Tuning]]) -> list[str]:
    """Say how near to the rate of the other episodes the verdict comes with a few real ones counted in."""
    found = {name: foreseen(group) for name, group in groups.items()}
    rows = [
        f"| {name} | {one.checkpoints} | "
        + " | ".join(
            f"{error:.3f} ({_number(rank)})"
            for error, rank in zip((one.imagined, one.with_base, one.with_both, one.counted), one.ranks, strict=True)
        )
        + " |"
        for name, one in found.items()
        if one is not None
    ]
    if not rows:
        return []
    return [
        f"With the first {FIRST} real episodes counted in: mean error against the rate of all the others, and in",
        "brackets Spearman's correlation with it, over these checkpoints (above, base policies count too).",
        "",
        f"| | checkpoints | imagined | and {FIRST} of the base policy | and {FIRST} of its own | its {FIRST} alone |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
    ]


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"
