"""What eyes see of pictures that they never learned from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diwa_trainer.report.charts import Series, density, line_chart
from diwa_trainer.report.gather import RunFolder, Runs
from diwa_trainer.report.html import Html, details, element, grid, image, join, missing, table
from diwa_trainer.report.model_sections import unit_of
from diwa_trainer.report.scales import Axis, number
from diwa_trainer.runs.result_files import worst_picture

TRAIN_EYES = "train_eyes"


def eyes(runs: Runs) -> Html:
    """What the eyes see of pictures that they never learned from; nothing where a robot has no cameras."""
    run = runs.eyes
    if not run.path.is_dir():
        return Html("")
    curve = (
        line_chart("Loss", [Series("training", *run.curve("loss"), "new")], Axis("updates"), Axis("", log=True))
        if run.metrics
        else missing("eyes/metrics.jsonl", TRAIN_EYES)
    )
    report = run.json("eyes.json")
    if report is None:
        return join([grid([curve]), missing("eyes/eyes.json", TRAIN_EYES)])
    seen = _estimated(report, curve) if report["features"] else _coded(report, curve)
    return join([seen, _redrawn(report), _worst(run, report)])


def _estimated(report: Mapping[str, Any], curve: str) -> Html:
    """Estimates of the scene beside what was recorded."""

    def row(feature: Mapping[str, Any]) -> tuple[str, ...]:
        unit, factor = unit_of(feature["name"])
        shown = [_short(feature[of] * factor) for of in ("held_out", "folds", "learned")]
        return (f"{feature['name']} ({unit})" if unit else feature["name"], *shown)

    header = ("", "held out", "for later verbs", "learned from")
    watched = {*(report.get("estimates") or {}), *(report.get("lights") or {})}
    first = [one for one in report["features"] if one["name"] in watched]
    note = (
        "Mean absolute error of one picture's estimate. The later verbs learn from estimates that may come from other "
        "networks than the one that is kept (folds). What has no unit here is in the scene's own."
    )
    charts = [_estimate(name, found) for name, found in (report.get("estimates") or {}).items()]
    return join(
        [
            grid([*charts, curve]),
            _lights(report.get("lights") or {}),
            table(header, [row(one) for one in first], "Estimates of the scene"),
            element("p", note, css="note"),
            details(f"All {len(report['features'])} features", table(header, [row(one) for one in report["features"]])),
        ]
    )


def _estimate(name: str, found: Mapping[str, Any]) -> str:
    unit, factor = unit_of(name)
    low, high = found["low"] * factor, found["high"] * factor
    axes = (Axis(f"recorded, {unit}" if unit else "recorded"), Axis(f"estimate, {unit}" if unit else "estimate"))
    note = "Held-out recordings; the darker, the more frames."
    return density(name, found["counts"], low, high, *axes, note)


def _lights(lights: Mapping[str, Mapping[str, int]]) -> Html:
    if not lights:
        return Html("")
    rows = [
        (name, f"{one['on_seen_off']:,} of {one['on']:,}", f"{one['off_seen_on']:,} of {one['off']:,}")
        for name, one in lights.items()
    ]
    return table(("light", "on, seen as off", "off, seen as on"), rows, "Lights in held-out recordings, frames")


def _coded(report: Mapping[str, Any], curve: str) -> Html:
    """What is known of a code that was learned without a scene."""
    said = (
        "A code learned without a scene. How well the scene's values can be read from it is not known: the "
        "recordings hold none to compare it with. Known is how well pictures are redrawn from it"
    )
    marks = report.get("marks") or {}
    if not marks:
        return join([element("p", said + "."), grid([curve])])
    rows = [(name, f"{one['rows']:,}", f"{100 * one['right'] / one['rows']:.1f} %") for name, one in marks.items()]
    header = ("", "frames of which marks tell", "read as marks tell")
    return join(
        [
            element("p", f"{said}, and how often a line through it says what marks tell, which are sometimes wrong."),
            grid([curve]),
            table(header, rows, "What marks tell of held-out recordings"),
        ]
    )


def _redrawn(report: Mapping[str, Any]) -> Html:
    """How well each camera's pictures come back from what is seen of them."""
    redrawn = report.get("redrawn")
    if not redrawn:
        errors = report["error"]
        return (
            Html("")
            if report["features"]
            else table(
                ("", "held out", "learned from"),
                [("loss", _short(errors["held_out"]), _short(errors["learned"]))],
                "Error of redrawn pictures",
            )
        )
    rows = [(camera, _short(one["held_out"]), _short(one["learned"])) for camera, one in redrawn.items()]
    learned = (
        "It is for the reader alone, the eyes learn nothing from it."
        if report["features"]
        else "A code is learned by the first camera's alone; the others are redrawn for the reader."
    )
    note = (
        "Mean squared error in units of each pixel's spread over the recordings: 1 is as good as the mean picture. "
        f"Redrawn from what is seen and the arm's pose. {learned}"
    )
    return join(
        [
            table(("camera", "held out", "learned from"), rows, "Error of redrawn pictures"),
            element("p", note, css="note"),
        ]
    )


def _worst(run: RunFolder, report: Mapping[str, Any]) -> Html:
    """Pictures of held-out frames that are seen worst, with what was recorded beside."""
    figures = [
        element(
            "figure",
            image(picture, f"{one['recording']}, step {one['step']}", "image/png"),
            _values(one),
        )
        for number_, one in enumerate(report.get("worst") or ())
        if (picture := run.film(worst_picture(number_))) is not None
    ]
    if not figures:
        return Html("")
    by = "the estimate is furthest off" if report["features"] else "the first camera's picture is redrawn worst"
    said = (
        f"Of each held-out episode the frame of which {by}, the worst first: each camera's picture and, right of it, "
        "what is redrawn from what the eyes see."
    )
    return join([element("h3", "Seen worst"), element("p", said), grid(figures)])


def _values(one: Mapping[str, Any]) -> Html:
    """Where a frame is from, and what was recorded and seen of it."""
    where = element("p", f"{one['recording']}, step {one['step']}", css="note")
    if not one["values"]:
        return where
    rows = []
    for name, pair in one["values"].items():
        unit, factor = unit_of(name)
        values = (number(round(factor * pair[which], 1 if unit else 3)) for which in ("truth", "seen"))
        rows.append((f"{name} ({unit})" if unit else name, *values))
    return join([where, table(("", "recorded", "seen"), rows)])


def _short(value: float) -> str:
    return number(float(f"{value:.2g}"))
