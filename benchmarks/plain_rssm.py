"""`RSSM.observe` and `RSSM.imagine` step by step, left to autograd: twins of the fast pass, in tests and benchmarks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from diwa_trainer.world.rssm import RSSM, Observed


def observe(
    rssm: RSSM,
    embeddings: Tensor,
    previous_actions: Tensor,
    latent: Tensor,
    uniforms: Tensor | None,
    features: Tensor | None = None,
) -> Observed:
    """Filter windows (B, T, ...) as `RSSM.observe` does; `uniforms` (B, T, S) choose the states, None the likeliest."""
    latents, posterior, prior = unroll(rssm, embeddings, previous_actions, latent, uniforms, features)
    expected = None
    if rssm.shortcut is not None:
        before = torch.cat([latent[:, None], latents[:, :-1]], 1)
        h = latents[..., : rssm.config.deterministic]
        expected = expected_features(rssm, h, before, previous_actions)
    index = latents[..., rssm.config.deterministic :].gt(0.5).nonzero()[:, -1].view(*latents.shape[:2], -1)
    return Observed(latents, posterior, prior, index, expected)


def unroll(
    rssm: RSSM,
    embeddings: Tensor,
    previous_actions: Tensor,
    latent: Tensor,
    uniforms: Tensor | None,
    features: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `observe`: latents (B, T, Z), posterior and prior logits (B, T, S, C), all that a loss needs."""
    latents, posterior, prior = [], [], []
    for t in range(embeddings.shape[1]):
        h = advance(rssm, latent, previous_actions[:, t])
        hidden = rssm.posterior_norm(rssm.posterior_h(h) + rssm.posterior_e(embeddings[:, t]))
        logits = rssm.posterior_out(F.silu(hidden))
        if rssm.shortcut is not None and features is not None:
            logits = logits + rssm.shortcut.seen(features[:, t])
        seen = log_mixed(rssm, logits)
        prior.append(log_mixed(rssm, prior_logits(rssm, h, latent, previous_actions[:, t])))
        states = straight_through(seen.exp(), None if uniforms is None else uniforms[:, t])
        latent = torch.cat([h, states.flatten(1)], -1)
        latents.append(latent)
        posterior.append(seen)
    return torch.stack(latents, 1), torch.stack(posterior, 1), torch.stack(prior, 1)


def imagine(rssm: RSSM, latent: Tensor, actions: Tensor, uniforms: Tensor) -> Tensor:
    """Advance latents (B, Z) by actions (B, T, A) as `RSSM.imagine` does; `uniforms` (B, T, S) choose the states."""
    latents = []
    for t in range(actions.shape[1]):
        h = advance(rssm, latent, actions[:, t])
        states = straight_through(mixed(rssm, prior_logits(rssm, h, latent, actions[:, t])), uniforms[:, t])
        latent = torch.cat([h, states.flatten(1)], -1)
        latents.append(latent)
    return torch.stack(latents, 1)


def advance(rssm: RSSM, latent: Tensor, action: Tensor) -> Tensor:
    """Return the deterministic state (B, H) after latents (B, Z) and actions (B, A)."""
    h, z = latent.split([rssm.config.deterministic, rssm.config.stochastic], -1)
    return rssm.gru(F.silu(rssm.in_norm(rssm.stochastic_in(z) + rssm.action_in(action))), h)


def prior_logits(rssm: RSSM, h: Tensor, latent: Tensor, action: Tensor) -> Tensor:
    """Return the prior's logits (B, S * C) of states (B, H) that actions (B, A) led to from latents (B, Z)."""
    logits = rssm.prior_head(h)
    if rssm.shortcut is not None:
        logits = logits + rssm.shortcut.expected(expected_features(rssm, h, latent, action))
    return logits


def expected_features(rssm: RSSM, h: Tensor, latent: Tensor, action: Tensor) -> Tensor:
    """Return the features (..., F) that the shortcut expects after latents (..., Z) and actions (..., A)."""
    assert rssm.shortcut is not None
    before = rssm.shortcut.before(latent[..., rssm.config.deterministic :])
    moved = rssm.shortcut.action(action) + rssm.shortcut.hidden(rssm.prior_head[:-1](h))
    return before + moved + rssm.shortcut.motion(torch.cat([before, action, h], -1))


def mixed(rssm: RSSM, logits: Tensor) -> Tensor:
    """Return probabilities (B, S, C) of logits (B, S * C), mixed with a share of a uniform."""
    config = rssm.config
    probabilities = logits.unflatten(-1, (config.variables, config.classes)).softmax(-1)
    return (1 - config.unimix) * probabilities + config.unimix / config.classes


def log_mixed(rssm: RSSM, logits: Tensor) -> Tensor:
    """Return the logarithms of `mixed`; without a mix those of classes too unlikely for a probability are kept too."""
    if rssm.config.unimix:
        return mixed(rssm, logits).log()
    return logits.unflatten(-1, (rssm.config.variables, rssm.config.classes)).log_softmax(-1)


def straight_through(probabilities: Tensor, uniforms: Tensor | None) -> Tensor:
    """One-hots (B, S, C) whose gradient goes to the probabilities: the first class whose CDF exceeds the uniform."""
    if uniforms is None:
        index = probabilities.argmax(-1)
    else:
        index = (probabilities.cumsum(-1) <= uniforms.unsqueeze(-1)).sum(-1).clamp(max=probabilities.shape[-1] - 1)
    one_hot = F.one_hot(index, probabilities.shape[-1]).to(probabilities.dtype)
    return one_hot + probabilities - probabilities.detach()
