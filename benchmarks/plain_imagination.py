"""Imagined episodes as a plain loop: the plain sampler, then one RSSM step after the other; twin of `imagination`.

The RSSM's step is written from DreamerV2's equations with torch's own layers and distributions.

Dimensions: B imagined episodes, H chunks, H' deterministic size, S variables of C classes, Z = H' + S * C.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from plain_diffusion import PlainPolicy
from torch import Tensor, nn
from torch.distributions import OneHotCategorical

from diwa_runtime.actions import ACTION_SIZE, GRIPPER
from diwa_trainer.policy.imagination import Rollout
from diwa_trainer.world.rssm import RSSM

Step = Callable[[Tensor, Tensor], Tensor]


class PlainDynamics(nn.Module):
    """The prior's step of an RSSM: state and action through one layer, a GRU, and a sampled one-hot state."""

    def __init__(self, rssm: RSSM) -> None:
        """Take over an RSSM's weights."""
        super().__init__()
        config = rssm.config
        self.sizes = (config.deterministic, config.variables, config.classes)
        self.unimix = config.unimix
        self.into = nn.Linear(config.stochastic + ACTION_SIZE, config.hidden)
        with torch.no_grad():
            self.into.weight.copy_(torch.cat([rssm.stochastic_in.weight, rssm.action_in.weight], 1))
            self.into.bias.copy_(rssm.stochastic_in.bias)
        self.norm, self.gru, self.prior = rssm.in_norm, rssm.gru, rssm.prior_head

    def distribution(self, latent: Tensor, action: Tensor) -> tuple[Tensor, OneHotCategorical]:
        """Return h (B, H') after an action (B, 7) and the prior of the state there, (B, S, C) one-hots."""
        deterministic, variables, classes = self.sizes
        h, z = latent[:, :deterministic], latent[:, deterministic:]
        h = self.gru(F.silu(self.norm(self.into(torch.cat([z, action], -1)))), h)
        probabilities = self.prior(h).reshape(-1, variables, classes).softmax(-1)
        return h, OneHotCategorical(probs=(1 - self.unimix) * probabilities + self.unimix / classes)

    def forward(self, latent: Tensor, action: Tensor) -> Tensor:
        """Advance latents (B, Z) by actions (B, 7)."""
        h, states = self.distribution(latent, action)
        return torch.cat([h, states.sample().flatten(1)], -1)


@torch.no_grad()
def plain_imagine(
    step: Step,
    policy: PlainPolicy,
    reward: Callable[[Tensor], Tensor],
    start: Tensor,
    chunks: int,
    draw_noise: Callable[[], Tensor],
    *,
    explore: bool = True,
) -> Rollout:
    """Roll out from latents (B, Z), as `diwa_trainer.policy.imagination.imagine`.

    Args:
        step: (latent (B, Z), accepted action (B, 7)) -> next latent (B, Z).
        policy: draws the chunks.
        reward: which latents (B, Z) are a success: bool (B,).
        start: (B, Z).
        chunks: at most so many.
        draw_noise: called once a chunk, gives (B, K+1, D).
        explore: floor every denoising step's deviation.
    """
    latent, live = start, torch.ones(len(start), dtype=torch.bool)
    latents, chains, rewards, lives = [], [], [], []
    for _ in range(chunks):
        chunk, chain = policy.sample(latent, draw_noise(), explore=explore)
        after = latent
        for action in chunk.unflatten(-1, (-1, ACTION_SIZE)).unbind(1):
            motion, gripper = action[:, :GRIPPER].clamp(-1, 1), action[:, GRIPPER:]
            after = step(after, torch.cat([motion, (gripper > 0).float() * 2 - 1], -1))
        success = reward(after) & live
        latents.append(latent)
        chains.append(chain)
        rewards.append(success.float())
        lives.append(live)
        latent = torch.where(live[:, None], after, latent)
        live = live & ~success
    left = torch.zeros_like(torch.stack(lives))
    return Rollout(torch.stack(latents), torch.stack(chains), torch.stack(rewards), torch.stack(lives), left, latent)
