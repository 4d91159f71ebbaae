"""Make docs/results.md, docs/results.json and the plots from finished pipelines.

usage: python scripts/write_results.py RUN_FOLDER [RUN_FOLDER ...]    (one for each training seed)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from diwa_runtime.cli import run_verb
from diwa_runtime.config import read_yaml
from diwa_runtime.errors import ConfigError, InputError
from diwa_runtime.files import written_whole
from diwa_runtime.kinds import NUMBER, fault_in
from diwa_runtime.reading import reason_of
from diwa_trainer.evaluation.results import sum_up
from diwa_trainer.evaluation.statistics import wilson_interval
from diwa_trainer.runs.result_files import EVALUATION, METRICS, VERDICT, read_metrics, read_result
from diwa_trainer.runs.run import CONFIG

mpl.use("svg")
import matplotlib.pyplot as plt

DOCS = Path(__file__).resolve().parents[1] / "docs"
FINETUNED, IMAGINED = "finetuned", "judged_success_classifier"
SCATTER, CURVES = DOCS / "images" / "imagined_against_real.svg", DOCS / "images" / "fine_tuning.svg"


def policies_of(folder: Path) -> list[str]:
    """Names of the fine-tuned policies of a task that are evaluated, the pipeline's own first."""
    tuned = sorted(path.parent.name for path in folder.glob("*/preflight.json"))
    found = [name for name in tuned if (folder / f"evaluation_{name}" / EVALUATION).exists()]
    return sorted(found, key=lambda name: name != FINETUNED)


def seeds_of(task_folder: Path) -> list[int]:
    """The starts that a task's policies were judged on."""
    return list(read_result(task_folder / f"evaluation_{FINETUNED}" / EVALUATION)["seeds"])


def pooled(tables: Sequence[dict[str, Any]], policy: str) -> dict[str, Any]:
    """Add up the counts of one policy over training seeds."""
    successes, episodes = (sum(table[policy][name] for table in tables) for name in ("successes", "episodes"))
    return {"successes": successes, "episodes": episodes, "interval95": list(wilson_interval(successes, episodes))}


def pooled_task(tables: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One task's table over all training seeds, in the form of one run's, with each seed's beside it."""
    policies = dict.fromkeys(
        name for table in tables for name, part in table.items() if isinstance(part, dict) and "episodes" in part
    )
    out: dict[str, Any] = {name: pooled([table for table in tables if name in table], name) for name in policies}
    out["imagined_steps"] = sum(table["imagined_steps"] for table in tables)
    stages = dict.fromkeys(name for table in tables for name in table["seconds"])
    out["seconds"] = {name: sum(table["seconds"].get(name, 0.0) for table in tables) for name in stages}
    return out | {"by_training_seed": list(tables)}


def judged(task_folder: Path, policy: str) -> tuple[list[int], list[float]]:
    """Return iterations and imagined success of a fine-tuning, the base policy as iteration 0."""
    path = task_folder / policy / METRICS
    found = {int(line["step"] or 0): line[IMAGINED] for line in read_metrics(path) if line.get(IMAGINED) is not None}
    if not found:
        raise InputError(f"{path}: holds no {IMAGINED}; finish the pipeline first")
    return sorted(found), [float(found[step] or 0) for step in sorted(found)]


def curve(task_folder: Path, policy: str) -> list[tuple[int, float, float]]:
    """Points (iteration, imagined success, real success) of a fine-tuned policy, the base policy as iteration 0."""
    steps, imagined = judged(task_folder, policy)
    kept = read_result(task_folder / policy / VERDICT)["chosen"]["iteration"]
    points = []
    for step, success in zip(steps, imagined, strict=True):
        name = "base" if step == 0 else policy if step == kept else f"{policy}_{step:04d}"
        evaluation = task_folder / f"evaluation_{name}" / EVALUATION
        if evaluation.exists():
            counts = read_result(evaluation)
            points.append((step, success, counts["successes"] / counts["episodes"]))
    if not points:
        raise InputError(f"{task_folder}: no policy of {policy} is evaluated; finish the pipeline first")
    return points


def bc_weight(task_folder: Path, policy: str) -> float:
    """Return the BC weight that a policy was fine-tuned with."""
    path = task_folder / policy / CONFIG
    try:
        settings = read_yaml(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({reason_of(error)}); name a folder of finished pipelines") from None
    if (fault := fault_in(settings, {"ppo.bc_weight": NUMBER})) is not None:
        raise InputError(f"{path}: {fault}; name a folder of finished pipelines")
    return float(settings["ppo"]["bc_weight"])


def draw_scatter(folders: Sequence[Path], tasks: Sequence[str]) -> None:
    """Plot real against imagined success: a colour a task, base policies hollow, fine-tuned ones full."""
    figure, axes = plt.subplots(figsize=(6.5, 6), layout="constrained")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, zorder=0)
    for index, task in enumerate(tasks):
        points = [curve(folder / task, policy) for folder in folders for policy in policies_of(folder / task)]
        for name, chosen, face in (("base", 0, "none"), ("fine-tuned", -1, f"C{index}")):
            imagined, real = zip(*[(points_of[chosen][1], points_of[chosen][2]) for points_of in points], strict=True)
            label = task.replace("_", " ") if name == "fine-tuned" else None
            axes.scatter(imagined, real, s=36, facecolor=face, edgecolor=f"C{index}", label=label)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="imagined success", ylabel="real success, 100 starts")
    axes.set_title("hollow: base policies; full: fine-tuned", fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    save(figure, SCATTER)


def draw_curves(folders: Sequence[Path], tasks: Sequence[str]) -> None:
    """Plot imagined (dashed) and real (dots) success over iterations, a panel a task, a colour a BC weight."""
    figure, axes = plt.subplots(2, (len(tasks) + 1) // 2, figsize=(12, 5.5), sharey=True, squeeze=False)
    colours: dict[float, str] = {}
    for axis, task in zip(axes.flat, tasks, strict=False):
        for folder in folders:
            for policy in policies_of(folder / task):
                weight = bc_weight(folder / task, policy)
                colour = colours.setdefault(weight, f"C{len(colours)}")
                steps, imagined = judged(folder / task, policy)
                axis.plot(steps, imagined, "--", color=colour, label=f"imagined, BC {weight:g}")
                evaluated, _, real = zip(*curve(folder / task, policy), strict=True)
                axis.plot(evaluated, real, "o", color=colour, markersize=4, label=f"real, BC {weight:g}")
        axis.set_title(task.replace("_", " "), fontsize=10)
        axis.set_ylim(0, 1.02)
    handles = {label: handle for a in axes.flat for handle, label in zip(*a.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=6, fontsize=8, frameon=False)
    figure.supxlabel("iterations of fine-tuning", y=0.06, fontsize=9)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    save(figure, CURVES)


def save(figure: Any, path: Path) -> None:
    """Write a picture that is the same for the same figures."""
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
    plt.close(figure)


def rate(counts: dict[str, Any]) -> float:
    """Share of episodes that succeeded."""
    return float(counts["successes"] / counts["episodes"])


def cell(counts: dict[str, Any]) -> str:
    """``61 % [51, 70]``."""
    low, high = counts["interval95"]
    return f"{100 * counts['successes'] / counts['episodes']:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def page(results: dict[str, Any], seeds: int) -> str:
    """Return docs/results.md."""
    tables = results["tasks"]
    episodes = next(iter(tables.values()))["base"]["episodes"]
    rows = []
    shared = "" if results["starts"] == episodes else " (training seeds met the same ones)"
    for task, table in tables.items():
        each = "; ".join(
            f"{one['base']['successes']} to {one['finetuned']['successes']} (p = {one['finetuned']['mcnemar_p']:.0e})"
            for one in table["by_training_seed"]
        )
        gain = 100 * (rate(table["finetuned"]) - rate(table["base"]))
        rows.append(f"| {task} | {cell(table['base'])} | {cell(table['finetuned'])} | {gain:+.0f} | {each} |")
    gains = [rate(table["finetuned"]) - rate(table["base"]) for table in tables.values()]
    return "\n".join(
        [
            "# Results",
            "",
            f"Made by `make results`. Success over {episodes} episodes of {seeds} training seed(s), from",
            f"{results['starts']} different starts{shared}, with 95 % Wilson intervals;",
            "base and fine-tuned policy meet the same starts, so McNemar's paired test stands beside, one for each",
            "training seed. Always the policy that the [verdict](verdict.md) kept, by one setting for all tasks.",
            "In mode `state`; [from cameras](results_cameras.md).",
            f"Environment steps during fine-tuning: {results['env_steps_during_finetune']}. Mean gain over the tasks:",
            f"{100 * sum(gains) / len(gains):+.1f} points.",
            "",
            "| task | base | fine-tuned | gain, points | each training seed, of its episodes |",
            "|---|---|---|---|---|",
            *rows,
            "",
            *verdicts(tables),
            *ablation(tables),
            "## Imagined and real",
            f"![Real against imagined success]({SCATTER.relative_to(DOCS)})",
            "",
            f"![Success over iterations]({CURVES.relative_to(DOCS)})",
            "",
        ]
    )


def verdicts(tables: dict[str, Any]) -> list[str]:
    """Return the part on what imagination said of the kept policies, beside what came, a row a training seed."""
    rows, gaps, missed = [], [], []
    for task, table in tables.items():
        for one in table["by_training_seed"]:
            said, tuned = one["finetuned"]["verdict"], one["finetuned"]
            low, high = said["interval95"]
            gaps.append(said["imagined"] - rate(tuned))
            missed.append(abs(said["rate"] - rate(tuned)))
            rows.append(
                f"| {task} | {said['decision']} | {said['iteration']} | {said['imagined_base']:.2f} / "
                f"{rate(one['base']):.2f} | {said['imagined']:.2f} | {said['rate']:.2f} [{low:.2f}, {high:.2f}] | "
                f"{rate(tuned):.2f} |"
            )
    return [
        "## The verdict before deployment, and what came",
        "Imagined success, and what was to be expected of the kept policy once the base policy had been evaluated.",
        f"In the mean imagined success of the kept policies lies {np.mean(gaps):+.2f} from the real one, and what was",
        f"expected {np.mean(missed):.2f} off.",
        "",
        "| task | verdict | iteration kept | base, imagined / real | kept, imagined | expected | real |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
    ]


def ablation(tables: dict[str, Any]) -> list[str]:
    """Return the part on BC weights: how near to the base policy fine-tuning is held."""
    names = sorted({name for table in tables.values() for name in table if name.startswith("bc_")})
    if not names:
        return []
    compared = {task: table for task, table in tables.items() if all(name in table for name in names)}
    columns = ["finetuned", *names]
    means = [100 * sum(rate(table[name]) for table in compared.values()) / len(compared) for name in columns]
    heads = ["BC 0", *(f"BC 0.{name.removeprefix('bc_0')}" for name in names)]
    return [
        "## How near to the base policy",
        "| task | base | " + " | ".join(heads) + " |",
        "|---|---|" + "---|" * len(columns),
        *(
            f"| {task} | {cell(table['base'])} | {' | '.join(cell(table[name]) for name in columns)} |"
            for task, table in compared.items()
        ),
        "| mean | | " + " | ".join(f"{mean:.0f} %" for mean in means) + " |",
        "",
        *_fewer_episodes(compared, columns),
    ]


def _fewer_episodes(compared: dict[str, Any], columns: Sequence[str]) -> list[str]:
    """Say where a column counts fewer episodes than the base's, because a training seed is not done yet."""
    counts = {name: min(table[name]["episodes"] for table in compared.values()) for name in ("base", *columns)}
    short = [f"{name} at least {count}" for name, count in counts.items() if count < counts["base"]]
    return [f"Not all training seeds are done: of {counts['base']} episodes, {', '.join(short)}.", ""] if short else []


def finished_tasks(folders: Sequence[Path]) -> list[str]:
    """Return the tasks of the pipelines in these folders.

    Raises:
        ConfigError: no folder is named.
        InputError: one holds no finished pipeline, or lacks a task that the first has.
    """
    if not folders:
        raise ConfigError("name the folders of finished pipelines, one for each training seed")
    tasks = sorted({path.parent.name for path in folders[0].glob("*/evaluation_base")})
    if not tasks:
        raise InputError(f"{folders[0]}: holds no evaluated task; name a folder that `pipeline` wrote")
    for folder in folders:
        for task in tasks:
            if FINETUNED not in policies_of(folder / task):
                raise InputError(f"{folder / task}: has no evaluated fine-tuned policy; finish the pipeline first")
    return tasks


def main(folders: Sequence[Path]) -> None:
    """Read the runs, write the page.

    Raises:
        DiwaError: a folder or a file in it cannot be used; names it.
    """
    tasks = finished_tasks(folders)
    tables = [{task: sum_up(f, [task], policies_of(f / task)) for task in tasks} for f in folders]
    results = {
        "starts": min(len({seed for f in folders for seed in seeds_of(f / task)}) for task in tasks),
        "env_steps_during_finetune": sum(t["env_steps_during_finetune"] for run in tables for t in run.values()),
        "tasks": {task: pooled_task([run[task]["tasks"][task] for run in tables]) for task in tasks},
    }
    for name, text in (
        ("results.json", json.dumps(results, indent=1) + "\n"),
        ("results.md", page(results, len(folders))),
    ):
        with written_whole(DOCS / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    draw_scatter(folders, tasks)
    draw_curves(folders, tasks)


if __name__ == "__main__":
    sys.exit(run_verb(lambda words: main([Path(word) for word in words])))
