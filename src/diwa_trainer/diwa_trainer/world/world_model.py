"""The world model: an encoder of frames, the RSSM, and heads that decode what the mode asks for.

The frame encoder is a part of its own: it turns one observation into an embedding and knows nothing of time. Where a
robot has cameras, eyes stand before it, trained earlier and frozen: what they see is observed in place of the scene. Or
the model codes pictures itself (`joint`), as the paper has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diwa_runtime.actions import ACTION_SIZE, HOLD_ACTION
from diwa_runtime.config.bounds import WEIGHTS, WIDTHS, check_bounds
from diwa_runtime.errors import ConfigError
from diwa_runtime.spec import TCP_POSITION, Spec
from diwa_trainer.dataset import Dataset, Episode
from diwa_trainer.devices.device import Metrics, in_float32
from diwa_trainer.devices.draws import Part, Source
from diwa_trainer.world.balanced_kl import balanced_kl
from diwa_trainer.world.eyes.eyes import Eyes
from diwa_trainer.world.eyes.scene_eyes import SceneEyes
from diwa_trainer.world.features import Features
from diwa_trainer.world.joint import JointConfig, PictureDecoder, PictureEncoder
from diwa_trainer.world.observations import Observation
from diwa_trainer.world.one_hot import one_hot_linear
from diwa_trainer.world.ordinal import apportion, scales, start_as_scales
from diwa_trainer.world.rssm import RSSM, Observed, RSSMConfig

RANGE_ROWS = 10_000
"""Recorded rows that the features' ranges are taken from."""
LEAST_STEP_M = 1e-3
"""A hand that goes less from row to row stands still, and where it goes is noise."""
Sight = Eyes | PictureEncoder
OPEN_LOOP_STEPS = 10
"""Imagined steps of the open-loop error that is shown beside the loss."""


@dataclass(frozen=True)
class WorldModelConfig:
    """Sizes and loss of the world model."""

    rssm: RSSMConfig = field(default_factory=RSSMConfig)
    joint: JointConfig = field(default_factory=JointConfig)
    hidden: int = 128
    kl_weight: float = 0.005
    kl_balance: float = 0.8
    free_nats: float = 1.0
    first_step_weight: float = 5.0
    hand_weight: float = field(
        default=0.0, metadata={"help": "of half the squared error, in usual steps, of where the hand is expected next"}
    )
    contact_weight: float = field(
        default=3.0, metadata={"help": "of KL and hand's error after rows in which the hand does not follow its action"}
    )

    def __post_init__(self) -> None:
        check_bounds(self, hidden=WIDTHS, kl_weight=WEIGHTS, kl_balance=(0, 1), free_nats=WEIGHTS)
        check_bounds(self, first_step_weight=WEIGHTS, contact_weight=WEIGHTS, hand_weight=WEIGHTS)


class WorldModel(nn.Module):
    """Encoder, RSSM and decoder for one Spec.

    Attributes:
        hand_step_m: how far the recorded hand goes from row to row, m, root mean square; for training alone.

    What is observed, and what is predicted, beside proprio:

    | mode | observed | predicted |
    |---|---|---|
    | `state` | the recorded scene | the same |
    | `hybrid` | what `eyes` estimate of the scene | the recorded scene |
    | `vision` | the code that `eyes` see | the same |
    | `hybrid`, `vision` with `joint` | pictures | pictures, and in `hybrid` the recorded scene |
    """

    hand_step_m: Tensor

    def __init__(self, spec: Spec, config: WorldModelConfig, eyes: Eyes | None = None) -> None:
        super().__init__()
        _check_sight(spec, config, eyes)
        self.spec = spec
        self.config = config
        self.eyes = eyes.requires_grad_(False) if eyes is not None else None
        self.proprio = Features(spec.proprio)
        self.scene = Features(spec.scene, spec.watched) if spec.mode != "vision" else None
        features, joint = len(self.feature_names), config.joint
        observed, embedding = features, config.hidden
        if joint.depth:
            observed, embedding = len(self.proprio), joint.embedding + len(self.proprio)
        self.encoder = PictureEncoder(spec, joint) if joint.depth else _mlp(features, config.hidden, config.hidden)
        straight = 0 if joint.depth and not joint.shortcut else observed
        self.rssm = RSSM(config.rssm, embedding, ACTION_SIZE, straight)
        self.decoder = _mlp(config.rssm.latent, config.hidden, features)
        self.read = nn.Linear(config.rssm.stochastic, features, bias=False)  # what the states say without the networks
        self.pictures = PictureDecoder(spec, joint, config.rssm.latent) if joint.depth else None
        self.register_buffer("hand_step_m", torch.tensor(1.0), persistent=False)

    @property
    def latent_size(self) -> int:
        """Z."""
        return self.config.rssm.latent

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.read.weight.device

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Of what is decoded, F names: proprio's features, then those beside it."""
        return tuple(name for part in self._parts for name in part.names)

    @property
    def feature_weights(self) -> Tensor:
        """Weight of each decoded feature in the loss (F,)."""
        return torch.cat([part.weight for part in self._parts])

    @property
    def _parts(self) -> tuple[Features | Eyes, ...]:
        """Whose numbers are decoded: proprio's, and what is beside it: the scene's or the eyes'."""
        beside = self.eyes if self.scene is None else self.scene
        return (self.proprio,) if beside is None else (self.proprio, beside)

    @property
    def sight(self) -> Sight | None:
        """What turns pictures into numbers, frozen once the model has learned: eyes, or the model's own encoder."""
        return self.encoder if isinstance(self.encoder, PictureEncoder) else self.eyes

    @property
    def decodes_scene(self) -> bool:
        """Whether the scene can be read off a latent."""
        return self.scene is not None

    def fit_features(self, dataset: Dataset) -> None:
        """Set the standardisation and where the states start (`ordinal`) from recorded rows."""
        self.proprio.fit(dataset.proprio)
        if self.scene is not None:
            self.scene.fit(dataset.scene)
            if isinstance(self.eyes, SceneEyes):  # what is seen and what is predicted are of one scale
                self.scene.scale_as(self.eyes.scene)
        if self.pictures is not None:
            self.pictures.fit(dataset)
        if self.rssm.shortcut is not None:
            self._start_as_scales(dataset)
        with torch.no_grad():  # what the decoder's network adds to what is read starts near nothing
            last = cast(nn.Linear, self.decoder[-1])
            last.weight.mul_(0.1)
            last.bias.zero_()

    def fit_hand_step(self, dataset: Dataset, episodes: Sequence[Episode]) -> None:
        """Set `hand_step_m`, a weight in the loss, from these episodes: those to learn from."""
        moved = np.concatenate([np.diff(dataset.proprio[episode.rows, :3], axis=0) for episode in episodes])
        if len(moved):
            self.hand_step_m.fill_(max(float(np.sqrt(np.square(moved).sum(-1).mean())), LEAST_STEP_M))

    def _start_as_scales(self, dataset: Dataset) -> None:
        """Let the states begin as scales of the features observed; where pictures are coded too, half of them."""
        rows = dataset.evenly(RANGE_ROWS)
        recorded = self.targets({name: torch.from_numpy(dataset.take(name, rows)) for name in dataset.numbers})
        low, high = (torch.quantile(recorded, q, dim=0) for q in (0.001, 0.999))
        margin = (0.05 * (high - low)).clamp(min=0.05)
        joint, config = self.pictures is not None, self.config.rssm
        parts = self._parts[:1] if joint else self._parts
        shares = [share for part in parts for share in part.shares]
        owners = apportion(shares, config.variables // 2 if joint else config.variables)
        marks = scales(owners, low - margin, high + margin, config.classes)
        start_as_scales(self.rssm, self.read, owners, marks)

    @property
    def scene_features(self) -> Features:
        """The scene's features; ask `decodes_scene` first."""
        assert self.scene is not None
        return self.scene

    def features(self, observation: Observation) -> Tensor:
        """Standardise the numbers observed: proprio, and without pictures of its own the scene or what eyes see."""
        proprio = self.proprio(observation["proprio"])
        if self.pictures is not None:
            return proprio
        if self.eyes is None:
            return torch.cat([proprio, self.scene_features(observation["scene"])], -1)
        seen = observation["seen"] if "seen" in observation else self.eyes(observation)
        return torch.cat([proprio, seen], -1)

    def targets(self, observation: Observation) -> Tensor:
        """Standardise what is to be predicted into (..., F): proprio, with the recorded scene or with what eyes see."""
        proprio = self.proprio(observation["proprio"])
        if self.scene is not None:
            return torch.cat([proprio, self.scene(observation["scene"])], -1)
        return proprio if self.eyes is None else torch.cat([proprio, observation["seen"]], -1)

    def embed(self, observation: Observation, features: Tensor) -> Tensor:
        """Embed a frame: its features (..., F), and where the model codes pictures itself those too, into (..., E)."""
        if self.pictures is None:
            with in_float32(features):  # fewer bits cost numbers a fifth of the loss, and save nothing
                embedded: Tensor = self.encoder(features)
            return embedded
        seen = observation["seen"] if "seen" in observation else self.encoder(observation)
        return torch.cat([seen, features], -1)

    def observe(
        self,
        observation: Observation,
        actions: Tensor,
        generator: Source = None,
        *,
        mode: bool = False,
    ) -> Observed:
        """Filter windows (B, T, ...) from a reset: the action before the first frame is to hold, whatever came before.

        `actions[:, t]` is what was accepted after frame t (the dataset's convention).
        """
        features = self.features(observation)
        before, latent = previous_actions(actions), self.rssm.initial(len(features))
        embedding = self.embed(observation, features)
        return self.rssm.observe(embedding, before, latent, generator, mode=mode, features=features)

    def filter(self, observation: Observation, action: Tensor, latent: Tensor) -> Tensor:
        """One step of the deployed filter: frame (B, ...), action accepted before it (B, 7), latent (B, Z) -> (B, Z).

        Takes the posterior's likeliest state, so that a deployed filter has no randomness.
        """
        features = self.features(observation)
        return self.rssm.filter(self.embed(observation, features), action, latent, features)

    def decode(self, latent: Tensor) -> Tensor:
        """Predict standardised features (..., F) from latents (..., Z)."""
        decoded: Tensor = self.decoder(latent) + self.read(latent[..., self.config.rssm.deterministic :])
        return decoded

    def draw(self, latents: Tensor) -> dict[str, Tensor]:
        """Draw what latents (N, Z) would look like: each camera's images (N, H, W, 3) of bytes; {} without cameras."""
        if self.pictures is not None:
            return self.pictures.draw(latents)
        if self.eyes is None:
            return {}
        proprio, seen = self.decode(latents).tensor_split([len(self.proprio)], -1)
        return self.eyes.pictures(seen, proprio)

    def _decode_drawn(self, latents: Tensor, index: Tensor) -> Tensor:
        """As `decode(latents)`, the states' share of the first layer and of the output by where they are one."""
        first = cast(nn.Linear, self.decoder[0])
        parts = [self.config.rssm.deterministic, self.config.rssm.stochastic]
        (h, z), (of_h, of_z) = latents.split(parts, -1), first.weight.split(parts, -1)
        x = F.linear(h, of_h, first.bias) + one_hot_linear(z, index, of_z)
        decoded: Tensor = self.decoder[1:](x) + one_hot_linear(z, index, self.read.weight)
        return decoded

    def decoded_scene(self, latent: Tensor, name: str) -> Tensor:
        """Predict one scene value (...) in SI units from latents (..., Z)."""
        return self.scene_features.physical(self.decode(latent)[..., len(self.proprio) :], name)

    def loss(
        self,
        observation: Observation,
        actions: Tensor,
        generator: Source,
        *,
        contacts: Tensor | None = None,
        with_open_loop: bool = False,
    ) -> tuple[Tensor, Metrics]:
        """Return the loss of windows (B, T, ...) and its parts.

        Half the weighted squared error of the features plus the balanced KL (DreamerV2). The first frame of a
        window, encoded without any history, counts `first_step_weight` times: every episode starts from such a latent.
        Its KL counts for nothing: nothing is ever imagined from before an episode's first frame. Where `contacts`
        (B, T) says that the hand did not follow its action, the KL of the frame after counts `contact_weight` times:
        such rows are few, and a policy soon makes use of a hand that goes through what holds it. So does the error of
        where the shortcut expects the hand (`hand_weight`): the KL hardly tells half of a motion from none of it.
        `with_open_loop` adds the error of imagined frames to the parts; it never counts (docs/decisions/0006).
        """
        config = self.config
        target = self.targets(observation)
        observed = self.observe(observation, actions, generator)
        latents = observed.latents
        with in_float32(latents):
            decoded = self._decode_drawn(latents if config.joint.numbers else latents.detach(), observed.index)
        reconstruction = 0.5 * ((decoded - target).square() * self.feature_weights).sum(-1)
        metrics: Metrics = {}
        if self.pictures is not None:
            error = self.pictures.error(latents, observation)
            metrics["pictures"] = error.detach().mean() / self.pictures.numbers
            reconstruction = reconstruction + config.joint.weight * error
        kl = balanced_kl(observed.posterior, observed.prior, config.kl_balance)
        step_weight = target.new_ones(target.shape[1])
        step_weight[0] = config.first_step_weight
        step_weight = step_weight / step_weight.mean()
        counted = kl[:, 1:].clamp(min=config.free_nats)
        weight = torch.ones_like(counted)
        if contacts is not None:
            weight = 1 + (config.contact_weight - 1) * contacts[:, :-1].to(counted.dtype)
        total = (reconstruction * step_weight).mean() + config.kl_weight * (weight * counted).mean()
        if observed.expected is not None and config.joint.numbers:
            hand = self._hand_error(observed.expected, target)[:, 1:]
            total = total + config.hand_weight * (weight * hand).mean()
            metrics["hand"] = hand.detach().mean()
        metrics |= {
            "reconstruction": reconstruction.detach().mean(),
            "reconstruction_first": reconstruction.detach()[:, 0].mean(),
            "kl": kl.detach()[:, 1:].mean(),
        }
        if with_open_loop:
            metrics["open_loop"] = self._open_loop_error(latents, actions, target, generator)
        return total, {"loss": total.detach(), **metrics}

    def _hand_error(self, expected: Tensor, target: Tensor) -> Tensor:
        """Half the squared error (...) of the hand's position in features expected (..., F), in usual steps."""
        hand = [self.proprio.names.index(name) for name in TCP_POSITION]  # proprio's features come first in both
        metres = (expected[..., hand] - target[..., hand]) * self.proprio.std[hand]
        return 0.5 * (metres / self.hand_step_m).square().sum(-1)

    @torch.no_grad()
    def _open_loop_error(self, latents: Tensor, actions: Tensor, target: Tensor, generator: Source) -> Tensor:
        """Reconstruction error of frames that are imagined from an earlier frame's latent and the actions between.

        The frame that it begins at is drawn anew, and is often the window's first, as in an imagined episode. An event
        that the prior misses (a light that flips) hardly shows in the KL: the posterior sees it a frame later. What
        PPO needs is what the model does when it sees nothing.
        """
        steps = min(OPEN_LOOP_STEPS, latents.shape[1] - 1)
        assert not isinstance(generator, Part), "it is measured by one process alone"
        first = 1 + int(torch.randint(latents.shape[1] - steps, (), generator=generator))
        imagined, index = self.rssm.imagine(latents[:, first - 1], actions[:, first - 1 : first + steps - 1], generator)
        error = self._decode_drawn(imagined, index) - target[:, first : first + steps]
        return 0.5 * (error.square() * self.feature_weights).sum(-1).mean()


def _check_sight(spec: Spec, config: WorldModelConfig, eyes: Eyes | None) -> None:
    """Refuse a model that would see in no way, or in two.

    Raises:
        ConfigError: eyes or joint.depth do not fit the mode, or one another.
    """
    joint = config.joint.depth > 0
    if spec.mode == "state" and (joint or eyes is not None):
        what = "joint.depth" if joint else "eyes"
        raise ConfigError(f"a world model of mode 'state' takes no {what}: it has no pictures")
    if spec.mode != "state" and not joint and eyes is None:
        raise ConfigError(
            f"a world model of mode {spec.mode!r} needs eyes: run train_eyes, then name its folder with --eyes; or "
            "have the world model code pictures itself, with --model.joint.depth 16"
        )
    if joint and eyes is not None:
        raise ConfigError("joint.depth has the world model code pictures itself: leave out --eyes")


def previous_actions(actions: Tensor) -> Tensor:
    """Shift actions (B, T, 7) so that index t holds what led to frame t; before the first frame: hold."""
    hold = actions.new_tensor(HOLD_ACTION).expand(len(actions), 1, -1)
    return torch.cat([hold, actions[:, :-1]], 1)


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.LayerNorm(hidden, eps=1e-3),
        nn.SiLU(),
        nn.Linear(hidden, hidden),
        nn.LayerNorm(hidden, eps=1e-3),
        nn.SiLU(),
        nn.Linear(hidden, outputs),
    )
