"""DPPO's update as its equations read, every denoising step a row of its own; the twin of `diwa_trainer.ppo`.

From `paper.md` 4.5-4.8 (the authors' form: minibatches of env steps, with all K' denoising steps of each). Latents are
copied for every denoising step, and with the BC term whole chains of the frozen policy are drawn in every minibatch.

Dimensions: N env steps of a minibatch, K' fine-tuned denoising steps, D numbers in a chunk, Z latent.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from plain_diffusion import PlainPolicy
from torch import Tensor

from diwa_trainer.diffusion import draw_noise
from diwa_trainer.ppo import Batch, Critic, PPOConfig


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


def row_log_prob(policy: PlainPolicy, latents: Tensor, chains: Tensor, config: PPOConfig) -> Tensor:
    """Clamp the elementwise log-densities and average them: one number for each of the N * K' rows."""
    elementwise = policy.log_prob(latents, chains).flatten(0, 1)
    return elementwise.clamp(config.log_prob_min, config.log_prob_max).mean(-1)


def plain_actor_loss(policy: PlainPolicy, batch: Batch, config: PPOConfig) -> Tensor:
    """Clipped surrogate over N * K' rows, plus the BC term where the batch has chains of the frozen policy."""
    steps = batch.chains.shape[1] - 1
    new, old = row_log_prob(policy, batch.latents, batch.chains, config), batch.log_probs.flatten()
    ratio = (new - old).exp()
    advantage = (batch.advantages - batch.advantages.mean()) / (batch.advantages.std() + 1e-8)
    step_of_row = torch.arange(steps).repeat(len(batch.latents))
    discount = torch.tensor([config.gamma_denoising ** (steps - 1 - i) for i in step_of_row.tolist()])
    clip = torch.tensor([plain_clip(config, i, steps) for i in step_of_row.tolist()])
    advantage = advantage.repeat_interleave(steps) * discount
    clipped = torch.maximum(torch.minimum(ratio, 1 + clip), 1 - clip)
    loss = -torch.minimum(advantage * ratio, advantage * clipped).mean()
    if batch.bc_chains is not None:
        loss = loss - config.bc_weight * row_log_prob(policy, batch.latents, batch.bc_chains, config).mean()
    return loss


def frozen_chains(policy: PlainPolicy, latents: Tensor, generator: torch.Generator) -> Tensor:
    """Draw chains (N, K'+1, D) of the frozen policy alone, from pure noise through all K steps."""
    noise = draw_noise(policy.config, (len(latents), policy.config.denoising_steps + 1), generator)
    frozen = replace(policy, tuned=policy.pretrained)
    return frozen.sample(latents, noise, explore=True)[1]


def plain_update(
    policy: PlainPolicy,
    critic: Critic,
    actor_optimizer: torch.optim.Optimizer,
    critic_optimizer: torch.optim.Optimizer,
    batch: Batch,
    config: PPOConfig,
    generator: torch.Generator,
) -> None:
    """Learn from one minibatch in place; with a BC weight its chains are drawn here."""
    if config.bc_weight:
        batch = replace(batch, bc_chains=frozen_chains(policy, batch.latents, generator))
    actor_loss = plain_actor_loss(policy, batch, config)
    value_loss = 0.5 * F.mse_loss(critic(batch.latents), batch.returns)
    actor_optimizer.zero_grad()
    critic_optimizer.zero_grad()
    (actor_loss + config.value_weight * value_loss).backward()
    actor_optimizer.step()
    critic_optimizer.step()
