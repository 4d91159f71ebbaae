"""PPO over denoising steps (DPPO's two-layer MDP), with an anchor to the base policy (docs/policy.md).

Dimensions: H chunks, B episodes, N = live (chunk, episode) pairs, K' denoising steps, D numbers in a chunk.
The two time axes stay apart: GAE runs over chunks, the denoising discount over the K' steps of one chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from diwa_runtime.config.bounds import RATES, WEIGHTS, WIDTHS, check_bounds
from diwa_trainer.devices.ranks import ALONE, Share
from diwa_trainer.policy.diffusion import DiffusionPolicy
from diwa_trainer.policy.imagination import Rollout
from diwa_trainer.policy.mish import mish

LEAST_BC_WEIGHT, MOST_BC_WEIGHT = 1e-3, 10.0
"""Bounds of a BC weight that tunes itself."""


@dataclass(frozen=True)
class PPOConfig:
    """Settings of the fine-tuning update; defaults from DiWA but where docs/method.md says otherwise."""

    gamma: float = 0.999
    gae_lambda: float = 0.95
    gamma_denoising: float = 0.99
    clip: float = 0.01
    clip_base: float = 0.001
    clip_rate: float = field(
        default=3.0, metadata={"help": "how steeply the clip range grows to the last denoising step; 0: it is constant"}
    )
    log_prob_min: float = -5.0
    log_prob_max: float = 2.0
    epochs: int = 5
    minibatch: int = 512
    actor_learning_rate: float = 1e-4
    critic_learning_rate: float = 1e-3
    critic_warmup: int = 2
    critic_hidden: int = 256
    value_weight: float = 0.5
    bc_weight: float = field(
        default=0.0, metadata={"help": "weight of the BC term, the path KL to the base policy; with a budget: at first"}
    )
    kl_budget: float | None = field(
        default=None,
        metadata={
            "help": "nats a chunk that the policy may go from the base policy: the BC term's weight tunes itself"
        },
    )
    kl_dual_rate: float = field(default=0.5, metadata={"help": "how fast that weight follows"})
    target_kl: float = 1.0
    horizon_bootstrap: bool = False

    def __post_init__(self) -> None:
        check_bounds(self, gamma=(0, 1), gae_lambda=(0, 1), gamma_denoising=(0, 1), bc_weight=WEIGHTS)
        check_bounds(self, epochs=(1, 1000), minibatch=(2, 1 << 20), critic_hidden=WIDTHS, critic_warmup=(0, 10**9))
        check_bounds(self, actor_learning_rate=RATES, critic_learning_rate=RATES, value_weight=WEIGHTS)
        check_bounds(self, clip=WEIGHTS, clip_base=WEIGHTS, clip_rate=(0, 100))  # its exponential is a number
        check_bounds(self, kl_budget=(1e-3, 1e6), kl_dual_rate=(1e-3, 10))
        check_bounds(self, log_prob_min=(-1e6, 1e6), log_prob_max=(self.log_prob_min, 1e6), target_kl=(-1e6, 1e6))


class Critic(nn.Module):
    """Value of a latent (..., Z) -> (...): residual MLP, the denoising step plays no part."""

    def __init__(self, latent_size: int, hidden: int) -> None:
        super().__init__()
        self.into = nn.Linear(latent_size, hidden)
        self.block_1 = nn.Linear(hidden, hidden)
        self.block_2 = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, 1)

    def forward(self, latent: Tensor) -> Tensor:
        """Predict the return."""
        x = self.into(latent)
        x = x + self.block_2(mish(self.block_1(mish(x))))
        return self.out(x).squeeze(-1)


def advantages(
    rewards: Tensor, values: Tensor, next_values: Tensor, terminated: Tensor, ended: Tensor, gamma: float, lam: float
) -> Tensor:
    """Generalised advantage estimates (H, B).

    `next_values[h]` is the value of the state that step h led to, in the same episode: where an episode was cut, of the
    state at which it was cut. `terminated`: nothing follows, no bootstrap. `ended`: terminated or cut, so the sum over
    later steps stops. (The authors bootstrap a cut episode from the next episode's first state; we do not.)
    """
    delta = rewards + gamma * next_values * (~terminated) - values
    out = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[0])
    for h in range(len(rewards) - 1, -1, -1):
        running = delta[h] + gamma * lam * running * (~ended[h])
        out[h] = running
    return out


def clip_schedule(config: PPOConfig, steps: int) -> Tensor:
    """Clip range of each denoising step, noisiest first, growing towards the clean end (K',); `clip` at a rate of 0."""
    if config.clip_rate == 0:
        return torch.full((steps,), config.clip)
    i = torch.arange(steps, dtype=torch.float64) / max(steps - 1, 1)
    growth = torch.expm1(config.clip_rate * i) / math.expm1(config.clip_rate)
    return (config.clip_base + (config.clip - config.clip_base) * growth).float()


def denoising_discount(config: PPOConfig, steps: int) -> Tensor:
    """Share of the advantage that each denoising step gets, noisiest first (K',)."""
    return config.gamma_denoising ** torch.arange(steps - 1, -1, -1, dtype=torch.float32)


@dataclass(frozen=True)
class Batch:
    """What an update learns from, one row a live chunk.

    Attributes:
        latents: (N, Z).  chains: (N, K'+1, D).  log_probs: (N, K') under the policy that acted.
        advantages, returns: (N,).  base_means: (N, K', D) of the pre-trained policy's transitions along the chains.
        bc_weight: of the BC term.
    """

    latents: Tensor
    chains: Tensor
    log_probs: Tensor
    advantages: Tensor
    returns: Tensor
    base_means: Tensor
    bc_weight: float

    def rows(self, index: Tensor | slice) -> Batch:
        """Return the rows of a minibatch, or of a share of it."""
        return Batch(
            self.latents[index],
            self.chains[index],
            self.log_probs[index],
            self.advantages[index],
            self.returns[index],
            self.base_means[index],
            self.bc_weight,
        )


def mean_log_prob(elementwise: Tensor, config: PPOConfig) -> Tensor:
    """Clamp log-densities (..., D) and average them: (...). The clip ranges only make sense with this mean."""
    return elementwise.clamp(config.log_prob_min, config.log_prob_max).mean(-1)


@torch.no_grad()
def make_batch(
    rollout: Rollout,
    policy: DiffusionPolicy,
    pretrained: DiffusionPolicy,
    critic: Critic,
    config: PPOConfig,
    bc_weight: float,
) -> Batch:
    """Turn a rollout into the rows of an update; the frozen policy is asked here, once an iteration."""
    values = critic(rollout.latents)
    next_values = torch.cat([values[1:], critic(rollout.final)[None]])
    terminated = (rollout.rewards > 0) | rollout.left
    ended = terminated.clone()
    ended[-1] = True
    if not config.horizon_bootstrap:
        terminated = ended
    advantage = advantages(rollout.rewards, values, next_values, terminated, ended, config.gamma, config.gae_lambda)
    live = rollout.live
    latents, chains = rollout.latents[live], rollout.chains[live]
    return Batch(
        latents,
        chains,
        mean_log_prob(policy.chain_log_prob(latents, chains), config),
        advantage[live],
        (advantage + values)[live],
        base_means(pretrained, latents, chains),
        bc_weight,
    )


@torch.no_grad()
def base_means(pretrained: DiffusionPolicy, latents: Tensor, chains: Tensor) -> Tensor:
    """Return the means (N, K', D) that the pre-trained policy gives the transitions of chains (N, K'+1, D)."""
    return pretrained.fold(latents).chain_means(chains)


def actor_loss(
    policy: DiffusionPolicy, batch: Batch, config: PPOConfig, share: Share = ALONE
) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped surrogate over (N, K') ratios plus the BC term (eq. 11).

    The paper's BC term is minus the mean log-density of chains that the pre-trained policy draws. At each step both
    policies have the same deviation, so its expectation is, but for a constant, the KL between their transitions: half
    the squared distance of their means in deviations. Here it is taken along the chains that were lived,
    without a draw.
    Of many processes each computes the loss of its share of the batch's rows; advantages are normalised over all.
    """
    steps, device, mine = batch.chains.shape[1] - 1, batch.chains.device, batch.rows(share.rows)
    mean = partial(_mean, rows=len(batch.latents) / share.count)
    folded = policy.fold(mine.latents)
    means = folded.chain_means(mine.chains)
    log_ratio = mean_log_prob(policy.transition_log_prob(mine.chains, means), config) - mine.log_probs
    ratio = log_ratio.exp()
    normalised = (batch.advantages - batch.advantages.mean()) / (batch.advantages.std() + 1e-8)
    advantage = normalised[share.rows, None] * denoising_discount(config, steps).to(device)
    clip = clip_schedule(config, steps).to(device)
    clipped = torch.maximum(torch.minimum(ratio, 1 + clip), 1 - clip)
    loss = mean(torch.maximum(-advantage * ratio, -advantage * clipped))
    metrics = {
        "policy_loss": loss.detach(),
        "approx_kl": mean(ratio - 1 - log_ratio).detach(),
        "clip_fraction": mean(((ratio - 1).abs() > clip).float()).detach(),
    }
    kl = policy.transition_kl(means, mine.base_means)
    metrics["path_kl"] = mean(kl.detach().sum((-2, -1)))
    if batch.bc_weight:
        loss = loss + batch.bc_weight * mean(kl)
    return loss, metrics


def next_bc_weight(weight: float, path_kl: float, config: PPOConfig) -> float:
    """Return the BC term's weight in the next iteration (dual ascent on its logarithm).

    It grows while the path KL (nats a chunk) is above the budget and falls while it is below; without one it stays.
    """
    if config.kl_budget is None:
        return weight
    excess = min(path_kl / config.kl_budget, 3.0) - 1
    weight = max(weight, LEAST_BC_WEIGHT) * math.exp(config.kl_dual_rate * excess)
    return min(max(weight, LEAST_BC_WEIGHT), MOST_BC_WEIGHT)


def critic_loss(critic: Critic, batch: Batch, share: Share = ALONE) -> Tensor:
    """Half the squared error of a batch's returns, of this process's share of its rows."""
    mine = batch.rows(share.rows)
    return 0.5 * _mean((critic(mine.latents) - mine.returns).square(), len(batch.latents) / share.count)


def _mean(values: Tensor, rows: float) -> Tensor:
    """Mean of values (n, ...), weighed: the mean over processes, which have `rows` in the mean, is that of all rows."""
    return values.mean() * (len(values) / rows) if len(values) else values.sum()


@dataclass(frozen=True)
class Losses:
    """What an update descends, of the share of a batch's rows that is this process's: `actor_loss`, `critic_loss`."""

    actor: Callable[[Batch], tuple[Tensor, dict[str, Tensor]]]
    critic: Callable[[Batch], Tensor]
    share: Share


def make_losses(policy: DiffusionPolicy, critic: Critic, config: PPOConfig, share: Share = ALONE) -> Losses:
    """Build the losses; their gradients are the processes' mean."""
    actor = partial(actor_loss, policy, config=config, share=share)
    return Losses(
        share.averaging(policy, actor), share.averaging(critic, partial(critic_loss, critic, share=share)), share
    )


def update(
    batch: Batch,
    policy: DiffusionPolicy,
    critic: Critic,
    actor_optimizer: torch.optim.Optimizer,
    critic_optimizer: torch.optim.Optimizer,
    config: PPOConfig,
    generator: torch.Generator,
    *,
    critic_only: bool = False,
    losses: Losses | None = None,
) -> dict[str, float]:
    """Run the epochs of one iteration on at least two rows, in place; return the minibatches' mean metrics.

    Many processes have the same batch and `losses` that share it.
    """
    losses = losses or make_losses(policy, critic, config)
    collected: list[dict[str, Tensor]] = []
    for _ in range(config.epochs):
        order = torch.randperm(len(batch.latents), generator=generator).to(batch.latents.device)
        for index in order.split(config.minibatch):
            if len(index) < 2:
                continue  # the advantages of a single row cannot be normalised
            rows = batch.rows(index)
            metrics = update_critic(rows, losses, critic_optimizer, config)
            if not critic_only:
                metrics |= update_actor(rows, losses, policy, actor_optimizer)
            collected.append(metrics)
        if not critic_only and losses.share.numbers(collected[-1])["approx_kl"] > config.target_kl:
            break
    means = {name: torch.stack([m[name] for m in collected]).mean() for name in collected[0]}
    with torch.no_grad():
        residual = (batch.returns - critic(batch.latents)).var()
    means["explained_variance"] = 1 - residual / batch.returns.var().clamp(min=1e-8)
    return losses.share.numbers(means)


def update_critic(
    rows: Batch, losses: Losses, optimizer: torch.optim.Optimizer, config: PPOConfig
) -> dict[str, Tensor]:
    """Bring the critic nearer to a minibatch's returns, in place."""
    loss = losses.critic(rows)
    optimizer.zero_grad(set_to_none=True)
    (config.value_weight * loss).backward()
    optimizer.step()
    return {"value_loss": loss.detach()}


def update_actor(
    rows: Batch, losses: Losses, policy: DiffusionPolicy, optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Take one step of the policy on a minibatch, in place."""
    loss, metrics = losses.actor(rows)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.get_total_norm([p.grad for p in policy.parameters() if p.grad is not None])
    optimizer.step()
    return metrics | {"gradient_norm": norm}
