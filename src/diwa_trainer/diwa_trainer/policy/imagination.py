"""The Dream Diffusion MDP: episodes that happen in the world model alone (DiWA, eq. 5-6).

Dimensions: B imagined episodes, H chunks, the rest as in `diffusion.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diwa_runtime.actions import GRIPPER
from diwa_trainer.devices.ranks import ALONE, Share
from diwa_trainer.policy.diffusion import DiffusionPolicy, draw_noise, sample
from diwa_trainer.policy.support import Outside
from diwa_trainer.world.rssm import RSSM


@dataclass(frozen=True)
class Rollout:
    """Imagined episodes, time first.

    Attributes:
        latents: (H, B, Z) at which a chunk was drawn; after an episode's success, where it was cut.
        chains: (H, B, K'+1, D); zeros after an episode's success.
        rewards: (H, B), 1 where the chunk ended in success.
        live: (H, B) bool, false after an episode's end.
        left: (H, B) bool, true where in that chunk the episode left the recordings' reach, which ended it as a failure.
        final: (B, Z) latents after the last chunk (of episodes that ended: where they were cut).
    """

    latents: Tensor
    chains: Tensor
    rewards: Tensor
    live: Tensor
    left: Tensor
    final: Tensor

    def gathered(self, share: Share) -> Rollout:
        """Return the episodes of all processes."""
        if share.count == 1:
            return self
        latents, chains, rewards, live, left = (
            share.gather(part.transpose(0, 1)).transpose(0, 1)
            for part in (self.latents, self.chains, self.rewards, self.live, self.left)
        )
        return Rollout(latents, chains, rewards, live, left, share.gather(self.final))

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
    outside: Outside | None = None,
    share: Share = ALONE,
) -> Rollout:
    """Roll the policy out from latents (B, Z) for at most `chunks` chunks; success ends an episode.

    `reward` says which of the latents after a chunk's last action (B, Z) are a success: bool (B,). Only episodes that
    go on are computed; each has its own rows of what is drawn, whatever becomes of the others.
    Of many processes' episodes `start` are this one's `share`.
    """
    config = finetuned.config
    batch = len(start)
    latent, live = start, start.new_ones(batch, dtype=torch.bool)
    latents, lives = start.new_empty(chunks, *start.shape), live.new_empty(chunks, batch)
    whole = share.part(generator, batch * share.count)
    chains = start.new_zeros(chunks, batch, config.finetuned_steps + 1, config.size)
    rewards, left = start.new_zeros(chunks, batch), live.new_zeros(chunks, batch)
    for h in range(chunks):
        latents[h], lives[h] = latent, live
        noise = draw_noise(config, (batch, config.denoising_steps + 1), whole, start.device)
        going = live.nonzero().squeeze(1)
        drawn = sample(pretrained, finetuned, latent[going], noise[going], explore=explore)
        path, source = [latent[going]], share.going(generator, live)
        for action in accept(drawn.chunk).unbind(1):
            path.append(dynamics.imagine_step(path[-1], action, source))
        chains[h, going] = drawn.chain
        if outside is not None:
            left[h, going] = outside(torch.stack(path, 1))
        stays = ~left[h, going]
        latent = latent.index_copy(0, going[stays], path[-1][stays])
        live = live & ~left[h]
        gone = left[: h + 1].any(0)  # of what lies beyond the recordings no judge knows anything
        success = reward(latent.masked_fill(gone[:, None], torch.nan)) & live
        rewards[h], live = success, live & ~success
    return Rollout(latents, chains, rewards, lives, left, latent)
