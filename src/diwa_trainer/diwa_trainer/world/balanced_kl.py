"""The balanced KL of two sets of categorical variables."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LEAST_LOGIT = -60.0
"""What lies below weighs 1e-26 and changes no sum. The exponential of what rounds to zero takes ten times as long."""


def balanced_kl(posterior: Tensor, prior: Tensor, balance: float) -> Tensor:
    """KL(posterior || prior) in nats (...), its gradient shared out: `balance` to the prior, the rest to the posterior.

    Logits (..., S, C), normalised. DreamerV2's KL balancing (DiWA, eq. 3-4; delta = 0.8).
    """
    kl: Tensor = _BalancedKL.apply(posterior, prior, balance)
    return kl


class _BalancedKL(torch.autograd.Function):
    """One pass where the textbook's form, a KL for either side with the other detached, takes two."""

    @staticmethod
    def forward(ctx: Any, posterior: Tensor, prior: Tensor, balance: float) -> Tensor:
        probabilities, difference = posterior.clamp(min=LEAST_LOGIT).exp_(), posterior - prior
        ctx.balance = balance
        ctx.save_for_backward(probabilities, difference)
        return (probabilities * difference).sum((-2, -1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_kl: Tensor) -> tuple[Tensor, Tensor, None]:
        probabilities, difference = ctx.saved_tensors
        weight = probabilities * d_kl[..., None, None]
        to_posterior = (difference + 1).mul_(weight).mul_(1 - ctx.balance)
        return to_posterior, weight.mul_(-ctx.balance), None
