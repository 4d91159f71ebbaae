"""What is held out teaches nothing, and nothing else is measured by."""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from toy import DEMONSTRATIONS, SPEC, TASK, TRAINERS, tiny_configs, write_toy

from diwa_runtime.errors import InputError
from diwa_trainer.dataset import Dataset, DatasetWriter, Episode
from diwa_trainer.runs.trained import load_world_model
from diwa_trainer.samples.stretches import Stretch
from diwa_trainer.verbs import train_reward
from diwa_trainer.verbs.pretrain import choose_demonstrations
from diwa_trainer.verbs.train_reward import TrainRewardConfig
from diwa_trainer.world.open_loop import open_loop_report

HELD_OUT = {
    "train_world_model": lambda config, data: data.split(config.validation, config.split_seed)[1],
    "pretrain": lambda config, data: choose_demonstrations(config, data)[1],
}
SPLITS = {"train_world_model": {"validation": 0.3, "split_seed": 3}, "pretrain": {}}
ROW = SPEC.proprio.index("joint_1")


@pytest.fixture
def data(toy_data) -> Dataset:
    return Dataset.open(toy_data)


def shuffled(data: Dataset, episodes: Sequence[Episode], folder: Path) -> Dataset:
    """Copy a dataset, the rows of these episodes in another order: means and ranges of all rows stay as they were."""
    shutil.copytree(data.folder, folder)
    rng = np.random.default_rng(0)
    orders = [(episode.rows, episode.start + rng.permutation(len(episode))) for episode in episodes]
    for name, array in data.arrays.items():
        changed = array.copy()
        for rows, order in orders:
            changed[rows] = array[order]
        np.save(folder / f"{name}.npy", changed)
    return Dataset.open(folder)


def outcome(verb: str, config: Any, data: Dataset, output: Path) -> tuple[dict[str, bytes], list[Any], list[Any]]:
    """Run a verb; return its weights by name, what it logged of the training, and what it measured on held-out data."""
    TRAINERS[verb](dataclasses.replace(config, dataset=data.folder, output=output))
    (weights,) = output.glob("*.safetensors")
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    lines.append(json.loads((output / "summary.json").read_text()))
    training = [{name: value for name, value in line.items() if "held_out" not in name} for line in lines[:-1]]
    measured = [value for line in lines for name, value in line.items() if name in ("held_out_loss", "held_out_kl")]
    if (report := output / "open_loop.json").exists():
        measured.append(json.loads(report.read_text())["features"]["tcp"])
    return {name: array.tobytes() for name, array in load_file(weights).items()}, training, measured


@pytest.mark.parametrize("verb", HELD_OUT)
def test_what_is_held_out_teaches_nothing_and_is_what_is_measured_by(tmp_path, toy_runs, data, verb):
    config = dataclasses.replace(tiny_configs(data.folder, toy_runs, 2, seed=1)[verb], **SPLITS[verb])
    other = shuffled(data, HELD_OUT[verb](config, data), tmp_path / "data")

    before, after = (outcome(verb, config, one, tmp_path / f"run_{one is other}") for one in (data, other))

    assert after[0] == before[0], "the same weights"
    assert after[1] == before[1], "the same training"
    assert all(one != other for one, other in zip(before[2], after[2], strict=True))


@pytest.mark.parametrize("verb", HELD_OUT)
def test_nothing_but_what_is_held_out_is_measured_by(tmp_path, toy_runs, data, verb):
    """Seen where nothing is learned, so that a model is the same whatever it is shown."""
    config = tiny_configs(data.folder, toy_runs, 2, seed=1)[verb]
    config = dataclasses.replace(config, learning_rate=0.0, **SPLITS[verb])
    if verb == "train_world_model":  # the unit of the hand's error is the step of the hands that are learned from
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, hand_weight=0.0))
    kept = HELD_OUT[verb](config, data)
    other = shuffled(data, [episode for episode in data.episodes if episode not in kept], tmp_path / "data")

    before, after = (outcome(verb, config, one, tmp_path / f"run_{one is other}") for one in (data, other))

    assert after[1] != before[1]
    assert after[2] == before[2]


def test_the_open_loop_report_is_of_the_model_kept_on_what_is_held_out(tmp_path, toy_runs, data):
    config = tiny_configs(data.folder, toy_runs, 1, seed=1)["train_world_model"]
    config = dataclasses.replace(config, output=tmp_path / "run", **SPLITS["train_world_model"])
    TRAINERS["train_world_model"](config)

    model, file = load_world_model(config.output)
    held_out = data.split(config.validation, config.split_seed)[1]
    expected = open_loop_report(model, data, held_out, seed=config.seed)
    assert json.loads((config.output / "open_loop.json").read_text()) == json.loads(json.dumps(expected))
    assert (file.about["updates"], file.about["split_seed"]) == (1, 3)
    assert expected["windows"] == 256


# --- the reward ---------------------------------------------------------------------------------------------------


def rewarding(data: Dataset, runs: Path, **changes) -> TrainRewardConfig:
    return dataclasses.replace(tiny_configs(data.folder, runs)["train_reward"], **changes)


def test_a_reward_learns_from_other_episodes_than_it_is_judged_by(toy_runs, data):
    def drawn(**changes):
        config = rewarding(data, toy_runs, validation=0.3, split_seed=3, **changes)
        return train_reward._stretches(config, data)

    sets, other = drawn(seed=1), drawn(seed=2)
    train, held_out = data.split(0.3, 3)
    for name, episodes in (("train_play", train), ("play", held_out)):
        assert sets[name]
        for stretch in sets[name]:
            assert any(e.start <= stretch.start and stretch.end <= e.end for e in episodes), name
    spans = {name: {(s.start, s.end) for s in sets[name]} for name in sets}
    assert not spans["train_demonstrations"] & spans["demonstrations"]
    shown = {(e.start, e.end) for e in data.episodes_of(kind="demonstration")}
    assert spans["train_demonstrations"] | spans["demonstrations"] == shown
    assert {s.start for s in other["demonstrations"]} != {start for start, _ in spans["demonstrations"]}


@pytest.mark.parametrize(("there", "asked", "trained"), [(25, 50, 15), (25, 3, 3), (12, 50, 6), (21, 50, 11)])
def test_ten_demonstrations_are_held_out_from_a_reward_or_half_where_there_are_few(
    tmp_path, toy_runs, there, asked, trained
):
    data = Dataset.open(write_toy(tmp_path / "data", play=2, demonstrations=there))

    sets = train_reward._stretches(rewarding(data, toy_runs, demonstrations=asked, play=0), data)

    assert [len(sets[name]) for name in ("train_demonstrations", "demonstrations")] == [trained, there - trained]


@pytest.mark.parametrize(("marked", "said"), [([], "no success"), ([0], "nothing but success")])
def test_a_reward_needs_rows_of_success_and_others(tmp_path, toy_runs, marked, said):
    with DatasetWriter(tmp_path / "data", SPEC, scene=False) as writer:
        for _ in range(DEMONSTRATIONS):
            rows = {"stamp": np.arange(9), "proprio": np.zeros((9, 15), "f4"), "action": np.zeros((9, 7), "f4")}
            about = {"kind": "demonstration", "task": TASK, "outcome": "success"}
            writer.add_episode(rows, marks=[(row, TASK) for row in marked], **about)
    data = Dataset.open(tmp_path / "data")

    with pytest.raises(InputError, match=f"the rows for {TASK} show {said}; record both"):
        train_reward.run(rewarding(data, toy_runs, output=tmp_path / "run"))


class Rows:
    """A model whose latent is the number of the row, and whose imagination counts on, below zero."""

    device = torch.device("cpu")

    def __init__(self, data: Dataset) -> None:
        data.arrays["proprio"][:, ROW] = np.arange(len(data))
        self.accepted = torch.from_numpy(data.action)
        self.rssm = SimpleNamespace(imagine_step=self.imagine_step)
        self.modes: list[bool] = []

    def observe(self, observation, actions, generator, *, mode):  # noqa: ARG002
        self.modes.append(mode)
        assert (generator is None) == mode
        return SimpleNamespace(latents=observation["proprio"][..., ROW : ROW + 1])

    def imagine_step(self, latent, action, generator):
        assert generator is not None
        assert torch.equal(action, self.accepted[latent[:, 0].abs().long()])
        return -(latent.abs() + 1)


def test_a_reward_is_judged_frame_by_frame_and_episode_by_episode(data):
    """Two episodes succeed and one does not; of the first the classifier is sure, of the second hardly at all."""
    sure, unsure, failed = [0.2, 0.6, 0.95, 0.98], [0.5, 0.1, 0.1, 0.3], [0.1, 0.1, 0.92, 0.1]
    probabilities = torch.tensor([*sure, *unsure, *failed])
    done = ([0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0])
    stretches = [Stretch(4 * i, 4 * i + 4, np.array(one, bool)) for i, one in enumerate(done)]
    model = Rows(data)

    report = train_reward._judge(model, data, lambda latent: probabilities[latent[:, 0].long()], stretches, 0.94)

    assert model.modes == [True], "with the filter as deployed"
    assert (report["succeeded"], report["failed"]) == (2, 1)
    assert [tuple(row.values()) for row in report["by_threshold"]] == [
        (0.5, 2 / 4, pytest.approx(2 / 3), 1 / 2, 1.0),
        (0.9, pytest.approx(2 / 3), pytest.approx(2 / 3), 1 / 2, 1.0),
        (0.94, 1.0, pytest.approx(2 / 3), 1 / 2, 0.0),
        (0.97, 1.0, pytest.approx(1 / 3), 1 / 2, 0.0),
        (0.99, None, 0.0, 0.0, 0.0),
    ]
    assert list(report["by_threshold"][0]) == [
        "threshold", "precision", "recall", "fires_in_succeeded", "fires_in_failed",
    ]  # fmt: skip


def test_a_replay_begins_at_a_demonstration_s_first_frame_and_follows_its_actions(toy_runs, data):
    """Beside each encoding of all stretches, each demonstration once more as the model imagines it."""
    shown, played = (Stretch(start, start + 4, np.array([0, 0, end, 1], bool)) for start, end in ((20, 1), (60, 0)))
    sets = {"train_demonstrations": [shown], "train_play": [played]}
    config = rewarding(data, toy_runs, encodings=2, imagined=True)

    latents, labels = train_reward._training_latents(config, Rows(data), data, sets)

    encoded = [20, 21, 22, 23, 60, 61, 62, 63]
    assert latents[:, 0].tolist() == [*encoded, *encoded, 20, -21, -22, -23]
    assert labels.tolist() == [*([0, 0, 1, 1, 0, 0, 0, 1] * 2), 0, 0, 1, 1]


def test_what_a_reward_learns_from_is_drawn_by_its_seed_alone(toy_runs, data):
    model, _ = load_world_model(toy_runs / "world_model")
    sets = train_reward._stretches(rewarding(data, toy_runs), data)

    def drawn(seed):
        torch.manual_seed(len(draws))
        draws.append(train_reward._training_latents(rewarding(data, toy_runs, seed=seed), model, data, sets)[0])

    draws: list[torch.Tensor] = []
    for seed in (1, 1, 2):
        drawn(seed)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
