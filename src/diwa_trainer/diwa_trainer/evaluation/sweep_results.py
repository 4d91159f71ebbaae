"""What came of a sweep: each setting's success on each task over all seeds, beside the base setting's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diwa_runtime.errors import InputError
from diwa_trainer.evaluation.comparison import Paired, check_same_terms, rate_of, read_evaluation, successes_of
from diwa_trainer.evaluation.statistics import wilson_interval

Evaluation = Mapping[str, Any]
Runs = Mapping[str, Mapping[str, Mapping[int, Path]]]
"""Folders of finished pipelines: by pipeline, setting and seed."""


def sum_up_sweep(
    runs: Runs, tasks: Mapping[str, Mapping[str, Sequence[str]]], base: str, policy: str
) -> dict[str, Any]:
    """Gather the evaluations of one policy of all pipelines.

    Args:
        runs: those that are done.
        tasks: by pipeline and setting, which may have tasks of its own.
        base: the setting that the others are compared with.
        policy: ``base``, ``finetuned`` or the name of a variant.

    Returns:
        ``policy``, ``base`` and ``pipelines``: by pipeline, task and setting ``successes``, ``episodes`` and
        ``interval95`` over all seeds, ``by_seed`` the counts of each, and ``against_base`` how many starts were ``won``
        and ``lost`` and ``mcnemar_p``, over the seeds that both have; null where they did not start alike.
    """
    return {
        "policy": policy,
        "base": base,
        "pipelines": {
            pipeline: {
                task: _task(
                    {name: settings[name] for name in settings if task in tasks[pipeline][name]}, task, base, policy
                )
                for task in dict.fromkeys(task for those in tasks[pipeline].values() for task in those)
            }
            for pipeline, settings in runs.items()
        },
    }


def _task(settings: Mapping[str, Mapping[int, Path]], task: str, base: str, policy: str) -> dict[str, Any]:
    found = {
        setting: {seed: read_evaluation(folder / task / f"evaluation_{policy}") for seed, folder in folders.items()}
        for setting, folders in settings.items()
    }
    return {
        setting: _counted(by_seed)
        | {"against_base": None if setting == base else _paired(found.get(base, {}), by_seed, (base, setting))}
        for setting, by_seed in found.items()
        if by_seed
    }


def _counted(by_seed: Mapping[int, Evaluation]) -> dict[str, Any]:
    """Add up the counts of all seeds. The same starts count once a seed: each seed is another policy."""
    counts = {seed: {name: one[name] for name in ("successes", "episodes")} for seed, one in by_seed.items()}
    successes, episodes = (sum(one[name] for one in counts.values()) for name in ("successes", "episodes"))
    return {
        "successes": successes,
        "episodes": episodes,
        "interval95": list(wilson_interval(successes, episodes)),
        "by_seed": {str(seed): one for seed, one in counts.items()},
    }


def _paired(
    base: Mapping[int, Evaluation], other: Mapping[int, Evaluation], names: tuple[str, str]
) -> dict[str, Any] | None:
    before, after = list[bool](), list[bool]()
    for seed in base.keys() & other.keys():
        try:
            check_same_terms(base[seed], names[0], other[seed], names[1])
        except InputError:
            return None
        before += successes_of(base[seed])
        after += successes_of(other[seed])
    if not before:
        return None
    pairs = Paired.of(before, after)
    return {"won": pairs.won, "lost": pairs.lost, "mcnemar_p": pairs.p}


def print_sweep(results: Mapping[str, Any]) -> None:
    """Print a table of each pipeline: task by setting."""
    for pipeline, tasks in results["pipelines"].items():
        print(f"\n{pipeline}: {results['policy']}, compared with {results['base']}")
        print(
            f"{'task':<20} {'setting':<20} {'success':>16} {'n':>6}  {'by seed':<24} {'won/lost':>10} {'McNemar p':>10}"
        )
        for task, settings in tasks.items():
            for setting, one in settings.items():
                print(f"{task:<20} {setting:<20} {_cells(one)}")
    print()


def _cells(one: Mapping[str, Any]) -> str:
    seeds = " ".join(f"{100 * seed['successes'] / seed['episodes']:.0f}" for seed in one["by_seed"].values())
    against = one["against_base"]
    pairs = ("–", "–") if against is None else (f"{against['won']}/{against['lost']}", f"{against['mcnemar_p']:.1e}")
    return f"{rate_of(one):>16} {one['episodes']:>6}  {seeds:<24} {pairs[0]:>10} {pairs[1]:>10}"
