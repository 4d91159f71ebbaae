"""The diffusion policy: noise schedule, denoising network, and the sampler that returns action, chain and log-probs.

Dimensions: B batch, K denoising steps, K' fine-tuned ones, Ta actions a chunk, Da action size, D = Ta * Da, Z latent.
A chain is the chunk after each of the last K' denoising steps, noisiest first: (B, K' + 1, D); its last entry is what
is executed. Denoising steps are numbered as in the schedule: t = K - 1 is the noisiest, t = 0 gives the action.

What does not change between denoising steps is computed once ("folded"): the latent's share of the first layer, and the
time embedding's share with the bias as a table (K, hidden). `benchmarks/plain_diffusion.py` is the step-by-step twin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diwa_runtime.actions import ACTION_SIZE

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class DiffusionConfig:
    """Sizes and sampling rules of the diffusion policy (`paper.md` 4.1-4.4)."""

    denoising_steps: int = 20
    finetuned_steps: int = 10
    chunk: int = 4
    hidden: int = 256
    time_embedding: int = 16
    exploration_std: float = 0.1
    deterministic_std: float = 1e-3
    noise_clip: float = 3.0

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
    """Predicts the noise in a chunk: residual MLP over chunk, time embedding and latent (`paper.md` 4.1)."""

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

    def latent_share(self, latent: Tensor) -> Tensor:
        """Return the latent's share of the first layer, bias included: (B, Z) -> (B, hidden)."""
        return self.latent_in(latent)

    def forward(self, chunk: Tensor, share: Tensor) -> Tensor:
        """Predict the noise in chunks (..., D), given latent plus time shares (..., hidden)."""
        x = self.chunk_in(chunk) + share
        x = x + self.block_2(F.mish(self.block_1(F.mish(x))))
        return self.out(x)


class DiffusionPolicy(nn.Module):
    """A denoiser with its schedule: losses, means and log-probs of denoising steps."""

    def __init__(self, config: DiffusionConfig, latent_size: int) -> None:
        super().__init__()
        self.config = config
        self.latent_size = latent_size
        self.schedule = Schedule(config.denoising_steps)
        self.denoiser = Denoiser(config, latent_size)

    def loss(self, latent: Tensor, chunk: Tensor, generator: torch.Generator) -> Tensor:
        """Epsilon-prediction error of clean chunks (B, Ta, Da) at random denoising steps (`paper.md` 2, BC)."""
        s = self.schedule
        clean = chunk.flatten(1)
        t = torch.randint(self.config.denoising_steps, (len(clean),), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        noisy = s.sqrt_alpha_bar[t, None] * clean + s.sqrt_one_minus_alpha_bar[t, None] * noise
        share = self.denoiser.latent_share(latent) + self.denoiser.time_table()[t]
        return F.mse_loss(self.denoiser(noisy, share), noise)

    def mean(self, noisy: Tensor, share: Tensor, t: Tensor | int) -> Tensor:
        """Mean of p(a^{t-1} | z, a^t) (eq. 1); `noisy` (..., D), `share` (..., hidden), `t` broadcastable to (...)."""
        s = self.schedule
        constants = (s.sqrt_recip_alpha_bar, s.sqrt_recip_minus_one, s.mean_x0, s.mean_xt)
        recip, minus_one, mean_x0, mean_xt = (c[t] if isinstance(t, int) else c[t][..., None] for c in constants)
        clean = (recip * noisy - minus_one * self.denoiser(noisy, share)).clamp(-1, 1)
        return mean_x0 * clean + mean_xt * noisy

    def exploration_std(self) -> Tensor:
        """Standard deviation of each denoising step when exploring and in log-probs (K,)."""
        return self.schedule.posterior_std.clamp(min=self.config.exploration_std)

    def evaluation_std(self) -> Tensor:
        """Standard deviation of each denoising step when deployed (K,): none at the last (t = 0)."""
        std = self.schedule.posterior_std.clamp(min=self.config.deterministic_std).clone()
        std[0] = 0
        return std

    def chain_log_prob(self, latent: Tensor, chain: Tensor) -> Tensor:
        """Log-densities of a chain's K' transitions, elementwise: (B, Z), (B, K'+1, D) -> (B, K', D).

        The latent's share is computed once a row and serves all of the row's denoising steps.
        """
        return self.shared_log_prob(self.denoiser.latent_share(latent), chain)

    def shared_log_prob(self, latent_share: Tensor, chain: Tensor) -> Tensor:
        """As `chain_log_prob`, from the latent's share of the first layer (B, hidden)."""
        steps = chain.shape[-2] - 1
        t = torch.arange(steps - 1, -1, -1)
        share = latent_share[..., None, :] + self.denoiser.time_table()[t]
        mean = self.mean(chain[..., :-1, :], share, t)
        std = self.exploration_std()[t][:, None]
        return -0.5 * ((chain[..., 1:, :] - mean) / std).square() - std.log() - 0.5 * LOG_2PI


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
    latent_share, table = pretrained.denoiser.latent_share(latent), pretrained.denoiser.time_table()
    policy = pretrained
    for i, t in enumerate(range(config.denoising_steps - 1, -1, -1)):
        if t == config.finetuned_steps - 1:
            policy = finetuned
            latent_share, table = policy.denoiser.latent_share(latent), policy.denoiser.time_table()
            chain.append(x)
        x = policy.mean(x, latent_share + table[t], t) + std[t] * noise[:, i + 1]
        if t < config.finetuned_steps:
            chain.append(x)
    return Sample(x.unflatten(-1, (config.chunk, ACTION_SIZE)), torch.stack(chain, 1))


@torch.no_grad()
def continue_chain(policy: DiffusionPolicy, latent: Tensor, start: Tensor, generator: torch.Generator) -> Tensor:
    """Draw the last K' denoising steps anew from `policy` with exploration noise: (B, Z), (B, D) -> (B, K'+1, D).

    `start` is the chunk after the first K - K' steps. Those steps are the pre-trained net's alone, so the start of any
    rollout's chain is also a sample of the pre-trained policy's own chains at that latent.
    """
    config = policy.config
    latent_share, table, std = (
        policy.denoiser.latent_share(latent),
        policy.denoiser.time_table(),
        policy.exploration_std(),
    )
    noise = draw_noise(config, (len(latent), config.finetuned_steps), generator)
    chain = [start]
    for i, t in enumerate(range(config.finetuned_steps - 1, -1, -1)):
        chain.append(policy.mean(chain[-1], latent_share + table[t], t) + std[t] * noise[:, i])
    return torch.stack(chain, 1)


def draw_noise(config: DiffusionConfig, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw clipped standard normal noise (*shape, D)."""
    noise = torch.randn((*shape, config.size), generator=generator)
    return noise.clamp_(-config.noise_clip, config.noise_clip)


def _sinusoids(steps: int, size: int) -> Tensor:
    """Sinusoidal embeddings of the denoising steps (K, size)."""
    half = size // 2
    frequencies = torch.exp(torch.arange(half) * -(math.log(10000) / (half - 1)))
    angles = torch.arange(steps)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], -1)
