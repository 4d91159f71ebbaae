"""`finetune`: PPO on the denoising steps of a base policy, entirely in imagination.

There is no way to give this verb an environment: every episode starts from a recorded frame and happens in the model.
The steps that were taken in any environment meanwhile are counted all the same; `summary.json` says how many.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from diwa_runtime.config.bounds import BATCHES, COUNTS, WORKERS, check_between, check_bounds, check_together
from diwa_trainer.dataset import Dataset
from diwa_trainer.devices.device import CPU, OnDevice
from diwa_trainer.devices.ranks import Share, joined
from diwa_trainer.evaluation.env_steps import env_steps_taken
from diwa_trainer.policy.diffusion import DiffusionPolicy
from diwa_trainer.policy.imagination import Rollout, imagine
from diwa_trainer.policy.judging import Judging, Parts
from diwa_trainer.policy.ppo import Critic, PPOConfig, make_batch, make_losses, next_bc_weight, update
from diwa_trainer.policy.reward import RewardKind, Starts, choose_reward, make_rewards
from diwa_trainer.policy.support import Outside, SupportConfig, learn_support, outside
from diwa_trainer.policy.verdict import Candidate, Verdict, choose
from diwa_trainer.runs.artifacts import check_lineage
from diwa_trainer.runs.result_files import FORMAT_VERSION, VERDICT
from diwa_trainer.runs.run import SEEDS, Run, TrainState, intra_op_threads, make_state, tell, write_json
from diwa_trainer.runs.trained import (
    FINETUNED,
    PRETRAINED,
    delete_policy,
    iteration_folder,
    iteration_folders,
    load_classifier,
    load_policy,
    open_as_seen,
    save_policy,
)
from diwa_trainer.samples.latents import encode_starts
from diwa_trainer.samples.stretches import demonstrations, start_rows
from diwa_trainer.world.world_model import WorldModel

START_ENCODINGS = 4
BETTER = 0.01
"""So much must imagined success grow to count as better."""


@dataclass(frozen=True)
class FinetuneConfig(OnDevice):
    """Improve a base policy in the world model's imagination, within what was recorded."""

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
    support: SupportConfig = field(default_factory=SupportConfig)
    iterations: int = field(default=160, metadata={"help": "at most; it ends where imagined success stands still"})
    patience: int = field(
        default=3, metadata={"help": "judgements without a better one until it ends; 0: it never ends early"}
    )
    episodes: int = field(default=128, metadata={"help": "imagined episodes an iteration"})
    chunks: int = field(default=24, metadata={"help": "chunks an imagined episode at most"})
    play_starts: int = field(
        default=150, metadata={"help": "starts from play that look like demonstrations' first frames"}
    )
    judged_episodes: int = field(default=256, metadata={"help": "imagined episodes to judge a policy by"})
    judge_every: int = field(default=10, metadata={"help": "iterations between judgements; each judged policy is kept"})
    seed: int = 0
    threads: int = 1
    save_every: int = 10

    def __post_init__(self) -> None:
        check_between(self, threshold=(0, 1))
        check_bounds(self, iterations=COUNTS, episodes=(2, 1 << 16), chunks=(1, 4096), seed=SEEDS)
        check_bounds(self, play_starts=(0, 10**5), judged_episodes=BATCHES, judge_every=COUNTS)
        check_bounds(self, threads=WORKERS, save_every=COUNTS, patience=(0, 10**6))
        for episodes in ("episodes", "judged_episodes"):
            check_together(self, 1 << 20, "imagined chunks", episodes, "chunks")


def run(config: FinetuneConfig) -> None:
    """Preflight, then iterations of imagining and updating until nothing is gained; keep the policy to be trusted."""
    with joined(config, "episodes") as (device, share):
        _tune(config, device, share)


def _tune(config: FinetuneConfig, device: torch.device, share: Share) -> None:
    env_steps_before = env_steps_taken()
    parts, files = _load(config, device)
    judging = Judging(parts, config.reward_kind, config.judged_episodes, config.chunks, config.seed + 1)
    with Run(config.output, config, files, share) as run, intra_op_threads(config.threads):
        if run.is_done:
            return
        state, policy, critic = _make(config, parts)
        resumed = run.restore(state)
        env_steps_before -= state.extra.setdefault("env_steps", 0)  # those that a checkpoint counted are this run's too
        losses = make_losses(policy, critic, config.ppo, share)
        if not resumed and share.is_first:
            for older in iteration_folders(run.folder):  # of a run that was killed before its first checkpoint
                delete_policy(older)
            _say_first(run, judging)
        _count_env_steps(state, env_steps_before)
        while state.step < config.iterations:
            run.stop_if_interrupted(state)
            if state.step % config.judge_every == 0:
                _judge(run, judging, policy, state, files)
                if share.any(_stands_still(config, state)):
                    break
            starts = parts.starts.draw(config.episodes, state.generator).rows(share.rows)
            rollout = imagine(
                parts.model.rssm,
                parts.pretrained,
                policy,
                parts.paid.judge(starts),
                starts.latents,
                config.chunks,
                state.generator,
                outside=parts.outside,
                share=share,
            ).gathered(share)
            batch = make_batch(rollout, policy, parts.pretrained, critic, config.ppo, state.extra["bc_weight"])
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
            if "path_kl" in metrics:
                state.extra["bc_weight"] = next_bc_weight(state.extra["bc_weight"], metrics["path_kl"], config.ppo)
            if state.step % config.save_every == 0:
                run.save(state)
        if not share.is_first:
            return
        _judge(run, judging, policy, state, files)
        verdict = choose([_candidate(one, config.reward_kind) for one in state.extra["judged"]], config.judged_episodes)
        _keep_chosen(run, verdict, judging.parts, policy, files)
        _count_env_steps(state, env_steps_before)
        steps = {name: state.extra[name] for name in ("env_steps", "imagined_steps")}
        chosen = next(one for one in state.extra["judged"] if one["iteration"] == verdict.chosen.iteration)
        run.finish({"seconds": run.seconds, "iterations": state.step, **steps, **chosen})


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
    rows = _start_rows(config, dataset, task)
    parts = Parts(
        model,
        pretrained,
        rewards,
        choose_reward(rewards, config.reward_kind),
        _starts(model, dataset, rows, task, config.seed),
        task,
        threshold,
        _outside(config, dataset, model, task, pretrained.config.chunk),
        tuple(_notes(config, dataset, task, len(rows), pretrained.config.chunk)),
    )
    files = {"dataset": dataset.fingerprint} | {
        name: file.sha256
        for name, file in (("world_model", model_file), ("policy", policy_file), ("reward", reward_file))
    }
    return parts, files


def _outside(config: FinetuneConfig, dataset: Dataset, model: WorldModel, task: str, chunk: int) -> Outside | None:
    if config.support.kind == "none":
        return None
    support = learn_support(dataset, model.spec.task(task), chunk, config.support, decoded=model.decodes_scene)
    return outside(model, support)


def _start_rows(config: FinetuneConfig, dataset: Dataset, task: str) -> NDArray[np.int64]:
    """First frames of demonstrations, and rows of play that look like them."""
    like = demonstrations(dataset, task, 1)
    rng = np.random.default_rng(config.seed)
    rows = np.array([episode.start for episode in like])
    if config.play_starts:
        rows = np.concatenate([rows, start_rows(dataset, task, like, dataset.episodes, config.play_starts, rng)])
    return rows


def _notes(config: FinetuneConfig, dataset: Dataset, task: str, starts: int, chunk: int) -> Iterator[str]:
    """Yield what the recordings lack for so many starts, and for episodes of so many chunks."""
    lengths = [len(episode) for episode in demonstrations(dataset, task, 1)]
    from_play, steps = starts - len(lengths), config.chunks * chunk
    if from_play < config.play_starts / 2:
        yield (
            f"{from_play} of {config.play_starts} imagined starts are from play, for little of it has the task's part "
            "of the scene as the demonstrations begin with: record play from such states"
        )
    longer = sum(length > steps for length in lengths)
    if longer > len(lengths) / 2:
        needed = math.ceil(float(np.quantile(lengths, 0.95)) / chunk)
        yield (
            f"{longer} of {len(lengths)} demonstrations take longer than an imagined episode of {steps} steps: set "
            f"chunks to {needed}, and max_steps of evaluate to {needed * chunk}"
        )


def _starts(model: WorldModel, dataset: Dataset, rows: NDArray[np.int64], task: str, seed: int) -> Starts:
    """First-frame latents of rows, in several draws each."""
    rows = np.tile(rows, START_ENCODINGS)
    latents = encode_starts(model, dataset, rows, torch.Generator().manual_seed(seed))
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
    state.extra |= {"env_steps": 0, "imagined_steps": 0, "bc_weight": config.ppo.bc_weight, "judged": []}
    return state, policy, critic


def _judge(run: Run, judging: Judging, policy: DiffusionPolicy, state: TrainState, files: dict[str, str]) -> None:
    """Judge a policy, log what was found, keep the policy, and note it among those that could be kept in the end."""
    judged: list[dict[str, float]] = state.extra["judged"]
    if not run.share.is_first or (judged and judged[-1]["iteration"] == state.step):
        return
    metrics = judging.of(policy)
    run.log(state.step, metrics)
    state.extra["judged"] = [*judged, {"iteration": state.step, **metrics}]
    if state.step:
        _keep(run.folder / iteration_folder(state.step), judging.parts, policy, files, state.step)


def _candidate(judged: Mapping[str, float], reward_kind: RewardKind) -> Candidate:
    return Candidate(
        int(judged["iteration"]),
        success=judged[f"judged_success_{reward_kind}"],
        outside=judged["judged_outside"],
        kl=judged["kl_to_pretrained"],
    )


def _stands_still(config: FinetuneConfig, state: TrainState) -> bool:
    """Whether imagined success has not become better for as many judgements as patience lasts."""
    success = [_candidate(judged, config.reward_kind).success for judged in state.extra["judged"]]
    best = 0
    for index, share in enumerate(success):
        if share > success[best] + BETTER:
            best = index
    return bool(config.patience) and len(success) - 1 - best >= config.patience


def _say_first(run: Run, judging: Judging) -> None:
    report = judging.preflight()
    write_json(run.folder / "preflight.json", report)
    for warning in report["warnings"]:
        tell(run.folder, f"preflight: {warning}")


def _keep_chosen(run: Run, verdict: Verdict, parts: Parts, policy: DiffusionPolicy, files: dict[str, str]) -> None:
    """Keep the policy that the verdict chose as the run's own, and say why."""
    iteration = verdict.chosen.iteration
    if iteration:
        policy, _ = load_policy(run.folder / iteration_folder(iteration), FINETUNED, "finetune")
    else:
        policy = parts.pretrained
    write_json(run.folder / VERDICT, {"format_version": FORMAT_VERSION, **verdict.to_json()})
    _keep(run.folder, parts, policy, files, iteration)
    tell(run.folder, f"verdict: {verdict.decision}; {verdict.why}")


def _keep(folder: Path, parts: Parts, policy: DiffusionPolicy, files: dict[str, str], iterations: int) -> None:
    about = {"task": parts.task, "latent_size": parts.model.latent_size, "threshold": parts.threshold, **files}
    save_policy(folder, FINETUNED, policy, parts.model.spec, {**about, "iterations": iterations})


def _count_env_steps(state: TrainState, before: int) -> None:
    """Keep how many steps were taken in any environment since there were `before`: none, or this says so."""
    state.extra["env_steps"] = env_steps_taken() - before


def _rollout_metrics(rollout: Rollout, state: TrainState) -> dict[str, float]:
    return {
        "bc_weight": float(state.extra["bc_weight"]),
        "success": float(rollout.success.float().mean()),
        "outside": float(rollout.left.any(0).float().mean()),
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
