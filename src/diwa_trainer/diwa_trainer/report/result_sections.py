"""What the page says first and last: the outcome, the films, and where everything came from."""

from __future__ import annotations

import json
from collections.abc import Iterator

from diwa_trainer.evaluation.comparison import Paired
from diwa_trainer.report.charts import Estimate, Role, interval_chart
from diwa_trainer.report.gather import BASE, FINETUNED, Evaluation, RunFolder, Runs, TaskRuns
from diwa_trainer.report.html import Html, details, element, join, missing, table, video
from diwa_trainer.report.scales import number

EVALUATE = "evaluate"


def title(runs: Runs) -> str:
    """Say in one line what was found, as far as it is known."""
    gains = [_gain(*pair) for pair in _pairs(runs)]
    if not gains:
        return f"Training report of {runs.path.resolve().name}"
    tasks = f"{len(gains)} {'task' if len(gains) == 1 else 'tasks'}"
    mean = sum(gains) / len(gains)
    if mean <= 0:
        return f"No gain on {tasks}: {_points(mean)} points of success"
    return f"{_points(mean)} points of success on {tasks}, learned in imagination"


def lead(runs: Runs) -> Html:
    """The few figures that sum the run up."""
    pairs = list(_pairs(runs))
    summaries = [run.summary for task in runs.tasks for run in list(task.finetunes.values())[:1]]
    env_steps = [summary["env_steps"] for summary in summaries if "env_steps" in summary]
    imagined = sum(summary.get("imagined_steps", 0) for summary in summaries)
    tiles = []
    if pairs:
        before = sum(base.rate for base, _ in pairs) / len(pairs)
        after = sum(tuned.rate for _, tuned in pairs) / len(pairs)
        tiles.append((f"{100 * before:.0f} → {100 * after:.0f} %", "mean success, base to fine-tuned"))
    if env_steps:
        tiles.append((f"{sum(env_steps):,}", "environment steps during fine-tuning"))
    if imagined:
        tiles.append((number(imagined), "imagined steps"))
    if (data := runs.world_model.json("data.json")) is not None:
        tiles.append((f"{data['rows']:,}", f"recorded steps ({data['hours']:.2f} h)"))
    return element("ul", *(element("li", element("strong", value), label) for value, label in tiles), css="tiles")


def results(runs: Runs) -> Html:
    """The table before and after, with intervals and the paired test."""
    if not any(task.evaluations for task in runs.tasks):
        return missing("evaluations of the policies", EVALUATE)
    rows = [row for task in runs.tasks for row in _result_rows(task)]
    absent = [
        missing(f"evaluation_{name} of {task.name}", EVALUATE)
        for task in runs.tasks
        for name in (BASE, FINETUNED)
        if name not in task.evaluations
    ]
    header = ("task", "policy", "success", "95 % interval", "gain", "won / lost", "McNemar p", "mean length")
    return join(
        [
            Html(_result_chart(runs).replace("<figure>", '<figure class="wide">')),
            table(header, rows, texts=2),
            element(
                "p",
                "Every policy of a task starts from the same seeds. Won and lost count the starts on which a policy "
                "succeeded and the base did not, and the other way round; p is McNemar's exact two-sided test on them. "
                "Intervals are Wilson's.",
                css="note",
            ),
            *absent,
        ]
    )


def videos(runs: Runs) -> Html:
    """Films of base and fine-tuned policy from the same starts."""
    parts: list[Html] = []
    for task in runs.tasks:
        base, tuned = task.evaluations.get(BASE), task.evaluations.get(FINETUNED)
        seeds = sorted(set(base.videos) & set(tuned.videos)) if base and tuned else []
        if base is None or tuned is None or not seeds:
            parts.append(missing(f"films of {task.name} by base and fine-tuned policy", f"{EVALUATE} --videos 4"))
            continue
        parts.append(element("h3", task.name))
        parts.append(element("div", *(_film_pair(seed, base, tuned) for seed in seeds), css="pairs"))
    return join(parts) if parts else missing("films", f"{EVALUATE} --videos 4")


def provenance(runs: Runs) -> Html:
    """How long each stage took, what the bundles are made of, and all settings."""
    parts: list[Html] = []
    timed = [(name, run.summary["seconds"]) for name, run in _all_runs(runs) if "seconds" in run.summary]
    if timed:
        rows = [(name, _duration(seconds)) for name, seconds in timed]
        parts.append(table(("stage", "time"), rows, "Time"))
    for task in runs.tasks:
        for evaluation in task.evaluations.values():
            if bundle := evaluation.data.get("bundle"):
                rows = [("bundle", code(bundle["sha256"]))]
                rows += [(name, code(str(value))) for name, value in bundle["provenance"].items()]
                rows.append(("environment", code(json.dumps(evaluation.data["environment"]))))
                rows.append(("seeds", f"{evaluation.data['seeds'][0]} to {evaluation.data['seeds'][-1]}"))
                parts.append(
                    details(
                        f"{task.name}, {evaluation.label}: what the bundle is made of", table(("", ""), rows, texts=2)
                    )
                )
    settings = [
        details(f"{name}: config.yaml", element("pre", run.config)) for name, run in _all_runs(runs) if run.config
    ]
    return join([*parts, *(settings or [missing("config.yaml of every run", "each verb")])])


def code(value: str) -> Html:
    """Show a hash, a path or JSON."""
    return element("code", value)


def _pairs(runs: Runs) -> Iterator[tuple[Evaluation, Evaluation]]:
    for task in runs.tasks:
        if BASE in task.evaluations and FINETUNED in task.evaluations:
            yield task.evaluations[BASE], task.evaluations[FINETUNED]


def _gain(base: Evaluation, tuned: Evaluation) -> float:
    return 100 * (tuned.rate - base.rate)


def _points(gain: float) -> str:
    return f"{gain:+.1f}".replace("-", "−")


def final_evaluations(task: TaskRuns) -> list[Evaluation]:
    """The evaluations of finished policies: kept iterations are left to the curves."""
    return [e for e in task.evaluations.values() if iteration_of(e) is None]


def iteration_of(evaluation: Evaluation) -> int | None:
    """Return the iteration in a name like `finetuned_0030`."""
    _, _, tail = evaluation.name.rpartition("_")
    return int(tail) if tail.isdigit() and tail != evaluation.name else None


def _result_rows(task: TaskRuns) -> Iterator[tuple[str, ...]]:
    base = task.evaluations.get(BASE)
    for index, evaluation in enumerate(final_evaluations(task)):
        data = evaluation.data
        low, high = data["interval95"]
        yield (
            "" if index else task.name,
            evaluation.label,
            f"{100 * evaluation.rate:.0f} % ({data['successes']}/{data['episodes']})",
            f"{100 * low:.0f} to {100 * high:.0f} %",
            *(_compared(base, evaluation) if base and evaluation is not base else ("", "", "")),
            f"{data['mean_length']:.1f}",
        )


def _compared(base: Evaluation, tuned: Evaluation) -> tuple[str, str, str]:
    gain = _gain(base, tuned)
    shown = element("span", _points(gain), css="gain" if gain > 0 else "loss" if gain < 0 else "soft")
    before, after = base.successes, tuned.successes
    if before.keys() != after.keys():
        return shown, "other starts", "–"
    pairs = Paired.of(list(before.values()), [after[seed] for seed in before])
    return shown, f"{pairs.won} / {pairs.lost}", _p_value(pairs.p)


def _p_value(p: float) -> str:
    if p >= 0.001:
        return f"{p:.2g}"
    mantissa, power = f"{p:.1e}".split("e")
    return Html(f"{mantissa} · 10<sup>−{abs(int(power))}</sup>")


def _result_chart(runs: Runs) -> str:
    roles: dict[str, Role] = {BASE: "base", FINETUNED: "new"}
    rows = [
        (
            task.name.replace("_", " "),
            [
                Estimate(e.label, e.rate, e.data["interval95"][0], e.data["interval95"][1], roles.get(e.name, "other"))
                for e in final_evaluations(task)
            ],
        )
        for task in runs.tasks
        if task.evaluations
    ]
    episodes = sorted({e.data["episodes"] for task in runs.tasks for e in final_evaluations(task)})
    note = f"{' or '.join(map(str, episodes))} episodes each; bars are 95 % intervals"
    return interval_chart("Success in the environment", rows, note)


def _film_pair(seed: int, base: Evaluation, tuned: Evaluation) -> Html:
    halves = [
        element(
            "div",
            video(evaluation.videos[seed], f"{name}, seed {seed}"),
            element("p", element("b", name), _outcome(evaluation, seed)),
            css=role,
        )
        for name, role, evaluation in (("base", "base", base), ("fine-tuned", "new", tuned))
    ]
    return element("div", element("p", f"seed {seed}"), element("div", *halves, css="two"), css="pair")


def _outcome(evaluation: Evaluation, seed: int) -> str:
    episode = next(e for e in evaluation.data["episodes_detail"] if e["seed"] == seed)
    return f"{'succeeds' if episode['success'] else 'fails'} after {episode['length']} steps"


def _all_runs(runs: Runs) -> Iterator[tuple[str, RunFolder]]:
    yield "world_model", runs.world_model
    for task in runs.tasks:
        yield f"{task.name}/pretrained", task.pretrained
        yield f"{task.name}/reward", task.reward
        for name, run in task.finetunes.items():
            yield f"{task.name}/{name}", run
        for evaluation in task.evaluations.values():
            yield (
                f"{task.name}/evaluation_{evaluation.name}",
                RunFolder(runs.path / task.name / f"evaluation_{evaluation.name}"),
            )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
