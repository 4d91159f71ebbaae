"""`pipeline`: every verb in order from one YAML, from bags to a report; what is done is skipped.

    dataset -> eyes, with cameras -> world_model
    -> for each task: pretrained, reward, finetuned -> bundles -> evaluations -> report.html

Tasks run side by side, each as a process of this same verb that finds what they share done.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from diwa_runtime.config import config_from, to_yaml
from diwa_runtime.config.bounds import COUNTS, WORKERS, check_bounds
from diwa_runtime.errors import ConfigError, DiwaError, InputError, nearest
from diwa_runtime.files import check_overwritable, written_whole
from diwa_trainer.dataset import Dataset
from diwa_trainer.evaluation.environments import takes
from diwa_trainer.evaluation.evaluation import try_environment
from diwa_trainer.evaluation.results import print_table, sum_up
from diwa_trainer.evaluation.settings import MOST_EPISODES, EvaluateConfig
from diwa_trainer.ingest.bags import find_bags
from diwa_trainer.runs.result_files import EVALUATION
from diwa_trainer.runs.run import SEEDS, tell, write_json
from diwa_trainer.runs.side_by_side import side_by_side, start_process
from diwa_trainer.runs.trained import iteration_folder
from diwa_trainer.verbs import (
    evaluate,
    export,
    finetune,
    ingest,
    pretrain,
    report,
    train_eyes,
    train_reward,
    train_world_model,
)
from diwa_trainer.verbs.export import ExportConfig
from diwa_trainer.verbs.finetune import FinetuneConfig
from diwa_trainer.verbs.ingest import IngestConfig
from diwa_trainer.verbs.pretrain import PretrainConfig, choose_demonstrations
from diwa_trainer.verbs.report import ReportConfig
from diwa_trainer.verbs.train_eyes import TrainEyesConfig
from diwa_trainer.verbs.train_reward import TrainRewardConfig
from diwa_trainer.verbs.train_world_model import TrainWorldModelConfig

StageSettings = dict[str, Any]
Step = tuple[Callable[[Any], None], Any]
"""A verb and its settings."""
STAGES = ("ingest", "train_eyes", "train_world_model", "pretrain", "train_reward", "finetune", "evaluate")
FINETUNED = "finetuned"
RESULTS, REPORT, SETTINGS = "results.json", "report.html", "pipeline.yaml"
_TAKEN = ("base", "pretrained", "reward", FINETUNED)


@dataclass(frozen=True)
class PipelineConfig:
    """Run every verb in order."""

    output: Path
    bags: tuple[Path, ...]
    tasks: tuple[str, ...]
    stages: dict[str, StageSettings] = field(default_factory=dict, metadata={"help": "settings of each verb"})
    task_stages: dict[str, dict[str, StageSettings]] = field(
        default_factory=dict, metadata={"help": "settings of each verb for one task, over `stages`"}
    )
    variants: dict[str, StageSettings] = field(
        default_factory=dict, metadata={"help": "more fine-tuned policies: settings of finetune by name"}
    )
    iterations_evaluated: tuple[int, ...] = field(
        default=(),
        metadata={
            "help": "judged iterations of finetune to evaluate too, on the seeds after the final; those that it did "
            "not reach are left out"
        },
    )
    checkpoint_episodes: int | None = field(
        default=None, metadata={"help": "episodes of each of those; none: as many as of evaluate"}
    )
    seed: int = 0
    workers: int = field(default=2, metadata={"help": "tasks side by side"})
    shared: bool = field(
        default=True, metadata={"help": "also ingest, learn the world model and sum up; false: the tasks alone"}
    )
    resume: bool = field(
        default=True, metadata={"help": "go on where it was; false: refuse an output folder in which one has begun"}
    )

    def __post_init__(self) -> None:
        check_bounds(self, workers=WORKERS, seed=SEEDS, iterations_evaluated=COUNTS, checkpoint_episodes=MOST_EPISODES)
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ConfigError(f"tasks must name at least one task, and none twice, not {list(self.tasks)}")
        for where, stages in [("stages", self.stages), *self.task_stages.items()]:
            for stage in stages:
                if stage not in STAGES:
                    raise ConfigError(
                        f"{where}: no stage {stage!r}{nearest(stage, STAGES)} (there are {', '.join(STAGES)})"
                    )
        for name in self.variants:
            if name in _TAKEN or not re.fullmatch(r"[A-Za-z0-9][\w-]*", name):
                raise ConfigError(f"variants: {name!r} cannot name a folder of its own; choose another name")


def run(config: PipelineConfig) -> None:
    """Run what is shared, then the tasks, then sum up: `results.json`, `report.html` and a table on the terminal.

    Raises:
        ConfigError: a setting of any verb cannot be; found before anything is run.
        InputError: what is not ours lies where we would write; likewise.
        DiwaError: what any verb raises.
    """
    if not config.resume and (config.output / "dataset").exists():
        raise ConfigError(f"{config.output}: a pipeline has begun there; choose another output, or let it resume")
    plans = {task: plan_task(config, task) for task in config.tasks}
    _check_outputs(config)
    if config.shared:
        _make_shared(config, plans)
    if config.workers > 1 and len(plans) > 1:
        _side_by_side(config)
    else:
        for plan in plans.values():
            _work_through(plan)
    if config.shared:
        _sum_up(config)


def _check_outputs(config: PipelineConfig) -> None:
    """Find what is not ours and in our way before hours of work.

    Raises:
        InputError: names it.
    """
    if config.shared:
        check_overwritable(config.output / RESULTS, "results of a pipeline", lambda head: b"env_steps_during" in head)
        report.check_output(config.output / REPORT)
        for bag in find_bags(config.bags):
            for task in config.tasks:
                place, recorded = (config.output / task).resolve(), bag.path.resolve()
                if place == recorded or recorded in place.parents:
                    raise InputError(
                        f"{config.output / task}: what is trained of {task} would lie in the bag {bag.path}; choose "
                        "another output"
                    )
    for task in config.tasks:
        check_overwritable(
            config.output / task / SETTINGS, "settings of a pipeline", lambda head: b"task_stages" in head
        )


def plan_shared(config: PipelineConfig) -> list[Step]:
    """Return what comes before all tasks: dataset, eyes where there are cameras, and world model."""
    dataset, eyes, world_model = (config.output / name for name in ("dataset", "eyes", "world_model"))
    making = _settings(IngestConfig, config, "ingest", {"bags": config.bags, "output": dataset})
    steps: list[Step] = [(ingest.run, making)]
    learning: TrainWorldModelConfig = _settings(
        TrainWorldModelConfig, config, "train_world_model", {"dataset": dataset, "output": world_model}
    )
    if ingest.make_spec(making).uses_cameras and not learning.joint:
        seeing = _settings(TrainEyesConfig, config, "train_eyes", {"dataset": dataset, "output": eyes})
        steps.append((train_eyes.run, seeing))
        learning = replace(learning, eyes=eyes)
    return [*steps, (train_world_model.run, learning)]


def plan_task(config: PipelineConfig, task: str) -> list[Step]:
    """Return what there is to do for a task: base policy, reward, fine-tuned policies, each with its evaluation."""
    folder = config.output / task
    shared = {"dataset": config.output / "dataset", "world_model": config.output / "world_model"}
    trained = {**shared, "policy": folder / "pretrained", "reward": folder / "reward"}
    base = {**shared, "task": task, "output": trained["policy"]}
    reward = {**shared, "task": task, "output": trained["reward"]}
    steps: list[Step] = [
        (pretrain.run, _settings(PretrainConfig, config, "pretrain", base, task)),
        (train_reward.run, _settings(TrainRewardConfig, config, "train_reward", reward, task)),
        *_plan_evaluation(config, task, "base", trained),
    ]
    for name, over in {FINETUNED: {}, **config.variants}.items():
        tuned = {**trained, "finetuned": folder / name}
        tuning = _settings(FinetuneConfig, config, "finetune", {**trained, "output": folder / name}, task, over)
        steps += [(finetune.run, tuning), *_plan_evaluation(config, task, name, tuned)]
        for iteration in config.iterations_evaluated:
            _check_kept(tuning, iteration)
            parts = {**tuned, "iteration": iteration}
            steps += _plan_evaluation(config, task, f"{name}_{iteration:04d}", parts, after_final=True)
    return steps


def _plan_evaluation(
    config: PipelineConfig, task: str, name: str, parts: Mapping[str, Any], *, after_final: bool = False
) -> list[Step]:
    """Plan the export of a bundle and its evaluation."""
    folder = config.output / task
    bundle = folder / f"bundle_{name}"
    given = {"bundle": bundle, "output": folder / f"evaluation_{name}"}
    evaluation = _settings(EvaluateConfig, config, "evaluate", given, task)
    if after_final:
        episodes = config.checkpoint_episodes or evaluation.episodes
        first = evaluation.first_seed + evaluation.episodes
        evaluation = replace(evaluation, first_seed=first, episodes=episodes, videos=0)
    return [
        (export.run, config_from(ExportConfig, {**parts, "output": bundle}, "export")),
        (evaluate.run, evaluation),
    ]


def _check_kept(tuning: FinetuneConfig, iteration: int) -> None:
    if iteration > tuning.iterations or iteration % tuning.judge_every:
        raise ConfigError(
            f"iterations_evaluated names {iteration}, but of {tuning.iterations} iterations finetune keeps every "
            f"{tuning.judge_every}th; name one of those, or set iterations and judge_every of stages.finetune"
        )


def _settings(
    cls: type,
    config: PipelineConfig,
    stage: str,
    given: Mapping[str, Any],
    task: str | None = None,
    over: StageSettings | None = None,
) -> Any:
    """Build a verb's config: the stage's settings, then the task's, the variant's, and the pipeline's own paths."""
    of_task = config.task_stages.get(task or "", {}).get(stage, {})
    settings = _merged(config.stages.get(stage, {}), of_task, over or {})
    seed = {"seed": config.seed} if "seed" in {setting.name for setting in fields(cls)} else {}
    return config_from(cls, {**seed, **settings, **given}, f"settings of {stage}")


def _merged(*layers: StageSettings) -> StageSettings:
    out: StageSettings = {}
    for layer in layers:
        for key, value in layer.items():
            before = out.get(key)
            out[key] = _merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return out


def _work_through(plan: Iterable[Step]) -> None:
    """Call each verb in order, but leave out the bundles of iterations that were not reached, and their evaluations."""
    left_out = set[Path]()
    for verb, settings in plan:
        if isinstance(settings, ExportConfig) and not _is_kept(settings):
            tell(settings.output, "left out: finetune ended before that iteration")
            left_out.add(settings.output)
        elif not (isinstance(settings, EvaluateConfig) and settings.bundle in left_out):
            verb(settings)


def _is_kept(export: ExportConfig) -> bool:
    """Whether the policy to export was kept: an iteration is not where fine-tuning ended before it."""
    if export.finetuned is None or export.iteration is None:
        return True
    return (export.finetuned / iteration_folder(export.iteration)).exists()


def _make_shared(config: PipelineConfig, plans: Mapping[str, list[Step]]) -> None:
    """Ingest, see that each task can be learned from what came of it, and only then learn what all tasks share."""
    make_dataset, *learn = plan_shared(config)
    _work_through([make_dataset])
    dataset = Dataset.open(config.output / "dataset")
    for task in (*config.tasks, *config.task_stages):
        dataset.spec.task(task)
    for plan in plans.values():
        _, cloning = plan[0]
        choose_demonstrations(cloning, dataset)
        for _, settings in plan:
            if isinstance(settings, EvaluateConfig):
                _check_starts(settings, dataset)
    _try_environments(plans, dataset)
    _work_through(learn)


def _try_environments(plans: Mapping[str, list[Step]], dataset: Dataset) -> None:
    """Try each task's environment before hours of training: an evaluation would fail only after them.

    Raises:
        DiwaError: it cannot be made, is of another Spec, fails, or cannot draw the films that are asked for; or it
            would judge several tasks without being told which.
    """
    untold: list[tuple[EvaluateConfig, str]] = []
    for task, plan in plans.items():
        evaluations = [settings for _, settings in plan if isinstance(settings, EvaluateConfig)]
        judged = evaluations[0]
        if judged.task is None and not takes(judged.environment, "task"):
            for like, other in untold:
                if (like.environment, like.environment_kwargs) == (judged.environment, judged.environment_kwargs):
                    raise ConfigError(
                        f"{judged.environment}: takes no argument `task`, so {other} and {task} would be judged by one "
                        "and the same success; let it take one, or give each task environment_kwargs of its own in "
                        "task_stages"
                    )
            untold.append((judged, task))
        if any(not (settings.output / EVALUATION).exists() for settings in evaluations):
            try_environment(judged, task, dataset.spec, str(dataset.folder))


def _check_starts(evaluation: EvaluateConfig, dataset: Dataset) -> None:
    """Refuse to judge by starts that were recorded, and so learned from.

    Raises:
        ConfigError: names one.
    """
    recorded = set(evaluation.seeds).intersection(e.seed for e in dataset.episodes if e.seed is not None)
    if recorded:
        raise ConfigError(
            f"evaluate: first_seed {evaluation.first_seed} and episodes {evaluation.episodes} include seed "
            f"{min(recorded)}, from which {dataset.folder} holds a recording; choose another first_seed"
        )


def _sum_up(config: PipelineConfig) -> None:
    results = sum_up(config.output, config.tasks, (FINETUNED, *config.variants))
    write_json(config.output / RESULTS, results)
    report.run(ReportConfig(config.output, config.output / REPORT))
    print_table(results)
    print(f"{config.output / RESULTS}\n{config.output / REPORT}")


def _side_by_side(config: PipelineConfig) -> None:
    """Run each task in a process of its own, `workers` at a time.

    Raises:
        DiwaError: one of them failed; it has said why.
        KeyboardInterrupt: it was asked to stop; each task has kept its last checkpoint.
    """
    failed = side_by_side(config.tasks, lambda task: start_process(_task_command(config, task)), config.workers)
    if failed:
        raise DiwaError(f"{', '.join(failed)} failed, see above; mend it and give the same command to go on")


def _task_command(config: PipelineConfig, task: str) -> list[str]:
    settings = config.output / task / SETTINGS
    alone = replace(config, tasks=(task,), workers=1, shared=False, resume=True)
    with written_whole(settings) as temporary:
        temporary.write_text(to_yaml(alone), encoding="utf-8")
    return [sys.executable, "-m", "diwa_trainer", "pipeline", "--config", str(settings)]
