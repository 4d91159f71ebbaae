"""Which checkpoint of a fine-tuning to keep, whether to trust it, and what a few real episodes make of that.

Two tiers. Without a robot: an order of the checkpoints by what imagination says of them, and accept, reject or collect.
With a few real episodes: a rate with an interval, and a warning where imagination and reality disagree on the base.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np

Decision = Literal["accept", "reject", "collect"]

OUTSIDE = 0.25
"""From this share of imagined episodes on that leave the recordings, more recordings are asked for."""
GAP = 0.15
"""So far may imagined and real success of the base policy lie apart."""
PRIOR_EPISODES = 8.0
"""How many real episodes what imagination says is worth."""
CARRIED = 0.5
"""How much of imagination's error about the base policy, in log odds, is taken to hold for the kept one too."""


@dataclass(frozen=True)
class Candidate:
    """A policy that could be kept.

    Attributes:
        iteration: after how many iterations; 0: the base policy.
        success: share of imagined episodes that succeed by the paid reward, as deployed, within the recordings' reach.
        outside: share that left the recordings' reach.
        kl: path KL to the base policy, nats a chunk.
    """

    iteration: int
    success: float
    outside: float
    kl: float


@dataclass(frozen=True)
class Verdict:
    """What is kept, and whether to trust it."""

    decision: Decision
    why: str
    chosen: Candidate
    candidates: tuple[Candidate, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def standard_error(share: float, episodes: int) -> float:
    """Of a share of so many episodes."""
    return math.sqrt(max(share * (1 - share), 1 / episodes) / episodes)


def choose(candidates: Sequence[Candidate], episodes: int) -> Verdict:
    """Choose among candidates judged on so many episodes each; the first is the base policy.

    Kept is the earliest that is within a standard error of the best, and beats the base policy by two of their
    difference: a gain within the noise of judging does not justify a policy further from the base policy. Without
    any, the base policy stays.
    """
    base = candidates[0]
    best = max(candidates, key=lambda one: one.success)
    least = best.success - standard_error(best.success, episodes)
    chosen = next((one for one in candidates if one.success >= least and _is_better(one, base, episodes)), None)
    if chosen is None:
        why = (
            f"no iteration is clearly better than the base policy in imagination ({best.success:.2f} of the episodes "
            f"succeed, of the base policy's {base.success:.2f}), so the base policy is kept"
        )
        return Verdict("reject", why, base, tuple(candidates))
    gain = f"iteration {chosen.iteration}: {base.success:.2f} to {chosen.success:.2f} of imagined episodes succeed"
    if chosen.outside > OUTSIDE:
        asked = f"{chosen.outside:.0%} of its episodes leave what was recorded: record more play around this task"
        return Verdict("collect", f"{gain}, but {asked}", chosen, tuple(candidates))
    return Verdict("accept", gain, chosen, tuple(candidates))


def _is_better(one: Candidate, base: Candidate, episodes: int) -> bool:
    apart = math.hypot(standard_error(base.success, episodes), standard_error(one.success, episodes))
    return one.success >= base.success + 2 * apart


@dataclass(frozen=True)
class Tally:
    """Real episodes of a policy."""

    successes: int
    episodes: int

    @classmethod
    def of(cls, evaluation: Mapping[str, Any]) -> Tally:
        """Return what an `evaluation.json` counted."""
        return cls(evaluation["successes"], evaluation["episodes"])

    @property
    def rate(self) -> float:
        """Share that succeeded."""
        return self.successes / self.episodes


@dataclass(frozen=True)
class Calibrated:
    """A real success rate as it is to be expected, with its 95 % interval; and what is wrong with imagination."""

    rate: float
    interval95: tuple[float, float]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def calibrate(base: Candidate, chosen: Candidate, real: Tally | None, base_real: Tally | None) -> Calibrated:
    """Combine imagined success with a few real episodes.

    Imagination gives a prior (a Beta distribution worth `PRIOR_EPISODES`); where the base policy was tried, half of its
    error about that is taken off it, on the scale of log odds. The real episodes of the chosen policy update it. Where
    the base policy is the one that was kept, the tally of more episodes does, and once.
    """
    logit, warnings = _logit(chosen.success), []
    if chosen.iteration == base.iteration:
        # Both are of one policy, and may be of the same episodes: they are not added up.
        tallies = [tally for tally in (real, base_real) if tally is not None]
        real = max(tallies, key=lambda tally: tally.episodes, default=None)
    elif base_real is not None:
        error = log_odds(base_real.successes + 0.5, base_real.episodes + 1) - _logit(base.success)
        logit += CARRIED * error
    if base_real is not None and abs(base.success - base_real.rate) > GAP:
        warnings.append(
            f"imagined ({base.success:.2f}) and real ({base_real.successes} of {base_real.episodes}) success of "
            f"the base policy lie more than {GAP:g} apart: do not trust what imagination says of this task"
        )
    expected = 1 / (1 + math.exp(-logit))
    real = real or Tally(0, 0)
    won = expected * PRIOR_EPISODES + real.successes
    lost = (1 - expected) * PRIOR_EPISODES + real.episodes - real.successes
    draws = np.random.default_rng(0).beta(won, lost, 100_000)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Calibrated(won / (won + lost), (float(low), float(high)), tuple(warnings))


def calibrated(said: Mapping[str, Any], real: Tally | None, base_real: Tally | None) -> Calibrated:
    """As `calibrate`, of what stands in a `verdict.json`."""
    names = [field.name for field in fields(Candidate)]  # a newer file may say more
    base, chosen = (Candidate(**{name: one[name] for name in names}) for one in (said["candidates"][0], said["chosen"]))
    return calibrate(base, chosen, real, base_real)


def log_odds(successes: float, episodes: float) -> float:
    """Logarithm of the odds."""
    return math.log(successes / (episodes - successes))


def _logit(share: float) -> float:
    """Of an imagined share: from so few episodes none is nearer to 0 or 1 than .01."""
    return log_odds(min(max(share, 0.01), 0.99), 1)
