"""A pipeline's outcome as one JSON and one table: before and after on the same starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diwa_trainer.evaluation.comparison import Paired, check_same_terms, counts_of, rate_of, successes_of
from diwa_trainer.policy.verdict import Tally, calibrated
from diwa_trainer.runs.result_files import EVALUATION, SUMMARY, VERDICT, read_result


def sum_up(folder: Path, tasks: Sequence[str], policies: Sequence[str]) -> dict[str, Any]:
    """Gather the evaluations and summaries of a pipeline's run folders.

    Returns:
        ``env_steps_during_finetune`` and, for each task, ``base`` and each fine-tuned policy as ``{"successes",
        "episodes", "interval95"}``, the paired test (`mcnemar_p`, with the number of ``gained`` and ``lost`` starts),
        what fine-tuning said of it (``verdict``: ``decision``, and the ``rate`` with its ``interval95`` that was to be
        expected given the base policy's evaluation), ``imagined_steps`` and the ``seconds`` of each stage.
    """
    tables = {task: _task(folder / task, policies) for task in tasks}
    return {
        "env_steps_during_finetune": sum(table.pop("env_steps") for table in tables.values()),
        "tasks": tables,
        "seconds": {name: _seconds(folder / name) for name in ("world_model",)},
    }


def _task(folder: Path, policies: Sequence[str]) -> dict[str, Any]:
    base_file = folder / "evaluation_base" / EVALUATION
    base = read_result(base_file)
    table: dict[str, Any] = {"base": counts_of(base)}
    stages = {"pretrain": "pretrained", "train_reward": "reward"}
    seconds = {stage: _seconds(folder / name) for stage, name in stages.items()}
    env_steps = 0
    for policy in policies:
        file = folder / f"evaluation_{policy}" / EVALUATION
        evaluation = read_result(file)
        check_same_terms(base, str(base_file), evaluation, str(file))
        summary = read_result(folder / policy / SUMMARY, "seconds", "env_steps", "imagined_steps")
        table[policy] = counts_of(evaluation) | _paired(base, evaluation) | _verdict(folder / policy, base)
        env_steps += summary["env_steps"]
        seconds[f"finetune {policy}" if policy != policies[0] else "finetune"] = summary["seconds"]
        if policy == policies[0]:
            table["imagined_steps"] = summary["imagined_steps"]
        table[policy]["imagined_success"] = {
            name.removeprefix("judged_success_"): value
            for name, value in summary.items()
            if name.startswith("judged_success_")
        }
    return table | {"seconds": seconds, "env_steps": env_steps}


def _verdict(folder: Path, base: dict[str, Any]) -> dict[str, Any]:
    """What fine-tuning said of the policy that it kept; nothing where it is older than that."""
    if not (folder / VERDICT).exists():
        return {}
    said = read_result(folder / VERDICT)
    imagined, kept, expected = said["candidates"][0], said["chosen"], calibrated(said, None, Tally.of(base))
    found = {name: said[name] for name in ("decision", "why")}
    found |= {"iteration": kept["iteration"], "imagined": kept["success"], "imagined_base": imagined["success"]}
    return {"verdict": {**found, "rate": expected.rate, "interval95": list(expected.interval95)}}


def _seconds(folder: Path) -> float:
    return read_result(folder / SUMMARY, "seconds")["seconds"]


def _paired(base: dict[str, Any], tuned: dict[str, Any]) -> dict[str, Any]:
    pairs = Paired.of(successes_of(base), successes_of(tuned))
    return {"gained": pairs.won, "lost": pairs.lost, "mcnemar_p": pairs.p}


def print_table(results: dict[str, Any]) -> None:
    """Print before and after of every task."""
    print(
        f"\n{'task':<20} {'base':>16} {'fine-tuned':>16} {'gained/lost':>12} {'McNemar p':>10} {'imagined steps':>15} "
        f"{'verdict, expected':>18}"
    )
    gains = []
    for task, table in results["tasks"].items():
        base, tuned = table["base"], table["finetuned"]
        gains.append(_rate(tuned) - _rate(base))
        print(
            f"{task:<20} {rate_of(base):>16} {rate_of(tuned):>16} {tuned['gained']:>6}/{tuned['lost']:<5} "
            f"{tuned['mcnemar_p']:>10.1e} {table['imagined_steps']:>15,} "
            f"{_said(tuned):>18}"
        )
    steps = results["env_steps_during_finetune"]
    print(f"mean gain {sum(gains) / len(gains):+.1f} points, in {steps} environment steps\n")


def _rate(counts: dict[str, Any]) -> float:
    return 100 * counts["successes"] / counts["episodes"]


def _said(tuned: dict[str, Any]) -> str:
    verdict = tuned.get("verdict")
    return f"{verdict['decision']}, {100 * verdict['rate']:.0f} %" if verdict else "-"
