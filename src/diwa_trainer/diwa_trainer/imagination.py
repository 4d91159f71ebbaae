"""The Dream Diffusion MDP: episodes that happen in the world model alone (`paper.md`, eq. 5-6).

Dimensions: B imagined episodes, H chunks, the rest as in `diffusion.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diwa_runtime.actions import GRIPPER
from diwa_trainer.diffusion import DiffusionPolicy, draw_noise, sample
from diwa_trainer.rssm import RSSM


@dataclass(frozen=True)
class Rollout:
    """Imagined episodes, time first.

    Attributes:
        latents: (H, B, Z) at which a chunk was drawn.
        chains: (H, B, K'+1, D).
        rewards: (H, B), 1 where the chunk ended in success.
        live: (H, B) bool, false after an episode's success.
        final: (B, Z) latents after the last chunk (of episodes that succeeded: where they were cut).
    """

    latents: Tensor
    chains: Tensor
    rewards: Tensor
    live: Tensor
    final: Tensor

    @property
    def success(self) -> Tensor:
        """Which episodes succeeded: bool (B,)."""
        return self.rewards.sum(0) > 0

    @property
    def lengths(self) -> Tensor:
        """Chunks until the end (B,)."""
        return self.live.sum(0)


def accept(action: Tensor) -> Tensor:
    """What any robot of ours would do with actions (..., 7): the torch twin of `diwa_runtime.actions.accept_action`."""
    accepted = action.clamp(-1, 1)
    accepted[..., GRIPPER] = torch.where(action[..., GRIPPER] > 0, 1.0, -1.0)
    return accepted


@torch.no_grad()
def imagine(
    dynamics: RSSM,
    pretrained: DiffusionPolicy,
    finetuned: DiffusionPolicy,
    reward: Callable[[Tensor], Tensor],
    start: Tensor,
    chunks: int,
    generator: torch.Generator,
    *,
    explore: bool = True,
) -> Rollout:
    """Roll the policy out from latents (B, Z) for at most `chunks` chunks; success ends an episode.

    `reward` says which of the latents after a chunk's last action (B, Z) are a success: bool (B,).
    """
    config = finetuned.config
    batch = len(start)
    latent, live = start, torch.ones(batch, dtype=torch.bool)
    latents, chains, rewards, lives = [], [], [], []
    for _ in range(chunks):
        noise = draw_noise(config, (batch, config.denoising_steps + 1), generator)
        drawn = sample(pretrained, finetuned, latent, noise, explore=explore)
        after = latent
        for action in accept(drawn.chunk).unbind(1):
            after = dynamics.imagine_step(after, action, generator)
        success = reward(after) & live
        latents.append(latent)
        chains.append(drawn.chain)
        rewards.append(success.float())
        lives.append(live)
        latent = torch.where(live[:, None], after, latent)
        live = live & ~success
    return Rollout(torch.stack(latents), torch.stack(chains), torch.stack(rewards), torch.stack(lives), latent)
