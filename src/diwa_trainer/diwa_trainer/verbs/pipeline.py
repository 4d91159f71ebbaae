"""`pipeline`: every verb in order from one YAML, from bags to a report; what is done is skipped.

    dataset -> world_model -> for each task: pretrained, reward, finetuned -> bundles -> evaluations -> report.html

Tasks run side by side, each as a process of this same verb that finds what they share done.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from diwa_runtime.config import config_from, to_yaml
from diwa_runtime.errors import ConfigError, DiwaError, nearest
from diwa_runtime.files import written_whole
from diwa_trainer.evaluation import EvaluateConfig
from diwa_trainer.results import print_table, sum_up
from diwa_trainer.runs import write_json
from diwa_trainer.verbs import evaluate, export, finetune, ingest, pretrain, report, train_reward, train_world_model
from diwa_trainer.verbs.export import ExportConfig
from diwa_trainer.verbs.finetune import FinetuneConfig
from diwa_trainer.verbs.ingest import IngestConfig
from diwa_trainer.verbs.pretrain import PretrainConfig
from diwa_trainer.verbs.report import ReportConfig
from diwa_trainer.verbs.train_reward import TrainRewardConfig
from diwa_trainer.verbs.train_world_model import TrainWorldModelConfig

Settings = dict[str, Any]
STAGES = ("ingest", "train_world_model", "pretrain", "train_reward", "finetune", "evaluate")
FINETUNED = "finetuned"


@dataclass(frozen=True)
class PipelineConfig:
    """Run every verb in order."""

    output: Path
    bags: tuple[Path, ...]
    tasks: tuple[str, ...]
    stages: dict[str, Settings] = field(default_factory=dict, metadata={"help": "settings of each verb"})
    task_stages: dict[str, dict[str, Settings]] = field(
        default_factory=dict, metadata={"help": "settings of each verb for one task, over `stages`"}
    )
    variants: dict[str, Settings] = field(
        default_factory=dict, metadata={"help": "more fine-tuned policies: settings of finetune by name"}
    )
    iterations_evaluated: tuple[int, ...] = field(
        default=(),
        metadata={"help": "iterations of finetune to evaluate besides the last, on the seeds after the final"},
    )
    seed: int = 0
    workers: int = field(default=2, metadata={"help": "tasks side by side"})
    summary: bool = field(default=True, metadata={"help": "end with results.json and report.html"})
    resume: bool = field(default=True, metadata={"help": "go on where it was; what is done is always skipped"})

    def __post_init__(self) -> None:
        for task, stages in {"stages": self.stages, **self.task_stages}.items():
            for stage in stages:
                if stage not in STAGES:
                    raise ConfigError(
                        f"{task}: no stage {stage!r}{nearest(stage, STAGES)} (there are {', '.join(STAGES)})"
                    )
        for task in self.task_stages:
            if "/" in task or not task:
                raise ConfigError(f"task_stages: {task!r} is no task's name")


def run(config: PipelineConfig) -> None:
    """Run what is shared, then the tasks, then sum up: `results.json`, `report.html` and a table on the terminal."""
    dataset, world_model = config.output / "dataset", config.output / "world_model"
    ingest.run(_stage(IngestConfig, config, "ingest", {"bags": config.bags, "output": dataset}))
    train_world_model.run(
        _stage(
            TrainWorldModelConfig, config, "train_world_model", {"dataset": dataset, "output": world_model}, seeded=True
        )
    )
    if config.workers > 1 and len(config.tasks) > 1:
        _side_by_side(config)
    else:
        for task in config.tasks:
            run_task(config, task)
    if not config.summary:
        return
    results = sum_up(config.output, config.tasks, (FINETUNED, *config.variants))
    write_json(config.output / "results.json", results)
    report.run(ReportConfig(config.output, config.output / "report.html"))
    print_table(results)
    print(f"{config.output / 'results.json'}\n{config.output / 'report.html'}")


def run_task(config: PipelineConfig, task: str) -> None:
    """Base policy, reward, fine-tuned policies, bundles and evaluations of one task."""
    shared = {"dataset": config.output / "dataset", "world_model": config.output / "world_model"}
    folder = config.output / task
    base, reward = folder / "pretrained", folder / "reward"
    trained = {**shared, "policy": base, "reward": reward}
    pretrain.run(
        _stage(PretrainConfig, config, "pretrain", {**shared, "task": task, "output": base}, task, seeded=True)
    )
    train_reward.run(
        _stage(TrainRewardConfig, config, "train_reward", {**shared, "task": task, "output": reward}, task, seeded=True)
    )
    _export_and_evaluate(config, task, "base", trained)
    for name, settings in {FINETUNED: {}, **config.variants}.items():
        tuned = _stage(
            FinetuneConfig, config, "finetune", {**trained, "output": folder / name}, task, seeded=True, over=settings
        )
        finetune.run(tuned)
        _export_and_evaluate(config, task, name, {**trained, "finetuned": folder / name})
        for iteration in config.iterations_evaluated:
            parts = {**trained, "finetuned": folder / name, "iteration": iteration}
            _export_and_evaluate(config, task, f"{name}_{iteration:04d}", parts, after_final=True)


def _export_and_evaluate(
    config: PipelineConfig, task: str, name: str, parts: Mapping[str, Any], *, after_final: bool = False
) -> None:
    folder = config.output / task
    bundle = folder / f"bundle_{name}"
    if not bundle.exists():
        export.run(config_from(ExportConfig, {**parts, "output": bundle}, "export"))
    setup = _stage(
        EvaluateConfig, config, "evaluate", {"bundle": bundle, "output": folder / f"evaluation_{name}"}, task
    )
    if after_final:
        setup = replace(setup, first_seed=setup.first_seed + setup.episodes, videos=0)
    evaluate.run(setup)


def _stage(
    cls: type,
    config: PipelineConfig,
    stage: str,
    given: Mapping[str, Any],
    task: str | None = None,
    *,
    seeded: bool = False,
    over: Settings | None = None,
) -> Any:
    """Build a verb's config: the pipeline's own paths, then the stage's, the task's and the variant's settings."""
    of_task = config.task_stages.get(task or "", {}).get(stage, {})
    settings = _merged(config.stages.get(stage, {}), of_task, over or {})
    return config_from(cls, {**({"seed": config.seed} if seeded else {}), **settings, **given}, f"settings of {stage}")


def _merged(*layers: Settings) -> Settings:
    out: Settings = {}
    for layer in layers:
        for key, value in layer.items():
            before = out.get(key)
            out[key] = _merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return out


def _side_by_side(config: PipelineConfig) -> None:
    """Run each task in a process of its own, `workers` at a time.

    Raises:
        DiwaError: one of them failed; it has said why.
        KeyboardInterrupt: Ctrl-C; each task has kept its last checkpoint.
    """
    running: dict[str, subprocess.Popen[bytes]] = {}

    def run_one(task: str) -> int:
        running[task] = subprocess.Popen(_task_command(config, task))
        return running[task].wait()

    with ThreadPoolExecutor(config.workers) as pool:
        futures = {task: pool.submit(run_one, task) for task in config.tasks}
        try:
            codes = {task: future.result() for task, future in futures.items()}
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in running.values():
                if process.poll() is None:
                    process.send_signal(signal.SIGINT)
            raise KeyboardInterrupt("every task keeps its last checkpoint; the same command goes on") from None
    if failed := [task for task, code in codes.items() if code]:
        raise DiwaError(f"{', '.join(failed)} failed, see above; mend it and give the same command to go on")


def _task_command(config: PipelineConfig, task: str) -> list[str]:
    settings = config.output / task / "pipeline.yaml"
    with written_whole(settings) as temporary:
        temporary.write_text(to_yaml(replace(config, tasks=(task,), workers=1, summary=False)), encoding="utf-8")
    return [sys.executable, "-m", "diwa_trainer", "pipeline", "--config", str(settings)]
