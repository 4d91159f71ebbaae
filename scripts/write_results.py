"""Make docs/results.md, docs/results.json and the plot of imagined against real success from finished pipelines.

usage: python scripts/write_results.py RUN_FOLDER [RUN_FOLDER ...]    (one for each training seed)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import yaml

from diwa_runtime.files import written_whole
from diwa_trainer.results import sum_up
from diwa_trainer.statistics import wilson_interval

mpl.use("svg")
import matplotlib.pyplot as plt

DOCS = Path(__file__).resolve().parents[1] / "docs"
PLOT = DOCS / "images" / "imagined_against_real.svg"


def policies_of(folder: Path) -> list[str]:
    """Names of the fine-tuned policies of a task, the pipeline's own first."""
    found = sorted(path.parent.name for path in folder.glob("*/preflight.json"))
    return sorted(found, key=lambda name: name != "finetuned")


def pooled(tables: Sequence[dict[str, Any]], policy: str) -> dict[str, Any]:
    """Add up the counts of one policy over training seeds."""
    successes, episodes = (sum(table[policy][name] for table in tables) for name in ("successes", "episodes"))
    return {"successes": successes, "episodes": episodes, "interval95": list(wilson_interval(successes, episodes))}


def pooled_task(tables: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One task's table over all training seeds, in the form of one run's, with each seed's beside it."""
    policies = [name for name in tables[0] if isinstance(tables[0][name], dict) and "episodes" in tables[0][name]]
    out: dict[str, Any] = {name: pooled(tables, name) for name in policies}
    out["imagined_steps"] = sum(table["imagined_steps"] for table in tables)
    out["seconds"] = {name: sum(table["seconds"][name] for table in tables) for name in tables[0]["seconds"]}
    return out | {"by_training_seed": list(tables)}


def curve(task_folder: Path, policy: str) -> list[tuple[int, float, float]]:
    """Points (iteration, imagined success, real success) of a fine-tuned policy, the base policy as iteration 0."""
    judged = {}
    for line in (task_folder / policy / "metrics.jsonl").read_text().splitlines():
        metrics = json.loads(line)
        if "judged_success_classifier" in metrics:
            judged[metrics["step"]] = metrics["judged_success_classifier"]
    points = []
    for step, imagined in sorted(judged.items()):
        name = "base" if step == 0 else policy if step == max(judged) else f"{policy}_{step:04d}"
        evaluation = task_folder / f"evaluation_{name}" / "evaluation.json"
        if evaluation.exists():
            counts = json.loads(evaluation.read_text())
            points.append((step, imagined, counts["successes"] / counts["episodes"]))
    return points


def draw(folders: Sequence[Path], tasks: Sequence[str]) -> None:
    """Plot imagined (dashed) and real (solid) success over iterations, a panel a task, a colour a BC weight."""
    figure, axes = plt.subplots(2, (len(tasks) + 1) // 2, figsize=(12, 5.5), sharey=True, squeeze=False)
    colours: dict[float, str] = {}
    for axis, task in zip(axes.flat, tasks, strict=False):
        for folder in folders:
            for policy in policies_of(folder / task):
                weight = yaml.safe_load((folder / task / policy / "config.yaml").read_text())["ppo"]["bc_weight"]
                colour = colours.setdefault(weight, f"C{len(colours)}")
                steps, imagined, real = zip(*curve(folder / task, policy), strict=True)
                axis.plot(steps, real, "o-", color=colour, markersize=3, label=f"real, BC {weight}")
                axis.plot(steps, imagined, "--", color=colour, label=f"imagined, BC {weight}")
        axis.set_title(task.replace("_", " "), fontsize=10)
        axis.set_ylim(0, 1.02)
    handles = {label: handle for a in axes.flat for handle, label in zip(*a.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=6, fontsize=8, frameon=False)
    figure.supxlabel("iterations of fine-tuning", y=0.06, fontsize=9)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT)


def cell(counts: dict[str, Any]) -> str:
    """``61 % [51, 70]``."""
    low, high = counts["interval95"]
    return f"{100 * counts['successes'] / counts['episodes']:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def page(results: dict[str, Any], seeds: int) -> str:
    """Return docs/results.md."""
    names = sorted({name for table in results["tasks"].values() for name in table if name.startswith("bc_")})
    episodes = next(iter(results["tasks"].values()))["base"]["episodes"]
    steps = results["env_steps_during_finetune"]
    rows = []
    for task, table in results["tasks"].items():
        each = "; ".join(f"p = {one['finetuned']['mcnemar_p']:.1e}" for one in table["by_training_seed"])
        others = " | ".join(cell(table[name]) if name in table else "" for name in names)
        rows.append(
            f"| {task} | {cell(table['base'])} | {cell(table['finetuned'])} | {each} |{f' {others} |' if names else ''}"
        )
    head = "".join(f" {name} |" for name in names)
    return "\n".join(
        [
            "# Results",
            "",
            f"Made by `make results`. Success over {episodes} seeded episodes of {seeds} training seed(s), with 95 %",
            "Wilson intervals; base and fine-tuned policy meet the same starts, so McNemar's paired test stands beside",
            f"them, one for each training seed. Environment steps during fine-tuning: {steps}.",
            "",
            f"| task | base | fine-tuned | McNemar |{head}",
            "|---|---|---|---|" + "---|" * len(names),
            *rows,
            "",
            f"![Imagined against real success]({PLOT.relative_to(DOCS)})",
            "",
        ]
    )


def main(folders: Sequence[Path]) -> None:
    """Read the runs, write the page."""
    tasks = sorted({path.parent.name for path in folders[0].glob("*/evaluation_base")})
    tables = [{task: sum_up(f, [task], policies_of(f / task)) for task in tasks} for f in folders]
    results = {
        "env_steps_during_finetune": sum(t["env_steps_during_finetune"] for run in tables for t in run.values()),
        "tasks": {task: pooled_task([run[task]["tasks"][task] for run in tables]) for task in tasks},
    }
    for name, text in (
        ("results.json", json.dumps(results, indent=1) + "\n"),
        ("results.md", page(results, len(folders))),
    ):
        with written_whole(DOCS / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    draw(folders, tasks)


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
