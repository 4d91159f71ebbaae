"""The page about the policy node's runs: how they ended, run by run, and what their bundles were."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median

from diwa_runtime.logs.seams import Seams
from diwa_runtime.robot import Outcome
from diwa_trainer.evaluation.statistics import wilson_interval
from diwa_trainer.report import policy_charts
from diwa_trainer.report.html import Html, details, element, join, lines, table, text
from diwa_trainer.report.page import frame
from diwa_trainer.report.run_logs import DROPPED, NO_END, Run

NOTHING = "–"


def render(runs: Sequence[Run]) -> str:
    """Return the page as one HTML document that needs nothing from outside; `runs` are sorted, the oldest first."""
    sections = [
        ("success", "Success", success(runs)),
        ("timing", "Timing", policy_charts.timing(runs)),
        ("newest", "The newest run of each skill", policy_charts.newest(runs)),
        ("faults", "Runs that ended in a fault, or blocked", policy_charts.faults(runs)),
        ("shadow", "Shadow mode: policy beside operator", policy_charts.shadow(runs)),
        ("runs", "All runs", all_runs(runs)),
        ("bundles", "Bundles and settings", bundles(runs)),
    ]
    return frame(title(runs), lead(runs), [one for one in sections if one[2]])


def title(runs: Sequence[Run]) -> str:
    """Say in one line what was found."""
    skills = sorted({skill for run in runs for skill in run.skills})
    of = skills[0] if len(skills) == 1 else f"{len(skills)} skills"
    ended = ", ".join(f"{count} {_said(outcome)}" for outcome, count in _outcomes(runs).items())
    return f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} of {of}: {ended}"


def lead(runs: Sequence[Run]) -> Html:
    """The few figures that sum the runs up."""
    steps = [step for run in runs for step in run.steps]
    dropped = {name: sum(run.end.dropped[name] for run in runs if run.end) for name in DROPPED}
    late = sum(run.late for run in runs)
    tiles = [
        (f"{sum(run.robot_s for run in runs):,.0f} s", f"robot time, {sum(run.ticks for run in runs):,} steps"),
        (f"{late:,}", f"late answers of {len(steps):,}"),
        (" / ".join(f"{count:,}" for count in dropped.values()), f"rows {', '.join(dropped)}"),
    ]
    if steps:
        inference = [step.inference_s for step in steps]
        tiles += [
            (f"{_ms(median(inference))} ms", f"inference, median; largest {_ms(max(inference))} ms"),
            (f"{_ms(max(step.observation_age_s for step in steps))} ms", "oldest observation when its answer came"),
        ]
    return element("ul", *(element("li", element("strong", value), label) for value, label in tiles), css="tiles")


def success(runs: Sequence[Run]) -> Html:
    """How the runs of each skill and bundle ended, with the interval of their success."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if not run.shadow:
            groups.setdefault((policy_charts.label(run), _short_bundles(run)), []).append(run)
    if not groups:
        return element("p", "Shadow runs only: the operator acted, so there is no success of the policy to count.")
    outcomes = list(_outcomes([run for group in groups.values() for run in group]))
    rows = [_success_row(*key, group, outcomes) for key, group in sorted(groups.items())]
    ended = [_said(outcome) for outcome in outcomes]
    note = (
        "Success is what the bundle's own reward says. Every run counts, a refused, cancelled or cut one too, and each "
        "bundle for itself; a goal of several skills is one row. Intervals are Wilson's."
    )
    if any(run.shadow for run in runs):
        note += " Shadow runs are left out: there the operator acts."
    shares = (lines("share of", "success"), lines("95 %", "interval"), lines("median time", "to success"))
    header = ("skill", "bundle", "runs", *ended, *shares)
    return join([table(header, rows, texts=2), element("p", note, css="note")])


def all_runs(runs: Sequence[Run]) -> Html:
    """A row for each run, the newest first; logs without an end are named before."""
    cut = [element("p", f"{run.name}: {NO_END}", css="warning") for run in runs if run.end is None]
    if cut:
        cut.append(
            element("p", "A run that still goes on and a disk that ran full look the same; what is there counts.")
        )
    rows = lines(*(f"{name} /" for name in DROPPED[:-1]), f"{DROPPED[-1]} rows")
    header = (
        *("started (UTC)", "skill", "outcome", "seed", "steps", "robot s", "late", rows),
        *(lines("inference ms", "median / largest"), lines("oldest", "obs., ms")),
        *("seams", lines("velocity, m/s", "seams / within"), lines("jerk, m/s³", "seams / within"), "reason"),
    )
    note = (
        "Late: answers that came when their observation was too old, and were not sent. Oldest: the largest age of an "
        "observation when its answer came. Velocity: the largest change from tick to tick, jerk: the largest third "
        "difference of the commanded TCP; at seams, where a new chunk begins, beside the ticks within chunks."
    )
    return join(
        [*cut, table(header, [_run_row(run) for run in reversed(runs)], texts=3), element("p", note, css="note")]
    )


def bundles(runs: Sequence[Run]) -> Html:
    """Which bundles ran, and the settings that the runs were made with."""
    used = Counter((skill, run.bundles[skill], run.thresholds[skill]) for run in runs for skill in set(run.skills))
    rows = [
        (skill, element("code", sha256), f"{threshold:g}", f"{count:,}")
        for (skill, sha256, threshold), count in sorted(used.items())
    ]
    settings = Counter(json.dumps(run.limits, indent=2, sort_keys=True) for run in runs)
    return join(
        [
            table(("skill", "bundle (SHA-256)", "success above", "runs"), rows, texts=2),
            *(
                details(f"Limits of {count:,} {'run' if count == 1 else 'runs'}", element("pre", limits))
                for limits, count in settings.most_common()
            ),
        ]
    )


def _outcomes(runs: Sequence[Run]) -> Mapping[Outcome | None, int]:
    """Count the outcomes that occur, in their own order, runs without an end last."""
    counts = Counter(run.outcome for run in runs)
    return {outcome: counts[outcome] for outcome in (*Outcome, None) if counts[outcome]}


def _said(outcome: Outcome | None) -> str:
    return "without an end" if outcome is None else outcome.name.lower()


def _short_bundles(run: Run) -> str:
    return ", ".join(run.bundles[skill][:8] for skill in run.skills)


def _success_row(name: str, bundle: str, runs: Sequence[Run], outcomes: Sequence[Outcome | None]) -> tuple[str, ...]:
    counts = _outcomes(runs)
    won = counts.get(Outcome.SUCCESS, 0)
    low, high = wilson_interval(won, len(runs))
    times = [run.robot_s for run in runs if run.outcome is Outcome.SUCCESS]
    return (
        name,
        element("code", bundle),
        f"{len(runs):,}",
        *(f"{counts.get(outcome, 0):,}" for outcome in outcomes),
        f"{100 * won / len(runs):.0f} % ({won}/{len(runs)})",
        f"{100 * low:.0f} to {100 * high:.0f} %",
        f"{median(times):.2f} s" if times else NOTHING,
    )


def _run_row(run: Run) -> tuple[str, ...]:
    inference = [step.inference_s for step in run.steps]
    oldest = max((step.observation_age_s for step in run.steps), default=None)
    return (
        policy_charts.when(run),
        policy_charts.label(run),
        _outcome(run),
        str(run.seed),
        f"{run.ticks:,}",
        f"{run.robot_s:.2f}",
        f"{run.late:,}",
        " / ".join(f"{run.end.dropped[name]:,}" for name in DROPPED) if run.end else NOTHING,
        f"{_ms(median(inference))} / {_ms(max(inference))}" if inference else NOTHING,
        NOTHING if oldest is None else _ms(oldest),
        *(_seams(run.end.seams) if run.end and run.steps else (NOTHING, NOTHING, NOTHING)),
        element("span", run.reason, css="reason"),
    )


def _outcome(run: Run) -> Html:
    css = {Outcome.SUCCESS: "gain", Outcome.FAULT: "loss", None: "loss"}.get(run.outcome, "")
    return element("span", _said(run.outcome), css=css) if css else text(_said(run.outcome))


def _seams(seams: Seams) -> tuple[str, str, str]:
    def beside(at_seams: str, within: str) -> str:
        return f"{at_seams if seams.count else NOTHING} / {within}"

    at_seams, within = seams.at_seams, seams.within
    return (
        f"{seams.count:,}",
        beside(f"{at_seams.velocity_m_s:.2f}", f"{within.velocity_m_s:.2f}"),
        beside(f"{at_seams.jerk_m_s3:,.0f}", f"{within.jerk_m_s3:,.0f}"),
    )


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"
