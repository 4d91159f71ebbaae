"""Make docs/results_cameras.md from finished pipelines, one for each way to see.

usage: python scripts/write_camera_results.py NAME=RUN_FOLDER [NAME=RUN_FOLDER ...]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from results_page.runs import ROOT, finished_tasks, policies_of, seeds_of

from diwa_runtime.cli import run_verb
from diwa_runtime.errors import ConfigError, InputError
from diwa_runtime.files import written_whole
from diwa_trainer.evaluation.comparison import rate_of
from diwa_trainer.evaluation.results import sum_up
from diwa_trainer.runs.result_files import EVALUATION, read_result

PAGE = ROOT / "docs" / "results_cameras.md"
REWARD = "reward.json"
PAPER_REWARD = "| the paper's on latents, mean of eight tasks | .89 | .98 | |"


def named(words: Sequence[str]) -> dict[str, Path]:
    """Read ``NAME=RUN_FOLDER`` words.

    Raises:
        ConfigError: there is none, or a word is of another form.
    """
    for word in words:
        if "=" not in word:
            raise ConfigError(f"{word!r}: must be NAME=RUN_FOLDER, such as vision=runs/demo_vision")
    folders = {name: Path(folder) for name, _, folder in (word.partition("=") for word in words)}
    if not folders:
        raise ConfigError("name the folders of finished pipelines as NAME=RUN_FOLDER, such as vision=runs/demo_vision")
    return folders


def rate(counts: dict[str, Any]) -> float:
    """Share of episodes that succeeded."""
    return float(counts["successes"] / counts["episodes"])


def gains(tables: dict[str, Any], policy: str) -> float:
    """Mean over the tasks of what a policy gained, in points."""
    return 100 * sum(rate(table[policy]) - rate(table["base"]) for table in tables.values()) / len(tables)


def success_rows(name: str, folder: Path, tasks: Sequence[str]) -> list[str]:
    """Lines of the table of success: for each task the base, and each fine-tuned policy with its paired test."""
    rows = []
    for task in tasks:
        table = sum_up(folder, [task], policies_of(folder / task))["tasks"][task]
        tuned = [table[policy] for policy in policies_of(folder / task)]
        cells = "; ".join(f"{rate_of(one)} ({one['gained']} / {one['lost']}, {one['mcnemar_p']:.0e})" for one in tuned)
        judged = [one["imagined_success"].get("classifier") for one in tuned]
        imagined = "; ".join("–" if success is None else f"{success:.2f}" for success in judged)
        rows.append(f"| {name} | {task} | {rate_of(table['base'])} | {cells} | {imagined} |")
    return rows


def gain_line(name: str, folder: Path, tasks: Sequence[str]) -> str:
    """Say what was gained on which starts."""
    policies = policies_of(folder / tasks[0])
    summed = sum_up(folder, tasks, policies)
    tables = summed["tasks"]
    seeds = seeds_of(folder / tasks[0])
    means = " and ".join(f"{gains(tables, policy):+.1f}" for policy in policies)
    final = sum(rate(table[policy]) for table in tables.values() for policy in policies) / len(tables) / len(policies)
    return (
        f"- `{name}`, starts {seeds[0]} to {seeds[-1]}: mean gain {means} points, to {100 * final:.0f} % in the mean. "
        f"Environment steps during fine-tuning: {summed['env_steps_during_finetune']}."
    )


def reward_rows(name: str, folder: Path, tasks: Sequence[str]) -> list[str]:
    """Lines of the table of rewards: held-out play, and where the classifier fired in real episodes that failed."""
    rows = []
    for task in tasks:
        precision, recall = held_out(folder / task / "reward" / REWARD)
        fired = failed = 0
        for policy in ("base", *policies_of(folder / task)):
            path = folder / task / f"evaluation_{policy}" / EVALUATION
            counts = read_result(path, "classifier.fired_on_failure", "classifier.failures")["classifier"]
            fired, failed = fired + counts["fired_on_failure"], failed + counts["failures"]
        rows.append(f"| {name}, {task} | {precision:.2f} | {recall:.2f} | {fired} of {failed} |".replace(" 0.", " ."))
    return rows


def held_out(path: Path) -> tuple[float, float]:
    """Precision and recall on held-out play, at the reward's own threshold.

    Raises:
        InputError: the file does not say them.
    """
    reward = read_result(path)
    try:
        judged = reward["held_out"]["play"]["by_threshold"]
        one = next(line for line in judged if line["threshold"] == reward["threshold"])
        return float(one["precision"]), float(one["recall"])
    except (KeyError, TypeError, StopIteration):
        raise InputError(
            f"{path}: says nothing of held-out play at its threshold; train the reward with play"
        ) from None


def page(folders: dict[str, Path]) -> str:
    """Return docs/results_cameras.md."""
    tasks = {name: finished_tasks([folder]) for name, folder in folders.items()}
    episodes = len(seeds_of(next(iter(folders.values())) / next(iter(tasks.values()))[0]))
    return "\n".join(
        [
            "# Results from cameras",
            "",
            "Made by `scripts/write_camera_results.py` from runs of `make demo MODE=...` (`joint`:",
            f"`config/joint.yaml`). Success from {episodes} starts of the simulated table that nothing before had",
            "seen, with 95 % Wilson intervals. Base and fine-tuned policies meet the same starts; in brackets how many",
            "were gained and lost, and McNemar's p. Several fine-tuned policies of a task are of several PPO seeds.",
            "Always the last iteration. What is compared: [eyes](eyes.md).",
            "",
            "| | task | base | fine-tuned | imagined |",
            "|---|---|---|---|---|",
            *(row for name, folder in folders.items() for row in success_rows(name, folder, tasks[name])),
            "",
            *(gain_line(name, folder, tasks[name]) for name, folder in folders.items()),
            "",
            "## The reward",
            "The classifier on latents, at the threshold that it is used with, on held-out stretches of play; and how",
            "often it fired in real episodes that failed, of base and fine-tuned policies.",
            "",
            "| | precision | recall | fired in failures |",
            "|---|---|---|---|",
            *(row for name, folder in folders.items() for row in reward_rows(name, folder, tasks[name])),
            PAPER_REWARD,
            "",
        ]
    )


def main(words: Sequence[str]) -> None:
    """Read the runs, write the page.

    Raises:
        DiwaError: a word, a folder or a file in it cannot be used; names it.
    """
    text = page(named(words))
    with written_whole(PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run_verb(main))
