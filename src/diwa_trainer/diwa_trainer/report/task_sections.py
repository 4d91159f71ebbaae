"""What was learned for each task: the base policy, the reward, and fine-tuning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from diwa_trainer.report.charts import Role, Series, line_chart
from diwa_trainer.report.gather import BASE, FINETUNED, Evaluation, RunFolder, Runs, TaskRuns
from diwa_trainer.report.html import Html, details, element, grid, join, lines, missing, table
from diwa_trainer.report.result_sections import final_evaluations, iteration_of
from diwa_trainer.report.scales import Axis, percent
from diwa_trainer.report.verdict_section import verdict

HELD_OUT = ("demonstrations", "play")
PAPER, PAPER_MEANS, PAPER_THRESHOLD = "paper's mean (Table S.4)", (0.89, 0.98), 0.5
"""Precision and recall on held-out demonstrations, mean of its eight tasks; it takes the likelier class."""
_JUDGES = {"decoded": "the decoded scene", "classifier": "the classifier"}


def pretraining(runs: Runs) -> Html:
    """Loss curves of the base policies."""
    figures, absent = [], []
    for task in runs.tasks:
        run = task.pretrained
        if not run.metrics:
            absent.append(missing(f"{task.name}/pretrained/metrics.jsonl", "pretrain"))
            continue
        series = [
            Series("training", *run.curve("loss"), "faint"),
            Series("held-out demonstrations", *run.curve("held_out_loss"), "new"),
        ]
        cloned = run.summary.get("demonstrations")
        note = f"{cloned} demonstrations" if cloned is not None else "not finished"
        figures.append(line_chart(task.name, series, Axis("updates"), Axis("", log=True), note))
    return join([grid(figures), *absent]) if runs.tasks else missing("a task's pretrained run", "pretrain")


def reward(runs: Runs) -> Html:
    """Precision, recall and false alarms, on held-out recordings and in real episodes."""
    reports = [(task, task.reward.json("reward.json")) for task in runs.tasks]
    found = [(task, report) for task, report in reports if report is not None]
    absent = [missing(f"{task.name}/reward/reward.json", "train_reward") for task, report in reports if report is None]
    if not reports:
        return missing("a task's reward run", "train_reward")
    explanation = (
        "The classifier on held-out recordings at the threshold in use: of the frames that it calls success, how many "
        "are (precision); of those that are, how many it calls so (recall); and in what share of succeeded and of "
        "failed episodes it ever fires. Firing in a failed episode is a false alarm: in imagination it would be paid."
    )
    parts: list[Html] = [element("p", explanation)]
    if found:
        parts.append(_quality(found))
        parts.append(_threshold_table("task", [row for task, report in found for row in _chosen_rows(task, report)]))
        parts += [
            details(f"{task.name}: all thresholds", _threshold_table("held out", _all_rows(report)))
            for task, report in found
        ]
    return join([*parts, *absent, _real_alarms(runs)])


def finetuning(runs: Runs) -> Html:
    """Preflight, imagined success beside the real one, and PPO's own figures."""
    parts: list[Html] = []
    for task in runs.tasks:
        if not task.finetunes:
            parts += [element("h3", task.name), missing(f"{task.name}/finetuned", "finetune")]
        for name, run in task.finetunes.items():
            parts.append(element("h3", task.name if name == FINETUNED else f"{task.name}, {name}"))
            parts.append(verdict(task, name, run))
            parts.append(_preflight(task, name, run))
            parts.append(_curves(task, name, run))
    return join(parts) if parts else missing("a task's finetuned run", "finetune")


def _quality(reports: Sequence[tuple[TaskRuns, Mapping[str, Any]]]) -> Html:
    """Precision and recall of each task at its threshold beside the paper's, and false alarms in real episodes."""
    in_use = [_shares(report, report["threshold"]) for _, report in reports]
    as_paper = [_shares(report, PAPER_THRESHOLD) for _, report in reports]
    rows = [
        *((task.name, *map(percent, one), _false_alarms(task)) for (task, _), one in zip(reports, in_use, strict=True)),
        ("mean", *map(percent, _means(in_use)), ""),
        (f"mean, threshold {PAPER_THRESHOLD:g}", *map(percent, _means(as_paper)), ""),
        (PAPER, *map(percent, PAPER_MEANS), "–", "–", "–"),
    ]
    header = (
        "",
        *(lines(which, name) for name in HELD_OUT for which in ("precision,", "recall,")),
        "false alarms in real failures",
    )
    note = (
        "Frames of held-out recordings, real latents: of demonstrations that the classifier did not learn from, as the "
        "paper judges, and of stretches of held-out play. Labelled by the recorded scene, or by marks where there is "
        "none. The paper's tasks are CALVIN's, and it takes the likelier class, which is a threshold of "
        f"{PAPER_THRESHOLD:g}. A real episode ends with its success, often before the reward fires."
    )
    return join([table(header, rows, "Quality of the reward"), element("p", note, css="note")])


def _chosen(held_out: Mapping[str, Any] | None, threshold: float) -> Mapping[str, Any]:
    """The figures of a held-out set at the threshold in use; none where the set is not there."""
    found = held_out["by_threshold"] if held_out else ()
    return next((one for one in found if one["threshold"] == threshold), {})


def _false_alarms(task: TaskRuns) -> str:
    """In how many failed real episodes of the finished policies the reward fired."""
    counts = [e.data["classifier"] for e in final_evaluations(task) if e.data.get("classifier")]
    if not counts:
        return "–"
    fired, failures = (sum(one[key] for one in counts) for key in ("fired_on_failure", "failures"))
    return f"{fired} of {failures}"


def _shares(report: Mapping[str, Any], threshold: float) -> list[float | None]:
    """Precision and recall of each held-out set at a threshold."""
    chosen = [_chosen(report["held_out"].get(name), threshold) for name in HELD_OUT]
    return [one.get(key) for one in chosen for key in ("precision", "recall")]


def _means(rows: Sequence[Sequence[float | None]]) -> Iterator[float | None]:
    """Mean of each column, over what is known."""
    for column in zip(*rows, strict=True):
        known = [share for share in column if share is not None]
        yield sum(known) / len(known) if known else None


def _chosen_rows(task: TaskRuns, report: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for index, (name, held_out) in enumerate(report["held_out"].items()):
        if one := _chosen(held_out, report["threshold"]):
            yield ("" if index else task.name, name, *_figures(one, held_out))


def _all_rows(report: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, held_out in report["held_out"].items():
        for index, one in enumerate(held_out["by_threshold"]):
            yield ("" if index else name, "", *_figures(one, held_out))


def _figures(one: Mapping[str, Any], held_out: Mapping[str, Any]) -> tuple[str, ...]:
    shares = (percent(one[key]) for key in ("precision", "recall", "fires_in_succeeded", "fires_in_failed"))
    return (f"{one['threshold']:g}", *shares, f"{held_out['succeeded']} / {held_out['failed']}")


def _threshold_table(first: str, rows: Iterable[tuple[str, ...]]) -> Html:
    header = ("threshold", "precision", "recall", "fires in successes", "in failures", "successes / failures")
    return table((first, "", *header), list(rows), texts=2)


def _real_alarms(runs: Runs) -> Html:
    """How often the bundle's reward fired in the environment."""
    rows = []
    for task in runs.tasks:
        judged = [(e, e.data["classifier"]) for e in final_evaluations(task) if e.data.get("classifier")]
        for index, (evaluation, counts) in enumerate(judged):
            fired = (
                f"{counts['fired_on_success']} of {counts['successes']}",
                f"{counts['fired_on_failure']} of {counts['failures']}",
            )
            rows.append(("" if index else task.name, evaluation.label, *fired))
    if not rows:
        return missing("evaluations that show when the reward fires in real episodes", "evaluate")
    return table(("task", "policy", "fires in successes", "in failures"), rows, "In real episodes", texts=2)


def _preflight(task: TaskRuns, name: str, run: RunFolder) -> Html:
    report = run.json("preflight.json")
    if report is None:
        return missing(f"{task.name}/{name}/preflight.json", "finetune")
    warnings = [element("p", warning, css="warning") for warning in report["warnings"]]
    judged = [
        (f"imagined, judged by {_JUDGES.get(reward, reward)}", percent(share))
        for reward, share in report["base"].items()
    ]
    thresholds = [
        (f"imagined, classifier above {one['threshold']:g}", percent(one["success"])) for one in report["by_threshold"]
    ]
    real = task.evaluations.get(BASE)
    rows = [*judged, *thresholds, ("real", percent(real.rate) if real else "–")]
    return join([*warnings, table(("the base policy's success", ""), rows)])


def _curves(task: TaskRuns, name: str, run: RunFolder) -> Html:
    if not run.metrics:
        return missing(f"{task.name}/{name}/metrics.jsonl", "finetune")
    success = line_chart(
        "Success",
        [*_imagined(run), _real(task, name, run)],
        Axis("iterations", low=0),
        Axis("", low=0, high=1, percent=True),
        "Imagined as deployed, judged by each reward; dots: real episodes with their 95 % interval.",
    )
    main = (
        _chart(run, "Length of imagined episodes", "chunks", Axis("chunks", low=0)),
        _chart(run, "KL to the base policy", "kl_to_pretrained", Axis("nats a chunk", low=0), dots=True),
        _chart(run, "Clip fraction", "clip_fraction", Axis("", low=0, percent=True)),
        _chart(run, "KL of an update (approximate)", "approx_kl", Axis("mean per dimension", log=True)),
        _chart(run, "Explained variance of the critic", "explained_variance", Axis("", high=1)),
        _chart(run, "Loss of the critic", "value_loss", Axis("", log=True)),
        _chart(run, "Imagined episodes that left the recordings", "outside", Axis("", low=0, percent=True)),
        _chart(run, "KL to the base policy, of each iteration", "path_kl", Axis("nats a chunk", low=0)),
        _chart(run, "Weight of the BC term", "bc_weight", Axis("")),
    )
    return grid([success, *(chart for chart in main if chart)])


def _imagined(run: RunFolder) -> list[Series]:
    roles: Sequence[tuple[str, str, Role, bool]] = (
        ("success", "while exploring", "faint", False),
        ("judged_success_decoded", "by decoded scene", "other", False),
        ("judged_success_both", "by both", "base", True),
        ("judged_success_classifier", "by classifier", "new", False),
    )
    return [Series(shown, *run.curve(metric), role, dashed=dashed) for metric, shown, role, dashed in roles]


def _real(task: TaskRuns, name: str, run: RunFolder) -> Series:
    """Real success of the base, of kept iterations and of the final policy, where they were evaluated."""
    found: list[tuple[int, Evaluation]] = []
    for evaluation in task.evaluations.values():
        kept = iteration_of(evaluation)
        if evaluation.name == BASE:
            found.append((0, evaluation))
        elif evaluation.name == name:
            found.append((_iterations(evaluation, run), evaluation))
        elif kept is not None and evaluation.name.rpartition("_")[0] == name:
            found.append((kept, evaluation))
    found.sort(key=lambda pair: pair[0])
    intervals = [(e.data["interval95"][0], e.data["interval95"][1]) for _, e in found]
    return Series("real", [step for step, _ in found], [e.rate for _, e in found], "truth", True, True, intervals)


def _iterations(evaluation: Evaluation, run: RunFolder) -> int:
    """After how many iterations the policy that was kept in the end was; the last, where its bundle does not say."""
    provenance = (evaluation.data.get("bundle") or {}).get("provenance", {})
    last = max((int(row["step"] or 0) for row in run.metrics), default=0)
    return int(provenance.get("iterations", last)) if provenance.get("verdict") else last


def _chart(run: RunFolder, title: str, metric: str, y: Axis, dots: bool = False) -> str:
    series = Series(metric, *run.curve(metric), "new", dots)
    return line_chart(title, [series], Axis("iterations", low=0), y) if series.x else ""
