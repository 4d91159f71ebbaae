"""The pictures of docs/results.md, the same for the same records."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from diwa_runtime.files import make_folder, written_whole
from results_page.checkpoints import Tuning, tunings
from results_page.records import DEFAULT, FINETUNED, Record, simulators_of

mpl.use("svg")
import matplotlib.pyplot as plt

mpl.rcParams["svg.hashsalt"] = "results"  # else the names inside of a picture are drawn anew

SCATTER, CURVES, COMPUTE = "imagined_against_real.svg", "fine_tuning.svg", "success_against_compute.svg"
_COLUMNS = 4


def draw(records: Sequence[Record], of_compute: Mapping[tuple[str, str], Sequence[Record]], folder: Path) -> None:
    """Draw all pictures into a folder: `of_compute` are records by simulator and task that differ in updates.

    Raises:
        StorageError: the disk refused.
    """
    make_folder(folder)
    draw_scatter(records, folder / SCATTER)
    draw_curves([record for record in records if record.condition == DEFAULT], folder / CURVES)
    if of_compute:
        draw_compute(of_compute, folder / COMPUTE)


def draw_scatter(records: Sequence[Record], path: Path) -> None:
    """Plot real against imagined success: a colour a task, a shape a simulator; other checkpoints are small."""
    figure, axes = plt.subplots(figsize=(8, 6), layout="constrained")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, zorder=0)
    shapes = dict(zip(simulators_of(records), "osD^v", strict=False))
    colours = _colours(records)
    for one in tunings(records):
        colour, shape = colours[one.record.simulator, one.task], shapes.get(one.record.simulator, "x")
        for said, real in one.points:
            is_base = said.iteration == 0
            is_large = is_base or said.iteration == one.policy.kept.iteration
            axes.scatter(
                said.success,
                real.rate,
                s=40 if is_large else 9,
                marker=shape,
                facecolor="none" if is_base else colour,
                edgecolor=colour,
                linewidth=1.2 if is_base else 0.3,
                alpha=1 if is_large else 0.6,
            )
    for (simulator, task), colour in colours.items():
        shape, label = shapes.get(simulator, "x"), _label(simulator, task, shapes)
        axes.scatter([], [], 40, marker=shape, color=colour, label=label)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="imagined success", ylabel="real success")
    axes.set_title("hollow: base policies; full: kept; small: other checkpoints", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, path)


def draw_curves(records: Sequence[Record], path: Path) -> None:
    """Plot imagined (dashed) and real (dots) success over iterations: a panel a task, a colour a seed or a variant."""
    panels = list(_colours(records))
    rows = max(1, -(-len(panels) // _COLUMNS))
    figure, axes = plt.subplots(
        rows, _COLUMNS, figsize=(12, 0.8 + 2.3 * rows), sharey=True, squeeze=False, layout="constrained"
    )
    found = tunings(records)
    colours = _of_curves(found)
    for axis, (simulator, task) in zip(axes.flat, panels, strict=False):
        for one in found:
            if (one.record.simulator, one.task) == (simulator, task):
                _draw_curve(axis, one, _curve_name(one), colours[_curve_name(one)])
        axis.set_title(task.replace("_", " "), fontsize=10)
        axis.set_ylim(0, 1.02)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    handles = {label: handle for a in axes.flat for handle, label in zip(*a.get_legend_handles_labels(), strict=True)}
    figure.suptitle("success over iterations of fine-tuning; ringed: the policy that was kept", fontsize=10)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    _save(figure, path)


def _draw_curve(axis: Any, one: Tuning, name: str, colour: Any) -> None:
    imagined = [(said.iteration, said.success) for said in one.policy.judged]
    axis.plot(*zip(*imagined, strict=True), "--", color=colour, linewidth=1, label=f"imagined, {name}")
    real = {said.iteration: counted.rate for said, counted in one.points}
    form = "o-" if len(real) > 2 else "o"  # a line from the base policy to one other would say how it got there
    axis.plot(*zip(*real.items(), strict=True), form, color=colour, markersize=3, linewidth=0.5, label=f"real, {name}")
    kept = one.policy.kept.iteration
    axis.plot(kept, real[kept], "o", color=colour, markersize=8, fillstyle="none")


def _curve_name(one: Tuning) -> str:
    return f"training seed {one.record.seed}" if one.name == FINETUNED else one.policy.label


def _of_curves(found: Sequence[Tuning]) -> dict[str, Any]:
    """Return a colour for each curve's name: shades of blue for training seeds, others for variants."""
    names = sorted({(one.name != FINETUNED, _curve_name(one)) for one in found})
    seeds, variants = ([name for is_variant, name in names if is_variant == which] for which in (False, True))
    blues = mpl.colormaps["Blues"](np.linspace(0.9, 0.45, len(seeds)))
    others = [f"C{index % 9 + 1}" for index in range(len(variants))]
    return dict(zip([*seeds, *variants], [*map(tuple, blues), *others], strict=True))


def draw_compute(records: Mapping[tuple[str, str], Sequence[Record]], path: Path) -> None:
    """Plot success of base (hollow) and fine-tuned (full) policies over the world model's updates, a colour a task."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    simulators = {simulator for simulator, _ in records}
    for index, ((simulator, task), found) in enumerate(records.items()):
        updates = sorted({record.updates for record in found})
        for which, face, style in (("base", "none", ":"), ("fine-tuned", f"C{index}", "-")):
            rates = [
                np.mean([_rate(record, task, which) for record in found if record.updates == count])
                for count in updates
            ]
            axes.plot(
                updates,
                rates,
                f"o{style}",
                color=f"C{index}",
                markerfacecolor=face,
                label=None if which == "base" else _label(simulator, task, simulators),
            )
    axes.set(ylim=(0, 1.02), xlabel="updates of the world model", ylabel="real success")
    axes.set_xlim(left=0)
    axes.set_title("dotted: base policies; full: fine-tuned", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, path)


def _label(simulator: str, task: str, simulators: Collection[str]) -> str:
    return task.replace("_", " ") + (f" ({simulator})" if len(simulators) > 1 else "")


def _rate(record: Record, task: str, which: str) -> float:
    found = record.tasks[task]
    return found.base.rate if which == "base" else found.tuned.real.rate


def _colours(records: Sequence[Record]) -> dict[tuple[str, str], Any]:
    """Return a colour for each simulator and task, the simulators one after another."""
    places = {(record.simulator, task) for record in records for task in record.tasks}
    ordered = [place for name in simulators_of(records) for place in sorted(places) if place[0] == name]
    palette = [*mpl.colormaps["tab10"](range(10)), *mpl.colormaps["Dark2"](range(8))]
    return {place: tuple(palette[index % len(palette)]) for index, place in enumerate(ordered)}


def _save(figure: Any, path: Path) -> None:
    """Write a picture that is the same for the same figures."""
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
    plt.close(figure)
