"""The diffusion policy as diffusion_policy (Chi et al. 2023) samples it: `diffusers`' DDPM scheduler around one net.

With a fine-tuned net equal to the pre-trained one and the same noise, this and `diwa_trainer.policy.diffusion.sample`
as deployed are one algorithm: cosine schedule, predicted a^0 clamped to [-1, 1], posterior deviations ("fixed_small"),
no noise at t = 0. Two things stay ours: noise is clipped where it is drawn, and deviations have a floor of 1e-3, which
no t > 0 reaches.

Dimensions: N rows, K denoising steps, D numbers in a chunk, Z latent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from plain_diffusion import PlainDenoiser, plain_denoiser
from torch import Tensor

from diwa_trainer.policy.diffusion import DiffusionPolicy


@dataclass(frozen=True)
class DiffusersPolicy:
    """A net and the scheduler that denoises with it."""

    denoiser: PlainDenoiser
    scheduler: DDPMScheduler

    @torch.no_grad()
    def sample(self, latent: Tensor, generator: torch.Generator) -> Tensor:
        """Draw chunks (N, D) under latents (N, Z): noise for the start, then for every step but the last."""
        self.scheduler.set_timesteps(len(self.scheduler))
        chunk = torch.randn((len(latent), self.denoiser.out.out_features), generator=generator)
        for t in self.scheduler.timesteps:
            noise = self.denoiser(chunk, t.expand(len(latent)), latent)
            step = self.scheduler.step(noise, t, chunk, generator=generator)
            chunk = step.prev_sample  # type: ignore[union-attr]  # a tuple only on request
        return chunk


def diffusers_policy(policy: DiffusionPolicy) -> DiffusersPolicy:
    """Return our policy's twin, with a copy of its weights."""
    scheduler = DDPMScheduler(
        num_train_timesteps=policy.config.denoising_steps,
        beta_schedule="squaredcos_cap_v2",
        clip_sample=True,
        prediction_type="epsilon",
    )
    return DiffusersPolicy(plain_denoiser(policy), scheduler)
