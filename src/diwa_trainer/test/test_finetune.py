"""Fine-tuning imagines, pays, judges, counts and keeps what its settings say."""

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from point_world import LATENT, POLICY, play
from safetensors.torch import load_file
from toy import DEMONSTRATIONS, DRAWER, TASK, TINY_POLICY, TINY_PPO, checkpoint_of, tiny_configs

from diwa_trainer.dataset import Dataset
from diwa_trainer.policy import judging
from diwa_trainer.policy.diffusion import DiffusionPolicy
from diwa_trainer.policy.support import SupportConfig
from diwa_trainer.runs.trained import FINETUNED, load_classifier, load_policy, save_classifier
from diwa_trainer.verbs import finetune
from diwa_trainer.verbs.finetune import FinetuneConfig

EPISODES, CHUNKS_AT_MOST, ITERATIONS = 6, 2, 3
SURE = 0.93


@pytest.fixture(scope="module")
def sure(tmp_path_factory, toy_runs) -> Path:
    """A reward to which every latent is a success with a probability of 0.93, meant for a threshold of 0.95."""
    classifier, file = load_classifier(toy_runs / "reward")
    classifier.head[-1].weight.zero_()
    classifier.head[-1].bias.copy_(torch.tensor([0.0, math.log(SURE / (1 - SURE))]))
    folder = tmp_path_factory.mktemp("sure")
    save_classifier(folder, classifier, file.spec, {**file.about, "threshold": 0.95})
    return folder


@pytest.fixture
def config(tmp_path, toy_data, toy_runs, sure) -> FinetuneConfig:
    changes = {"episodes": EPISODES, "chunks": CHUNKS_AT_MOST, "iterations": ITERATIONS, "reward": sure}
    changes |= {"support": SupportConfig("none")}  # what an untrained model decodes was never recorded
    return dataclasses.replace(
        tiny_configs(toy_data, toy_runs, seed=5)["finetune"], output=tmp_path / "run", judged_episodes=5, **changes
    )


def tuned(config: FinetuneConfig, **changes) -> list[dict[str, Any]]:
    """Fine-tune; return the lines of metrics."""
    finetune.run(dataclasses.replace(config, **changes))
    return [json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines()]


def read(config: FinetuneConfig, name: str) -> dict[str, Any]:
    return json.loads((config.output / name).read_text())


class Noted:
    """A function that keeps what it was called with."""

    def __init__(self, monkeypatch, name: str, module: ModuleType = finetune) -> None:
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        function = getattr(module, name)

        def noting(*arguments, **named):
            self.calls.append((arguments, named))
            return function(*arguments, **named)

        monkeypatch.setattr(module, name, noting)


@pytest.mark.parametrize(
    ("kind", "threshold", "success"),
    [("classifier", None, 0.0), ("classifier", 0.85, 1.0), ("decoded", 0.85, 0.0), ("both", 0.85, 0.0)],
)
def test_the_chosen_reward_pays_at_the_threshold_and_every_one_is_judged_apart(
    config, capsys, monkeypatch, kind, threshold, success
):
    """An untrained model never decodes an open drawer; the classifier is as sure of success as it is everywhere."""
    distances = Noted(monkeypatch, "kl_to_pretrained", judging)
    lines = tuned(config, reward_kind=kind, threshold=threshold)

    paid = [line for line in lines if "success" in line]
    chunks = 1 if success else CHUNKS_AT_MOST
    assert [line["success"] for line in paid] == [success] * ITERATIONS
    assert [line["chunks"] for line in paid] == [chunks] * ITERATIONS
    imagined = [EPISODES * chunks * TINY_POLICY.chunk * (n + 1) for n in range(ITERATIONS)]
    assert [line["imagined_steps"] for line in paid] == imagined
    for (base, policy, _, counted), _ in distances.calls[1:]:  # of the first, both are the base
        assert (counted.sum(0) == chunks).all(), "over the episodes of the reward that is paid"
        assert policy.denoiser.out.weight.requires_grad
        assert not base.denoiser.out.weight.requires_grad
    summary, preflight = read(config, "summary.json"), read(config, "preflight.json")
    assert (summary["imagined_steps"], summary["env_steps"]) == (imagined[-1], 0)
    fires = float(threshold is not None)
    by_reward = {"classifier": fires, "decoded": 0.0, "both": 0.0}
    assert preflight["base"] == by_reward
    assert {name: summary[f"judged_success_{name}"] for name in by_reward} == by_reward
    assert summary["judged_chunks_classifier"] == (1 if fires else CHUNKS_AT_MOST)
    by_threshold = {0.5: 1.0, 0.9: 1.0, 0.97: 0.0, 0.99: 0.0, threshold or 0.95: fires}
    assert {row["threshold"]: row["success"] for row in preflight["by_threshold"]} == by_threshold
    said = capsys.readouterr().out
    assert len(preflight["warnings"]) == 2 + bool(fires), "and its episodes are shorter than demonstrations"
    assert all(f"[{config.output.parent.name}/run] preflight: {warning}" in said for warning in preflight["warnings"])
    _, file = load_policy(config.output, FINETUNED, "finetune")
    assert file.about["threshold"] == (threshold or 0.95)
    assert summary["iteration"] == 0, "nothing became better, so the base policy is kept"
    assert {name: value for name, value in lines[0].items() if name != "step"}.items() <= summary.items()


def test_the_policy_explores_to_learn_and_is_judged_as_deployed_from_the_same_draws(config, monkeypatch):
    imagined, batches, updates = (Noted(monkeypatch, name) for name in ("imagine", "make_batch", "update"))
    judgements = Noted(monkeypatch, "imagine", judging)
    tuned(config, judge_every=2)
    parts, _ = finetune._load(config)

    (policy, critic) = updates.calls[0][0][1:3]
    learnt = [arguments for arguments, named in imagined.calls if named.get("explore", True)]
    judged = [arguments for arguments, named in judgements.calls if not named["explore"]]
    assert len(learnt) == ITERATIONS
    assert all(call[2] is policy and len(call[4]) == EPISODES for call in learnt)
    assert not torch.equal(learnt[0][4], learnt[1][4])
    # The base policy by all rewards and at all thresholds, then the policy before the first and the third iteration and
    # after the last.
    base = judged[0][2]
    assert base is not policy
    assert [call[2] is policy for call in judged] == [False] * 2 + [True] * 3
    expected = parts.starts.draw(5, torch.Generator().manual_seed(config.seed + 1)).latents
    for call in judged:
        assert torch.equal(call[4], expected)
    for call in learnt + judged:
        assert call[1] is base
        assert call[5] == CHUNKS_AT_MOST
    for (_, acted, frozen, values, settings, weight), _ in batches.calls:
        assert acted is policy
        assert frozen is base
        assert values is critic
        assert settings is config.ppo
        assert weight == config.ppo.bc_weight
    assert all(arguments[5] is config.ppo for arguments, _ in updates.calls)
    torch.testing.assert_close(base.state_dict(), parts.pretrained.state_dict())


@pytest.mark.parametrize("warmup", [0, 1, 2])
def test_the_first_iterations_are_the_critic_s_alone(config, warmup):
    lines = tuned(config, ppo=dataclasses.replace(TINY_PPO, critic_warmup=warmup))

    updates = [line for line in lines if "value_loss" in line]
    assert ["policy_loss" in line for line in updates] == [False] * warmup + [True] * (ITERATIONS - warmup)


def test_the_policy_begins_as_the_base_and_leaves_it(toy_runs):
    lines = [json.loads(line) for line in (toy_runs / "finetuned" / "metrics.jsonl").read_text().splitlines()]
    distances = [line["kl_to_pretrained"] for line in lines if "kl_to_pretrained" in line]

    assert distances[0] == pytest.approx(0, abs=1e-6)
    assert abs(distances[-1]) > 1e-4
    name = "denoiser.out.weight"
    folders = toy_runs / "pretrained", max((toy_runs / "finetuned").glob("iteration_*"))
    base, tuned = (load_file(folder / "policy.safetensors")[name] for folder in folders)
    assert not torch.equal(base, tuned)


def test_judged_policies_are_kept_as_they_were_at_their_time(config, capsys):
    tuned(config, judge_every=3, iterations=7, patience=0)

    kept = {path.name: path for path in sorted(config.output.glob("iteration_*"))}
    assert list(kept) == ["iteration_0003", "iteration_0006", "iteration_0007"]
    folders = [config.policy, *kept.values()]
    weights = [load_file(folder / "policy.safetensors")["denoiser.out.weight"] for folder in folders]
    assert all(not torch.equal(*pair) for pair in itertools.pairwise(weights))
    files = [load_policy(folder, FINETUNED, "finetune")[1] for folder in folders[1:]]
    assert [file.about["iterations"] for file in files] == [3, 6, 7]
    assert re.findall(r"(\d)/7 iterations", capsys.readouterr().out) == ["5", "7"], "told now and then, and at the end"


def test_what_a_run_kept_that_never_came_to_a_checkpoint_is_not_taken_for_the_next_one_s(config, monkeypatch):
    """Other settings may follow then, and its policies would be evaluated and exported as theirs."""
    with monkeypatch.context() as killed:
        killed.setattr(
            finetune, "_rollout_metrics", lambda _, state: 1 / 0 if state.step == 2 else {"success": 0.0, "chunks": 1.0}
        )
        with pytest.raises(ZeroDivisionError):
            tuned(config, judge_every=1)
    assert (config.output / "iteration_0001").is_dir()
    (config.output / "iteration_0001_good").mkdir()
    (config.output / "iteration_0001_good" / "policy.safetensors").write_bytes(b"mine")

    tuned(config, judge_every=3, seed=9)

    assert sorted(path.name for path in config.output.glob("iteration_*")) == ["iteration_0001_good", "iteration_0003"]
    assert (config.output / "iteration_0001_good" / "policy.safetensors").exists(), "that is somebody's copy"


def succeeding(monkeypatch, success: Sequence[float]) -> None:
    """Have policies judged as this successful, one after another."""
    shares, of = iter(success), judging.Judging.of
    monkeypatch.setattr(
        judging.Judging, "of", lambda self, policy: of(self, policy) | {"judged_success_classifier": next(shares)}
    )
    monkeypatch.setattr(judging.Judging, "preflight", lambda _: {"base": {}, "by_threshold": [], "warnings": []})


@pytest.mark.parametrize(
    ("patience", "success", "ends", "chosen", "decision"),
    [
        (2, [0.1, 0.9, 0.2, 0.9, 0.9], 3, 1, "accept"),
        (2, [0.1, 0.2, 0.9, 0.1, 0.9, 0.9], 4, 2, "accept"),
        (2, [0.1, 0.3, 0.5, 0.7, 0.9, 0.9], 5, 4, "accept"),
        (2, [0.1, 0.9, 0.905, 0.909, 0.95, 0.95], 3, 1, "accept"),
        (0, [0.1, 0.2, 0.3, 0.9, 0.2, 0.1], 5, 3, "accept"),
        (3, [0.5, 0.4, 0.3, 0.2, 0.9], 3, 0, "reject"),
    ],
)
def test_it_ends_where_imagined_success_stands_still_and_keeps_the_chosen_policy(
    config, monkeypatch, capsys, patience, success, ends, chosen, decision
):
    succeeding(monkeypatch, success)
    tuned(config, iterations=5, judge_every=1, patience=patience, judged_episodes=50)

    summary, verdict = read(config, "summary.json"), read(config, "verdict.json")
    assert (summary["iterations"], summary["iteration"]) == (ends, chosen)
    assert (verdict["decision"], verdict["chosen"]["iteration"]) == (decision, chosen)
    assert [one["success"] for one in verdict["candidates"]] == success[: ends + 1]
    assert summary["judged_success_classifier"] == success[chosen]
    kept, file = load_policy(config.output, FINETUNED, "finetune")
    assert file.about["iterations"] == chosen
    folder = config.output / f"iteration_{chosen:04d}" if chosen else config.policy
    torch.testing.assert_close(load_file(folder / "policy.safetensors"), kept.state_dict())
    assert f"verdict: {decision}" in capsys.readouterr().out


def test_a_budget_that_is_overdrawn_raises_the_weight_of_the_bc_term(config):
    def weights(**changes):
        ppo = dataclasses.replace(TINY_PPO, critic_warmup=0, actor_learning_rate=0.01, bc_weight=0.1, **changes)
        output = config.output / str(len(changes))
        lines = tuned(dataclasses.replace(config, output=output), ppo=ppo)
        return [line["bc_weight"] for line in lines if "bc_weight" in line]

    assert weights() == [0.1] * ITERATIONS
    fallen = 0.1 * math.exp(-0.5)  # before its first update the policy is the base policy, and within any budget
    assert weights(kl_budget=1e-3) == pytest.approx([0.1, fallen, fallen * math.exp(1)])


@pytest.mark.parametrize("kind", ["none", "hand", "scene"])
def test_an_episode_that_leaves_the_recordings_ends_and_fails(config, monkeypatch, kind):
    """An untrained model decodes hands where none was recorded; the reward would pay every one of its latents."""
    settings = Noted(monkeypatch, "learn_support")
    lines = tuned(config, threshold=0.85, support=SupportConfig(kind, cell_m=1e-3))

    expected = (1.0, 0.0) if kind == "none" else (0.0, 1.0)
    assert [(line["success"], line["outside"]) for line in lines if "success" in line] == [expected] * ITERATIONS
    judged = [(line["judged_success_classifier"], line["judged_outside"]) for line in lines if "judged_outside" in line]
    assert judged[-1] == expected
    asked = [] if kind == "none" else [kind]
    assert [arguments[3].kind for arguments, _ in settings.calls] == asked
    warnings = read(config, "preflight.json")["warnings"]
    assert any("leave what was recorded" in warning for warning in warnings) == (kind != "none")


def test_a_resumed_fine_tuning_keeps_what_the_preflight_said(config):
    checkpoint_of("finetune", config, step=2)
    (config.output / "preflight.json").write_text("{}")

    tuned(config)

    assert (config.output / "preflight.json").read_text() == "{}"


def test_imagined_episodes_start_from_first_frames_and_from_play_like_them(config):
    def starts(**changes):
        torch.manual_seed(len(changes))  # the global generator plays no part
        return finetune._load(dataclasses.replace(config, **changes))[0].starts

    data = Dataset.open(config.dataset)
    first = [data.scene[episode.start, DRAWER] for episode in data.episodes_of(kind="demonstration")]
    both, alone, other = starts(), starts(play_starts=0), starts(seed=6)

    assert len(alone.values) == finetune.START_ENCODINGS * DEMONSTRATIONS
    assert len(both.values) == finetune.START_ENCODINGS * (DEMONSTRATIONS + config.play_starts)
    for nth, values in enumerate(both.values.split(DEMONSTRATIONS + config.play_starts)):
        np.testing.assert_array_equal(values[:DEMONSTRATIONS], first, err_msg=f"encoding {nth}")
        assert set(values[DEMONSTRATIONS:].tolist()) <= set(data.scene[:, DRAWER].tolist())
    encodings = both.latents.split(DEMONSTRATIONS + config.play_starts)
    assert not torch.equal(encodings[0], encodings[1])
    assert torch.equal(starts().latents, both.latents)
    assert not torch.equal(other.values, both.values), "other rows of play"
    assert not torch.equal(other.latents[:DEMONSTRATIONS], both.latents[:DEMONSTRATIONS]), "other encodings"


def test_failed_demonstrations_start_nothing(config):
    data = Dataset.open(config.dataset)
    like = data.episodes_of(kind="demonstration")
    data.episodes = tuple(dataclasses.replace(e, outcome="failure") if e in like[3:] else e for e in data.episodes)

    rows = finetune._start_rows(dataclasses.replace(config, play_starts=0), data, TASK)

    assert rows.tolist() == [episode.start for episode in like[:3]]


@pytest.mark.parametrize(
    ("changes", "starts", "said"),
    [
        ({"chunks": 5}, DEMONSTRATIONS + 4, []),
        (
            {"chunks": 4},
            DEMONSTRATIONS + 4,
            ["12 of 12 demonstrations take longer than an imagined episode of 16 steps: set chunks to 5"],
        ),
        ({"chunks": 5, "play_starts": 10}, DEMONSTRATIONS + 4, ["4 of 10 imagined starts are from play"]),
        ({"chunks": 5, "play_starts": 0}, DEMONSTRATIONS, []),
    ],
    ids=["fine", "too short", "little play", "none asked for"],
)
def test_what_the_recordings_lack_is_said_before_the_first_update(config, changes, starts, said):
    asked = dataclasses.replace(config, **{"play_starts": 8, **changes})
    notes = list(finetune._notes(asked, Dataset.open(config.dataset), TASK, starts, chunk=4))
    assert [note.startswith(line) for note, line in zip(notes, said, strict=True)] == [True] * len(said)


@torch.no_grad()
def test_the_distance_to_the_base_is_that_of_the_gaussians_over_what_was_lived():
    """KL of two Gaussians of one deviation: half the squared distance of their means in deviations."""
    torch.manual_seed(0)
    base = DiffusionPolicy(POLICY, LATENT)
    strayed = DiffusionPolicy(POLICY, LATENT)
    strayed.load_state_dict({name: value + 0.02 * torch.randn_like(value) for name, value in base.state_dict().items()})
    rollout = play(base, strayed, 400, torch.Generator().manual_seed(1), explore=True)
    rollout.chains[~rollout.live] = 9.0  # what comes after an episode's end plays no part
    latents, chains = rollout.latents[rollout.live], rollout.chains[rollout.live]

    nats = torch.zeros(len(latents))
    for i, t in enumerate(reversed(range(POLICY.finetuned_steps))):
        means = [policy.fold(latents).mean(chains[:, i], t) for policy in (base, strayed)]
        nats += 0.5 * ((means[0] - means[1]) / base.exploration_std()[t]).square().sum(-1)
    assert not rollout.live.all()
    assert judging.kl_to_pretrained(base, strayed, rollout, rollout.live) == pytest.approx(float(nats.mean()))


def test_success_and_length_of_imagined_episodes_are_means():
    torch.manual_seed(0)
    policy = DiffusionPolicy(POLICY, LATENT)
    rollout = play(policy, policy, 50, torch.Generator().manual_seed(1), explore=True)

    metrics = finetune._rollout_metrics(rollout, SimpleNamespace(extra={"imagined_steps": 7, "bc_weight": 0.5}))

    assert 0 < float(rollout.success.sum()) < 50
    assert metrics["bc_weight"] == 0.5
    assert metrics["success"] == pytest.approx(float(rollout.success.sum()) / 50)
    assert metrics["chunks"] == pytest.approx(float(rollout.live.sum()) / 50)
    assert metrics["imagined_steps"] == 7
