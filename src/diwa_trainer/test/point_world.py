"""A world model of which every answer is known: a latent is where a point is, the goal is a disc around zero."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from diwa_trainer.policy.diffusion import DiffusionConfig, DiffusionPolicy
from diwa_trainer.policy.imagination import Rollout, accept, imagine
from diwa_trainer.policy.ppo import Critic, PPOConfig, make_batch, update

LATENT, STRIDE, GOAL_RADIUS, CHUNKS = 2, 0.1, 0.08, 5
POLICY = DiffusionConfig(denoising_steps=10, finetuned_steps=5, hidden=64)


class PointDynamics:
    """Moves the point (B, 2) by the first two parts of an action; nothing is random."""

    def imagine_step(self, latent: Tensor, action: Tensor, generator: torch.Generator | None = None) -> Tensor:  # noqa: ARG002
        """Advance."""
        return latent + STRIDE * action[:, :LATENT]


def in_goal(latent: Tensor) -> Tensor:
    """Say which points (B, 2) are in the goal."""
    return latent.norm(dim=-1) < GOAL_RADIUS


def draw_starts(count: int, generator: torch.Generator) -> Tensor:
    """Return points (count, 2) in a square around the goal, most of them farther than a chunk can go."""
    return 2 * torch.rand(count, LATENT, generator=generator) - 1


def noisy_demonstrations(count: int, noise: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return points (count, 2) and chunks (count, 4, 7) that walk from them to zero with noise on every action."""
    start = point = draw_starts(count, generator)
    chunk = []
    for _ in range(POLICY.chunk):
        action = torch.zeros(count, 7)
        action[:, 6] = 1.0
        action[:, :LATENT] = -point / STRIDE + noise * torch.randn(count, LATENT, generator=generator)
        chunk.append(accept(action))
        point = PointDynamics().imagine_step(point, chunk[-1])
    return start, torch.stack(chunk, 1)


def pretrain(noise: float, updates: int, generator: torch.Generator) -> DiffusionPolicy:
    """Clone noisy demonstrations."""
    policy = DiffusionPolicy(POLICY, LATENT)
    optimizer = torch.optim.AdamW(policy.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    latents, chunks = noisy_demonstrations(4096, noise, generator)
    for _ in range(updates):
        rows = torch.randint(len(latents), (256,), generator=generator)
        loss = policy.loss(latents[rows], chunks[rows], generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return policy


def play(
    pretrained: DiffusionPolicy, policy: DiffusionPolicy, episodes: int, generator: torch.Generator, *, explore: bool
) -> Rollout:
    """Imagine episodes from fresh starts."""
    starts = draw_starts(episodes, generator)
    return imagine(PointDynamics(), pretrained, policy, in_goal, starts, CHUNKS, generator, explore=explore)


def success_rate(pretrained: DiffusionPolicy, policy: DiffusionPolicy) -> float:
    """Share of 1,000 fixed episodes in which the policy, as deployed, reaches the goal."""
    generator = torch.Generator().manual_seed(1_000_000)
    return float(play(pretrained, policy, 1000, generator, explore=False).success.float().mean())


class Learner:
    """Fine-tunes a copy of a pre-trained policy, with a learning rate that falls to zero."""

    def __init__(self, pretrained: DiffusionPolicy, config: PPOConfig, iterations: int) -> None:
        self.pretrained, self.policy = pretrained, copy.deepcopy(pretrained)
        self.critic = Critic(LATENT, config.critic_hidden)
        self.config, self.iterations = config, iterations
        self.actor_optimizer = torch.optim.AdamW(self.policy.parameters(), weight_decay=0.0)
        self.critic_optimizer = torch.optim.AdamW(self.critic.parameters(), config.critic_learning_rate)

    def iterate(self, number: int, episodes: int) -> dict[str, float]:
        """Imagine and update once; the first iterations are the critic's alone."""
        generator = torch.Generator().manual_seed(number)
        rate = self.config.actor_learning_rate * (1 - number / self.iterations)
        for group in self.actor_optimizer.param_groups:
            group["lr"] = rate
        rollout = play(self.pretrained, self.policy, episodes, generator, explore=True)
        batch = make_batch(rollout, self.policy, self.pretrained, self.critic, self.config, self.config.bc_weight)
        return update(
            batch,
            self.policy,
            self.critic,
            self.actor_optimizer,
            self.critic_optimizer,
            self.config,
            generator,
            critic_only=number < self.config.critic_warmup,
        )
