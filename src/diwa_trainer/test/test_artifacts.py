"""Files of networks know what they were made from."""

from __future__ import annotations

from pathlib import Path

import pytest

from diwa_runtime.errors import InputError
from diwa_runtime.spec import Spec
from diwa_trainer.runs.artifacts import Artifact, check_lineage


def artifact(name: str, **about: str) -> Artifact:
    return Artifact(Path(name), name, {}, Spec(), about, {}, sha256=name)


def test_parts_of_one_world_model_and_task_belong_together():
    about = {"world_model": "model", "task": "open_drawer"}

    check_lineage(artifact("model"), artifact("policy", **about), artifact("reward", **about))


def test_a_reward_of_another_task_is_refused():
    policy = artifact("policy", world_model="model", task="open_drawer")
    reward = artifact("reward", world_model="model", task="turn_on_led")

    with pytest.raises(InputError, match="reward: rewards turn_on_led, policy does open_drawer"):
        check_lineage(artifact("model"), policy, reward)


@pytest.mark.parametrize("other", ["policy", "reward"])
def test_a_part_of_another_world_model_is_refused(other):
    models = {"policy": "model", "reward": "model", other: "another"}
    policy, reward = (artifact(name, world_model=models[name], task="open_drawer") for name in ("policy", "reward"))

    with pytest.raises(InputError, match=f"{other}: was trained on another world model"):
        check_lineage(artifact("model"), policy, reward)
