"""The recurrent state-space model: a deterministic path and discrete stochastic states (DreamerV2).

Dimensions: B batch, T time, E embedding, F features with a shortcut, A action, H deterministic, S variables of C
classes each, Z = H + S * C.
A latent (B, Z) is ``[h, z]``, z as flattened one-hots; all zeros before an episode's first frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from diwa_runtime.config.bounds import WIDTHS, check_bounds
from diwa_trainer.world.one_hot import one_hot_linear
from diwa_trainer.world.rssm_sequence import NORM_EPS, Weights, draw, latent_sequence, mix


@dataclass(frozen=True)
class RSSMConfig:
    """Sizes of the recurrent state-space model."""

    deterministic: int = 128
    variables: int = 32
    classes: int = 32
    hidden: int = 128
    unimix: float = 0.0

    def __post_init__(self) -> None:
        check_bounds(self, deterministic=WIDTHS, variables=(1, 1024), classes=(2, 1024), hidden=WIDTHS, unimix=(0, 0.5))
        check_bounds(self, stochastic=(2, 1 << 16))

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
    """A filtered window: latents (B, T, Z), posterior and prior logits (B, T, S, C).

    `index` (B, T, S) int64 says where the latents' one-hots are one, counted over all S * C.
    """

    latents: Tensor
    posterior: Tensor
    prior: Tensor
    index: Tensor


Head = tuple[nn.Linear, nn.LayerNorm, Tensor]
"""What gives a state's logits: from h to the hidden layer, its norm, and the weight (S * C, hidden) out of it."""
PriorHead = tuple[nn.Linear, nn.LayerNorm, nn.SiLU, nn.Linear]
Carry = tuple[Tensor | None, Tensor | None]
"""Weights from the state before straight to the logits, by way of F features; see `rssm_sequence.Weights`."""


class Shortcut(nn.Module):
    """A straight way for F numbers of a frame: into the posterior, and from a state into the prior after it.

    The prior then starts from what was, moved by the action, and the networks learn what that leaves open.

    Attributes:
        seen: from a frame's features to the posterior's logits.
        before, action, hidden: from the state before, the action and the prior's hidden layer to the features expected.
        expected: from those to the prior's logits.
    """

    def __init__(self, features: int, stochastic: int, action_size: int, hidden: int) -> None:
        super().__init__()
        self.seen = nn.Linear(features, stochastic, bias=False)
        self.before = nn.Linear(stochastic, features, bias=False)
        self.action = nn.Linear(action_size, features, bias=False)
        self.hidden = nn.Linear(hidden, features, bias=False)
        self.expected = nn.Linear(features, stochastic, bias=False)


class RSSM(nn.Module):
    """Posterior and prior over latents; with `features` > 0 it has a `Shortcut` for so many, else it is DreamerV2's."""

    def __init__(self, config: RSSMConfig, embedding_size: int, action_size: int, features: int = 0) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden
        self.stochastic_in = nn.Linear(config.stochastic, hidden)
        self.action_in = nn.Linear(action_size, hidden, bias=False)
        self.in_norm = nn.LayerNorm(hidden, eps=NORM_EPS)
        self.gru = nn.GRUCell(hidden, config.deterministic)
        self.posterior_h = nn.Linear(config.deterministic, hidden)
        self.posterior_e = nn.Linear(embedding_size, hidden, bias=False)
        self.posterior_norm = nn.LayerNorm(hidden, eps=NORM_EPS)
        self.posterior_out = nn.Linear(hidden, config.stochastic)
        self.prior_head = nn.Sequential(
            nn.Linear(config.deterministic, hidden),
            nn.LayerNorm(hidden, eps=NORM_EPS),
            nn.SiLU(),
            nn.Linear(hidden, config.stochastic),
        )
        self.shortcut = Shortcut(features, config.stochastic, action_size, hidden) if features else None

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
        features: Tensor | None = None,
    ) -> Observed:
        """Filter a window: (B, T, E), (B, T, A), (B, Z) -> `Observed`.

        `previous_actions[:, t]` led to frame t. States are sampled straight-through, or with `mode` the likeliest.
        `features` (B, T, F) are what the shortcut takes, where there is one.
        """
        uniforms = None if mode else self._uniforms(embeddings.shape[:2], embeddings, generator)
        head = (self.posterior_h, self.posterior_norm, self.posterior_out.weight)
        frame_share = F.linear(embeddings, self.posterior_e.weight, self.posterior_h.bias)
        logit_share = self._seen(self.posterior_out.bias.expand(*embeddings.shape[:2], -1), features)
        h, z, logits, index = self._sequence(
            previous_actions, frame_share, logit_share, latent, uniforms, head, (None, None)
        )
        prior = self._prior(h, self._carried_through(latent, z, index), previous_actions)
        return Observed(torch.cat([h, z], -1), self._mix(logits), self._mix(prior), index)

    def imagine(
        self, latent: Tensor, actions: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Advance latents (B, Z) by T actions (B, T, A) and samples of the prior, as `imagine_step` T times.

        Returns:
            latents (B, T, Z), and where their one-hots are one, as `Observed.index`.
        """
        into, norm, _, last = cast(PriorHead, tuple(self.prior_head))
        uniforms = self._uniforms(actions.shape[:2], latent, generator)
        bias_share, logit_share = (layer.bias.expand(*actions.shape[:2], -1) for layer in (into, last))
        carry: Carry = (None, None)
        out = last.weight
        if (shortcut := self.shortcut) is not None:
            carry = (shortcut.before.weight, shortcut.expected.weight)
            logit_share = logit_share + shortcut.expected(shortcut.action(actions))
            out = out + shortcut.expected.weight @ shortcut.hidden.weight
        h, z, _, index = self._sequence(actions, bias_share, logit_share, latent, uniforms, (into, norm, out), carry)
        return torch.cat([h, z], -1), index

    def filter(
        self, embedding: Tensor, previous_action: Tensor, latent: Tensor, features: Tensor | None = None
    ) -> Tensor:
        """Take a single step of `observe` with the likeliest state: (B, E), (B, A), (B, Z), (B, F) -> (B, Z)."""
        h = self._advance(latent, previous_action)
        hidden = self.posterior_norm(self.posterior_h(h) + self.posterior_e(embedding))
        logits = self._by_variable(self._seen(self.posterior_out(F.silu(hidden)), features))
        return torch.cat([h, self._one_hot(logits.argmax(-1), h)], -1)

    def imagine_step(self, latent: Tensor, action: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Advance latents (B, Z) by actions (B, A) and a sample of the prior, straight-through where gradients flow."""
        h = self._advance(latent, action)
        logits = self._by_variable(self._prior(h, self._carried(latent), action))
        probabilities = mix(logits.softmax(-1), self.config.unimix)
        uniforms = self._uniforms(latent.shape[:1], latent, generator)
        z = self._one_hot(draw(probabilities.detach(), uniforms.unsqueeze(-1)), h)
        if probabilities.requires_grad:
            z = z + (probabilities - probabilities.detach()).flatten(1)
        return torch.cat([h, z], -1)

    def _prior(self, h: Tensor, carried: Tensor | None, action: Tensor) -> Tensor:
        """Return the prior's logits (..., S * C) before the mix; `carried` is the shortcut's, of the state before."""
        into, norm, activation, last = cast(PriorHead, tuple(self.prior_head))
        hidden = activation(norm(into(h)))
        logits: Tensor = last(hidden)
        if self.shortcut is None or carried is None:
            return logits
        return logits + self.shortcut.expected(carried + self.shortcut.action(action) + self.shortcut.hidden(hidden))

    def _carried(self, latent: Tensor) -> Tensor | None:
        """Return what the shortcut, if there is one, carries on from latents (B, Z): (B, F)."""
        return None if self.shortcut is None else self.shortcut.before(latent[:, self.config.deterministic :])

    def _carried_through(self, latent: Tensor, z: Tensor, index: Tensor) -> Tensor | None:
        """Return what it carries to each step of a window (B, T, F), given the latents before and the states in it."""
        first = self._carried(latent)
        if self.shortcut is None or first is None:
            return None
        later = one_hot_linear(z[:, :-1], index[:, :-1], self.shortcut.before.weight)
        return torch.cat([first[:, None], later], 1)

    def _seen(self, logits: Tensor, features: Tensor | None) -> Tensor:
        """Add the share of a frame's features (..., F) to the posterior's logits (..., S * C)."""
        if self.shortcut is None:
            return logits
        assert features is not None
        seen: Tensor = self.shortcut.seen(features)
        return logits + seen

    def _sequence(
        self,
        actions: Tensor,
        head_share: Tensor,
        logit_share: Tensor,
        latent: Tensor,
        uniforms: Tensor | None,
        head: Head,
        carry: Carry,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run the steps that `head` draws the states of; see `latent_sequence` for what comes back."""
        head_h, head_norm, head_out = head
        return latent_sequence(
            F.linear(actions, self.action_in.weight, self.stochastic_in.bias),
            head_share,
            logit_share,
            latent,
            uniforms,
            Weights(
                self.stochastic_in.weight,
                self.in_norm.weight,
                self.in_norm.bias,
                self.gru.weight_ih,
                self.gru.weight_hh,
                self.gru.bias_ih,
                self.gru.bias_hh,
                head_h.weight,
                head_norm.weight,
                head_norm.bias,
                head_out,
                *carry,
            ),
            classes=self.config.classes,
            unimix=self.config.unimix,
        )

    def _advance(self, latent: Tensor, action: Tensor) -> Tensor:
        size = self.config.deterministic
        h, z = latent.split([size, self.config.stochastic], -1)
        into = F.silu(self.in_norm(self.stochastic_in(z) + self.action_in(action)))
        from_input = F.linear(into, self.gru.weight_ih, self.gru.bias_ih)
        from_h = F.linear(h, self.gru.weight_hh, self.gru.bias_hh)
        # As `self.gru(into, h)`, in fewer passes over memory.
        gates = torch.sigmoid(from_input[:, : 2 * size] + from_h[:, : 2 * size])
        reset, update = gates.chunk(2, -1)
        candidate = torch.tanh(torch.addcmul(from_input[:, 2 * size :], reset, from_h[:, 2 * size :]))
        return torch.lerp(candidate, h, update)

    def _one_hot(self, index: Tensor, like: Tensor) -> Tensor:
        """Return the flattened one-hots (B, S * C) of classes (B, S), in the numbers that `like` (B, ...) has."""
        first_classes = torch.arange(0, self.config.stochastic, self.config.classes, device=index.device)
        zeros = like.new_zeros(like.shape[0], self.config.stochastic)  # not len(like), which an ONNX export freezes
        return zeros.scatter(1, index + first_classes, 1.0)

    def _by_variable(self, logits: Tensor) -> Tensor:
        return logits.unflatten(-1, (self.config.variables, self.config.classes))

    def _mix(self, logits: Tensor) -> Tensor:
        """Mix with a uniform: no class ever has probability zero, so the KL stays finite."""
        logits = self._by_variable(logits)
        if not self.config.unimix:
            return logits.log_softmax(-1)
        return mix(logits.softmax(-1), self.config.unimix).log()

    def _uniforms(self, batch: torch.Size, like: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw what chooses the states (*batch, S), on the generator's device: a seed gives the same ones anywhere."""
        shape = (*batch, self.config.variables)
        return torch.rand(shape, generator=generator, dtype=like.dtype).to(like.device)


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
        probabilities, difference = posterior.exp(), posterior - prior
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
