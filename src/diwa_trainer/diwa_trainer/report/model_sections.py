"""What was recorded, and how well the world model knows it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from diwa_trainer.report.charts import Role, Series, line_chart
from diwa_trainer.report.gather import RunFolder, Runs
from diwa_trainer.report.html import Html, details, element, grid, join, missing, table, video
from diwa_trainer.report.scales import Axis, number, percent
from diwa_trainer.runs.result_files import OPEN_LOOP_FILM
from diwa_trainer.world.features import CLAMP
from diwa_trainer.world.usable import CLEARLY, LASTING, LEAST_WINDOWS

TRAIN = "train_world_model"
GOES_THROUGH = 0.25
"""Share of held chunks that go through from which on a world model is said to need more updates (docs/report.md)."""
_LENGTHS = r"tcp|.*_[xyz]"
"""Names of what is known to be a length: the hand's position, and coordinates. Of all else the Spec states no unit."""
_AXES = "xyz"
_SAID_OF_CURVES = (
    "Errors in windows in which the quantity moved; shaded: the steps that are usable. Of a quantity that moved in "
    f"fewer than {LEAST_WINDOWS} windows nothing is said."
)


def data(runs: Runs) -> Html:
    """Episodes, steps, what was dropped, and every feature's statistics."""
    found = runs.world_model.json("data.json")
    if found is None:
        return missing("world_model/data.json", TRAIN)
    rows = [
        (one["kind"], one["task"] or "–", one["outcome"] or "–", f"{one['episodes']:,}", f"{one['rows']:,}")
        for one in found["episodes"]
    ]
    total = sum(one["episodes"] for one in found["episodes"])
    rows.append(("all", "", "", f"{total:,}", f"{found['rows']:,}"))
    return join(
        [
            table(("kind", "task", "outcome", "episodes", "steps"), rows, texts=3),
            _dropped(found["dropped"]),
            _features(found["features"]),
        ]
    )


def world_model(runs: Runs) -> Html:
    """Training curves, then prediction beside the truth."""
    run = runs.world_model
    curves = _training_curves(run) if run.metrics else missing("world_model/metrics.jsonl", TRAIN)
    report = run.json("open_loop.json")
    open_loop = _open_loop(report) if report is not None else missing("world_model/open_loop.json", TRAIN)
    return join(
        [
            _usable(report or {}),
            curves,
            element("h3", "Open loop: actions alone, no observation"),
            _expected(run),
            open_loop,
        ]
    )


def _usable(report: Mapping[str, Any]) -> Html:
    """For how many imagined steps the model still knows something, as one number with its criterion."""
    usable = report.get("usable")
    if not usable:
        return Html("")
    features = report["features"]
    measured = max((len(feature["curve"]["model"]) for feature in features.values()), default=0)
    limit = usable["limited_by"]
    whole = f"steps of usable horizon ({usable['seconds']:.1f} s){'' if limit is None else f', limited by {limit}'}"
    tiles = [
        (f"{'≥ ' if limit is None else ''}{usable['steps']}", whole),
        *((_steps(feature), name) for name, feature in features.items()),
    ]
    said = (
        f"Usable are the imagined steps, of {measured}, until the model is no longer clearly better than all "
        "baselines, which repeat the last frame, go on at its speed, or always say the mean: its error, in held-out "
        f"windows in which the quantity moved, is at most {100 * CLEARLY:.0f} % of theirs. It takes {LASTING} steps on "
        "end to begin and to end; each is averaged with its neighbours. The first number is the smallest of all."
    )
    return join(
        [
            element("ul", *(element("li", element("strong", value), label) for value, label in tiles), css="tiles"),
            element("p", said, css="note"),
        ]
    )


def _expected(run: RunFolder) -> Html:
    """What the model expects to see beside what was seen, where eyes can redraw it."""
    film = run.film(OPEN_LOOP_FILM)
    if film is None:
        return Html("")
    said = (
        "Four windows of held-out recordings; above the first camera, below it the others. Left of each pair what was "
        "recorded, right what the model expects from two frames and 80 actions, redrawn from what it imagines."
    )
    return join([video(film, "predicted beside seen"), element("p", said, css="note")])


def _dropped(dropped: Sequence[Mapping[str, Any]]) -> Html:
    if not dropped:
        return element("p", "Nothing of the recordings was dropped.")
    rows = [(one["bag"], one["reason"], f"{one['count']:,}") for one in dropped]
    return table(("bag", "dropped because", "count"), rows, "Dropped", texts=2)


def _features(features: Sequence[Mapping[str, Any]]) -> Html:
    def row(feature: Mapping[str, Any]) -> tuple[str, ...]:
        largest = feature["largest_standardised"]
        shown = element("span", f"{largest:.1f}", css="loss") if largest > CLAMP else f"{largest:.1f}"
        return feature["name"], number(feature["mean"]), number(feature["std"]), shown

    header = ("feature", "mean", "standard deviation", "largest |standardised|")
    worst = sorted(features, key=lambda feature: -feature["largest_standardised"])[:6]
    note = f"Marked values lie more than {CLAMP:.0f} deviations out; the network sees them as {CLAMP:.0f}."
    return join(
        [
            table(header, [row(feature) for feature in worst], "The features with the largest inputs"),
            element("p", note, css="note"),
            details(f"All {len(features)} features", table(header, [row(feature) for feature in features])),
        ]
    )


def _training_curves(run: RunFolder) -> Html:
    def pair(name: str) -> list[Series]:
        return [
            Series("training", *run.curve(name), "faint"),
            Series("held out", *run.curve(f"held_out_{name}"), "new"),
        ]

    updates, loss = Axis("updates"), Axis("", log=True)
    norm = Series("training", *run.curve("gradient_norm"), "faint")
    # Of a world model that codes pictures itself.
    pictures = [line_chart("Error of a picture's number", pair("pictures"), updates, loss)]
    charts = grid(
        [
            line_chart("Loss", pair("loss"), updates, loss),
            line_chart("Reconstruction", pair("reconstruction"), updates, loss),
            line_chart("Reconstruction of the first frame", pair("reconstruction_first"), updates, loss),
            line_chart("KL of posterior and prior", pair("kl"), updates, Axis("nats", low=0)),
            line_chart(
                "Error of ten imagined steps",
                [Series("held out", *run.curve("held_out_open_loop"), "new")],
                updates,
                loss,
            ),
            line_chart("Norm of the gradient", [norm], updates, loss),
            *(pictures if run.curve("pictures")[0] else []),
        ]
    )
    note = (
        "The first frame stands apart because the filter has no history there, and every imagined and every real "
        "episode starts from it."
    )
    return join([charts, element("p", note, css="note")])


def _open_loop(report: Mapping[str, Any]) -> Html:
    features = report["features"]
    context = report["context"]
    parts = [
        element(
            "p",
            f"{report['windows']} windows of held-out play: the model sees {context} frames, then only actions. "
            "The constant baseline repeats the last frame, the linear one goes on at its speed. Where little "
            "moves a constant is hard to beat, so windows in which the quantity moved stand apart: the hand by 2 cm, "
            "what tasks watch by half of what they ask for. What has no unit here is in the scene's own.",
        ),
        _error_table(report, "all", "Mean error, all windows"),
        _error_table(report, "moved", "Mean error, windows in which it moved or flipped"),
        _flip_table(report.get("flips") or {}),
        _contacts(report.get("contacts")),
        element("p", _SAID_OF_CURVES, css="note"),
        grid(_error_curve(name, feature) for name, feature in features.items()),
        element("h3", "Prediction beside the truth"),
        element(
            "p", f"The windows in which each quantity moved most; shaded: the {context} frames that the model sees."
        ),
        grid(
            _example(name, example, context)
            for name, examples in report["examples"].items()
            for example in (examples[0], *examples[1:][-1:])
        ),
    ]
    return join(parts)


def unit_of(name: str) -> tuple[str, float]:
    """Return the unit that a quantity is shown in, if it is known, and how many of it make one of the file's."""
    return ("cm", 100.0) if re.fullmatch(_LENGTHS, name) else ("", 1.0)


def _error_table(report: Mapping[str, Any], which: str, caption: str) -> Html:
    horizons = report["horizons"]
    rows = []
    for name, feature in report["features"].items():
        unit, factor = unit_of(name)
        errors = feature[which]

        def cell(who: str, index: int, errors: Any = errors, factor: float = factor) -> str:
            return "–" if errors[who] is None else number(float(f"{errors[who][index] * factor:.2g}"))

        windows = report["windows"] if which == "all" else feature["moved_windows"]
        first = [number(float(f"{feature[key] * factor:.2g}")) for key in ("posterior_first", "posterior_last")]
        rows.append(
            (
                f"{name} ({unit})" if unit else name,
                f"{windows}",
                *(first if which == "all" else (_steps(feature),)),
                *(cell("model", i) for i in range(len(horizons))),
                cell("constant", -1),
                cell("linear", -1),
            )
        )
    header = (
        "",
        "windows",
        *(("first frame", f"frame {report['context']}") if which == "all" else ("usable steps",)),
        *(f"{horizon} {'step' if horizon == 1 else 'steps'}" for horizon in horizons),
        f"constant, {horizons[-1]}",
        f"linear, {horizons[-1]}",
    )
    return table(header, rows, caption)


def _steps(feature: Mapping[str, Any]) -> str:
    usable = feature.get("usable")
    if usable is None:
        return "–"
    return f"≥ {usable}" if usable == len(feature["curve"]["model"]) else f"{usable}"


def _flip_table(flips: Mapping[str, Mapping[str, int]]) -> Html:
    if not flips:
        return Html("")
    rows = [
        (name, f"{one['foreseen']} of {one['flipped']}", f"{one['false']} of {one['unflipped']}")
        for name, one in flips.items()
    ]
    return table(("light", "flips foreseen", "false flips"), rows, "Lights")


def _contacts(contacts: Mapping[str, Any] | None) -> Html:
    """How often a held hand is imagined to go through what holds it, and a free one to be held."""
    if not contacts:
        return Html("")
    through, stuck = (contacts[name] for name in ("through", "stuck"))
    row = (f"{contacts['held']}", percent(through), f"{contacts['free']}", percent(stuck))
    said = (
        "Chunks of four steps, in which the recorded hand was held (it moved less than a quarter of what its actions "
        "asked for, as it pressed on something) or free (more than three quarters). Gone through: imagined to move "
        "more than half; falsely held: less. A policy that is fine-tuned where hands go through things learns to press "
        "on them."
    )
    advice = "Many held hands go through: train the world model longer (more updates)."
    needed = through is not None and through >= GOES_THROUGH and contacts["held"] >= LEAST_WINDOWS
    return join(
        [
            table(
                ("held chunks", "gone through", "free chunks", "falsely held"), [row], "Contacts of the hand", texts=0
            ),
            element("p", said, css="note"),
            element("p", advice) if needed else Html(""),
        ]
    )


def _error_curve(name: str, feature: Mapping[str, Any]) -> str:
    unit, factor = unit_of(name)
    roles: tuple[tuple[str, Role], ...] = (
        ("model", "new"),
        ("constant", "base"),
        ("linear", "other"),
        ("mean", "faint"),
    )
    series, curves = [], feature.get("moved_curve") or feature["curve"]
    for who, role in roles[: len(curves)]:
        curve = [error * factor for error in curves[who]]
        series.append(Series(who, range(1, len(curve) + 1), curve, role, dashed=who != "model"))
    # A linear guess may run off the table: the others decide what is shown.
    highest = max(max(one.y) for one in series[:2])  # type: ignore[type-var]
    axis = Axis(unit, low=0, high=1.25 * float(highest or 0) or None)
    return line_chart(
        f"{name}: error over the horizon", series, Axis("steps ahead"), axis, shaded_to=feature.get("usable")
    )


def _example(name: str, example: Mapping[str, Any], context: int) -> str:
    unit, factor = unit_of(name)
    truth, predicted = example["truth"], example["predicted"]
    dimension = max(range(len(truth[0])), key=lambda d: max(row[d] for row in truth) - min(row[d] for row in truth))
    steps = range(len(truth))
    series = [
        Series("truth", steps, [factor * row[dimension] for row in truth], "truth"),
        Series("prediction", steps, [factor * row[dimension] for row in predicted], "new", dashed=True),
    ]
    label = f"{name} {_AXES[dimension]}" if len(truth[0]) > 1 else name
    return line_chart(label, series, Axis("step"), Axis(unit), shaded_to=context - 1)
