"""The recurrent state-space model: a deterministic path and discrete stochastic states (DreamerV2).

Dimensions: B batch, T time, E embedding, F features with a shortcut, A action, H deterministic, S variables of C
classes each, Z = H + S * C.
A latent (B, Z) is ``[h, z]``, z as flattened one-hots; all zeros before an episode's first frame.

The model is what its steps say: `advance`, `posterior`, `prior` and `one_hot`. Over a whole window `rssm_window` does
the same in one fast pass; tests hold it, and every gradient, against a plain loop.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diwa_runtime.config.bounds import WIDTHS, check_bounds
from diwa_trainer.devices.device import in_float32
from diwa_trainer.devices.draws import Source, uniform
from diwa_trainer.world import rssm_window
from diwa_trainer.world.rssm_sequence import NORM_EPS, draw, mix


@dataclass(frozen=True)
class RSSMConfig:
    """Sizes of the recurrent state-space model."""

    deterministic: int = 128
    variables: int = 32
    classes: int = 32
    hidden: int = 128
    unimix: float = 0.0
    motion: int = field(default=192, metadata={"help": "units of the shortcut's network, which says what moves"})

    def __post_init__(self) -> None:
        check_bounds(self, deterministic=WIDTHS, variables=(1, 1024), classes=(2, 1024), hidden=WIDTHS, unimix=(0, 0.5))
        check_bounds(self, motion=WIDTHS)
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

    `index` (B, T, S) int64 says where the latents' one-hots are one, counted over all S * C. `expected` (B, T, F) are
    the numbers of each frame as the shortcut, if there is one, expected them from the state before.
    """

    latents: Tensor
    posterior: Tensor
    prior: Tensor
    index: Tensor
    expected: Tensor | None = None


PriorHead = tuple[nn.Linear, nn.LayerNorm, nn.SiLU, nn.Linear]


class Shortcut(nn.Module):
    """A straight way for F numbers of a frame: into the posterior, and from a state into the prior after it.

    The prior then starts from what was, moved by the action, and the networks learn what that leaves open. Whether a
    hand meets something depends on where both are, to a centimetre: `motion` sees that as numbers, not as one-hots.

    Attributes:
        seen: from a frame's features to the posterior's logits.
        before, action, hidden: from the state before, the action and the prior's hidden layer to the features expected.
        motion: from the features before, the action and the deterministic state to what more the features change.
        expected: from the features expected to the prior's logits.
    """

    def __init__(self, config: RSSMConfig, features: int, action_size: int) -> None:
        super().__init__()
        wide = config.motion
        self.seen = nn.Linear(features, config.stochastic, bias=False)
        self.before = nn.Linear(config.stochastic, features, bias=False)
        self.action = nn.Linear(action_size, features, bias=False)
        self.hidden = nn.Linear(config.hidden, features, bias=False)
        self.motion = nn.Sequential(
            nn.Linear(features + action_size + config.deterministic, wide),
            nn.LayerNorm(wide, eps=NORM_EPS),
            nn.SiLU(),
            nn.Linear(wide, wide),
            nn.LayerNorm(wide, eps=NORM_EPS),
            nn.SiLU(),
            nn.Linear(wide, features),
        )
        self.expected = nn.Linear(features, config.stochastic, bias=False)
        self.register_load_state_dict_pre_hook(_nothing_more_moves)

    def forward(self, carried: Tensor, action: Tensor, h: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (..., S * C) of the features expected, and these (..., F).

        Given the features before (..., F), the action (..., A), h (..., H) and the prior's hidden layer.
        """
        moved = self.action(action) + self.hidden(hidden) + self.motion(torch.cat([carried, action, h], -1))
        expected = carried + moved
        return self.expected(expected), expected

    @torch.no_grad()
    def still(self) -> None:
        """Let nothing move at first."""
        last = cast(nn.Linear, self.motion[-1])
        for weight in (self.action.weight, self.hidden.weight, last.weight, last.bias):
            weight.zero_()


def _each_drawn_alone(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Files of an older version do not say which variables are drawn apart: none was."""
    for name in ("drawn_with", "drawn_apart"):
        state.setdefault(prefix + name, getattr(module, name))


def _nothing_more_moves(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Files of an older version have no `motion`: it adds nothing to theirs."""
    for name, weight in cast(Shortcut, module).motion.state_dict().items():
        state.setdefault(f"{prefix}motion.{name}", torch.zeros_like(weight))


class RSSM(nn.Module):
    """Posterior and prior over latents; with `features` > 0 it has a `Shortcut` for so many, else it is DreamerV2's.

    Attributes:
        drawn_with, drawn_apart: (S,) with which variable each shares its draw, and by how much its own is shifted
            (systematic sampling): the scales of one feature are drawn apart, so that their mean hardly scatters.
    """

    drawn_with: Tensor
    drawn_apart: Tensor

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
        self.shortcut = Shortcut(config, features, action_size) if features else None
        self.register_buffer("drawn_with", torch.arange(config.variables))
        self.register_buffer("drawn_apart", torch.zeros(config.variables))
        self.register_load_state_dict_pre_hook(_each_drawn_alone)

    def initial(self, batch: int) -> Tensor:
        """Return the latents (B, Z) before the first frame."""
        return self.action_in.weight.new_zeros(batch, self.config.latent)

    # One step.

    def advance(self, latent: Tensor, action: Tensor) -> Tensor:
        """Return the deterministic states (B, H) to which actions (B, A) lead from latents (B, Z).

        h' = GRU(h, silu(norm(W z + V a))).
        """
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

    def posterior(self, h: Tensor, embedding: Tensor, features: Tensor | None) -> Tensor:
        """Return the states' logits (B, S, C) given h and what a frame says: embedding (B, E), features (B, F)."""
        hidden = F.silu(self.posterior_norm(self.posterior_h(h) + self.posterior_e(embedding)))
        return self.by_variable(self.with_seen(self.posterior_out(hidden), features))

    def prior(self, h: Tensor, latent: Tensor, action: Tensor) -> Tensor:
        """Return the states' logits (B, S, C) given h alone; with a shortcut also what was, moved by the action."""
        return self.by_variable(self.prior_logits(h, self.carried(latent), action)[0])

    def one_hot(self, index: Tensor, like: Tensor) -> Tensor:
        """Return the flattened one-hots (B, S * C) of classes (B, S), in the numbers that `like` (B, ...) has."""
        first_classes = torch.arange(0, self.config.stochastic, self.config.classes, device=index.device)
        zeros = like.new_zeros(like.shape[0], self.config.stochastic)  # not len(like), which an ONNX export freezes
        return zeros.scatter(1, index + first_classes, 1.0)

    def filter(
        self, embedding: Tensor, previous_action: Tensor, latent: Tensor, features: Tensor | None = None
    ) -> Tensor:
        """Take a frame in with the posterior's likeliest states: (B, E), (B, A), (B, Z), (B, F) -> (B, Z)."""
        h = self.advance(latent, previous_action)
        return torch.cat([h, self.one_hot(self.posterior(h, embedding, features).argmax(-1), h)], -1)

    def imagine_step(self, latent: Tensor, action: Tensor, generator: Source = None) -> Tensor:
        """Advance latents (B, Z) by actions (B, A) and a sample of the prior, straight-through where gradients flow."""
        return self._imagined(latent, action, self.uniforms(latent.shape[:1], latent, generator))[0]

    def _imagined(self, latent: Tensor, action: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """As `imagine_step`, the states chosen by uniforms (B, S); return the latents and the classes (B, S)."""
        h = self.advance(latent, action)
        probabilities = mix(self.prior(h, latent, action).softmax(-1), self.config.unimix)
        index = draw(probabilities.detach(), uniforms.unsqueeze(-1))
        z = self.one_hot(index, h)
        if probabilities.requires_grad:
            z = z + (probabilities - probabilities.detach()).flatten(1)
        return torch.cat([h, z], -1), index

    # A window of steps.

    def observe(
        self,
        embeddings: Tensor,
        previous_actions: Tensor,
        latent: Tensor,
        generator: Source = None,
        *,
        mode: bool = False,
        features: Tensor | None = None,
    ) -> Observed:
        """Filter a window: (B, T, E), (B, T, A), (B, Z) -> `Observed`.

        `previous_actions[:, t]` led to frame t. States are sampled straight-through, or with `mode` the likeliest.
        `features` (B, T, F) are what the shortcut takes, where there is one.
        """
        uniforms = None if mode else self.uniforms(embeddings.shape[:2], embeddings, generator)
        with in_float32(embeddings):  # states and logits would not bear fewer bits
            h, z, posterior, prior, index, expected = rssm_window.observe(
                self, embeddings.to(latent.dtype), previous_actions, latent, uniforms, features
            )
            logits = self.log_probabilities(posterior), self.log_probabilities(prior)
        return Observed(torch.cat([h, z], -1), *logits, index, expected)

    def imagine(self, latent: Tensor, actions: Tensor, generator: Source = None) -> tuple[Tensor, Tensor]:
        """Advance latents (B, Z) by T actions (B, T, A) and samples of the prior, as `imagine_step` T times.

        Returns:
            latents (B, T, Z), and where their one-hots are one, as `Observed.index`.
        """
        uniforms = self.uniforms(actions.shape[:2], latent, generator)
        first_classes = torch.arange(0, self.config.stochastic, self.config.classes, device=latent.device)
        latents, where = [], []
        with in_float32(latent):
            for action, chosen_by in zip(actions.unbind(1), uniforms.transpose(0, 1).contiguous(), strict=True):
                latent, index = self._imagined(latent, action, chosen_by)
                latents.append(latent)
                where.append(index + first_classes)
        return torch.stack(latents, 1), torch.stack(where, 1)

    # What both are made of.

    def prior_logits(self, h: Tensor, carried: Tensor | None, action: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the prior's logits (..., S * C) before the mix, and the features that the shortcut expects (..., F).

        `carried` is the shortcut's, of the state before; None for both where there is no shortcut.
        """
        into, norm, activation, last = cast(PriorHead, tuple(self.prior_head))
        hidden = activation(norm(into(h)))
        logits: Tensor = last(hidden)
        if self.shortcut is None or carried is None:
            return logits, None
        straight, expected = self.shortcut(carried, action, h, hidden)
        return logits + straight, expected

    def carried(self, latent: Tensor) -> Tensor | None:
        """Return what the shortcut, if there is one, carries on from latents (B, Z): (B, F)."""
        return None if self.shortcut is None else self.shortcut.before(latent[:, self.config.deterministic :])

    def with_seen(self, logits: Tensor, features: Tensor | None) -> Tensor:
        """Add the share of a frame's features (..., F) to the posterior's logits (..., S * C)."""
        if self.shortcut is None:
            return logits
        assert features is not None
        seen: Tensor = self.shortcut.seen(features)
        return logits + seen

    def by_variable(self, logits: Tensor) -> Tensor:
        """Return logits (..., S * C) as (..., S, C)."""
        return logits.unflatten(-1, (self.config.variables, self.config.classes))

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Return logarithms (..., S, C), mixed with a uniform: with it no class is impossible, so a KL stays finite."""
        logits = self.by_variable(logits)
        if not self.config.unimix:
            return logits.log_softmax(-1)
        return mix(logits.softmax(-1), self.config.unimix).log()

    def uniforms(self, batch: torch.Size, like: Tensor, generator: Source) -> Tensor:
        """Draw what chooses the states (*batch, S)."""
        drawn = uniform((*batch, self.config.variables), generator, like.device, like.dtype)
        return (drawn[..., self.drawn_with] + self.drawn_apart.to(drawn.dtype)) % 1
