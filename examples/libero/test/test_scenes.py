"""What needs no LIBERO: Specs, and experts on a scene that stands still."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from diwa_libero.experts import make_expert
from diwa_libero.scenes import SCENES, Scene, scene_named, scene_of
from planned_settings import check_settings_fit

from diwa_runtime.config import load_config
from diwa_runtime.errors import InputError
from diwa_runtime.spec import Spec
from diwa_trainer.verbs.pipeline import PipelineConfig
from diwa_trainer.world.rules import free_bodies

FOLDER = Path(__file__).parents[1]
scenes = pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)


@scenes
def test_a_scenes_spec_is_one_that_can_be_read_back_and_begins_with_the_judged_task(scene: Scene) -> None:
    spec = scene.spec()

    assert Spec.from_json(spec.to_json()) == spec
    assert spec.tasks[0].name == scene.task
    assert scene_of(scene.task) is scene
    assert free_bodies(spec.scene, spec.watched) == set(scene.objects), "all else counts"


def test_an_unknown_scene_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no scene .scene2.*scene1"):
        scene_named("scene2")
    with pytest.raises(InputError, match="judged by 'open_drawer'"):
        scene_of("open_drawer")


@scenes
def test_progress_is_none_at_the_start_and_whole_when_the_task_is_done(scene: Scene) -> None:
    spec = scene.spec()
    for task in spec.tasks:
        joint, forwards = scene.moved_by(task)
        start, end = np.zeros(len(spec.scene)), np.zeros(len(spec.scene))
        ends = (0.0, joint.travel) if forwards else (joint.travel, 0.0)
        start[spec.scene.index(joint.field)], end[spec.scene.index(joint.field)] = ends
        expert = make_expert(task, scene)

        assert expert.progress(start, start) == 0.0
        assert expert.progress(start, end) >= 1.0


@scenes
def test_an_expert_goes_where_it_will_touch(scene: Scene) -> None:
    """From 30 cm above, the hand comes nearer with every step that it makes as it asks for."""
    spec = scene.spec()
    for task in spec.tasks:
        expert = make_expert(task, scene)
        values, proprio = np.zeros(len(spec.scene)), np.zeros(len(spec.proprio))
        proprio[:3] = expert.contact(values) + np.array([0.0, 0.3 * scene.out, 0.3])
        proprio[3:6] = np.pi, 0.0, np.pi / 2
        away = []
        for _ in range(12):
            proprio[:3] += (
                0.25 * spec.action_scale.translation_m * expert.act({"proprio": proprio, "scene": values})[:3]
            )
            away.append(float(np.linalg.norm(proprio[:3] - expert.contact(values))))
        assert away == sorted(away, reverse=True)


def test_play_that_leaves_the_drawer_alone_has_no_skill_that_moves_it() -> None:
    """Scene4's drawer is watched by two values, and play does what either asks for."""
    (line,) = re.findall('COLLECT="--play-without (.*)" kitchen scene4_untouched', (FOLDER / "results").read_text())
    tasks = scene_named("scene4").spec().tasks

    assert {task.name for task in tasks if "bottom_drawer" in task.name and task.field not in line.split()} == set()
    assert {task.field for task in tasks} > set(line.split()), "there is something left to play with"


@scenes
@pytest.mark.parametrize("over", [(), ("anchor.yaml",)], ids=["usual", "anchor"])
def test_the_settings_of_a_kitchen_fit_together(
    scene: Scene, over: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `kitchen` and `results` run for hours, seen in a second."""
    recorded = yaml.safe_load((FOLDER / "collect.yaml").read_text())
    (tmp_path / "spec.json").write_text(json.dumps(scene.spec().to_json()))
    monkeypatch.chdir(tmp_path)

    files = ("pipeline.yaml", f"{scene.name}.yaml", *over)
    words = [word for file in files for word in ("--config", str(FOLDER / file))]
    config = load_config(PipelineConfig, [*words, "--stages.ingest.spec", "spec.json"])
    assert config.tasks == (scene.task,)
    tunings = check_settings_fit(config, recorded)[scene.task]
    assert sorted(step.ppo.bc_weight for step in tunings) == sorted([0, *(0.025, 0.05, 0.1, 0.2, 0.5)[: 5 * len(over)]])
