"""An update of the world model as plain PyTorch: the twin of `train_world_model`'s, to the same loss and gradients.

Networks, features, heads and optimizer are the model's own. The RSSM goes step by step and is left to autograd
(`plain_rssm`), the decoder takes latents as they are, and the KL is DreamerV2's as its paper has it, once for either
side with the other detached. Pictures go through `plain_joint`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plain_joint
import plain_rssm
import torch
from plain_windows import HeldRows
from torch import Tensor

from diwa_runtime.spec import TCP_POSITION
from diwa_trainer.runs.run import cosine
from diwa_trainer.verbs.train_world_model import TrainWorldModelConfig
from diwa_trainer.world.joint import PictureEncoder
from diwa_trainer.world.observations import Observation
from diwa_trainer.world.world_model import WorldModel, previous_actions


def loss(model: WorldModel, observation: Observation, actions: Tensor, generator: torch.Generator) -> Tensor:
    """Return the loss of windows (B, T, ...) as `WorldModel.loss` has it where nothing is imagined."""
    config = model.config
    features, target = model.features(observation), model.targets(observation)
    uniforms = torch.rand((*target.shape[:2], config.rssm.variables), generator=generator, dtype=target.dtype)
    start = model.rssm.initial(len(target))
    led = previous_actions(actions)
    latents, posterior, prior = plain_rssm.unroll(
        model.rssm, embed(model, observation, features), led, start, uniforms, features
    )
    read = latents if config.joint.numbers else latents.detach()
    error = 0.5 * ((model.decode(read) - target).square() * model.feature_weights).sum(-1)
    if model.pictures is not None:
        error = error + config.joint.weight * plain_joint.error(model.pictures, latents, observation)
    weight = torch.ones(target.shape[1])
    weight[0] = config.first_step_weight
    reconstruction = (error * (weight / weight.mean())).mean()
    to_prior, to_posterior = divergence(posterior.detach(), prior), divergence(posterior, prior.detach())
    kl = config.kl_balance * to_prior + (1 - config.kl_balance) * to_posterior
    total = reconstruction + config.kl_weight * kl[:, 1:].clamp(min=config.free_nats).mean()
    if model.rssm.shortcut is not None and config.joint.numbers:
        total = total + config.hand_weight * hand_error(model, latents, led, target)
    return total


def hand_error(model: WorldModel, latents: Tensor, led: Tensor, target: Tensor) -> Tensor:
    """Half the squared error of where the shortcut expects the hand, in usual steps, after each frame but the last."""
    h = latents[:, 1:, : model.config.rssm.deterministic]
    expected = plain_rssm.expected_features(model.rssm, h, latents[:, :-1], led[:, 1:])
    off = [
        model.proprio.physical(expected, name) - model.proprio.physical(target[:, 1:], name) for name in TCP_POSITION
    ]
    return 0.5 * torch.stack([one / model.hand_step_m for one in off]).square().sum(0).mean()


def embed(model: WorldModel, observation: Observation, features: Tensor) -> Tensor:
    """Embed frames (..., E): features (..., F), and pictures where the model codes them itself."""
    if not isinstance(model.encoder, PictureEncoder):
        embedded: Tensor = model.encoder(features)
        return embedded
    return torch.cat([plain_joint.embed(model.encoder, observation), features], -1)


def divergence(posterior: Tensor, prior: Tensor) -> Tensor:
    """KL(posterior || prior) in nats (B, T) of normalised logits (B, T, S, C)."""
    return (posterior.exp() * (posterior - prior)).sum((-2, -1))


@dataclass
class PlainTraining:
    """What is trained, on what, and how far it is."""

    config: TrainWorldModelConfig
    model: WorldModel
    optimizer: torch.optim.Optimizer
    rows: HeldRows
    rng: np.random.Generator
    generator: torch.Generator
    step: int = 0

    def update(self) -> float:
        """Draw windows, take one gradient step on them, return their loss."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = cosine(config.learning_rate, config.final_learning_rate, self.step / config.updates)
        fields = (
            *self.model.spec.observation_fields,
            *(["scene"] if self.model.spec.mode == "hybrid" else []),
            "action",
        )
        window = self.rows.windows(self.rng, config.batch, config.length, fields)
        total = loss(self.model, window, window["action"], self.generator)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.gradient_clip)
        self.optimizer.step()
        self.step += 1
        return total.item()
