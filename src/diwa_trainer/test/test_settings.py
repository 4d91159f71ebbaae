"""Every setting of a verb reaches what it sets: optimisers, generators, networks, batches, Specs, what is logged."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toy import SPEC, TINY_MODEL, TINY_POLICY, TINY_PPO, TRAINERS, checkpoint_of, tiny_configs, write_toy

from diwa_runtime.errors import InputError
from diwa_runtime.spec import CameraSpec, Spec
from diwa_trainer.dataset import Dataset
from diwa_trainer.policy.diffusion import DiffusionConfig, DiffusionPolicy
from diwa_trainer.policy.ppo import Critic
from diwa_trainer.policy.reward import Classifier, ClassifierConfig
from diwa_trainer.runs.trained import PRETRAINED, load_classifier, load_policy, load_world_model
from diwa_trainer.verbs import ingest, pretrain, train_reward
from diwa_trainer.verbs.ingest import IngestConfig
from diwa_trainer.verbs.pretrain import PretrainConfig, choose_demonstrations
from diwa_trainer.world.rssm import RSSMConfig
from diwa_trainer.world.world_model import WorldModel, WorldModelConfig

LATENT, SEED = TINY_MODEL.rssm.latent, 5
QUARTER = 0.5 + 0.5 * 0.5 * (1 + math.cos(math.pi / 4))  # a cosine's fall to a half, after a quarter of it


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def trained(verb: str, data: Path, runs: Path, output: Path, updates: int = 2, **changes) -> Path:
    """Run a verb on the toy with changed settings; return its folder."""
    config = dataclasses.replace(tiny_configs(data, runs, updates)[verb], output=output, **changes)
    TRAINERS[verb](config)
    return output


def with_model(**changes) -> dict[str, Any]:
    return {"model": dataclasses.replace(TINY_MODEL, **changes)}


# --- optimisers, generators, networks -----------------------------------------------------------------------------

RATES = {
    "train_world_model": {"learning_rate": 1e-5, "final_learning_rate": 0.5},
    "pretrain": {"learning_rate": 2e-5, "final_learning_rate": 0.5, "weight_decay": 0.03},
    "train_reward": {"learning_rate": 3e-5},
    "finetune": {"ppo": dataclasses.replace(TINY_PPO, actor_learning_rate=4e-5, critic_learning_rate=5e-5)},
}
EXPECTED = {  # rate and weight decay of the second update of four
    "train_world_model": {"model": (1e-5 * QUARTER, 0)},
    "pretrain": {"policy": (2e-5 * QUARTER, 0.03)},
    "train_reward": {"classifier": (3e-5, 0)},
    "finetune": {"actor": (4e-5, 0), "critic": (5e-5, 0)},
}
NETWORKS = {  # what a verb begins with, but for the world model's ranges
    "train_world_model": ("model", lambda: WorldModel(SPEC, TINY_MODEL).rssm.gru, "rssm.gru."),
    "pretrain": ("policy", lambda: DiffusionPolicy(TINY_POLICY, LATENT), ""),
    "train_reward": ("classifier", lambda: Classifier(ClassifierConfig(hidden=16, embedding=8), LATENT), ""),
    "finetune": ("critic", lambda: Critic(LATENT, TINY_PPO.critic_hidden), ""),
}


@pytest.mark.parametrize("verb", TRAINERS)
def test_rates_seeds_and_threads_are_what_the_settings_say(tmp_path, toy_data, toy_runs, verb):
    config = tiny_configs(toy_data, toy_runs, seed=SEED, threads=3, save_every=1)[verb]
    kept = checkpoint_of(verb, dataclasses.replace(config, output=tmp_path / "run", **RATES[verb]), step=2)

    groups = {name: one["param_groups"][0] for name, one in kept["optimizers"].items()}
    rates = {name: (pytest.approx(group["lr"]), group["weight_decay"]) for name, group in groups.items()}
    assert rates == EXPECTED[verb]
    generator = torch.Generator()
    generator.set_state(kept["generator"])
    assert generator.initial_seed() == SEED
    stream = np.random.default_rng(SEED).bit_generator.state["state"]["inc"]
    assert json.loads(kept["numpy_rng"])["state"]["inc"] == stream
    assert kept["threads"] == [3, 1], "for as long as it takes"
    name, build, part = NETWORKS[verb]
    torch.manual_seed(SEED)
    for key, value in build().state_dict().items():
        torch.testing.assert_close(kept["weights"][f"{name}/{part}{key}"], value, atol=3e-4, rtol=0)


def test_networks_have_the_sizes_of_their_settings(toy_runs):
    assert load_world_model(toy_runs / "world_model")[0].config == TINY_MODEL
    assert load_policy(toy_runs / "pretrained", PRETRAINED, "pretrain")[0].config == TINY_POLICY
    assert load_classifier(toy_runs / "reward")[0].config == ClassifierConfig(hidden=16, embedding=8)


ODD_SIZES = RSSMConfig(deterministic=19, variables=3, classes=5, hidden=13, motion=17)


@pytest.mark.parametrize(
    ("network", "sizes"),
    [
        # A latent is 19 + 15, a GRU has 3 * 19; 18 + 33 features are seen; what moves is told from them, action and h.
        (
            WorldModel(SPEC, WorldModelConfig(ODD_SIZES, hidden=11)),
            {19, 15, 13, 11, 17, 19 + 15, 3 * 19, 18 + 33, 7, 18 + 33 + 7 + 19},
        ),
        (
            DiffusionPolicy(DiffusionConfig(5, 2, chunk=3, hidden=11, time_embedding=6), 13),
            {11, 6, 2 * 6, 3 * 7, 13},
        ),
        (Classifier(ClassifierConfig(hidden=11, embedding=5), 13), {11, 5, 13, 2}),
        (Critic(13, hidden=11), {11, 13, 1}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_layer_is_as_wide_as_the_settings_say(network, sizes):
    assert {size for parameter in network.parameters() for size in parameter.shape} == sizes


@pytest.mark.parametrize("verb", TRAINERS)
def test_as_many_updates_are_made_and_logged_as_asked_for(toy_runs, verb):
    """Four; fine-tuning also logs its judgements, before every second one and after the last."""
    folder = {"pretrain": "pretrained", "train_reward": "reward", "finetune": "finetuned"}.get(verb, verb[6:])
    steps = [line["step"] for line in lines(toy_runs / folder)]

    assert steps == ([0, 1, 2, 2, 3, 4, 4] if verb == "finetune" else [1, 2, 3, 4])


@pytest.mark.parametrize("run", ["world_model", "pretrained", "finetuned"])
def test_a_run_ends_with_what_it_measured_last_or_of_the_policy_that_it_kept(toy_runs, run):
    """Nothing becomes better in four iterations, so fine-tuning keeps the base policy, which it judged first."""
    last, summary = (
        lines(toy_runs / run)[0 if run == "finetuned" else -1],
        json.loads((toy_runs / run / "summary.json").read_text()),
    )
    measured = {name: value for name, value in last.items() if name.startswith(("held_out", "judged", "kl_to"))}

    assert measured
    assert {name: summary.get(name) for name in measured} == pytest.approx(measured, rel=1e-5)


def test_gradients_are_clipped_at_the_setting(tmp_path, toy_data, toy_runs):
    config = tiny_configs(toy_data, toy_runs, save_every=1)["train_world_model"]
    kept = checkpoint_of(
        "train_world_model", dataclasses.replace(config, output=tmp_path / "run", gradient_clip=0.01), step=1
    )

    moments = [one["exp_avg"] for one in kept["optimizers"]["model"]["state"].values()]
    # Adam's first moment after one update is a tenth of the gradient.
    assert float(torch.cat([m.flatten() for m in moments]).norm()) == pytest.approx(0.1 * 0.01, rel=1e-3)


# --- ingestion ----------------------------------------------------------------------------------------------------

WRIST, FRONT = CameraSpec("wrist", height=48, width=64), CameraSpec("front", height=32, width=40)
ROBOT = Spec(cameras=(WRIST, FRONT), mode="hybrid", rate_hz=15.0)


def squared(size: int) -> tuple[CameraSpec, ...]:
    return tuple(dataclasses.replace(camera, height=size, width=size) for camera in (WRIST, FRONT))


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({}, {}),
        ({"mode": "vision"}, {"mode": "vision"}),
        ({"rate_hz": 10.0}, {"rate_hz": 10.0}),
        ({"image_size": 24}, {"cameras": squared(24)}),
        ({"cameras": ("front", "new")}, {"cameras": (FRONT, CameraSpec("new"))}),
    ],
)
def test_an_ingest_is_by_the_spec_of_its_file_but_for_what_is_set(tmp_path, settings, changes):
    (tmp_path / "robot.json").write_text(json.dumps(ROBOT.to_json()))
    config = IngestConfig((tmp_path,), tmp_path / "data", spec=tmp_path / "robot.json", **settings)

    assert ingest.make_spec(config) == dataclasses.replace(ROBOT, **changes)
    assert ingest.make_spec(IngestConfig((tmp_path,), tmp_path / "data")) == Spec()


@pytest.mark.parametrize("settings", [{"skip_damaged": True, "workers": 3}, {"skip_damaged": False, "workers": 1}])
def test_an_ingest_reads_as_it_is_told_to_and_says_what_it_made(tmp_path, toy_data, monkeypatch, capsys, settings):
    data, asked = Dataset.open(toy_data), []

    def noting(*arguments, report, **named):
        report("half of it is done")
        asked.append((*arguments, named))
        return data

    monkeypatch.setattr(ingest, "ingest", noting)
    ingest.run(IngestConfig((tmp_path / "bag",), tmp_path / "data", rate_hz=10.0, **settings))

    assert asked == [((tmp_path / "bag",), tmp_path / "data", Spec(rate_hz=10.0), settings)]
    out, err = capsys.readouterr()
    assert err == "ingest: half of it is done\n"
    assert f"{len(data):,} rows, {len(data) / SPEC.rate_hz / 60:.1f} minutes" in out


# --- the world model ----------------------------------------------------------------------------------------------


def test_the_open_loop_error_is_measured_on_what_is_held_out_alone(tmp_path, toy_data, toy_runs):
    folder = trained("train_world_model", toy_data, toy_runs, tmp_path / "run", 2)

    assert all("open_loop" not in line and line["held_out_open_loop"] > 0 for line in lines(folder))


@pytest.mark.parametrize(("lengths", "length"), [((70, 100), 90), ((100, 70), 90), ((100, 100), 101)])
def test_windows_longer_than_any_episode_of_either_set_are_said_before_the_training(
    tmp_path, toy_runs, lengths, length
):
    data = write_toy(tmp_path / "data", play=lengths, demonstrations=0)

    with pytest.raises(InputError, match=f"needs at least two episodes of {length} rows, one to train on and one held"):
        trained("train_world_model", data, toy_runs, tmp_path / "run", length=length)

    assert not (tmp_path / "run").exists()


def test_windows_as_long_as_the_episodes_are_learned_from(tmp_path, toy_runs):
    data = write_toy(tmp_path / "data", play=(60, 60), demonstrations=0)

    folder = trained("train_world_model", data, toy_runs, tmp_path / "run", 1, length=60)

    assert json.loads((folder / "data.json").read_text())["rows"] == 120


# --- behaviour cloning --------------------------------------------------------------------------------------------


def cloning(toy_data, toy_runs, **changes) -> PretrainConfig:
    return dataclasses.replace(tiny_configs(toy_data, toy_runs)["pretrain"], **changes)


def test_demonstrations_that_are_not_cloned_validate(tmp_path, toy_runs):
    data = Dataset.open(write_toy(tmp_path / "data", play=1, demonstrations=13))
    chosen = [choose_demonstrations(cloning(data.folder, toy_runs, seed=seed), data) for seed in (1, 1, 2)]

    for cloned, held_out in chosen:
        assert len(cloned) == 10
        assert sorted([*cloned, *held_out], key=lambda e: e.start) == list(data.episodes_of(kind="demonstration"))
    assert chosen[0] == chosen[1]
    assert set(chosen[0][1]) != set(chosen[2][1]), "another seed holds out others"
    with pytest.raises(InputError, match="has 13 successful demonstrations of open_drawer, needs 14"):
        choose_demonstrations(cloning(data.folder, toy_runs, demonstrations=14), data)
    with pytest.raises(InputError, match="needs 10"):
        choose_demonstrations(cloning(data.folder, toy_runs, demonstrations=2, task="close_drawer"), data)


@pytest.mark.parametrize(("ema", "least", "most"), [(0.0, 1.0, 1.0), (1.0, 0.8, 0.99)])
def test_the_average_begins_where_the_policy_does_and_follows_it_fast_at_first(
    tmp_path, toy_data, toy_runs, ema, least, most
):
    """Without memory it is the policy; with the longest one it keeps 1/11 and 2/12 of itself at steps 1 and 2."""
    config = cloning(toy_data, toy_runs, output=tmp_path / "run", ema=ema, seed=SEED)
    weights = checkpoint_of("pretrain", config, step=2)["weights"]
    torch.manual_seed(SEED)
    begun = DiffusionPolicy(TINY_POLICY, LATENT).denoiser.block_1.weight.detach()

    moved = [float((weights[f"{name}/denoiser.block_1.weight"] - begun).norm()) for name in ("average", "policy")]

    assert least <= moved[0] / moved[1] <= most


def test_the_average_is_what_is_kept_and_validated(tmp_path, toy_data, toy_runs):
    folders = [trained("pretrain", toy_data, toy_runs, tmp_path / str(ema), ema=ema) for ema in (0.0, 1.0)]

    losses, held_out = ([[line[name] for line in lines(one)] for one in folders] for name in ("loss", "held_out_loss"))
    assert losses[0] == losses[1], "the average plays no part in the training"
    assert all(one != other for one, other in zip(*held_out, strict=True))
    weights = [load_file(folder / "policy.safetensors")["denoiser.block_1.weight"] for folder in folders]
    assert not torch.equal(*weights)


def test_validation_is_at_fixed_noise(tmp_path, toy_data, toy_runs):
    folder = trained("pretrain", toy_data, toy_runs, tmp_path / "run", 3, learning_rate=0.0)

    assert len({line["held_out_loss"] for line in lines(folder)}) == 1
    assert len({line["loss"] for line in lines(folder)}) == 3


class Shown:
    """What a network's loss is given, update by update, beside all that there is to draw from."""

    def __init__(self, monkeypatch, network: type, verb, source: str) -> None:
        self.batches, self.all, loss, draw = [], [], network.loss, getattr(verb, source)

        def noting_loss(module, inputs, targets, *rest):
            self.batches.append((inputs, targets))
            return loss(module, inputs, targets, *rest)

        def noting_source(*arguments):
            self.all.append(draw(*arguments))
            return self.all[-1]

        monkeypatch.setattr(network, "loss", noting_loss)
        monkeypatch.setattr(verb, source, noting_source)


def test_a_batch_of_cloning_is_chunks_with_one_of_the_latents_that_they_followed(
    tmp_path, toy_data, toy_runs, monkeypatch
):
    shown = Shown(monkeypatch, DiffusionPolicy, pretrain, "demonstration_chunks")
    folder = trained("pretrain", toy_data, toy_runs, tmp_path / "run", 3, batch=7, encodings=3)
    (latents, chunks), (validated, _) = shown.all

    assert latents.shape[1] == 3
    assert validated.shape[1] == 1
    drawn = set()
    for inputs, targets in shown.batches[:1]:
        assert len(inputs) == len(targets) == 7
        for latent, chunk in zip(inputs, targets, strict=True):
            same = (latents == latent).all(-1).nonzero()
            drawn |= {int(encoding) for _, encoding in same}
            assert any(torch.equal(chunks[row], chunk) for row, _ in same)
    assert drawn == {0, 1, 2}
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["demonstrations"], summary["pairs"]) == (10, len(chunks))


# --- the reward ---------------------------------------------------------------------------------------------------


def test_half_of_a_batch_of_the_reward_are_successes(tmp_path, toy_data, toy_runs, monkeypatch):
    shown = Shown(monkeypatch, Classifier, train_reward, "_training_latents")
    trained("train_reward", toy_data, toy_runs, tmp_path / "run", 3, batch=10)
    ((latents, labels),) = shown.all

    assert not torch.equal(*(inputs for inputs, _ in shown.batches[:2]))
    for inputs, targets in shown.batches:
        assert targets.sum() == 5
        for latent, label in zip(inputs, targets, strict=True):
            assert bool(label) in labels[(latents == latent).all(-1)]
        assert len(targets) == 10


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        ({"play": 0, "encodings": 1}, 6 * 20),
        ({"play": 0, "encodings": 3}, 3 * 6 * 20),
        ({"play": 0, "encodings": 1, "demonstrations": 4}, 4 * 20),
        ({"play": 0, "encodings": 1, "demonstrations": 50}, 6 * 20),  # of twelve, half are held out
        ({"play": 0, "encodings": 1, "imagined": True}, 2 * 6 * 20),
        # The shortest stretches of play that there are: none is cut off at its episode's end.
        ({"play": 12, "encodings": 1, "play_length": 9}, 6 * 20 + 12 * 9),
        ({"play": 6, "encodings": 2, "play_length": 9}, 2 * (6 * 20 + 6 * 9)),
    ],
)
def test_a_reward_learns_from_as_many_rows_as_asked_for(tmp_path, toy_data, toy_runs, changes, rows):
    folder = trained("train_reward", toy_data, toy_runs, tmp_path / "run", 1, **changes)
    report = json.loads((folder / "reward.json").read_text())

    assert [line["step"] for line in lines(folder)] == [1]
    assert sum(report["train"].values()) == rows
    config = dataclasses.replace(tiny_configs(toy_data, toy_runs)["train_reward"], **changes)
    sets = train_reward._stretches(config, Dataset.open(toy_data))
    done = sum(int(stretch.success.sum()) for stretch in sets["train_demonstrations"] + sets["train_play"])
    assert report["train"]["successes"] == done * (config.encodings + config.imagined)
    shown = report["held_out"]["demonstrations"]
    assert shown["succeeded"] + shown["failed"] == 12 - min(changes.get("demonstrations", 6), 6)
    assert ("play" in report["held_out"]) == bool(changes["play"])
    if changes["play"]:
        play = report["held_out"]["play"]
        assert play["succeeded"] + play["failed"] == changes["play"] // 3


def test_encodings_of_demonstrations_are_drawn_by_the_seed(tmp_path, toy_data, toy_runs, monkeypatch):
    seeds = []

    def noting(*arguments):
        seeds.append(arguments[-1].initial_seed())
        return chunks(*arguments)

    chunks = pretrain.demonstration_chunks
    monkeypatch.setattr(pretrain, "demonstration_chunks", noting)

    trained("pretrain", toy_data, toy_runs, tmp_path / "run", 1, seed=5)

    assert set(seeds) == {5}


def test_a_world_model_is_validated_on_four_batches_of_what_is_held_out(tmp_path, toy_data, toy_runs, monkeypatch):
    counts = []

    def noting(self, rng, count, *arguments, **named):
        counts.append(count)
        return windows(self, rng, count, *arguments, **named)

    windows = Dataset.windows
    monkeypatch.setattr(Dataset, "windows", noting)

    trained("train_world_model", toy_data, toy_runs, tmp_path / "run", 1, batch=3)

    assert counts[:2] == [3, 12]
