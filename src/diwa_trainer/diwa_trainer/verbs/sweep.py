"""`sweep`: pipelines times settings times seeds, several at once, and one table of what came of them.

Each is the ordinary `pipeline`, in a folder of its own, as a process of its own: on this machine, or wherever a Ray
cluster has room. What is done is skipped; one that fails is named at the end, and the others go on.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from diwa_runtime.cli import EXIT_INTERRUPTED
from diwa_runtime.config import load_config, read_yaml, to_plain, to_yaml
from diwa_runtime.config.bounds import WORKERS, check_bounds
from diwa_runtime.errors import ConfigError, DiwaError
from diwa_runtime.files import check_overwritable, written_whole
from diwa_runtime.reading import reason_of
from diwa_trainer.evaluation.sweep_results import print_sweep, sum_up_sweep
from diwa_trainer.runs.on_ray import Room, side_by_side_on_ray
from diwa_trainer.runs.run import SEEDS, write_json
from diwa_trainer.runs.side_by_side import side_by_side, start_process
from diwa_trainer.verbs import pipeline
from diwa_trainer.verbs.pipeline import FINETUNED, PipelineConfig
from diwa_trainer.verbs.presets import presets_of

RESULTS, SETTINGS, LOG = "sweep.json", "pipeline.yaml", "pipeline.log"
_FREE = ("workers", "resume")
"""Settings of a pipeline that change nothing of what comes of it."""


@dataclass(frozen=True)
class SweepConfig:
    """Run pipelines over settings and seeds, and compare the settings."""

    output: Path
    pipelines: tuple[Path, ...] = field(metadata={"help": "files of `pipeline`'s settings; each by its name"})
    seeds: tuple[int, ...] = (0,)
    settings: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {"plain": {}},
        metadata={"help": "by name: settings over a pipeline's, by dotted name (stages.finetune.chunks: 20)"},
    )
    base: str | None = field(default=None, metadata={"help": "setting to compare with; none: the first"})
    policy: str = field(default=FINETUNED, metadata={"help": "what is compared: base, finetuned, or a variant"})
    workers: int = field(default=2, metadata={"help": "pipelines side by side"})
    engine: Literal["local", "ray"] = field(
        default="local", metadata={"help": "processes of this machine, or tasks of a Ray cluster (an extra)"}
    )
    address: str | None = field(
        default=None, metadata={"help": "of the Ray cluster; none: RAY_ADDRESS, what runs here, or a new one here"}
    )
    cpus: float = field(default=1.0, metadata={"help": "cores that Ray reserves for a pipeline"})
    gpus: float = field(default=0.0, metadata={"help": "graphics cards that Ray reserves for a pipeline"})

    def __post_init__(self) -> None:
        check_bounds(self, workers=WORKERS, seeds=SEEDS, cpus=(0, 4096), gpus=(0, 4096))
        names = [path.stem for path in self.pipelines]
        for what, given in (("pipelines", names), ("seeds", self.seeds), ("settings", list(self.settings))):
            if not given or len(set(given)) < len(given):
                raise ConfigError(f"{what} must name at least one, and none twice, not {list(given)}")
        for name in (*names, *self.settings):
            if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
                raise ConfigError(f"{name!r} cannot name a folder; use letters, digits, '_', '-' and '.' only")
        if self.base is not None and self.base not in self.settings:
            raise ConfigError(f"base: no setting {self.base!r} (there are {', '.join(self.settings)})")


@dataclass(frozen=True)
class Member:
    """One pipeline of a sweep: by its file's name, the setting and the seed."""

    pipeline: str
    setting: str
    seed: int
    config: PipelineConfig

    @property
    def name(self) -> str:
        """As an end of its path."""
        return f"{self.pipeline}/{self.setting}/seed_{self.seed}"

    @property
    def is_done(self) -> bool:
        """Whether it has ended, with its report."""
        return (self.config.output / pipeline.REPORT).exists()


def run(config: SweepConfig) -> None:
    """Run what is not done yet, then sum up: `sweep.json` and a table on the terminal.

    Raises:
        ConfigError: a setting of any verb of any pipeline cannot be; found before anything is run.
        DiwaError: a pipeline failed; the others have gone on.
    """
    members = plan(config)
    check_overwritable(config.output / RESULTS, "results of a sweep", lambda head: b'"sweep"' in head)
    waiting = {member.name: member for member in members if not member.is_done}
    print(f"{len(members)} pipelines, {len(members) - len(waiting)} of them done", flush=True)
    for member in waiting.values():
        with written_whole(member.config.output / SETTINGS) as temporary:
            temporary.write_text(to_yaml(member.config), encoding="utf-8")
    failed = _run_all(config, waiting) if waiting else []
    done = [member for member in members if member.is_done]
    results = {"sweep": [member.name for member in done], "failed": failed, **_sum_up(config, done)}
    write_json(config.output / RESULTS, results)
    print_sweep(results)
    print(config.output / RESULTS)
    if failed:
        raise DiwaError(f"{', '.join(failed)} failed, see {LOG} there; mend it and give the same command to go on")


def plan(config: SweepConfig) -> list[Member]:
    """Return all pipelines of a sweep, every setting of every verb checked.

    Raises:
        ConfigError: a setting cannot be, or a folder holds a pipeline of other settings.
    """
    members = [
        Member(path.stem, name, seed, _config_of(config, path, name, seed))
        for path in config.pipelines
        for name in config.settings
        for seed in config.seeds
    ]
    for member in members:
        taken = {"base", FINETUNED, *member.config.variants}
        if config.policy not in taken:
            raise ConfigError(f"policy: {member.pipeline} has no {config.policy!r} (it has {', '.join(sorted(taken))})")
        pipeline.plan_shared(member.config)
        for task in member.config.tasks:
            pipeline.plan_task(member.config, task)
        _check_same(member.config)
    return members


def _config_of(config: SweepConfig, path: Path, setting: str, seed: int) -> PipelineConfig:
    """Read a pipeline's settings, and put the sweep's over them."""
    over = {
        **config.settings[setting], "seed": seed, "resume": True, "shared": True,
        "output": str(config.output / path.stem / setting / f"seed_{seed}"),
    }  # fmt: skip
    arguments = ["--config", str(path)]
    return load_config(PipelineConfig, arguments, presets_of("pipeline"), over, f"settings.{setting} over {path}")


def _check_same(config: PipelineConfig) -> None:
    """Refuse to go on in a folder whose pipeline had other settings.

    Raises:
        ConfigError: it had, or its file cannot be read.
    """
    file = config.output / SETTINGS
    try:
        before = read_yaml(file)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read ({reason_of(error)}); delete {config.output}") from None
    ours = yaml.safe_load(to_yaml(config))
    if not isinstance(before, dict) or _that_counts(before) != _that_counts(ours):
        raise ConfigError(
            f"{config.output}: holds a pipeline of other settings; choose another output, or delete that folder"
        )


def _that_counts(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in to_plain(settings).items() if name not in _FREE}


def _run_all(config: SweepConfig, members: Mapping[str, Member]) -> list[str]:
    """Run pipelines by name; return the names of those that failed."""
    folders = {name: member.config.output for name, member in members.items()}
    commands = {
        name: ["-m", "diwa_trainer", "pipeline", "--config", str(folder / SETTINGS)] for name, folder in folders.items()
    }
    logs = {name: folder / LOG for name, folder in folders.items()}

    def ended(name: str, code: int) -> None:
        how = {0: "done", EXIT_INTERRUPTED: "stopped"}.get(code) or f"failed, {_last_line(logs[name])}"
        print(f"{name}: {how}", flush=True)

    if config.engine == "ray":
        room = Room(config.address, config.cpus, config.gpus)
        return side_by_side_on_ray(commands, logs, config.workers, room, ended)
    start = lambda name: start_process([sys.executable, *commands[name]], logs[name])  # noqa: E731
    return side_by_side(list(commands), start, config.workers, ended)


def _last_line(log: Path) -> str:
    """Return the last line that a pipeline said."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return lines[-1] if lines else "it said nothing"


def _sum_up(config: SweepConfig, done: Sequence[Member]) -> dict[str, Any]:
    runs: dict[str, dict[str, dict[int, Path]]] = {
        path.stem: {setting: {} for setting in config.settings} for path in config.pipelines
    }
    tasks: dict[str, dict[str, tuple[str, ...]]] = {
        path.stem: dict.fromkeys(config.settings, ()) for path in config.pipelines
    }
    for member in done:
        runs[member.pipeline][member.setting][member.seed] = member.config.output
        tasks[member.pipeline][member.setting] = member.config.tasks
    return sum_up_sweep(runs, tasks, config.base or next(iter(config.settings)), config.policy)
