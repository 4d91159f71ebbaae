"""What says that an imagined episode has succeeded: two rewards behind one interface.

The paper's classifier on latents (DiWA, section 4.3), and, where the scene is decoded, the task's own predicate on the
decoded scene. Both pay 1 at success and end the episode there: a soft reward with a strict end pays for lingering just
short of success.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diwa_runtime.config.bounds import WEIGHTS, WIDTHS, check_bounds
from diwa_runtime.errors import ConfigError
from diwa_runtime.spec import TaskSpec
from diwa_trainer.devices.device import CPU
from diwa_trainer.world.world_model import WorldModel

Judge = Callable[[Tensor], Tensor]
"""Says of latents (B, Z), one for each episode of a batch, which are a success: bool (B,)."""

THRESHOLDS = (0.5, 0.9, 0.97, 0.99)
"""Of a classifier's probability, for which its verdicts are reported beside the chosen one."""

RewardKind = Literal["classifier", "decoded", "both"]


@dataclass(frozen=True)
class Starts:
    """Where imagined episodes start: latents (B, Z), and the recorded value (B,) of the scene field of the task."""

    latents: Tensor
    values: Tensor

    def draw(self, count: int, generator: torch.Generator) -> Starts:
        """Draw `count` of them, with replacement."""
        index = torch.randint(len(self.latents), (count,), generator=generator).to(self.latents.device)
        return self.rows(index)

    def rows(self, which: slice | Tensor) -> Starts:
        """Return some of them."""
        return Starts(self.latents[which], self.values[which])


class Reward(Protocol):
    """A reward of imagined episodes."""

    def judge(self, starts: Starts) -> Judge:
        """Return the judge of a batch of episodes that began at `starts`."""
        ...


@dataclass(frozen=True)
class ClassifierConfig:
    """Sizes of the reward classifier (DiWA's, for smaller latents)."""

    hidden: int = 256
    embedding: int = 64
    temperature: float = 0.5
    cross_entropy_weight: float = 0.5

    def __post_init__(self) -> None:
        check_bounds(self, hidden=WIDTHS, embedding=WIDTHS, temperature=(1e-3, 1e3), cross_entropy_weight=WEIGHTS)


class Classifier(nn.Module):
    """Success probability of a latent: an encoder shaped by NT-Xent, and a small head."""

    def __init__(self, config: ClassifierConfig, latent_size: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = nn.Sequential(
            nn.Linear(latent_size, config.hidden), nn.ReLU(), nn.Linear(config.hidden, config.embedding)
        )
        self.head = nn.Sequential(nn.Linear(config.embedding, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 2))

    def forward(self, latent: Tensor) -> Tensor:
        """Return the success probability (...) of latents (..., Z)."""
        return self.head(self.encoder(latent)).softmax(-1)[..., 1]

    def loss(self, latent: Tensor, label: Tensor) -> Tensor:
        """NT-Xent on the embedding plus weighted cross-entropy; latents (N, Z), labels (N,) int64."""
        embedding = self.encoder(latent)
        contrast = nt_xent(embedding, label, self.config.temperature)
        return contrast + self.config.cross_entropy_weight * F.cross_entropy(self.head(embedding), label)


def nt_xent(embedding: Tensor, label: Tensor, temperature: float) -> Tensor:
    """Supervised NT-Xent: every other row of the same label is a positive, all other rows compete.

    Mean over rows with a positive of -log softmax of cosine similarities / temperature, averaged over the positives.
    """
    unit = F.normalize(embedding, dim=-1)
    similarity = unit @ unit.T / temperature
    itself = torch.eye(len(label), dtype=torch.bool, device=label.device)
    log_softmax = similarity.masked_fill(itself, float("-inf")).log_softmax(-1)
    positive = (label[:, None] == label[None, :]) & ~itself
    counted = positive.sum(-1)
    per_row = -log_softmax.masked_fill(~positive, 0.0).sum(-1) / counted.clamp(min=1)
    return (per_row * (counted > 0)).sum() / (counted > 0).sum()


@dataclass(frozen=True)
class ClassifierReward:
    """Success where the classifier is surer than the threshold."""

    classifier: Classifier
    threshold: float

    def judge(self, starts: Starts) -> Judge:  # noqa: ARG002 (a classifier needs no start)
        """Return the classifier's judge."""
        return lambda latent: self.classifier(latent) > self.threshold


@dataclass(frozen=True)
class DecodedReward:
    """Success where the task's predicate holds between the recorded start and the decoded scene."""

    model: WorldModel
    task: TaskSpec

    def judge(self, starts: Starts) -> Judge:
        """Return the predicate's judge of episodes that began at `starts`."""
        sign = 1.0 if self.task.change > 0 else -1.0
        return lambda latent: (
            sign * (self.model.decoded_scene(latent, self.task.field) - starts.values) > abs(self.task.change)
        )


@dataclass(frozen=True)
class BothRewards:
    """Success where both agree: what one of them imagines alone pays nothing."""

    first: Reward
    second: Reward

    def judge(self, starts: Starts) -> Judge:
        """Return the judge that asks both."""
        first, second = self.first.judge(starts), self.second.judge(starts)
        return lambda latent: first(latent) & second(latent)


class FirstSuccess:
    """When each of several judges first says success of the same imagined episodes.

    To `imagine` it is a judge itself: an episode ends once every one of them has said so.

    Attributes:
        chunks: by judge, the number of chunks (B,) until it first said success; 0 where it has not.
    """

    def __init__(self, judges: Mapping[str, Judge], episodes: int, device: torch.device = CPU) -> None:
        self._judges = dict(judges)
        self._passed = 0
        self.chunks = {name: torch.zeros(episodes, dtype=torch.int64, device=device) for name in judges}

    def __call__(self, latent: Tensor) -> Tensor:
        """Ask every judge of the latents (B, Z) after one more chunk."""
        self._passed += 1
        for name, judge in self._judges.items():
            first = self.chunks[name]
            first[judge(latent) & (first == 0)] = self._passed
        return torch.stack(list(self.chunks.values())).all(0)

    def success(self, name: str) -> float:
        """Share of the episodes in which that judge has said success."""
        return float((self.chunks[name] > 0).float().mean())

    def lengths(self, name: str) -> Tensor:
        """Chunks (B,) of the episodes, were that judge alone to end them."""
        first = self.chunks[name]
        return torch.where(first > 0, first, self._passed)


def make_rewards(model: WorldModel, classifier: Classifier, threshold: float, task: TaskSpec) -> dict[str, Reward]:
    """Build every reward that this model can give, by name."""
    by_classifier = ClassifierReward(classifier, threshold)
    rewards: dict[str, Reward] = {"classifier": by_classifier}
    if model.decodes_scene:
        by_scene = DecodedReward(model, task)
        rewards |= {"decoded": by_scene, "both": BothRewards(by_classifier, by_scene)}
    return rewards


def choose_reward(rewards: dict[str, Reward], kind: RewardKind) -> Reward:
    """Return the reward of that name.

    Raises:
        ConfigError: this world model does not decode the scene.
    """
    if kind not in rewards:
        raise ConfigError(f"reward {kind!r} needs a decoded scene, this world model has none; use 'classifier'")
    return rewards[kind]
