"""The diffusion policy as DPPO lays it out, one denoising step at a time; the twin of `diwa_trainer.policy.diffusion`.

Every step concatenates chunk, time embedding and latent, and runs the whole network on that. Written from the equations
(Ho et al. 2020, Nichol & Dhariwal 2021); oracle of the tests and reference of the benchmarks.

Dimensions: N rows, K denoising steps, K' fine-tuned ones, D numbers in a chunk, Z latent.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from diwa_trainer.policy.diffusion import DiffusionConfig, DiffusionPolicy


class PlainDenoiser(nn.Module):
    """Chunk, time embedding and latent in, predicted noise out: a residual MLP."""

    def __init__(self, config: DiffusionConfig, latent_size: int) -> None:
        super().__init__()
        self.embedding = config.time_embedding
        self.time_in = nn.Linear(self.embedding, 2 * self.embedding)
        self.time_out = nn.Linear(2 * self.embedding, self.embedding)
        self.into = nn.Linear(config.size + self.embedding + latent_size, config.hidden)
        self.block_1 = nn.Linear(config.hidden, config.hidden)
        self.block_2 = nn.Linear(config.hidden, config.hidden)
        self.out = nn.Linear(config.hidden, config.size)

    def forward(self, chunk: Tensor, t: Tensor, latent: Tensor) -> Tensor:
        """Predict the noise in chunks (N, D) at denoising steps t (N,) under latents (N, Z)."""
        half = self.embedding // 2
        wave = torch.exp(-math.log(10000) * torch.arange(half) / (half - 1))
        angle = t[:, None] * wave
        time = self.time_out(F.mish(self.time_in(torch.cat([angle.sin(), angle.cos()], -1))))
        x = self.into(torch.cat([chunk, time, latent], -1))
        x = x + self.block_2(F.mish(self.block_1(F.mish(x))))
        return self.out(x)


@dataclass(frozen=True)
class PlainPolicy:
    """The frozen and the fine-tuned net, and which of them answers where.

    Attributes:
        pretrained: answers at t >= K'.
        tuned: answers at t < K'.
        config: sizes and sampling rules.
        lean: ask the frozen net only where its answer is used. DPPO asks it for every row and then writes the tuned
            net's answers over the rows with t < K'.
    """

    pretrained: PlainDenoiser
    tuned: PlainDenoiser
    config: DiffusionConfig
    lean: bool = False

    def predict(self, chunk: Tensor, t: Tensor, latent: Tensor) -> Tensor:
        """Predict the noise with the net that answers at each row's t: (N, D), (N,), (N, Z) -> (N, D)."""
        tuned = t < self.config.finetuned_steps
        if self.lean and bool(tuned.all()):
            return self.tuned(chunk, t, latent)
        noise = self.pretrained(chunk, t, latent)
        if bool(tuned.any()):
            noise[tuned] = self.tuned(chunk[tuned], t[tuned], latent[tuned])
        return noise

    def mean(self, chunk: Tensor, t: Tensor, latent: Tensor) -> Tensor:
        """Mean of p(a^{t-1} | z, a^t): the posterior of the forward process at the predicted, clamped a^0."""
        schedule = plain_schedule(self.config.denoising_steps)
        beta, alpha, alpha_bar, alpha_bar_before = (constant[t][:, None] for constant in schedule)
        clean = (chunk - (1 - alpha_bar).sqrt() * self.predict(chunk, t, latent)) / alpha_bar.sqrt()
        clean = clean.clamp(-1, 1)
        of_clean = beta * alpha_bar_before.sqrt() / (1 - alpha_bar)
        of_chunk = alpha.sqrt() * (1 - alpha_bar_before) / (1 - alpha_bar)
        return of_clean * clean + of_chunk * chunk

    def std(self, t: int, *, explore: bool) -> float:
        """Standard deviation of denoising step t: floored when exploring, none at t = 0 when deployed."""
        beta, _, alpha_bar, alpha_bar_before = (float(c[t]) for c in plain_schedule(self.config.denoising_steps))
        posterior = math.sqrt(beta * (1 - alpha_bar_before) / (1 - alpha_bar))
        if explore:
            return max(posterior, self.config.exploration_std)
        return max(posterior, self.config.deterministic_std) if t > 0 else 0.0

    @torch.no_grad()
    def sample(self, latent: Tensor, noise: Tensor, *, explore: bool) -> tuple[Tensor, Tensor]:
        """Denoise under latents (N, Z) with noise (N, K+1, D), as `diwa_trainer.policy.diffusion.sample`.

        Returns:
            the chunk (N, D) and its chain (N, K'+1, D).
        """
        chunk = noise[:, 0]
        chain = []
        for i, t in enumerate(reversed(range(self.config.denoising_steps))):
            if t == self.config.finetuned_steps - 1:
                chain.append(chunk)
            mean = self.mean(chunk, torch.full((len(latent),), t), latent)
            chunk = mean + self.std(t, explore=explore) * noise[:, i + 1]
            if t < self.config.finetuned_steps:
                chain.append(chunk)
        return chunk, torch.stack(chain, 1)

    def log_prob(self, latent: Tensor, chain: Tensor) -> Tensor:
        """Log-densities of the chains' K' steps, elementwise: (N, Z), (N, K'+1, D) -> (N, K', D).

        Every (row, denoising step) becomes a row of its own, with a copy of its latent.
        """
        steps = chain.shape[1] - 1
        log_prob: Tensor = self.transitions(latent, chain).log_prob(chain[:, 1:].flatten(0, 1))
        return log_prob.unflatten(0, (-1, steps))

    def transitions(self, latent: Tensor, chain: Tensor) -> Normal:
        """Return the distributions of the chains' K' steps, a row each: (N, Z), (N, K'+1, D) -> N * K' rows of D."""
        steps = chain.shape[1] - 1
        t = torch.arange(steps - 1, -1, -1).repeat(len(chain))
        return self.step(latent.repeat_interleave(steps, 0), chain[:, :-1].flatten(0, 1), t)

    def step_log_prob(self, latent: Tensor, before: Tensor, after: Tensor, t: Tensor) -> Tensor:
        """Log-densities (N, D) of single steps t (N,) from chunks `before` (N, D) to `after` under latents (N, Z)."""
        log_prob: Tensor = self.step(latent, before, t).log_prob(after)
        return log_prob

    def step(self, latent: Tensor, before: Tensor, t: Tensor) -> Normal:
        """Return the distributions of what single steps t (N,) lead to from chunks `before` (N, D)."""
        std = torch.tensor([self.std(step, explore=True) for step in range(self.config.denoising_steps)])[t]
        return Normal(self.mean(before, t, latent), std[:, None])


@functools.cache
def plain_schedule(steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return beta, alpha, alpha_bar and the alpha_bar before, each (K,), of the cosine schedule (s = 0.008)."""
    level = [math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)]
    beta = [min(1 - level[t + 1] / level[t], 0.999) for t in range(steps)]
    alpha_bar, before, product = [], [], 1.0
    for b in beta:
        before.append(product)
        product *= 1 - b
        alpha_bar.append(product)
    return torch.tensor(beta), torch.tensor([1 - b for b in beta]), torch.tensor(alpha_bar), torch.tensor(before)


def plain_policy(pretrained: DiffusionPolicy, tuned: DiffusionPolicy, *, lean: bool = False) -> PlainPolicy:
    """Return the plain twin of our two nets, with copies of their weights."""
    frozen = plain_denoiser(pretrained).requires_grad_(False)
    return PlainPolicy(frozen, plain_denoiser(tuned), tuned.config, lean)


@torch.no_grad()
def plain_denoiser(policy: DiffusionPolicy) -> PlainDenoiser:
    """Return our denoiser's plain twin: its three first layers side by side are the plain one's first layer."""
    ours, plain = policy.denoiser, PlainDenoiser(policy.config, policy.latent_size)
    plain.time_in.load_state_dict(ours.time_mlp[0].state_dict())
    plain.time_out.load_state_dict(ours.time_mlp[2].state_dict())
    for name in ("block_1", "block_2", "out"):
        getattr(plain, name).load_state_dict(getattr(ours, name).state_dict())
    plain.into.weight.copy_(torch.cat([ours.chunk_in.weight, ours.time_in.weight, ours.latent_in.weight], 1))
    plain.into.bias.copy_(ours.latent_in.bias)
    return plain
