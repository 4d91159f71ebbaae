"""A window of the RSSM's steps by the fast pass: what of a step needs no state before it is computed for all at once.

Dimensions as in `rssm.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from diwa_trainer.world.one_hot import one_hot_linear
from diwa_trainer.world.rssm_sequence import Weights, latent_sequence

if TYPE_CHECKING:
    from diwa_trainer.world.rssm import RSSM


def observe(
    rssm: RSSM,
    embeddings: Tensor,
    previous_actions: Tensor,
    latent: Tensor,
    uniforms: Tensor | None,
    features: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Advance and take a frame in, T times.

    Args:
        rssm: the model.
        embeddings, previous_actions, latent, features: as for `RSSM.observe`.
        uniforms: (B, T, S) choose the states; None takes the likeliest.

    Returns:
        h (B, T, H), z (B, T, S * C), straight-through, the posterior's and the prior's logits (B, T, S * C) before the
        mix, where z is one (B, T, S) int64, counted over all S * C, and what the shortcut expected (B, T, F).
    """
    frame_share = F.linear(embeddings, rssm.posterior_e.weight, rssm.posterior_h.bias)
    logit_share = rssm.with_seen(rssm.posterior_out.bias.expand(*embeddings.shape[:2], -1), features)
    action_share = F.linear(previous_actions, rssm.action_in.weight, rssm.stochastic_in.bias)
    weights = Weights(
        rssm.stochastic_in.weight,
        rssm.in_norm.weight,
        rssm.in_norm.bias,
        rssm.gru.weight_ih,
        rssm.gru.weight_hh,
        rssm.gru.bias_ih,
        rssm.gru.bias_hh,
        rssm.posterior_h.weight,
        rssm.posterior_norm.weight,
        rssm.posterior_norm.bias,
        rssm.posterior_out.weight,
    )
    classes, unimix = rssm.config.classes, rssm.config.unimix
    h, z, logits, index = latent_sequence(
        action_share, frame_share, logit_share, latent, uniforms, weights, classes=classes, unimix=unimix
    )
    prior, expected = rssm.prior_logits(h, _carried_through(rssm, latent, z, index), previous_actions)
    return h, z, logits, prior, index, expected


def _carried_through(rssm: RSSM, latent: Tensor, z: Tensor, index: Tensor) -> Tensor | None:
    """Return what the shortcut carries to each step of a window (B, T, F), given the latents before and the states."""
    first = rssm.carried(latent)
    if rssm.shortcut is None or first is None:
        return None
    later = one_hot_linear(z[:, :-1], index[:, :-1], rssm.shortcut.before.weight)
    return torch.cat([first[:, None], later], 1)
