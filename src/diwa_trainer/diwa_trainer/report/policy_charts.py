"""What the policy node's runs look like over time, and how long their answers took."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median, quantiles

from diwa_runtime.logs.divergence import DivergenceSum
from diwa_runtime.robot import Outcome
from diwa_trainer.report.charts import Role, Series, histogram, line_chart
from diwa_trainer.report.html import Html, details, element, grid, join, lines, table
from diwa_trainer.report.run_logs import Run, Step
from diwa_trainer.report.scales import Axis

SECONDS = Axis("s", low=0)
_AXES: tuple[tuple[str, Role], ...] = (("x", "new"), ("y", "other"), ("z", "base"))
EMPTY = Html("")


def label(run: Run) -> str:
    """Name what was asked, and the modes that make it another thing."""
    modes = [name for name, is_on in (("shadow", run.shadow), ("overlapped", run.overlapped)) if is_on]
    return ", then ".join(run.skills) + (f" ({', '.join(modes)})" if modes else "")


def when(run: Run) -> str:
    """Say when a run began, UTC."""
    return f"{run.started:%Y-%m-%d %H:%M:%S}"


def timing(runs: Sequence[Run]) -> Html:
    """How old the observations were when they were answered, and what of that inference took."""
    steps = [step for run in runs for step in run.steps]
    limits = {run.hold_after_s for run in runs}
    held = ("too late to be sent", 1000 * limits.pop()) if len(limits) == 1 else None
    charts = grid(
        [
            _times("From observation to decision", [step.observation_age_s for step in steps], held),
            _times("Inference", [step.inference_s for step in steps]),
        ]
    )
    explanation = (
        "From the receipt of the robot's state to the decision that answers it, and what of that filter, policy and "
        "reward took."
    )
    return join([element("p", explanation), charts])


def newest(runs: Sequence[Run]) -> Html:
    """Charts of each skill's newest run that decided anything."""
    chosen = _newest(runs)
    if not chosen:
        return element("p", "No run decided anything.")
    return join(part for run in chosen for part in (element("h3", _heading(run)), _over_time(run)))


def faults(runs: Sequence[Run]) -> Html:
    """Charts of the runs that ended in a fault or blocked, the newest first; empty if there is none."""
    shown = _newest(runs)
    failed = [run for run in reversed(runs) if run.outcome in (Outcome.FAULT, Outcome.BLOCKED)]
    return join(
        element("p", f"{_heading(run)}; charts above") if run in shown else details(_heading(run), _over_time(run))
        for run in failed
    )


def shadow(runs: Sequence[Run]) -> Html:
    """How far the policy was from the operator, beside a policy that stands still; empty without shadow runs."""
    compared = [run for run in reversed(runs) if any(step.apart_m is not None for step in run.steps)]
    if not compared:
        return EMPTY
    header = (
        *("started (UTC)", "skill", lines("steps", "compared"), lines("translation", "apart, mm")),
        *(lines("standing", "still, mm"), lines("rotation", "apart, rad"), lines("standing", "still, rad")),
        lines("gripper", "agrees"),
    )
    rows = [_divergence_row(run, run.end.divergence) for run in compared if run.end is not None and run.end.divergence]
    note = (
        "Distance between what the policy would have done and what the operator did, a control tick; standing still is "
        "the mean length of the operator's own motion: the distance of a policy that does nothing."
    )
    first, *others = compared
    return join(
        [
            table(header, rows, texts=2) if rows else EMPTY,
            element("p", note, css="note"),
            element("h3", _heading(first)),
            _divergence(first),
            *(details(_heading(run), _divergence(run)) for run in others),
        ]
    )


def _times(title: str, seconds: Sequence[float], limit: tuple[str, float] | None = None) -> str:
    values = [1000 * value for value in seconds]
    note = ""
    if len(values) > 1:
        high = quantiles(values, n=100, method="inclusive")[-1]
        note = f"median {median(values):.1f} ms, 99 % within {high:.1f} ms, largest {max(values):.1f} ms"
    return histogram(title, values, Axis("ms", log=True), "decisions", note, limit)


def _newest(runs: Sequence[Run]) -> list[Run]:
    by_skill = {skill: run for run in runs if run.steps for skill in run.skills}
    return [run for run in reversed(runs) if any(run is one for one in by_skill.values())]


def _heading(run: Run) -> str:
    outcome = "without an end" if run.outcome is None else run.outcome.name.lower()
    return f"{label(run)}, {when(run)}, seed {run.seed}: {outcome}"


def _over_time(run: Run) -> Html:
    reason = element("p", run.reason)
    if not run.steps:
        return join([reason, element("p", "No step was decided.", css="soft")])
    begins = [time for time, step in zip(run.times_s, run.steps, strict=True) if step.begins_chunk]
    full = Axis("of full scale", low=-1.1, high=1.1)

    def chart(title: str, series: Sequence[Series], y: Axis, note: str = "") -> str:
        return line_chart(title, series, SECONDS, y, note, marks=begins)

    return join(
        [
            reason,
            grid(
                [
                    chart("Success, by the bundle's reward", _success(run), Axis("", low=0, high=1, percent=True)),
                    chart("Translation", list(_components(run, 0)), full),
                    chart("Rotation", list(_components(run, 3)), full),
                    chart("Gripper", [_series(run, "gripper", [s.action[6] for s in run.steps])], full, "1 opens"),
                    chart("TCP position", list(_positions(run)), Axis("m")),
                    chart(
                        "Change of the latent",
                        [_series(run, "change", [step.latent_change for step in run.steps])],
                        Axis("Euclidean norm", low=0),
                    ),
                ]
            ),
            element(
                "p",
                "Strokes on the time axis: a chunk of actions begins. The observation that ends a run leads to no "
                "decision and is not in its log.",
                css="note",
            ),
        ]
    )


def _success(run: Run) -> list[Series]:
    thresholds = [run.thresholds[step.skill] for step in run.steps]
    return [
        _series(run, "probability", [step.probability for step in run.steps]),
        Series("threshold", run.times_s, thresholds, "truth", dashed=True),
    ]


def _components(run: Run, first: int) -> Iterator[Series]:
    for index, (name, role) in enumerate(_AXES, first):
        yield _series(run, name, [step.action[index] for step in run.steps], role)


def _positions(run: Run) -> Iterator[Series]:
    for index, (name, role) in enumerate(_AXES):
        yield _series(run, name, [step.position[index] for step in run.steps], role)


def _series(run: Run, name: str, values: Sequence[float | None], role: Role = "new") -> Series:
    return Series(name, run.times_s, values, role)


def _divergence_row(run: Run, means: DivergenceSum) -> tuple[str, ...]:
    return (
        when(run),
        label(run),
        f"{means.ticks:,}",
        f"{1000 * means.translation_m:.2f}",
        f"{1000 * means.still_m:.2f}",
        f"{means.rotation_rad:.4f}",
        f"{means.still_rad:.4f}",
        f"{100 * means.gripper_agreement:.0f} %",
    )


def _divergence(run: Run) -> Html:
    means = run.end.divergence if run.end else None

    def chart(title: str, unit: str, values: Sequence[float | None], still: float | None) -> str:
        baseline = (
            []
            if still is None
            else [Series("standing still, mean", run.times_s, [still] * len(values), "base", dashed=True)]
        )
        return line_chart(title, [_series(run, "policy", values), *baseline], SECONDS, Axis(unit, low=0))

    return grid(
        [
            chart("Translation apart", "mm", _scaled(run.steps), 1000 * means.still_m if means else None),
            chart("Rotation apart", "rad", [step.apart_rad for step in run.steps], means.still_rad if means else None),
        ]
    )


def _scaled(steps: Sequence[Step]) -> list[float | None]:
    return [None if step.apart_m is None else 1000 * step.apart_m for step in steps]
