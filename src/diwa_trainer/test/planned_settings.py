"""What settings that run for hours must agree in, seen in a second without running them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diwa_trainer.verbs import pipeline
from diwa_trainer.verbs.evaluate import EvaluateConfig
from diwa_trainer.verbs.finetune import FinetuneConfig
from diwa_trainer.verbs.pipeline import PipelineConfig
from diwa_trainer.verbs.pretrain import PretrainConfig


def check_settings_fit(planned: PipelineConfig, recorded: Mapping[str, Any]) -> dict[str, list[FinetuneConfig]]:
    """Plan a pipeline on what collection's settings record, and return each task's fine-tunings."""
    pipeline.plan_shared(planned)
    assert set(planned.tasks) <= set(recorded.get("tasks", planned.tasks)), "all of them where none is named"
    found = {}
    for task in planned.tasks:
        settings = [step for _, step in pipeline.plan_task(planned, task)]
        (cloning,) = (step for step in settings if isinstance(step, PretrainConfig))
        tunings = [step for step in settings if isinstance(step, FinetuneConfig)]
        assert cloning.demonstrations <= recorded["demonstrations"]
        assert [tuning.output.name for tuning in tunings] == ["finetuned", *planned.variants]
        imagined = {tuning.chunks * cloning.policy.chunk for tuning in tunings}
        assert imagined == {step.max_steps for step in settings if isinstance(step, EvaluateConfig)}, "episodes as long"
        found[task] = tunings
    return found
