"""A pipeline's plan: whose settings hold, what each verb is given, and on which seeds what is evaluated."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from diwa_runtime.config import load_config
from diwa_runtime.errors import ConfigError
from diwa_trainer.verbs import evaluate, export, finetune, ingest, pretrain, train_eyes, train_reward, train_world_model
from diwa_trainer.verbs.pipeline import PipelineConfig, plan_shared, plan_task
from diwa_trainer.verbs.presets import JOINT, PRESETS, presets_of
from diwa_trainer.verbs.train_world_model import TrainWorldModelConfig

TASK, OTHER = "open_drawer", "turn_on_led"
OUT = Path("out")
LEARNING = (train_eyes, train_world_model, pretrain, train_reward, finetune)
VERBS = {
    verb.__name__.rpartition(".")[2]: verb
    for verb in (ingest, train_eyes, train_world_model, pretrain, train_reward, finetune)
}
CONFIG = PipelineConfig(
    output=OUT,
    bags=(Path("bags"),),
    tasks=(TASK, OTHER),
    seed=4,
    stages={
        "pretrain": {"updates": 10, "batch": 20, "seed": 9, "policy": {"hidden": 8, "chunk": 2}, "output": "elsewhere"},
        "train_reward": {"updates": 11, "batch": 22},
        "finetune": {
            "iterations": 12,
            "episodes": 24,
            "judge_every": 3,
            "patience": 0,
            "ppo": {"epochs": 2, "clip": 0.5},
        },
        "evaluate": {"episodes": 13, "max_steps": 26, "first_seed": 1000, "videos": 2},
    },
    task_stages={
        TASK: {
            "pretrain": {"updates": 100, "policy": {"chunk": 3}},
            "train_reward": {"updates": 110},
            "finetune": {"iterations": 120, "ppo": {"clip": 0.25, "clip_base": 0.125}},
            "evaluate": {"max_steps": 260},
        }
    },
    variants={"anchored": {"episodes": 240, "ppo": {"clip_base": 0.0625, "bc_weight": 0.5}}},
    iterations_evaluated=(3, 6),
)


def planned(task: str, verb: Any, config: PipelineConfig = CONFIG) -> dict[str, Any]:
    """What a verb is called with for a task, by the name of its output."""
    return {settings.output.name: settings for run, settings in plan_task(config, task) if run is verb.run}


def has(settings: Any, **expected: Any) -> None:
    """See that settings, or with a dictionary those inside, are as expected."""
    for name, value in expected.items():
        if isinstance(value, dict):
            has(getattr(settings, name), **value)
        else:
            assert getattr(settings, name) == (tuple(value) if isinstance(value, list) else value), name


def test_a_task_s_settings_lie_over_the_stage_s_and_a_variant_s_over_both():
    has(planned(TASK, pretrain)["pretrained"], updates=100, batch=20, policy={"hidden": 8, "chunk": 3})
    has(planned(TASK, train_reward)["reward"], updates=110, batch=22)
    tuned, anchored = (planned(TASK, finetune)[name] for name in ("finetuned", "anchored"))
    has(tuned, iterations=120, episodes=24, ppo={"epochs": 2, "clip": 0.25, "clip_base": 0.125, "bc_weight": 0.0})
    has(anchored, iterations=120, episodes=240, ppo={"epochs": 2, "clip": 0.25, "clip_base": 0.0625, "bc_weight": 0.5})
    has(planned(TASK, evaluate)["evaluation_base"], episodes=13, max_steps=260)


def test_another_task_has_the_stage_s_settings_alone():
    has(planned(OTHER, pretrain)["pretrained"], updates=10, policy={"chunk": 2}, task=OTHER)
    has(planned(OTHER, train_reward)["reward"], updates=11, task=OTHER)
    has(planned(OTHER, finetune)["finetuned"], iterations=12, ppo={"clip": 0.5})
    has(planned(OTHER, evaluate)["evaluation_base"], max_steps=26)


def test_the_pipeline_s_seed_is_every_verb_s_that_names_none():
    assert planned(TASK, pretrain)["pretrained"].seed == 9
    assert planned(TASK, train_reward)["reward"].seed == 4
    assert {settings.seed for settings in planned(TASK, finetune).values()} == {4}
    assert plan_shared(CONFIG)[1][1].seed == 4


def test_every_verb_reads_what_the_one_before_it_wrote_whatever_a_stage_says():
    (making, dataset), (learning, world_model) = plan_shared(CONFIG)
    base, reward = planned(TASK, pretrain)["pretrained"], planned(TASK, train_reward)["reward"]
    tuned = planned(TASK, finetune)

    assert (making, learning) == (ingest.run, train_world_model.run)
    has(dataset, bags=(Path("bags"),), output=OUT / "dataset")
    shared = {"dataset": OUT / "dataset", "world_model": OUT / "world_model"}
    has(world_model, dataset=shared["dataset"], output=shared["world_model"])
    has(base, **shared, task=TASK, output=OUT / TASK / "pretrained")
    has(reward, **shared, task=TASK, output=OUT / TASK / "reward")
    trained = {**shared, "policy": base.output, "reward": reward.output}
    assert list(tuned) == ["finetuned", "anchored"]
    for name, settings in tuned.items():
        has(settings, **trained, output=OUT / TASK / name)
    for name, bundle in planned(TASK, export).items():
        policy, _, iteration = name.removeprefix("bundle_").partition("_")
        finetuned = None if policy == "base" else OUT / TASK / policy
        has(bundle, **trained, finetuned=finetuned, iteration=int(iteration) if iteration else None)
    for name, settings in planned(TASK, evaluate).items():
        assert settings.bundle == OUT / TASK / name.replace("evaluation", "bundle")


def test_what_is_kept_on_the_way_is_evaluated_on_seeds_of_its_own_and_not_filmed():
    """So that who looks at the curve and picks an iteration has not seen the seeds of the final figure."""
    evaluations = planned(TASK, evaluate)

    final = [f"evaluation_{name}" for name in ("base", "finetuned", "anchored")]
    kept = [f"{name}_{iteration:04d}" for name in final[1:] for iteration in (3, 6)]
    assert sorted(evaluations) == sorted(final + kept)
    for name, settings in evaluations.items():
        first, videos = (1000, 2) if name in final else (1013, 0)
        has(settings, first_seed=first, episodes=13, videos=videos)


def test_what_is_kept_on_the_way_may_be_evaluated_in_fewer_episodes():
    evaluations = planned(TASK, evaluate, dataclasses.replace(CONFIG, checkpoint_episodes=5))

    has(evaluations["evaluation_finetuned"], first_seed=1000, episodes=13)
    has(evaluations["evaluation_finetuned_0003"], first_seed=1013, episodes=5)


@pytest.mark.parametrize(
    ("iteration", "judge_every", "patience", "fits"),
    [(12, 3, 0, True), (3, 3, 0, True), (15, 3, 0, False), (3, 3, 2, True), (4, 3, 0, False)],
)
def test_an_iteration_can_be_evaluated_where_it_is_kept(iteration, judge_every, patience, fits):
    stages = {"finetune": {"iterations": 12, "judge_every": judge_every, "patience": patience}}
    config = dataclasses.replace(CONFIG, stages=stages, task_stages={}, iterations_evaluated=(iteration,))

    if fits:
        assert f"evaluation_finetuned_{iteration:04d}" in planned(TASK, evaluate, config)
    else:
        with pytest.raises(ConfigError, match=f"iterations_evaluated names {iteration}, but of 12 iterations"):
            plan_task(config, TASK)


def test_eyes_stand_in_front_of_cameras_unless_the_world_model_codes_pictures_itself():
    seeing = dataclasses.replace(CONFIG, stages={"ingest": {"mode": "vision"}})
    joint = dataclasses.replace(CONFIG, stages={"ingest": {"mode": "vision"}} | JOINT)

    ((_, _), (eyes, _), (_, behind)), ((_, _), (model, alone)) = plan_shared(seeing), plan_shared(joint)

    assert eyes is train_eyes.run
    assert behind.eyes == OUT / "eyes"
    assert model is train_world_model.run
    assert alone.eyes is None
    assert alone.joint


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_s_settings_reach_every_verb_of_a_pipeline(name):
    given = ["--output", "out", "--bags", "bags", "--tasks", TASK, "--preset", name]
    config = load_config(PipelineConfig, given, presets_of("pipeline"))

    steps = [*plan_shared(config), *plan_task(config, TASK)]

    for verb, stage in PRESETS[name].items():
        of_verb = [settings for run, settings in steps if run is VERBS[verb].run]
        if verb != "train_eyes":  # which a pipeline has where there are cameras
            assert of_verb, verb
        for settings in of_verb:
            has(settings, **stage)


def test_a_verb_s_own_flags_lie_over_a_preset():
    config = load_config(
        TrainWorldModelConfig,
        ["--dataset", "d", "--output", "o", "--preset", "paper", "--batch", "2"],
        presets_of("train_world_model"),
    )

    has(config, batch=2, length=50, model={"joint": {"depth": 48}, "rssm": {"deterministic": 1024}})
    assert presets_of("report") == {}
