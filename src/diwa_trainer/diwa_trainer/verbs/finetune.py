"""`finetune`: PPO on the denoising steps of a base policy, entirely in imagination.

There is no way to give this verb an environment: every episode starts from a recorded frame and happens in the model.
The steps that were taken in any environment meanwhile are counted all the same; `summary.json` says how many.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diwa_runtime.config.bounds import BATCHES, COUNTS, WORKERS, check_between, check_bounds, check_together
from diwa_trainer.dataset import Dataset
from diwa_trainer.devices.device import CPU, OnDevice
from diwa_trainer.devices.ranks import ALONE, Share, joined
from diwa_trainer.evaluation.env_steps import env_steps_taken
from diwa_trainer.policy.diffusion import DiffusionPolicy
from diwa_trainer.policy.imagination import Rollout, imagine
from diwa_trainer.policy.ppo import Critic, PPOConfig, make_batch, make_losses, update
from diwa_trainer.policy.reward import (
    THRESHOLDS,
    ClassifierReward,
    FirstSuccess,
    Judge,
    Reward,
    RewardKind,
    Starts,
    choose_reward,
    make_rewards,
)
from diwa_trainer.runs.artifacts import check_lineage
from diwa_trainer.runs.run import SEEDS, Run, TrainState, intra_op_threads, make_state, write_json
from diwa_trainer.runs.trained import (
    FINETUNED,
    PRETRAINED,
    load_classifier,
    load_policy,
    open_as_seen,
    save_policy,
)
from diwa_trainer.samples.latents import encode_starts
from diwa_trainer.samples.stretches import demonstrations, start_rows
from diwa_trainer.world.world_model import WorldModel

DISAGREEMENT, HEADROOM, FOOTHOLD = 0.2, 0.97, 0.02
START_ENCODINGS = 4


@dataclass(frozen=True)
class FinetuneConfig(OnDevice):
    """Improve a base policy in the world model's imagination, held near where it came from."""

    dataset: Path = field(metadata={"help": "recordings whose frames imagined episodes start from"})
    world_model: Path = field(metadata={"help": "run folder of train_world_model"})
    policy: Path = field(metadata={"help": "run folder of pretrain"})
    reward: Path = field(metadata={"help": "run folder of train_reward"})
    output: Path
    reward_kind: RewardKind = field(
        default="classifier",
        metadata={"help": "classifier on latents, predicate on the decoded scene, or both at once"},
    )
    threshold: float | None = field(default=None, metadata={"help": "of the classifier; none: as it was trained for"})
    ppo: PPOConfig = field(default_factory=PPOConfig)
    iterations: int = 60
    episodes: int = field(default=128, metadata={"help": "imagined episodes an iteration"})
    chunks: int = field(default=24, metadata={"help": "chunks an imagined episode at most"})
    play_starts: int = field(
        default=150, metadata={"help": "starts from play that look like demonstrations' first frames"}
    )
    judged_episodes: int = field(default=256, metadata={"help": "imagined episodes to judge a policy by"})
    judge_every: int = 10
    seed: int = 0
    threads: int = 1
    save_every: int = 10
    keep_every: int = field(
        default=0, metadata={"help": "keep the policy every so many iterations, for `export --iteration`"}
    )

    def __post_init__(self) -> None:
        check_between(self, threshold=(0, 1))
        check_bounds(self, iterations=COUNTS, episodes=(2, 1 << 16), chunks=(1, 4096), seed=SEEDS)
        check_bounds(self, play_starts=(0, 10**5), judged_episodes=BATCHES, judge_every=COUNTS)
        check_bounds(self, threads=WORKERS, save_every=COUNTS, keep_every=(0, 10**9))
        for episodes in ("episodes", "judged_episodes"):
            check_together(self, 1 << 20, "imagined chunks", episodes, "chunks")


@dataclass(frozen=True)
class Parts:
    """What fine-tuning is made of."""

    model: WorldModel
    pretrained: DiffusionPolicy
    rewards: dict[str, Reward]
    paid: Reward
    starts: Starts
    task: str
    threshold: float


def run(config: FinetuneConfig) -> None:
    """Preflight, then iterations of imagining and updating; keep the last policy."""
    with joined(config, "episodes") as (device, share):
        _tune(config, device, share)


def _tune(config: FinetuneConfig, device: torch.device, share: Share) -> None:
    env_steps_before = env_steps_taken()
    parts, files = _load(config, device)
    with Run(config.output, config, files, share) as run, intra_op_threads(config.threads):
        if run.is_done:
            return
        state, policy, critic = _make(config, parts)
        resumed = run.restore(state)
        env_steps_before -= state.extra.setdefault("env_steps", 0)  # those that a checkpoint counted are this run's too
        losses = make_losses(policy, critic, config.ppo, share)
        if not resumed and share.is_first:
            write_json(run.folder / "preflight.json", _preflight(config, parts))
        _count_env_steps(state, env_steps_before)
        while state.step < config.iterations:
            run.stop_if_interrupted(state)
            if state.step % config.judge_every == 0 and share.is_first:
                run.log(state.step, _judge(config, parts, policy))
            starts = parts.starts.draw(config.episodes, state.generator).rows(share.rows)
            judge = parts.paid.judge(starts)
            rollout = _imagine(config, parts, policy, judge, starts, state.generator, explore=True, share=share)
            rollout = rollout.gathered(share)
            batch = make_batch(rollout, policy, parts.pretrained, critic, config.ppo, state.generator)
            metrics = update(
                batch,
                policy,
                critic,
                state.optimizers["actor"],
                state.optimizers["critic"],
                config.ppo,
                state.generator,
                critic_only=state.step < config.ppo.critic_warmup,
                losses=losses,
            )
            state.step += 1
            run.check_finite("finetune", state.step, metrics)
            state.extra["imagined_steps"] += int(rollout.live.sum()) * policy.config.chunk
            _count_env_steps(state, env_steps_before)
            metrics |= _rollout_metrics(rollout, state)
            run.log(state.step, metrics, show=_progress(config, parts, state.step, metrics, run))
            if config.keep_every and state.step % config.keep_every == 0 and share.is_first:
                _keep(run.folder / f"iteration_{state.step:04d}", parts, policy, files, state.step)
            if state.step % config.save_every == 0:
                run.save(state)
        if not share.is_first:
            return
        final = _judge(config, parts, policy)
        run.log(state.step, final)
        _keep(run.folder, parts, policy, files, state.step)
        _count_env_steps(state, env_steps_before)
        steps = {name: state.extra[name] for name in ("env_steps", "imagined_steps")}
        run.finish({"seconds": run.seconds, **steps, **final})


def _load(config: FinetuneConfig, device: torch.device = CPU) -> tuple[Parts, dict[str, str]]:
    dataset, model, model_file = open_as_seen(config.dataset, config.world_model, device)
    pretrained, policy_file = load_policy(config.policy, PRETRAINED, "pretrain")
    classifier, reward_file = load_classifier(config.reward)
    for network in (pretrained, classifier):
        network.to(device)
    check_lineage(model_file, policy_file, reward_file)
    task = policy_file.about["task"]
    threshold = reward_file.about["threshold"] if config.threshold is None else config.threshold
    rewards = make_rewards(model, classifier, threshold, model.spec.task(task))
    parts = Parts(
        model,
        pretrained,
        rewards,
        choose_reward(rewards, config.reward_kind),
        _starts(config, dataset, model, task),
        task,
        threshold,
    )
    files = {"dataset": dataset.fingerprint} | {
        name: file.sha256
        for name, file in (("world_model", model_file), ("policy", policy_file), ("reward", reward_file))
    }
    return parts, files


def _starts(config: FinetuneConfig, dataset: Dataset, model: WorldModel, task: str) -> Starts:
    """First-frame latents of demonstrations, and of play rows that look like them, in several draws each."""
    like = demonstrations(dataset, task, 1)
    rng = np.random.default_rng(config.seed)
    rows = np.array([episode.start for episode in like])
    if config.play_starts:
        rows = np.concatenate([rows, start_rows(dataset, task, like, dataset.episodes, config.play_starts, rng)])
    rows = np.tile(rows, START_ENCODINGS)
    latents = encode_starts(model, dataset, rows, torch.Generator().manual_seed(config.seed))
    if "scene" not in dataset.arrays:
        return Starts(latents, latents.new_full((len(rows),), torch.nan))
    column = dataset.spec.scene.index(dataset.spec.task(task).field)
    return Starts(latents, torch.from_numpy(dataset.scene[rows, column]).to(latents.device))


def _make(config: FinetuneConfig, parts: Parts) -> tuple[TrainState, DiffusionPolicy, Critic]:
    torch.manual_seed(config.seed)
    policy = copy.deepcopy(parts.pretrained).train().requires_grad_(True)
    critic = Critic(parts.model.latent_size, config.ppo.critic_hidden).to(parts.model.device)
    optimizers: dict[str, torch.optim.Optimizer] = {
        "actor": torch.optim.AdamW(policy.parameters(), config.ppo.actor_learning_rate, weight_decay=0.0, fused=True),
        "critic": torch.optim.AdamW(critic.parameters(), config.ppo.critic_learning_rate, weight_decay=0.0, fused=True),
    }
    state = make_state({"policy": policy, "critic": critic}, optimizers, config.seed)
    state.extra |= {"env_steps": 0, "imagined_steps": 0}
    return state, policy, critic


def _imagine(
    config: FinetuneConfig,
    parts: Parts,
    policy: DiffusionPolicy,
    judge: Judge,
    starts: Starts,
    generator: torch.Generator,
    *,
    explore: bool,
    share: Share = ALONE,
) -> Rollout:
    networks, start = (parts.model.rssm, parts.pretrained, policy), starts.latents
    return imagine(*networks, judge, start, config.chunks, generator, explore=explore, share=share)


def _imagine_judged(
    config: FinetuneConfig, parts: Parts, policy: DiffusionPolicy, rewards: Mapping[str, Reward]
) -> tuple[Rollout, FirstSuccess]:
    """Imagine episodes of a policy as deployed, the same draws every time, until each of `rewards` has seen success."""
    generator = torch.Generator().manual_seed(config.seed + 1)
    starts = parts.starts.draw(config.judged_episodes, generator)
    judges = {name: reward.judge(starts) for name, reward in rewards.items()}
    first = FirstSuccess(judges, config.judged_episodes, starts.latents.device)
    return _imagine(config, parts, policy, first, starts, generator, explore=False), first


def _judge(config: FinetuneConfig, parts: Parts, policy: DiffusionPolicy) -> dict[str, float]:
    """Imagined success of a policy as deployed, by each reward apart, and how far it has gone from the base policy."""
    rollout, first = _imagine_judged(config, parts, policy, parts.rewards)
    metrics: dict[str, float] = {}
    for name in parts.rewards:
        metrics[f"judged_success_{name}"] = first.success(name)
        metrics[f"judged_chunks_{name}"] = float(first.lengths(name).float().mean())
    lengths = first.lengths(config.reward_kind)
    paid = torch.arange(config.chunks, device=lengths.device)[:, None] < lengths
    metrics["kl_to_pretrained"] = _kl_to_pretrained(parts.pretrained, policy, rollout, paid)
    return metrics


@torch.no_grad()
def _kl_to_pretrained(pretrained: DiffusionPolicy, policy: DiffusionPolicy, rollout: Rollout, counted: Tensor) -> float:
    """KL(fine-tuned || pre-trained) of a chunk's K' denoising steps in nats, under the exploration deviations.

    Over the chunks that are `counted`: bool (H, B).
    """
    latents, chains = rollout.latents[counted], rollout.chains[counted]
    difference = policy.chain_log_prob(latents, chains) - pretrained.chain_log_prob(latents, chains)
    return float(difference.sum((-2, -1)).mean())


def _preflight(config: FinetuneConfig, parts: Parts) -> dict[str, Any]:
    """Seconds that can save minutes: what each reward says of the base policy before any update."""
    judged = _judge(config, parts, parts.pretrained)
    success = {name: judged[f"judged_success_{name}"] for name in parts.rewards}
    warnings = preflight_warnings(success, config.reward_kind)
    for warning in warnings:
        print(f"[{config.output.name}] preflight: {warning}", flush=True)
    return {"base": success, "by_threshold": _by_threshold(config, parts), "warnings": warnings}


def preflight_warnings(success: Mapping[str, float], paid: str) -> list[str]:
    """Say what speaks against fine-tuning a base policy of this imagined `success` by reward, one of which is paid."""
    warnings = []
    if "decoded" in success and abs(success["classifier"] - success["decoded"]) > DISAGREEMENT:
        warnings.append(
            f"classifier and decoded scene disagree on the base policy ({success['classifier']:.2f} against "
            f"{success['decoded']:.2f}): look at the reward before trusting imagined success"
        )
    if success[paid] > HEADROOM:
        share = success[paid]
        warnings.append(f"the base policy already succeeds in {share:.0%} of imagined episodes: no headroom")
    if success[paid] < FOOTHOLD:
        warnings.append(
            "the base policy hardly ever succeeds in imagination, so there is nothing to learn from: train the world "
            "model longer (its open_loop.json says which events it foresees), or give pretrain more updates"
        )
    return warnings


def _by_threshold(config: FinetuneConfig, parts: Parts) -> list[dict[str, float]]:
    """The classifier's verdict on the base policy at other thresholds, to calibrate it against the decoded scene."""
    classifier = parts.rewards["classifier"]
    assert isinstance(classifier, ClassifierReward)
    thresholds = sorted({*THRESHOLDS, parts.threshold})
    stricter = {str(threshold): dataclasses.replace(classifier, threshold=threshold) for threshold in thresholds}
    _, first = _imagine_judged(config, parts, parts.pretrained, stricter)
    return [{"threshold": threshold, "success": first.success(str(threshold))} for threshold in thresholds]


def _keep(folder: Path, parts: Parts, policy: DiffusionPolicy, files: dict[str, str], iterations: int) -> None:
    about = {"task": parts.task, "latent_size": parts.model.latent_size, "threshold": parts.threshold, **files}
    save_policy(folder, FINETUNED, policy, parts.model.spec, {**about, "iterations": iterations})


def _count_env_steps(state: TrainState, before: int) -> None:
    """Keep how many steps were taken in any environment since there were `before`: none, or this says so."""
    state.extra["env_steps"] = env_steps_taken() - before


def _rollout_metrics(rollout: Rollout, state: TrainState) -> dict[str, float]:
    return {
        "success": float(rollout.success.float().mean()),
        "chunks": float(rollout.lengths.float().mean()),
        "imagined_steps": float(state.extra["imagined_steps"]),
    }


def _progress(config: FinetuneConfig, parts: Parts, step: int, metrics: dict[str, float], run: Run) -> str:
    if step % 5 and step != config.iterations:
        return ""
    return (
        f"{parts.task} {step}/{config.iterations} iterations, imagined success {metrics['success']:.2f} in "
        f"{metrics['chunks']:.1f} chunks, {run.seconds:.0f} s"
    )
