"""A bundle says and does what its parts are, and how long and from where its demonstrations went."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import DRAWER, SPEC, TASK, keep_the_last, tiny_configs

from diwa_runtime.bundle import Bundle
from diwa_runtime.errors import InputError, SpecMismatchError
from diwa_runtime.files import sha256_of
from diwa_trainer.dataset import Dataset, DatasetWriter
from diwa_trainer.policy.diffusion import draw_noise, sample
from diwa_trainer.runs.trained import (
    FINETUNED,
    PRETRAINED,
    load_classifier,
    load_policy,
    load_world_model,
    save_classifier,
)
from diwa_trainer.verbs import export, finetune
from diwa_trainer.verbs.export import ExportConfig

ROLLS = {20: 3.1, 30: -3.1, 25: 3.13}  # of a hand that points down, by how many rows its demonstration has


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Three demonstrations, and longer episodes that begin elsewhere: a failed one, one of another task, and play."""
    folder = tmp_path_factory.mktemp("shown") / "data"
    success = {"kind": "demonstration", "task": TASK, "outcome": "success"}
    others = [{**success, "outcome": "failure"}, {**success, "task": "close_drawer"}, {}]
    with DatasetWriter(folder, SPEC) as writer:
        for length, roll, about in [(n, roll, success) for n, roll in ROLLS.items()] + [(90, 0.0, o) for o in others]:
            proprio, scene = np.zeros((length, 15), "f4"), np.zeros((length, 24), "f4")
            proprio[:, 0], proprio[0, 3], scene[:, DRAWER] = np.arange(length), roll, np.linspace(0, 0.2, length)
            action = np.zeros((length, 7), "f4")
            writer.add_episode(
                {"stamp": np.arange(length), "proprio": proprio, "scene": scene, "action": action}, **about
            )
    return folder


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, toy_data, toy_runs) -> Path:
    """A fine-tuning of four iterations of which the second is kept, at a rate that shows."""
    config = tiny_configs(toy_data, toy_runs)["finetune"]
    changes = {"ppo": dataclasses.replace(config.ppo, actor_learning_rate=0.01), "threshold": 0.9, "judge_every": 2}
    config = dataclasses.replace(config, output=tmp_path_factory.mktemp("tuned") / "run", **changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "choose", keep_the_last)
        finetune.run(config)
    return config.output


def exported(data: Path, runs: Path, output: Path, **changes) -> Bundle:
    parts = {name: runs / folder for name, folder in (("world_model",) * 2, ("policy", "pretrained"), ("reward",) * 2)}
    export.run(ExportConfig(dataset=data, output=output, **{**parts, **changes}))
    return Bundle.load(output)


def test_a_bundle_says_what_fine_tuning_thought_of_the_policy_that_it_kept(tmp_path, toy_data, toy_runs, tuned):
    def said(name, **parts):
        return exported(toy_data, toy_runs, tmp_path / name, **parts).manifest.provenance["verdict"]

    kept = said("kept", finetuned=tuned)
    verdict = json.loads((tuned / "verdict.json").read_text())
    assert kept == {
        "decision": verdict["decision"],
        "why": verdict["why"],
        "imagined": verdict["chosen"]["success"],
        "imagined_base": verdict["candidates"][0]["success"],
        "outside": verdict["chosen"]["outside"],
    }
    assert said("base") is None
    assert said("other", finetuned=tuned, iteration=2) is None


def test_a_bundle_knows_where_its_demonstrations_began_and_how_long_they_took(tmp_path, data, toy_runs):
    manifest = exported(data, toy_runs, tmp_path / "bundle").manifest

    assert manifest.max_steps == 2 * max(ROLLS), "twice the longest, which is not the failed one or the other task's"
    starts = manifest.proprio_starts
    assert (starts.minimum[0], starts.maximum[0]) == (0, 0)
    # On one turn: half a turn is 3.1416, so the three rolls are 0.042, 0.042 and 0.012 from it.
    assert starts.maximum[3] - starts.minimum[3] == pytest.approx(2 * np.pi - 6.2, abs=1e-4)
    assert abs(starts.mean[3]) == pytest.approx(np.pi, abs=0.02)


@pytest.mark.parametrize(
    ("about", "said"), [({"task": "close_drawer"}, "rewards close_drawer"), ({"world_model": "ab" * 32}, "world model")]
)
def test_a_reward_of_another_task_or_world_model_is_in_no_bundle(tmp_path, data, toy_runs, about, said):
    classifier, file = load_classifier(toy_runs / "reward")
    save_classifier(tmp_path, classifier, file.spec, {**file.about, **about})

    with pytest.raises(InputError, match=said):
        exported(data, toy_runs, tmp_path / "bundle", reward=tmp_path)

    assert not (tmp_path / "bundle").exists()


def test_recordings_of_another_robot_are_in_no_bundle(tmp_path, toy_runs):
    with DatasetWriter(tmp_path / "data", dataclasses.replace(SPEC, rate_hz=15.0)) as writer:
        rows = {"stamp": np.arange(9), "proprio": np.zeros((9, 15), "f4"), "action": np.zeros((9, 7), "f4")}
        about = {"kind": "demonstration", "task": TASK, "outcome": "success"}
        writer.add_episode({**rows, "scene": np.zeros((9, 24), "f4")}, **about)

    with pytest.raises(SpecMismatchError, match="rate_hz"):
        exported(tmp_path / "data", toy_runs, tmp_path / "bundle")


@pytest.mark.parametrize("iteration", [None, 2])
def test_a_bundle_does_what_its_policies_do_and_says_which_they_are(tmp_path, data, toy_runs, tuned, iteration):
    folder = tuned if iteration is None else tuned / "iteration_0002"
    base, _ = load_policy(toy_runs / "pretrained", PRETRAINED, "pretrain")
    policy, _ = load_policy(folder, FINETUNED, "finetune")
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(3, base.latent_size, generator=generator)
    noise = draw_noise(policy.config, (3, policy.config.denoising_steps + 1), generator)

    bundle = exported(data, toy_runs, tmp_path / "bundle", finetuned=tuned, iteration=iteration)

    chunk = bundle.policy(latent.numpy(), noise.unflatten(-1, (-1, 7)).numpy())
    np.testing.assert_allclose(chunk, sample(base, policy, latent, noise, explore=False).chunk, atol=1e-5)
    manifest = bundle.manifest
    files = {
        "world_model": toy_runs / "world_model" / "world_model.safetensors",
        "policy": toy_runs / "pretrained" / "policy.safetensors",
        "reward": toy_runs / "reward" / "reward.safetensors",
        "finetuned": folder / "policy.safetensors",
    }
    sums = {name: sha256_of(path) for name, path in files.items()}
    fingerprint = Dataset.open(data).fingerprint
    provenance = {**manifest.provenance, "verdict": None}
    assert provenance == {"dataset": fingerprint, **sums, "iterations": iteration or 4, "verdict": None}
    assert manifest.success_threshold == 0.9
    assert (manifest.chunk_length, manifest.denoising_steps) == (base.config.chunk, base.config.denoising_steps)


def test_a_manifest_shows_the_standardisation_that_its_filter_does(tmp_path, data, toy_runs):
    model, _ = load_world_model(toy_runs / "world_model")

    shown = exported(data, toy_runs, tmp_path / "bundle").manifest.normalisation

    for name, features in (("proprio", model.proprio), ("scene", model.scene)):
        raw = torch.zeros(len(features.raw_names))
        values = (features.raw_features(raw).numpy() - shown[name].mean) / shown[name].std
        clamp = shown[name].clamp
        np.testing.assert_allclose(np.clip(values, -clamp, clamp), features(raw), atol=1e-5)
        assert features(raw + 1e6).max() <= clamp
        assert shown[name].names == features.names
