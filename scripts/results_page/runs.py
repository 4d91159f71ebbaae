"""Finished pipelines: what is evaluated in their folders, and the record that is kept of one."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from diwa_runtime.config import read_yaml
from diwa_runtime.errors import ConfigError, InputError
from diwa_runtime.kinds import COUNT, NUMBER, fault_in, whole
from diwa_runtime.reading import reason_of
from diwa_trainer.evaluation.comparison import successes_of
from diwa_trainer.evaluation.results import sum_up
from diwa_trainer.runs.result_files import EVALUATION, SUMMARY, VERDICT, read_result
from diwa_trainer.runs.run import CONFIG
from results_page.records import DEFAULT, FINETUNED, FORMAT_VERSION

ROOT = Path(__file__).resolve().parents[2]
_SETTINGS = {
    "ppo.bc_weight": NUMBER,
    "ppo.kl_budget?": NUMBER.or_null(),
    "judged_episodes": whole(1, 10**6),
    "seed": COUNT,
}


@dataclass(frozen=True)
class RecordConfig:
    """Keep what a finished pipeline left as a record, docs/results/NAME.json."""

    run: Path = field(metadata={"help": "folder of the finished pipeline"})
    name: str = field(metadata={"help": "of the record, such as play_table_seed_1"})
    simulator: str = field(metadata={"help": "in words: 'play table', 'LIBERO-90'"})
    condition: str = field(
        default=DEFAULT,
        metadata={"help": "what was not by the defaults: 'a tenth of the play', 'world model of 3000 updates'"},
    )
    machine: str = field(default="", metadata={"help": "in words: '2 cores of an AMD EPYC'"})
    design: tuple[str, ...] = field(default=(), metadata={"help": "tasks of the run that choices were made on"})

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][\w-]*", self.name):
            raise ConfigError(f"name: {self.name!r} cannot name a file; use letters, digits, - and _")


def policies_of(folder: Path) -> list[str]:
    """Names of the fine-tuned policies of a task that are evaluated, the pipeline's own first."""
    tuned = sorted(path.parent.name for path in folder.glob("*/preflight.json"))
    found = [name for name in tuned if (folder / f"evaluation_{name}" / EVALUATION).exists()]
    return sorted(found, key=lambda name: name != FINETUNED)


def seeds_of(task_folder: Path) -> list[int]:
    """The starts that a task's policies were judged on."""
    return list(read_result(task_folder / f"evaluation_{FINETUNED}" / EVALUATION)["seeds"])


def finished_tasks(folders: Sequence[Path]) -> list[str]:
    """Return the tasks of the pipelines in these folders.

    Raises:
        ConfigError: no folder is named.
        InputError: one holds no finished pipeline, or lacks a task that the first has.
    """
    if not folders:
        raise ConfigError("name the folders of finished pipelines, one for each training seed")
    tasks = sorted({path.parent.name for path in folders[0].glob("*/evaluation_base")})
    if not tasks:
        raise InputError(f"{folders[0]}: holds no evaluated task; name a folder that `pipeline` wrote")
    for folder in folders:
        for task in tasks:
            if FINETUNED not in policies_of(folder / task):
                raise InputError(f"{folder / task}: has no evaluated fine-tuned policy; finish the pipeline first")
    return tasks


def record_of(config: RecordConfig) -> dict[str, Any]:
    """Return the record of a finished pipeline, as `records.KEYS` has it.

    Raises:
        ConfigError: a task that choices were made on is none of the run's.
        InputError: a part of the run is not there or cannot be read; names it.
    """
    tasks = finished_tasks([config.run])
    for task in config.design:
        if task not in tasks:
            raise ConfigError(f"design: {task!r} is no task of {config.run} (there are {', '.join(tasks)})")
    summed = {task: sum_up(config.run, [task], policies_of(config.run / task)) for task in tasks}
    model = read_result(config.run / "world_model" / SUMMARY, "seconds", "updates")
    return {
        "format_version": FORMAT_VERSION,
        **{name: getattr(config, name) for name in ("simulator", "condition", "machine")},
        "seed": _settings(config.run / tasks[0] / FINETUNED)["seed"],
        "commit": _commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "design": list(config.design),
        "env_steps": sum(one["env_steps_during_finetune"] for one in summed.values()),
        "world_model": {name: model[name] for name in ("updates", "seconds")},
        "tasks": {task: _task(config.run / task, summed[task]["tasks"][task]) for task in tasks},
    }


def _task(folder: Path, table: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "seconds": table["seconds"],
        "base": _real(folder / "evaluation_base"),
        "policies": {name: _policy(folder, name, table[name]) for name in policies_of(folder)},
    }


def _policy(folder: Path, name: str, counts: Mapping[str, Any]) -> dict[str, Any]:
    said, settings = read_result(folder / name / VERDICT), _settings(folder / name)
    verdict = ("decision", "iteration", "imagined", "imagined_base", "rate", "interval95")
    return {
        "bc_weight": settings["ppo"]["bc_weight"],
        "kl_budget": settings["ppo"].get("kl_budget"),
        "iterations": said["candidates"][-1]["iteration"],
        "imagined_steps": read_result(folder / name / SUMMARY, "imagined_steps")["imagined_steps"],
        **_real(folder / f"evaluation_{name}"),
        "verdict": {key: counts["verdict"][key] for key in verdict},
        "judged_episodes": settings["judged_episodes"],
        "judged": [
            {"iteration": one["iteration"], "imagined": one["success"], "outside": one["outside"], "kl": one["kl"]}
            for one in said["candidates"]
        ],
        "checkpoints": [
            {"iteration": iteration, **_real(path)} for iteration, path in sorted(_checkpoints(folder, name).items())
        ],
    }


def _checkpoints(folder: Path, name: str) -> dict[int, Path]:
    """Folders of the evaluations of a policy's iterations."""
    found = {path: re.fullmatch(rf"evaluation_{re.escape(name)}_(\d{{4,}})", path.name) for path in folder.iterdir()}
    return {int(match[1]): path for path, match in found.items() if match and (path / EVALUATION).exists()}


def _real(folder: Path) -> dict[str, Any]:
    evaluation = read_result(folder / EVALUATION)
    first, episodes = evaluation["seeds"][0], evaluation["episodes"]
    if first < 0 or evaluation["seeds"] != list(range(first, first + episodes)):
        raise InputError(f"{folder / EVALUATION}: its seeds do not follow one another; evaluate again")
    outcomes = [int(one) for one in successes_of(evaluation)]
    return {"successes": evaluation["successes"], "episodes": episodes, "first_seed": first, "outcomes": outcomes}


def _settings(folder: Path) -> Mapping[str, Any]:
    """Return what a policy was fine-tuned with."""
    path = folder / CONFIG
    try:
        settings = read_yaml(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({reason_of(error)}); name a folder of finished pipelines") from None
    if (fault := fault_in(settings, _SETTINGS)) is not None:
        raise InputError(f"{path}: {fault}; name a folder of finished pipelines")
    return settings


def _commit() -> str:
    """Return which code this is, with ``-dirty`` where it was changed since; what was recorded does not count."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs")
        return git("rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
