"""The diffusion policy: noise schedule, denoising network, and the sampler that returns action, chain and log-probs.

Dimensions: B batch, K denoising steps, K' fine-tuned ones, Ta actions a chunk, Da action size, D = Ta * Da, Z latent.
A chain is the chunk after each of the last K' denoising steps, noisiest first: (B, K' + 1, D); its last entry is what
is executed. Denoising steps are numbered as in the schedule: t = K - 1 is the noisiest, t = 0 gives the action.

What does not change between denoising steps is computed once ("folded"): the latent's share of the first layer with the
bias, the time embedding's share as a table (K, hidden), and the product of the last two layers, which no nonlinearity
parts. `benchmarks/plain_diffusion.py` is the step-by-step twin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diwa_runtime.actions import ACTION_SIZE
from diwa_runtime.bundle.session import NOISE_LIMIT
from diwa_runtime.config.bounds import WIDTHS, check_bounds
from diwa_runtime.errors import ConfigError
from diwa_trainer.devices.device import CPU
from diwa_trainer.devices.draws import Source, normal
from diwa_trainer.policy.mish import mish

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class DiffusionConfig:
    """Sizes and sampling rules of the diffusion policy (DPPO's)."""

    denoising_steps: int = 20
    finetuned_steps: int = 10
    chunk: int = 4
    hidden: int = 256
    time_embedding: int = 16
    exploration_std: float = 0.1
    deterministic_std: float = 1e-3

    def __post_init__(self) -> None:
        most = min(self.denoising_steps, 100)
        check_bounds(self, denoising_steps=(2, 1000), finetuned_steps=(1, most), chunk=(1, 64))
        check_bounds(self, hidden=WIDTHS, time_embedding=(4, 1024), exploration_std=(1e-6, 1e3))
        check_bounds(self, deterministic_std=(0, 1e3))
        if self.time_embedding % 2:
            raise ConfigError(f"time_embedding is {self.time_embedding}, must be even: half of it are sines")

    @property
    def size(self) -> int:
        """D, numbers in a chunk."""
        return self.chunk * ACTION_SIZE


class Schedule(nn.Module):
    """The cosine schedule's constants, each (K,)."""

    sqrt_alpha_bar: Tensor
    sqrt_one_minus_alpha_bar: Tensor
    sqrt_recip_alpha_bar: Tensor
    sqrt_recip_minus_one: Tensor
    mean_x0: Tensor
    mean_xt: Tensor
    posterior_std: Tensor

    def __init__(self, steps: int) -> None:
        super().__init__()
        x = torch.linspace(0, steps + 1, steps + 1, dtype=torch.float64) / (steps + 1)
        alpha_bar = torch.cos((x + 0.008) / 1.008 * math.pi / 2) ** 2
        beta = (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(0, 0.999)
        alpha = 1 - beta
        alpha_bar = alpha.cumprod(0)
        before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
        constants = {
            "sqrt_alpha_bar": alpha_bar.sqrt(),
            "sqrt_one_minus_alpha_bar": (1 - alpha_bar).sqrt(),
            "sqrt_recip_alpha_bar": (1 / alpha_bar).sqrt(),
            "sqrt_recip_minus_one": (1 / alpha_bar - 1).sqrt(),
            "mean_x0": beta * before.sqrt() / (1 - alpha_bar),
            "mean_xt": (1 - before) * alpha.sqrt() / (1 - alpha_bar),
            "posterior_std": (beta * (1 - before) / (1 - alpha_bar)).sqrt(),
        }
        for name, value in constants.items():
            self.register_buffer(name, value.float(), persistent=False)


class Denoiser(nn.Module):
    """Predicts the noise in a chunk: residual MLP over chunk, time embedding and latent (DPPO's)."""

    def __init__(self, config: DiffusionConfig, latent_size: int) -> None:
        super().__init__()
        self.config = config
        hidden, embedding = config.hidden, config.time_embedding
        self.time_mlp = nn.Sequential(
            nn.Linear(embedding, 2 * embedding), nn.Mish(), nn.Linear(2 * embedding, embedding)
        )
        self.chunk_in = nn.Linear(config.size, hidden, bias=False)
        self.time_in = nn.Linear(embedding, hidden, bias=False)
        self.latent_in = nn.Linear(latent_size, hidden)
        self.block_1 = nn.Linear(hidden, hidden)
        self.block_2 = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, config.size)
        self.register_buffer("frequencies", _sinusoids(config.denoising_steps, embedding), persistent=False)

    frequencies: Tensor

    def time_table(self) -> Tensor:
        """Return the time embedding's share of the first layer for every denoising step (K, hidden)."""
        return self.time_in(self.time_mlp(self.frequencies))

    def tail(self) -> tuple[Tensor, Tensor]:
        """Return `out` after `block_2` as one layer, weight (D, hidden) and bias (D,); D is far below hidden."""
        return self.out.weight @ self.block_2.weight, self.out(self.block_2.bias)

    def forward(self, chunk: Tensor, share: Tensor, tail: tuple[Tensor, Tensor]) -> Tensor:
        """Predict the noise in chunks (..., D), given the latent's and the time's shares (..., hidden) and `tail()`.

        The network is ``out(x + block_2(mish(block_1(mish(x)))))`` with ``x = chunk_in(chunk) + share``.
        """
        weight, bias = tail
        x = self.chunk_in(chunk) + share
        return F.linear(x, self.out.weight) + F.linear(mish(self.block_1(mish(x))), weight, bias)


class DiffusionPolicy(nn.Module):
    """A denoiser with its schedule: losses, means and log-probs of denoising steps."""

    def __init__(self, config: DiffusionConfig, latent_size: int) -> None:
        super().__init__()
        self.config = config
        self.latent_size = latent_size
        self.schedule = Schedule(config.denoising_steps)
        self.denoiser = Denoiser(config, latent_size)

    def loss(self, latent: Tensor, chunk: Tensor, generator: torch.Generator) -> Tensor:
        """Epsilon-prediction error of clean chunks (B, Ta, Da) at random denoising steps (DDPM's loss)."""
        s = self.schedule
        clean = chunk.flatten(1)
        t = torch.randint(self.config.denoising_steps, (len(clean),), generator=generator).to(clean.device)
        noise = normal(tuple(clean.shape), generator, clean.device)
        noisy = s.sqrt_alpha_bar[t, None] * clean + s.sqrt_one_minus_alpha_bar[t, None] * noise
        share = self.denoiser.latent_in(latent) + self.denoiser.time_table()[t]
        return F.mse_loss(self.denoiser(noisy, share, self.denoiser.tail()), noise)

    def fold(self, latent: Tensor) -> Folded:
        """Compute what all denoising steps under latents (B, Z) share."""
        denoiser = self.denoiser
        return Folded(self, denoiser.latent_in(latent), denoiser.time_table(), denoiser.tail())

    def exploration_std(self) -> Tensor:
        """Standard deviation of each denoising step when exploring and in log-probs (K,)."""
        return self.schedule.posterior_std.clamp(min=self.config.exploration_std)

    def evaluation_std(self) -> Tensor:
        """Standard deviation of each denoising step when deployed (K,): none at the last (t = 0)."""
        std = self.schedule.posterior_std.clamp(min=self.config.deterministic_std).clone()
        std[0] = 0
        return std

    def transition_std(self) -> Tensor:
        """Standard deviation of each of the last K' denoising steps when exploring, noisiest first (K', 1)."""
        return self.exploration_std()[: self.config.finetuned_steps].flip(0)[:, None]

    def transition_log_prob(self, chain: Tensor, means: Tensor) -> Tensor:
        """Log-densities, elementwise, of a chain (B, K'+1, D) whose transitions have these means (B, K', D)."""
        std = self.transition_std()
        return -0.5 * ((chain[..., 1:, :] - means) / std).square() - std.log() - 0.5 * LOG_2PI

    def transition_kl(self, means: Tensor, base_means: Tensor) -> Tensor:
        """KL, elementwise, between transitions of these means (B, K', D) each: both have the same deviations."""
        return ((means - base_means) / self.transition_std()).square() / 2

    def chain_log_prob(self, latent: Tensor, chain: Tensor) -> Tensor:
        """Log-densities of a chain's K' transitions, elementwise: (B, Z), (B, K'+1, D) -> (B, K', D)."""
        return self.fold(latent).chain_log_prob(chain)


@dataclass(frozen=True)
class Folded:
    """A policy at latents (B, Z), with all that its denoising steps share: latent_share (B, hidden), table, tail."""

    policy: DiffusionPolicy
    latent_share: Tensor
    table: Tensor
    tail: tuple[Tensor, Tensor]

    def mean(self, noisy: Tensor, t: int) -> Tensor:
        """Mean of p(a^{t-1} | z, a^t) (eq. 1) for chunks (B, D) at denoising step t."""
        s = self.policy.schedule
        constants = (s.sqrt_recip_alpha_bar[t], s.sqrt_recip_minus_one[t], s.mean_x0[t], s.mean_xt[t])
        return self._mean(noisy, self.latent_share + self.table[t], constants)

    def chain_means(self, chain: Tensor) -> Tensor:
        """Means of a chain's K' transitions (B, K', D)."""
        t = torch.arange(chain.shape[-2] - 2, -1, -1, device=chain.device)
        s = self.policy.schedule
        constants = (s.sqrt_recip_alpha_bar, s.sqrt_recip_minus_one, s.mean_x0, s.mean_xt)
        share = self.latent_share[..., None, :] + self.table[t]
        return self._mean(chain[..., :-1, :], share, tuple(c[t, None] for c in constants))

    def chain_log_prob(self, chain: Tensor) -> Tensor:
        """As `DiffusionPolicy.chain_log_prob`; the latent's share serves all K' steps of a row."""
        return self.policy.transition_log_prob(chain, self.chain_means(chain))

    def _mean(self, noisy: Tensor, share: Tensor, constants: tuple[Tensor, ...]) -> Tensor:
        recip, minus_one, mean_x0, mean_xt = constants
        clean = (recip * noisy - minus_one * self.policy.denoiser(noisy, share, self.tail)).clamp(-1, 1)
        return mean_x0 * clean + mean_xt * noisy


@dataclass(frozen=True)
class Sample:
    """A drawn chunk (B, Ta, Da) and the chain (B, K'+1, D) that led to it."""

    chunk: Tensor
    chain: Tensor


@torch.no_grad()
def sample(
    pretrained: DiffusionPolicy,
    finetuned: DiffusionPolicy,
    latent: Tensor,
    noise: Tensor,
    *,
    explore: bool,
) -> Sample:
    """Denoise with the pre-trained net down to step K', then with the fine-tuned one.

    Args:
        latent: (B, Z).
        noise: (B, K+1, D) standard normal, already clipped; the first is the initial noise.
        explore: floor every step's deviation, t = 0 included; else sample as deployed.
    """
    config = finetuned.config
    std = finetuned.exploration_std() if explore else finetuned.evaluation_std()
    x = noise[:, 0]
    chain = []
    folded = pretrained.fold(latent)
    for i, t in enumerate(range(config.denoising_steps - 1, -1, -1)):
        if t == config.finetuned_steps - 1:
            folded = finetuned.fold(latent)
            chain.append(x)
        x = folded.mean(x, t) + std[t] * noise[:, i + 1]
        if t < config.finetuned_steps:
            chain.append(x)
    return Sample(x.unflatten(-1, (config.chunk, ACTION_SIZE)), torch.stack(chain, 1))


def draw_noise(config: DiffusionConfig, shape: tuple[int, ...], source: Source, device: torch.device = CPU) -> Tensor:
    """Draw standard normal noise (*shape, D), clipped as at deployment."""
    noise = normal((*shape, config.size), source, device)
    return noise.clamp_(-NOISE_LIMIT, NOISE_LIMIT)


def _sinusoids(steps: int, size: int) -> Tensor:
    """Sinusoidal embeddings of the denoising steps (K, size)."""
    half = size // 2
    frequencies = torch.exp(torch.arange(half) * -(math.log(10000) / (half - 1)))
    angles = torch.arange(steps)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], -1)
