"""DPPO's update as its equations read, every denoising step a row of its own; the twin of `diwa_trainer.policy.ppo`.

From the equations of DPPO and DiWA. Two forms: DPPO's own, whose minibatches are (env step, denoising step) pairs from
anywhere in the rollout, and the DiWA authors', whose minibatches are env steps with all K' denoising steps of each. In
both, latents are copied for every row, and with their BC term whole chains of the frozen policy are drawn in every
minibatch. Ours is that term's expectation, which `plain_actor_loss` has from torch's own KL.

Dimensions: N env steps or M rows of a minibatch, K' fine-tuned denoising steps, D numbers in a chunk, Z latent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from plain_diffusion import PlainPolicy
from torch import Tensor
from torch.distributions import kl_divergence

from diwa_trainer.policy.diffusion import draw_noise
from diwa_trainer.policy.ppo import Batch, Critic, PPOConfig


def plain_advantages(
    rewards: Tensor, values: Tensor, next_values: Tensor, terminated: Tensor, ended: Tensor, gamma: float, lam: float
) -> Tensor:
    """Return the sums of (gamma lambda)^l delta_(h+l) up to each episode's end, each written out: (H, B)."""
    horizon, batch = rewards.shape
    out = torch.zeros(horizon, batch)
    for b in range(batch):
        for h in range(horizon):
            total, weight = 0.0, 1.0
            for step in range(h, horizon):
                follows = 0.0 if terminated[step, b] else float(next_values[step, b])
                total += weight * (float(rewards[step, b]) + gamma * follows - float(values[step, b]))
                weight *= gamma * lam
                if ended[step, b]:
                    break
            out[h, b] = total
    return out


def plain_clip(config: PPOConfig, i: int, steps: int) -> float:
    """Clip range of denoising step i, 0 the noisiest."""
    growth = (math.exp(config.clip_rate * i / (steps - 1)) - 1) / (math.exp(config.clip_rate) - 1)
    return config.clip_base + (config.clip - config.clip_base) * growth


def plain_actor_loss(policy: PlainPolicy, batch: Batch, config: PPOConfig) -> Tensor:
    """Clipped surrogate over N * K' rows, plus the batch's weight times the mean KL of all transitions' numbers."""
    steps = batch.chains.shape[1] - 1
    step = torch.arange(steps).repeat(len(batch.latents))
    new = mean_of_clamped(policy.log_prob(batch.latents, batch.chains).flatten(0, 1), config)
    advantages = normalised(batch.advantages).repeat_interleave(steps)
    loss = surrogate(new - batch.log_probs.flatten(), advantages, step, steps, config)
    if not batch.bc_weight:
        return loss
    apart = kl_divergence(
        *(
            which.transitions(batch.latents, batch.chains)
            for which in (policy, replace(policy, tuned=policy.pretrained))
        )
    )
    return loss + batch.bc_weight * apart.mean()


@dataclass(frozen=True)
class Pairs:
    """Rows of DPPO's own minibatches, one a pair of env step and denoising step.

    Attributes:
        latents: (M, Z).
        before, after: chunks (M, D) around the denoising step.
        step: (M,) which of the K' steps, 0 the noisiest.
        log_probs, advantages, returns: (M,).
    """

    latents: Tensor
    before: Tensor
    after: Tensor
    step: Tensor
    log_probs: Tensor
    advantages: Tensor
    returns: Tensor


def make_pairs(batch: Batch, generator: torch.Generator) -> Pairs:
    """Return all N * K' pairs of a batch in random order."""
    steps = batch.chains.shape[1] - 1
    order = torch.randperm(len(batch.latents) * steps, generator=generator)
    row, step = order // steps, order % steps
    before, after = batch.chains[row, step], batch.chains[row, step + 1]
    return Pairs(
        batch.latents[row],
        before,
        after,
        step,
        batch.log_probs[row, step],
        batch.advantages[row],
        batch.returns[row],
    )


def plain_pair_loss(policy: PlainPolicy, pairs: Pairs, config: PPOConfig) -> Tensor:
    """Return the actor's loss in DPPO's own form."""
    steps = policy.config.finetuned_steps
    elementwise = policy.step_log_prob(pairs.latents, pairs.before, pairs.after, steps - 1 - pairs.step)
    log_ratio = mean_of_clamped(elementwise, config) - pairs.log_probs
    return surrogate(log_ratio, normalised(pairs.advantages), pairs.step, steps, config)


def mean_of_clamped(elementwise: Tensor, config: PPOConfig) -> Tensor:
    """Clamp log-densities (..., D) and average them: (...)."""
    return elementwise.clamp(config.log_prob_min, config.log_prob_max).mean(-1)


def normalised(advantages: Tensor) -> Tensor:
    """Return advantages of mean 0 and standard deviation 1."""
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)


def surrogate(log_ratio: Tensor, advantages: Tensor, step: Tensor, steps: int, config: PPOConfig) -> Tensor:
    """Return PPO's clipped loss over rows (M,) of denoising steps `step` (M,)."""
    ratio = log_ratio.exp()
    discount = torch.tensor([config.gamma_denoising ** (steps - 1 - i) for i in step.tolist()])
    clip = torch.tensor([plain_clip(config, i, steps) for i in step.tolist()])
    clipped = torch.maximum(torch.minimum(ratio, 1 + clip), 1 - clip)
    return -torch.minimum(advantages * discount * ratio, advantages * discount * clipped).mean()


def frozen_chains(policy: PlainPolicy, latents: Tensor, generator: torch.Generator) -> Tensor:
    """Draw chains (N, K'+1, D) of the frozen policy alone, from pure noise through all K steps."""
    noise = draw_noise(policy.config, (len(latents), policy.config.denoising_steps + 1), generator)
    frozen = replace(policy, tuned=policy.pretrained)
    return frozen.sample(latents, noise, explore=True)[1]


@dataclass(frozen=True)
class PlainLearner:
    """Networks and their optimizers."""

    policy: PlainPolicy
    critic: Critic
    actor_optimizer: torch.optim.Optimizer
    critic_optimizer: torch.optim.Optimizer
    config: PPOConfig

    def update(self, rows: Batch | Pairs, generator: torch.Generator) -> None:
        """Learn from one minibatch in place; with a BC weight its chains are drawn here."""
        if isinstance(rows, Pairs):
            actor_loss = plain_pair_loss(self.policy, rows, self.config)
        else:
            actor_loss = plain_actor_loss(self.policy, replace(rows, bc_weight=0.0), self.config)
        if self.config.bc_weight:
            chains = frozen_chains(self.policy, rows.latents, generator)
            cloned = mean_of_clamped(self.policy.log_prob(rows.latents, chains), self.config).mean()
            actor_loss = actor_loss - self.config.bc_weight * cloned
        value_loss = 0.5 * F.mse_loss(self.critic(rows.latents), rows.returns)
        self.actor_optimizer.zero_grad()
        self.critic_optimizer.zero_grad()
        (actor_loss + self.config.value_weight * value_loss).backward()
        self.actor_optimizer.step()
        self.critic_optimizer.step()
