"""docs/results.md as text: a section for each kind of record, where there are any."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from results_page.goals import goals
from results_page.plots import COMPUTE, CURVES, SCATTER
from results_page.records import (
    DEFAULT,
    FINETUNED,
    GOOD,
    LIBERO,
    PLAY_TABLE,
    Policy,
    Pooled,
    Real,
    Record,
    by_task,
    simulators_of,
    together,
)
from results_page.verdict_sections import checkpoints, verdicts

COMPUTE_CONDITION = "world model of "
_PAPER = {
    "open_top_drawer": (40.67, 77.33), "turn_on_stove": (54.00, 91.33),
    "close_bottom_drawer": (27.33, 78.00), "close_top_drawer": (75.33, 100.00),
}  # fmt: skip
"""The paper's success on LIBERO-90, base and fine-tuned, %."""


def page(records: Sequence[Record]) -> str:
    """Return docs/results.md."""
    defaults = {
        simulator: [one for one in records if (one.simulator, one.condition) == (simulator, DEFAULT)]
        for simulator in simulators_of(records)
    }
    return "\n".join(
        [
            "# Results",
            "",
            "Made by `scripts/write_results.py` from [the records](#the-records) of finished pipelines. Always the",
            "policy that the [verdict](verdict.md) kept, with 95 % Wilson intervals; base and fine-tuned policy meet",
            "the same starts, so McNemar's paired test stands beside, one for each training seed.",
            "In mode `state`; [from cameras](results_cameras.md).",
            f"Environment steps during fine-tuning: {sum(record.env_steps for record in records)}.",
            "",
            *goals(records),
            *(line for simulator, found in defaults.items() for line in by_defaults(simulator, found)),
            *other_conditions(records, defaults),
            *anchors(records),
            *compute(of_compute(records)),
            *verdicts(records),
            *checkpoints(records),
            "## Imagined and real",
            f"![Real against imagined success](images/{SCATTER})",
            "",
            f"![Success over iterations](images/{CURVES})",
            "",
            *the_records(records),
        ]
    )


def by_defaults(simulator: str, records: Sequence[Record]) -> list[str]:
    """Return the part on the tasks of one simulator by one setting for all, pooled over training seeds."""
    if not records:
        return []
    title = {PLAY_TABLE: "The play table by the defaults", LIBERO: "LIBERO-90's kitchens by the same defaults"}
    of_paper = simulator == LIBERO
    tasks = by_task(records)
    rows = [
        f"| {task} | {one.base.cell} | {one.tuned.cell} | {one.gain:+.0f} | {_each_seed(one)} |"
        + (f" {_paper(task)} |" if of_paper else "")
        for task, one in tasks.items()
    ]
    reached = sum(one.tuned.rate >= GOOD for one in tasks.values())
    seeds = len({record.seed for record in records})
    theirs = ["The paper's figures are of the same tasks, from images and of other starts."] if of_paper else []
    return [
        f"## {title.get(simulator, f'{simulator} by the same defaults')}",
        f"Success over {_episodes(records)} episodes of {seeds} training seed(s), {_starts(records)},",
        f"by one setting of world model, reward and fine-tuning for all tasks. {_gains(tasks.values())};",
        f"{reached} of {len(tasks)} tasks reach {100 * GOOD:.0f} %.",
        *theirs,
        "",
        "| task | base | fine-tuned | gain, points | each training seed, of its episodes |" + " the paper |" * of_paper,
        "|---|---|---|---|---|" + "---|" * of_paper,
        *rows,
        "",
    ]


def other_conditions(records: Sequence[Record], defaults: Mapping[str, Sequence[Record]]) -> list[str]:
    """Return the part on what was not by the defaults, beside what the defaults give for the same tasks."""
    conditions: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record.condition != DEFAULT and not record.condition.startswith(COMPUTE_CONDITION):
            conditions.setdefault((record.condition, record.simulator), []).append(record)
    rows = []
    for (condition, simulator), those in conditions.items():
        usual = by_task(defaults[simulator])
        for task, one in by_task(those).items():
            like = f"{usual[task].base.cell} to {usual[task].tuned.cell}" if task in usual else "–"
            said = "; ".join(_said(policy) for policy in one.policies)
            rows.append(
                f"| {simulator}: {condition} | {task} | {one.base.cell} | {one.tuned.cell} | {one.gain:+.0f} "
                f"| {_each_seed(one)} | {said} | {like} |"
            )
    if not rows:
        return []
    means = [
        f"- {simulator}, {condition}: {_beside(by_task(those), by_task(defaults[simulator]))}"
        for (condition, simulator), those in conditions.items()
    ]
    return [
        "## Other models and rewards",
        "What was other than by the defaults, and beside it what they give for the same task, some on other starts.",
        "",
        *means,
        "",
        "| | task | base | fine-tuned | gain, points | each training seed | verdict | by the defaults |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
        "",
    ]


def _gains(tasks: Collection[Pooled]) -> str:
    gains = [one.gain for one in tasks]
    return f"Mean gain over the tasks: {np.mean(gains):+.1f} points; the worst: {min(gains):+.0f}"


def _beside(tasks: Mapping[str, Pooled], usual: Mapping[str, Pooled]) -> str:
    """Return mean success before and after, over the tasks that the defaults have too, and theirs."""
    both = sorted(tasks.keys() & usual.keys())
    if not both:
        return f"{_means(list(tasks.values()))}"
    return f"{_means([tasks[task] for task in both])}; by the defaults {_means([usual[task] for task in both])}"


def _means(tasks: Sequence[Pooled]) -> str:
    base = 100 * float(np.mean([one.base.rate for one in tasks]))
    tuned = 100 * float(np.mean([one.tuned.rate for one in tasks]))
    return f"{base:.1f} to {tuned:.1f} % over {len(tasks)} task{'s' * (len(tasks) > 1)}"


def anchors(records: Sequence[Record]) -> list[str]:
    """Return the part on how near to the base policy fine-tuning is held: a table for each set of ways."""
    ways: dict[tuple[str, ...], dict[str, list[Mapping[str, Policy]]]] = {}
    bases: dict[tuple[tuple[str, ...], str], list[Real]] = {}
    for record in records:
        for task, found in record.tasks.items():
            if len(found.policies) > 1:
                columns = tuple(_labels(found.policies))
                by_label = dict(zip(columns, found.policies.values(), strict=True))
                ways.setdefault(columns, {}).setdefault(task, []).append(by_label)
                bases.setdefault((columns, task), []).append(found.base)
    lines = []
    for columns, tasks in ways.items():
        rates: dict[str, list[float]] = {column: [] for column in columns}
        rows = []
        for task, several in tasks.items():
            of_way = {column: together([one[column].real for one in several]) for column in columns}
            for column, real in of_way.items():
                rates[column].append(100 * real.rate)
            cells = " | ".join(real.cell for real in of_way.values())
            rows.append(f"| {task} | {together(bases[columns, task]).cell} | {cells} |")
        lines += [
            "| task | base | " + " | ".join(columns) + " |",
            "|---|---|" + "---|" * len(columns),
            *rows,
            "| mean | | " + " | ".join(f"{np.mean(one):.0f} %" for one in rates.values()) + " |",
            "",
        ]
    if not lines:
        return []
    return [
        "## How near to the base policy",
        "The first column is by the defaults; the others hold it nearer, by a BC weight or a [budget](anchor.md).",
        "",
        *lines,
    ]


def _labels(policies: Mapping[str, Policy]) -> list[str]:
    """Return how near each is held, and its name where that is not all that they differ in."""
    labels = [policy.label for policy in policies.values()]
    return [
        label if name == FINETUNED or labels.count(label) == 1 else f"{label}, {name}"
        for name, label in zip(policies, labels, strict=True)
    ]


def of_compute(records: Sequence[Record]) -> dict[tuple[str, str], list[Record]]:
    """Return the records whose world models learned more or less than by the defaults, and the defaults' own.

    By simulator and task, those with fewest updates first.
    """
    found: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record.condition.startswith(COMPUTE_CONDITION):
            for task in record.tasks:
                found.setdefault((record.simulator, task), []).append(record)
    for (simulator, task), several in found.items():
        seeds = {record.seed for record in several}
        several += [
            record
            for record in records
            if (record.simulator, record.condition) == (simulator, DEFAULT)
            and task in record.tasks
            and record.seed in seeds
        ]
        several.sort(key=lambda record: (record.updates, record.seed))
    return found


def compute(found: Mapping[tuple[str, str], Sequence[Record]]) -> list[str]:
    """Return the part on success against what the world model's training took."""
    if not found:
        return []
    rows = [
        f"| {task} | {record.updates} | {_minutes(record)} | {record.seed} | "
        f"{record.tasks[task].base.cell} | {record.tasks[task].tuned.real.cell} |"
        for (_, task), records in found.items()
        for record in records
    ]
    return [
        "## Success against compute",
        "Policies from world models that learned for longer or shorter, from the same recordings.",
        "Minutes are as measured, of one core with one to three other jobs beside it, so they do not compare;",
        "beside one job 1,000 updates take three minutes.",
        "",
        "| task | updates of the world model | its training, minutes | training seed | base | fine-tuned |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        f"![Success against updates of the world model](images/{COMPUTE})",
        "",
    ]


def the_records(records: Sequence[Record]) -> list[str]:
    """Return the part on which runs there are, and how they were made."""
    rows = [
        f"| [{one.name}](results/{one.name}.json) | {one.simulator}: {_tasks(one)} | {one.condition} | "
        f"{one.seed} | {one.updates} | {one.machine or 'not noted'} | {one.commit}, {one.date} |"
        for one in records
    ]
    return [
        "## The records",
        "A record keeps of a finished pipeline the outcome of each real episode, what imagination said, and what it",
        "took. Made by",
        "",
        "    scripts/results                         # the play table, and this page",
        "    examples/libero/results                 # LIBERO-90's kitchens, and this page",
        "    .venv/bin/python scripts/write_results.py   # this page, of the records that there are",
        "",
        "Both scripts list their records. What is kept here was made by their steps, some of them one by one, over",
        "weeks. *Again* are runs of the same settings on another machine, some tasks each; on LIBERO on other starts,",
        "and of seed 3, which the scripts do not have, on other recordings too. The BC weights and budgets that the",
        "scripts try on the usual records are those of *again*; of `turn_on_led` two of seven are there.",
        "`play_table_untouched` and `play_table_updates_12000` lack a task that the script has.",
        "`libero_scene1_contact_once` is of an earlier revision, in which contact counted once.",
        "",
        "| record | tasks | condition | training seed | updates of the world model | machine | recorded with |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
    ]


def _minutes(record: Record) -> str:
    return "–" if record.seconds is None else f"{record.seconds / 60:.0f}"


def _each_seed(one: Pooled) -> str:
    found = [record.tasks[one.task] for record in one.records]
    return "; ".join(f"{of.base.successes} to {of.tuned.real.successes} (p = {of.tuned.p:.0e})" for of in found)


def _paper(task: str) -> str:
    return "{:.1f} to {:.1f} %".format(*_PAPER[task]) if task in _PAPER else "–"


def _said(policy: Policy) -> str:
    return f"{policy.verdict['decision']}, {policy.verdict['rate']:.2f} expected"


def _episodes(records: Sequence[Record]) -> str:
    counts = {one.base.episodes for one in by_task(records).values()}
    return f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def _starts(records: Sequence[Record]) -> str:
    """Say from how many different starts a task's episodes came, of the task with fewest."""
    starts, count = min((len(set(one.base.starts)), one.base.episodes) for one in by_task(records).values())
    return f"from {starts} different starts{'' if starts == count else ' (training seeds met the same ones)'}"


def _tasks(record: Record) -> str:
    return ", ".join(record.tasks) if len(record.tasks) <= 4 else f"{len(record.tasks)} tasks"
