"""Two evaluations of the same starts, start by start: who won where, and whether that was luck."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diwa_runtime.differences import differences, told
from diwa_runtime.errors import InputError
from diwa_trainer.evaluation.statistics import discordant, mcnemar
from diwa_trainer.runs.result_files import EVALUATION, read_result

COMPARISON = "comparison.json"
TERMS = ("environment", "task", "max_steps", "seeds")
"""What two evaluations must have in common to be compared, as `evaluation.json` has it."""


@dataclass(frozen=True)
class Paired:
    """Two policies from the same starts.

    Attributes:
        won: starts on which the new one succeeded and the other did not.
        lost: the other way round.
        p: McNemar's exact two-sided p that both are equally good.
    """

    won: int
    lost: int
    p: float

    @classmethod
    def of(cls, other: Sequence[bool], new: Sequence[bool]) -> Paired:
        """Pair the successes (N,) of two policies from the same N starts, in the same order."""
        return cls(*discordant(other, new), mcnemar(other, new))


def successes_of(evaluation: Mapping[str, Any]) -> list[bool]:
    """Return which of an evaluation's episodes succeeded, in the order of its seeds."""
    return [episode["success"] for episode in evaluation["episodes_detail"]]


def counts_of(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an evaluation counted, over all episodes."""
    return {name: evaluation[name] for name in ("successes", "episodes", "interval95", "mean_length")}


def read_evaluation(place: Path) -> dict[str, Any]:
    """Read an evaluation, of which the folder or the file is named.

    Raises:
        InputError: it is none, or cannot be read.
    """
    file = place / EVALUATION if place.is_dir() else place
    if file.name != EVALUATION or not file.exists():
        raise InputError(f"{place}: no evaluation there; name the folder of one that is done, or its {EVALUATION}")
    return read_result(file)


def check_same_terms(ours: Mapping[str, Any], our_name: str, theirs: Mapping[str, Any], their_name: str) -> None:
    """Refuse to compare what was not run on the same terms.

    Raises:
        InputError: names all of `TERMS` that differ.
    """
    found = list(differences(_terms_of(ours), _terms_of(theirs)))
    if found:
        raise InputError(
            f"{our_name} and {their_name} cannot be compared start by start, they differ in {told(found)}; "
            "evaluate both with the same settings"
        )


def _terms_of(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    terms = json.loads(json.dumps({name: evaluation.get(name) for name in TERMS}))
    seeds = terms["seeds"]
    if seeds == list(range(seeds[0], seeds[-1] + 1)):
        terms["seeds"] = f"{seeds[0]} to {seeds[-1]}"
    return terms


def compare(ours: Mapping[str, Any], our_name: str, theirs: Mapping[str, Any], their_name: str) -> dict[str, Any]:
    """Compare two evaluations of the same starts.

    Returns:
        What stands in `comparison.json`: the counts of `ours` and `theirs`, which starts `won` and `lost` (seeds at
        which ours alone, or theirs alone, succeeded) and `mcnemar_p`.

    Raises:
        InputError: they are not of the same seeds, environment, task or limit of steps.
    """
    check_same_terms(ours, our_name, theirs, their_name)
    new, other = successes_of(ours), successes_of(theirs)
    pairs = list(zip(ours["seeds"], new, other, strict=True))
    return {
        "ours": counts_of(ours),
        "theirs": {"evaluation": their_name, **counts_of(theirs)},
        "won": [seed for seed, a, b in pairs if a and not b],
        "lost": [seed for seed, a, b in pairs if b and not a],
        "mcnemar_p": Paired.of(other, new).p,
    }


def comparison_line(comparison: Mapping[str, Any]) -> str:
    """Say in one line what a comparison found."""
    ours, theirs = comparison["ours"], comparison["theirs"]
    return (
        f"{rate_of(ours)} against {rate_of(theirs)} of {theirs['evaluation']}: won {len(comparison['won'])}, lost "
        f"{len(comparison['lost'])} starts, McNemar p = {comparison['mcnemar_p']:.2g}"
    )


def rate_of(counts: Mapping[str, Any]) -> str:
    """Return a counted success rate with its interval: ``61 % [51, 70]``."""
    low, high = (100 * edge for edge in counts["interval95"])
    return f"{100 * counts['successes'] / counts['episodes']:.0f} % [{low:.0f}, {high:.0f}]"
