"""What imagination says of a policy as it would be deployed: the same starts and draws for every policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diwa_trainer.policy.diffusion import DiffusionPolicy
from diwa_trainer.policy.imagination import Rollout, imagine
from diwa_trainer.policy.reward import THRESHOLDS, ClassifierReward, FirstSuccess, Reward, RewardKind, Starts
from diwa_trainer.policy.support import Outside
from diwa_trainer.policy.verdict import OUTSIDE
from diwa_trainer.world.world_model import WorldModel

DISAGREEMENT, HEADROOM, FOOTHOLD = 0.2, 0.97, 0.02


@dataclass(frozen=True)
class Parts:
    """What fine-tuning is made of."""

    model: WorldModel
    pretrained: DiffusionPolicy
    rewards: dict[str, Reward]
    paid: Reward
    starts: Starts
    task: str
    threshold: float
    outside: Outside | None
    notes: tuple[str, ...] = ()
    """What the recordings lack for this fine-tuning."""


@dataclass(frozen=True)
class Judging:
    """How policies are judged: so many episodes of so many chunks at most, all from one seed; one reward is paid."""

    parts: Parts
    reward_kind: RewardKind
    episodes: int
    chunks: int
    seed: int

    def imagined(self, policy: DiffusionPolicy, rewards: Mapping[str, Reward]) -> tuple[Rollout, FirstSuccess]:
        """Imagine episodes of a policy as deployed until each of `rewards` has seen success."""
        parts, generator = self.parts, torch.Generator().manual_seed(self.seed)
        starts = parts.starts.draw(self.episodes, generator)
        judges = {name: reward.judge(starts) for name, reward in rewards.items()}
        first = FirstSuccess(judges, self.episodes, starts.latents.device)
        rollout = imagine(
            parts.model.rssm,
            parts.pretrained,
            policy,
            first,
            starts.latents,
            self.chunks,
            generator,
            explore=False,
            outside=parts.outside,
        )
        return rollout, first

    def of(self, policy: DiffusionPolicy) -> dict[str, float]:
        """Imagined success of a policy by each reward apart, and how far the policy has gone from the base policy.

        All are of the episodes as they would be were that reward alone to end them; ``judged_outside``, the share that
        left the recordings' reach, and ``kl_to_pretrained``, the path KL in nats a chunk, by the reward that is paid.
        """
        parts = self.parts
        rollout, first = self.imagined(policy, parts.rewards)
        metrics: dict[str, float] = {}
        for name in parts.rewards:
            metrics[f"judged_success_{name}"] = first.success(name)
            metrics[f"judged_chunks_{name}"] = float(self._lived(rollout, first, name).sum(0).float().mean())
        lived = self._lived(rollout, first, self.reward_kind)
        metrics["judged_outside"] = float((rollout.left & lived).any(0).float().mean())
        metrics["kl_to_pretrained"] = kl_to_pretrained(parts.pretrained, policy, rollout, lived)
        return metrics

    def _lived(self, rollout: Rollout, first: FirstSuccess, name: str) -> Tensor:
        """Which chunks (H, B) happened, were that reward alone to end the episodes."""
        lengths = first.lengths(name)
        return (torch.arange(self.chunks, device=lengths.device)[:, None] < lengths) & rollout.live

    def preflight(self) -> dict[str, Any]:
        """Seconds that can save minutes: what each reward says of the base policy before any update."""
        judged = self.of(self.parts.pretrained)
        success = {name: judged[f"judged_success_{name}"] for name in self.parts.rewards}
        warnings = [*preflight_warnings(success, self.reward_kind, judged["judged_outside"]), *self.parts.notes]
        return {"base": success, "by_threshold": self._by_threshold(), "warnings": warnings}

    def _by_threshold(self) -> list[dict[str, float]]:
        """What the classifier says of the base policy at other thresholds, to hold against the decoded scene."""
        classifier = self.parts.rewards["classifier"]
        assert isinstance(classifier, ClassifierReward)
        thresholds = sorted({*THRESHOLDS, self.parts.threshold})
        stricter = {str(threshold): dataclasses.replace(classifier, threshold=threshold) for threshold in thresholds}
        _, first = self.imagined(self.parts.pretrained, stricter)
        return [{"threshold": threshold, "success": first.success(str(threshold))} for threshold in thresholds]


@torch.no_grad()
def kl_to_pretrained(pretrained: DiffusionPolicy, policy: DiffusionPolicy, rollout: Rollout, counted: Tensor) -> float:
    """Path KL(fine-tuned || pre-trained) of a chunk's K' denoising steps in nats, under the exploration deviations.

    All transitions share their deviation, so it is half the squared distance of their means in deviations, summed.
    Mean over the chunks that are `counted`: bool (H, B).
    """
    latents, chains = rollout.latents[counted], rollout.chains[counted]
    ours, base = (one.fold(latents).chain_means(chains) for one in (policy, pretrained))
    return float(policy.transition_kl(ours, base).sum((-2, -1)).mean())


def preflight_warnings(success: Mapping[str, float], paid: str, outside: float = 0.0) -> list[str]:
    """Say what speaks against fine-tuning a base policy of this imagined `success` by reward, one of which is paid.

    `outside` is the share of its imagined episodes that leave the recordings.
    """
    warnings = []
    if "decoded" in success and abs(success["classifier"] - success["decoded"]) > DISAGREEMENT:
        warnings.append(
            f"classifier and decoded scene disagree on the base policy ({success['classifier']:.2f} against "
            f"{success['decoded']:.2f}): look at the reward before trusting imagined success"
        )
    if success[paid] > HEADROOM:
        share = success[paid]
        warnings.append(f"the base policy already succeeds in {share:.0%} of imagined episodes: no headroom")
    if success[paid] < FOOTHOLD:
        warnings.append(
            "the base policy hardly ever succeeds in imagination, so there is nothing to learn from: train the world "
            "model longer (its open_loop.json says which events it foresees), or give pretrain more updates"
        )
    if outside > OUTSIDE:
        warnings.append(
            f"{outside:.0%} of the base policy's imagined episodes leave what was recorded, and end there: record more "
            "play around this task, or, where hands move further than support.cell_m in a row, set it to that"
        )
    return warnings
