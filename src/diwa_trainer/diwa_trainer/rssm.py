"""The recurrent state-space model: a deterministic path and discrete stochastic states (DreamerV2, `paper.md` 3).

Dimensions: B batch, T time, E embedding, A action, H deterministic, S variables of C classes each, Z = H + S * C.
A latent (B, Z) is ``[h, z]``, z as flattened one-hots; all zeros before an episode's first frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class RSSMConfig:
    """Sizes of the recurrent state-space model."""

    deterministic: int = 256
    variables: int = 32
    classes: int = 16
    hidden: int = 256
    unimix: float = 0.01

    @property
    def stochastic(self) -> int:
        """Size of the flattened one-hots."""
        return self.variables * self.classes

    @property
    def latent(self) -> int:
        """Size of a latent, Z."""
        return self.deterministic + self.stochastic


@dataclass(frozen=True)
class Observed:
    """A filtered window: latents (B, T, Z), posterior and prior logits (B, T, S, C)."""

    latents: Tensor
    posterior: Tensor
    prior: Tensor


class RSSM(nn.Module):
    """Posterior and prior over latents."""

    def __init__(self, config: RSSMConfig, embedding_size: int, action_size: int) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden
        self.stochastic_in = nn.Linear(config.stochastic, hidden)
        self.action_in = nn.Linear(action_size, hidden, bias=False)
        self.in_norm = nn.LayerNorm(hidden, eps=1e-3)
        self.gru = nn.GRUCell(hidden, config.deterministic)
        self.posterior_h = nn.Linear(config.deterministic, hidden)
        self.posterior_e = nn.Linear(embedding_size, hidden, bias=False)
        self.posterior_norm = nn.LayerNorm(hidden, eps=1e-3)
        self.posterior_out = nn.Linear(hidden, config.stochastic)
        self.prior_head = nn.Sequential(
            nn.Linear(config.deterministic, hidden),
            nn.LayerNorm(hidden, eps=1e-3),
            nn.SiLU(),
            nn.Linear(hidden, config.stochastic),
        )

    def initial(self, batch: int) -> Tensor:
        """Return the latents (B, Z) before the first frame."""
        return torch.zeros(batch, self.config.latent)

    def observe(
        self,
        embeddings: Tensor,
        previous_actions: Tensor,
        latent: Tensor,
        generator: torch.Generator | None = None,
        *,
        mode: bool = False,
    ) -> Observed:
        """Filter a window: (B, T, E), (B, T, A), (B, Z) -> `Observed`.

        `previous_actions[:, t]` led to frame t. States are sampled straight-through, or with `mode` the likeliest.
        """
        action_share = self.action_in(previous_actions)
        embedding_share = self.posterior_e(embeddings)
        noise = None if mode else self._gumbel(embeddings.shape[:2], generator)
        latents, posterior = [], []
        for t in range(embeddings.shape[1]):
            h = self._advance(latent, action_share[:, t])
            logits = self._posterior(h, embedding_share[:, t])
            z = self._sample(logits, None if noise is None else noise[:, t])
            latent = torch.cat([h, z.flatten(1)], -1)
            latents.append(latent)
            posterior.append(logits)
        stacked = torch.stack(latents, 1)
        prior = self.prior_logits(stacked[..., : self.config.deterministic])
        return Observed(stacked, torch.stack(posterior, 1), prior)

    def imagine_step(self, latent: Tensor, action: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Advance latents (B, Z) by actions (B, A) and a sample of the prior."""
        h = self._advance(latent, self.action_in(action))
        z = self._sample(self.prior_logits(h), self._gumbel(latent.shape[:1], generator))
        return torch.cat([h, z.flatten(1)], -1)

    def prior_logits(self, h: Tensor) -> Tensor:
        """Return the prior's logits (..., S, C) for deterministic states (..., H)."""
        return self._mix(self.prior_head(h))

    def _advance(self, latent: Tensor, action_share: Tensor) -> Tensor:
        h, z = latent.split([self.config.deterministic, self.config.stochastic], -1)
        return self.gru(F.silu(self.in_norm(self.stochastic_in(z) + action_share)), h)

    def _posterior(self, h: Tensor, embedding_share: Tensor) -> Tensor:
        return self._mix(self.posterior_out(F.silu(self.posterior_norm(self.posterior_h(h) + embedding_share))))

    def _mix(self, logits: Tensor) -> Tensor:
        """Mix with a uniform: no class ever has probability zero, so the KL stays finite."""
        logits = logits.unflatten(-1, (self.config.variables, self.config.classes))
        if not self.config.unimix:
            return logits.log_softmax(-1)
        probabilities = (1 - self.config.unimix) * logits.softmax(-1) + self.config.unimix / self.config.classes
        return probabilities.log()

    def _gumbel(self, batch: torch.Size, generator: torch.Generator | None) -> Tensor:
        shape = (*batch, self.config.variables, self.config.classes)
        return -torch.empty(shape).exponential_(generator=generator).log()

    def _sample(self, logits: Tensor, gumbel: Tensor | None) -> Tensor:
        index = (logits if gumbel is None else logits + gumbel).argmax(-1, keepdim=True)
        one_hot = torch.zeros_like(logits).scatter_(-1, index, 1.0)
        if not logits.requires_grad:
            return one_hot
        probabilities = logits.exp()
        return one_hot + probabilities - probabilities.detach()


def balanced_kl(posterior: Tensor, prior: Tensor, balance: float) -> Tensor:
    """KL(posterior || prior) in nats (...), its gradient shared out: `balance` to the prior, the rest to the posterior.

    Logits (..., S, C), normalised. DreamerV2's KL balancing (`paper.md`, eq. 3-4; delta = 0.8).
    """
    to_prior = _kl(posterior.detach(), prior)
    to_posterior = _kl(posterior, prior.detach())
    return balance * to_prior + (1 - balance) * to_posterior


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return (p.exp() * (p - q)).sum((-2, -1))
