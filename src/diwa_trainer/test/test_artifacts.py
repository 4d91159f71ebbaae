"""Files of networks know what they were made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn
from toy import TINY_MODEL, TINY_POLICY

from diwa_runtime.errors import InputError
from diwa_runtime.spec import Spec
from diwa_trainer.policy.diffusion import DiffusionPolicy
from diwa_trainer.policy.reward import Classifier, ClassifierConfig
from diwa_trainer.runs import artifacts
from diwa_trainer.runs.artifacts import Artifact, check_lineage
from diwa_trainer.runs.trained import (
    CLASSIFIER,
    FINETUNED,
    PRETRAINED,
    load_classifier,
    load_policy,
    load_world_model,
    save_classifier,
    save_policy,
    save_world_model,
)
from diwa_trainer.world.world_model import WorldModel


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


SHA = "a" * 64
POLICY_FACTS = {"task": "open_drawer", "latent_size": 8, "world_model": SHA}
SAVED = [
    (PRETRAINED, POLICY_FACTS),
    (FINETUNED, {**POLICY_FACTS, "policy": SHA}),
    (CLASSIFIER, {**POLICY_FACTS, "threshold": 0.9}),
]


def save(folder: Path, kind: str, about: dict[str, Any]) -> None:
    if kind == CLASSIFIER:
        save_classifier(folder, Classifier(ClassifierConfig(hidden=4, embedding=2), 8), Spec(), about)
    else:
        save_policy(folder, kind, DiffusionPolicy(TINY_POLICY, 8), Spec(), about)


def load(folder: Path, kind: str) -> tuple[nn.Module, Artifact]:
    return load_classifier(folder) if kind == CLASSIFIER else load_policy(folder, kind, "its verb")


@pytest.mark.parametrize(("kind", "about", "lost"), [(kind, about, fact) for kind, about in SAVED for fact in about])
def test_a_network_that_does_not_say_what_it_was_made_from_is_refused(tmp_path, kind, about, lost):
    save(tmp_path, kind, {name: value for name, value in about.items() if name != lost})

    with pytest.raises(InputError, match=f"its header does not state '{lost}'"):
        load(tmp_path, kind)


@pytest.mark.parametrize(("kind", "about"), SAVED)
def test_a_loaded_network_is_frozen_and_no_longer_learns(tmp_path, kind, about):
    save(tmp_path, kind, about)

    network, artifact = load(tmp_path, kind)

    assert artifact.about == about
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("version", [0, 2])
def test_a_network_of_an_older_or_a_newer_format_is_refused(tmp_path, monkeypatch, version):
    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "ARTIFACT_VERSION", version)
        save(tmp_path, PRETRAINED, POLICY_FACTS)

    with pytest.raises(InputError, match=f"format {version}, this DiWA reads 1"):
        load(tmp_path, PRETRAINED)


@pytest.mark.parametrize("about", [None, "text", 3])
def test_a_network_whose_header_tells_nothing_in_pairs_is_one_line(tmp_path, about):
    model = WorldModel(Spec(), TINY_MODEL)
    save_world_model(tmp_path, model, about)

    with pytest.raises(InputError, match=r"world_model\.safetensors: damaged header"):
        load_world_model(tmp_path)
