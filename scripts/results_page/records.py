"""Records of results: what is kept of a finished pipeline, in `docs/results/NAME.json`, for run folders are large.

An older record may lack the `outcomes` of single episodes; it then says how many starts were `gained` and `lost`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diwa_runtime.errors import InputError
from diwa_runtime.files import make_folder, written_whole
from diwa_runtime.kinds import COUNT, MAPPING, NOT_NEGATIVE, NUMBER, SHARE, TEXT, Kind, fault_in, list_of, one_of, whole
from diwa_runtime.reading import read_json, reason_of
from diwa_trainer.evaluation.statistics import discordant, mcnemar, wilson_interval
from diwa_trainer.policy.verdict import Candidate

FORMAT_VERSION = 1
GOOD = 0.9
"""Success that every task is to reach."""
FINETUNED, DEFAULT = "finetuned", "default"
PLAY_TABLE, LIBERO = "play table", "LIBERO-90"
_EVALUATED = ("tasks.*.base", "tasks.*.policies.*", "tasks.*.policies.*.checkpoints.*")
_POLICY = "tasks.*.policies.*"

KEYS: Mapping[str, Kind] = {
    "format_version": whole(FORMAT_VERSION, FORMAT_VERSION),
    "simulator": TEXT, "condition": TEXT, "machine": TEXT, "commit": TEXT, "date": TEXT,
    "seed": COUNT, "env_steps": COUNT, "design": list_of(TEXT),
    "world_model.updates": COUNT, "world_model.seconds?": NOT_NEGATIVE, "world_model": MAPPING,
    **{f"{where}.successes": COUNT for where in _EVALUATED},
    **{f"{where}.episodes": whole(1, 10**6) for where in _EVALUATED},
    **{f"{where}.first_seed": COUNT for where in _EVALUATED},
    **{f"{where}.outcomes?": list_of(whole(0, 1), 1) for where in _EVALUATED},
    "tasks.*.base": MAPPING, "tasks.*.seconds.*": NOT_NEGATIVE, "tasks.*.seconds": MAPPING,
    f"{_POLICY}.gained?": COUNT, f"{_POLICY}.lost?": COUNT,
    f"{_POLICY}.bc_weight": NUMBER, f"{_POLICY}.kl_budget": NUMBER.or_null(),
    f"{_POLICY}.judged_episodes": whole(1, 10**6), f"{_POLICY}.iterations?": COUNT,
    f"{_POLICY}.imagined_steps?": COUNT,
    f"{_POLICY}.verdict.decision": one_of("accept", "reject", "collect"), f"{_POLICY}.verdict.iteration": COUNT,
    **{f"{_POLICY}.verdict.{name}": SHARE for name in ("imagined", "imagined_base", "rate")},
    f"{_POLICY}.verdict.interval95": list_of(SHARE, 2, 2),
    f"{_POLICY}.verdict": MAPPING,
    f"{_POLICY}.judged.*.iteration": COUNT, f"{_POLICY}.judged.*.imagined": SHARE,
    f"{_POLICY}.judged.*.outside?": SHARE, f"{_POLICY}.judged.*.kl?": NUMBER, f"{_POLICY}.judged": list_of(MAPPING, 1),
    f"{_POLICY}.checkpoints.*.iteration": COUNT, f"{_POLICY}.checkpoints": list_of(MAPPING),
    "tasks.*.policies": MAPPING, "tasks.*": MAPPING, "tasks": MAPPING,
}  # fmt: skip
"""What a record must have, as `diwa_runtime.kinds` writes it."""


@dataclass(frozen=True)
class Real:
    """Real episodes of a policy.

    Attributes:
        starts: their seeds (N,).
        outcomes: whether each succeeded (N,), in the order of the seeds; None in an older record.
    """

    successes: int
    starts: tuple[int, ...]
    outcomes: tuple[int, ...] | None

    @property
    def episodes(self) -> int:
        """How many there were."""
        return len(self.starts)

    @property
    def rate(self) -> float:
        """Share that succeeded."""
        return self.successes / self.episodes

    @property
    def cell(self) -> str:
        """Return ``61 % [51, 70]``."""
        low, high = wilson_interval(self.successes, self.episodes)
        return f"{100 * self.rate:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


@dataclass(frozen=True)
class Policy:
    """A fine-tuned policy.

    Attributes:
        real: episodes of the policy that was kept, from the base policy's starts.
        gained: starts that it won and the base policy lost.
        lost: the other way round.
        verdict: ``decision``, ``iteration`` kept, and the ``rate`` that was to be expected, with its ``interval95``.
        judged: the policies that could be kept, the base policy first.
        judged_episodes: imagined episodes that each of them was judged by.
        checkpoints: episodes by iteration, from starts of their own.
    """

    real: Real
    gained: int
    lost: int
    bc_weight: float
    kl_budget: float | None
    verdict: Mapping[str, Any]
    judged: tuple[Candidate, ...]
    judged_episodes: int
    checkpoints: Mapping[int, Real]

    @property
    def p(self) -> float:
        """McNemar's p that it is as good as the base policy."""
        return mcnemar([True] * self.lost + [False] * self.gained, [False] * self.lost + [True] * self.gained)

    @property
    def kept(self) -> Candidate:
        """What imagination said of the policy that was kept."""
        return next(one for one in self.judged if one.iteration == self.verdict["iteration"])

    @property
    def label(self) -> str:
        """How near to the base policy it was held."""
        return f"BC {self.bc_weight:g}" if self.kl_budget is None else f"at most {self.kl_budget:g} nats"

    def points(self, base: Real) -> dict[int, tuple[Candidate, Real]]:
        """Return imagined and real success by iteration, the base policy as iteration 0."""
        evaluated = dict(self.checkpoints)
        kept = self.kept.iteration
        if kept:
            evaluated[kept] = together([self.real, *([evaluated[kept]] if kept in evaluated else [])])
        evaluated[0] = base
        return {one.iteration: (one, evaluated[one.iteration]) for one in self.judged if one.iteration in evaluated}


@dataclass(frozen=True)
class Task:
    """The base policy of a task, and what was fine-tuned from it, `finetuned` first."""

    base: Real
    policies: Mapping[str, Policy]

    @property
    def tuned(self) -> Policy:
        """The pipeline's own."""
        return self.policies[FINETUNED]


@dataclass(frozen=True)
class Record:
    """What is kept of a finished pipeline.

    Attributes:
        condition: what was other than by the defaults, in words; `DEFAULT`: nothing.
        design: tasks that choices were made on.
        updates: of the world model.
        seconds: that its training took, None in an older record.
    """

    name: str
    simulator: str
    condition: str
    machine: str
    commit: str
    date: str
    seed: int
    env_steps: int
    design: tuple[str, ...]
    updates: int
    seconds: float | None
    tasks: Mapping[str, Task]


def together(parts: Sequence[Real]) -> Real:
    """Add up episodes, of several starts or of several training seeds."""
    outcomes = [part.outcomes for part in parts if part.outcomes is not None]
    return Real(
        sum(part.successes for part in parts),
        tuple(start for part in parts for start in part.starts),
        tuple(one for each in outcomes for one in each) if len(outcomes) == len(parts) else None,
    )


def simulators_of(records: Sequence[Record]) -> list[str]:
    """Return the simulators of records, our own first."""
    return sorted({record.simulator for record in records}, key=lambda name: (name != PLAY_TABLE, name))


def read_records(folder: Path) -> list[Record]:
    """Return all records of a folder, by name.

    Raises:
        InputError: there is none, one cannot be used, or two tell of the same training; names them.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise InputError(f"{folder}: holds no record; make one of a finished pipeline with `write_results.py record`")
    found: dict[tuple[str, str, int, str], Path] = {}
    records = []
    for path in paths:
        record = read_record(path)
        for task in record.tasks:
            other = found.setdefault((record.simulator, record.condition, record.seed, task), path)
            if other != path:
                raise InputError(
                    f"{path}: tells of {task} and training seed {record.seed}, as {other.name} does, which would count "
                    "twice; delete one of them, or record one under another condition"
                )
        records.append(record)
    return records


def read_record(path: Path) -> Record:
    """Read one record.

    Raises:
        InputError: it cannot be read, lacks something, or something is not what it must be; names the file.
    """
    try:
        data = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({reason_of(error)}); record that pipeline again") from None
    if (fault := fault_of(data)) is not None:
        raise InputError(f"{path}: {fault}; record that pipeline again")
    names = ("simulator", "condition", "machine", "commit", "date", "seed", "env_steps")
    return Record(
        path.stem,
        **{name: data[name] for name in names},
        design=tuple(data["design"]),
        updates=data["world_model"]["updates"],
        seconds=data["world_model"].get("seconds"),
        tasks={task: _task(found) for task, found in data["tasks"].items()},
    )


def fault_of(data: Any) -> str | None:
    """Say what is wrong with a record: what it lacks, what is of another kind, what cannot be true; None: nothing."""
    return fault_in(data, KEYS) or _at_odds(data)


def _at_odds(data: Mapping[str, Any]) -> str | None:
    if not data["tasks"]:
        return "'tasks' are none"
    if odd := set(data["design"]) - data["tasks"].keys():
        return f"'design' names {min(odd)!r}, which is none of its tasks"
    for task, found in data["tasks"].items():
        if FINETUNED not in found["policies"]:
            return f"{task!r} has no policy {FINETUNED!r}"
        for name, policy in found["policies"].items():
            if fault := _policy_at_odds(found["base"], policy):
                return f"{name!r} of {task!r}: {fault}"
    return None


def _policy_at_odds(base: Mapping[str, Any], policy: Mapping[str, Any]) -> str | None:
    for real in (base, policy, *policy["checkpoints"]):
        outcomes = real.get("outcomes")
        if real["successes"] > real["episodes"]:
            return "has more successes than episodes"
        if outcomes is not None and (len(outcomes), sum(outcomes)) != (real["episodes"], real["successes"]):
            return "'outcomes' are not as many as 'episodes' and 'successes' say"
    if any(base[name] != policy[name] for name in ("first_seed", "episodes")):
        return "was evaluated on other starts than the base policy"
    if not ("outcomes" in base and "outcomes" in policy):
        if "gained" not in policy or "lost" not in policy:
            return "has neither 'outcomes' nor 'gained' and 'lost'"
        if policy["gained"] - policy["lost"] != policy["successes"] - base["successes"]:
            return "'gained' and 'lost' do not lead from the base policy's successes to its own"
    iterations = [one["iteration"] for one in policy["judged"]]
    if iterations[0] != 0 or iterations != sorted(set(iterations)):
        return "'judged' must begin with iteration 0 and rise"
    evaluated = [one["iteration"] for one in policy["checkpoints"]]
    for iteration in (policy["verdict"]["iteration"], *evaluated):
        if iteration not in iterations:
            return f"iteration {iteration} was not judged"
    return "'checkpoints' has an iteration twice" if len(set(evaluated)) < len(evaluated) else None


def _task(data: Mapping[str, Any]) -> Task:
    base = _real(data["base"])
    policies = {name: _policy(base, one) for name, one in data["policies"].items()}
    return Task(base, {name: policies[name] for name in sorted(policies, key=lambda name: name != FINETUNED)})


def _policy(base: Real, data: Mapping[str, Any]) -> Policy:
    real = _real(data)
    if base.outcomes is not None and real.outcomes is not None:
        gained, lost = discordant([one == 1 for one in base.outcomes], [one == 1 for one in real.outcomes])
    else:
        gained, lost = data["gained"], data["lost"]
    return Policy(
        real,
        gained,
        lost,
        data["bc_weight"],
        data["kl_budget"],
        data["verdict"],
        tuple(
            Candidate(one["iteration"], one["imagined"], one.get("outside", 0.0), one.get("kl", 0.0))
            for one in data["judged"]
        ),
        data["judged_episodes"],
        {one["iteration"]: _real(one) for one in data["checkpoints"]},
    )


def _real(data: Mapping[str, Any]) -> Real:
    starts = tuple(range(data["first_seed"], data["first_seed"] + data["episodes"]))
    outcomes = data.get("outcomes")
    return Real(data["successes"], starts, None if outcomes is None else tuple(outcomes))


def write_record(path: Path, data: Mapping[str, Any]) -> None:
    """Write a record, figures to 4 digits, a line for each list and each flat object.

    Raises:
        StorageError: the disk refused.
    """
    text = re.sub(
        r"[\[{][^\[\]{}]*[\]}]",
        lambda found: re.sub(r"\n *", "", found[0]),
        json.dumps(_rounded(data), indent=1, allow_nan=False),
    )
    make_folder(path.parent)
    with written_whole(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, Iterable) and not isinstance(value, str) else value


@dataclass(frozen=True)
class Pooled:
    """A task's base and kept policy, their episodes added up over training seeds.

    Attributes:
        records: those with the task, one for each training seed.
    """

    task: str
    base: Real
    tuned: Real
    records: tuple[Record, ...]

    @property
    def gain(self) -> float:
        """Points that the kept policy is better by."""
        return 100 * (self.tuned.rate - self.base.rate)

    @property
    def policies(self) -> list[Policy]:
        """The kept policy of each training seed."""
        return [record.tasks[self.task].tuned for record in self.records]


def by_task(records: Sequence[Record]) -> dict[str, Pooled]:
    """Pool each task over the records that have it, tasks by name."""
    found = {}
    for task in sorted({task for record in records for task in record.tasks}):
        those = tuple(record for record in records if task in record.tasks)
        base = together([record.tasks[task].base for record in those])
        found[task] = Pooled(task, base, together([record.tasks[task].tuned.real for record in those]), those)
    return found
