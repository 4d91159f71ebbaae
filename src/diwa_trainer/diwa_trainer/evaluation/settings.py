"""The settings of an evaluation."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diwa_runtime.config.bounds import WORKERS, check_bounds
from diwa_runtime.errors import ConfigError, one_line
from diwa_trainer.evaluation.agents import AgentName

MOST_EPISODES = (1, 100_000)
"""Of one evaluation."""
MOST_FILMED = 10_000
"""Steps of an episode whose pictures are held until it ends."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Run a policy from many seeded starts and count.

    Any Gymnasium environment will do that gives the Spec's observation fields, takes its actions, and says in
    ``info["success"]`` whether its task is achieved. It may take the task's name as an argument `task`, declare its
    Spec as the attribute `contract`, and say in ``info["action"]`` what it accepted. One that ends its episodes at
    success may take an argument `ends_at_success`; it is told not to, for a policy sees its success some steps late.
    """

    output: Path
    bundle: Path | None = field(default=None, metadata={"help": "folder of the bundle; for policy `bundle` alone"})
    policy: AgentName = field(
        default="bundle",
        metadata={"help": "the bundle, or what it should be better than (random is smooth motion, zero stands still)"},
    )
    environment: str = field(
        default="diwa_sim:PlayTable-v0",
        metadata={
            "help": "module:EnvId of any Gymnasium environment that gives the Spec's observation fields and says "
            "in info['success'] whether its task is achieved"
        },
    )
    environment_kwargs: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "its further arguments, by name: --environment-kwargs.start far; values as in YAML"},
    )
    task: str | None = field(
        default=None,
        metadata={
            "help": "passed to the environment as `task`; none: the bundle's skill, if the environment takes one"
        },
    )
    episodes: int = 100
    first_seed: int = field(default=100_000, metadata={"help": "episode i starts from seed first_seed + i"})
    max_steps: int = field(default=96, metadata={"help": "limit of an episode"})
    steps_after_success: int = field(
        default=8,
        metadata={
            "help": "for so many steps a policy goes on after its success, until its own reward sees it too, as on the "
            "robot; they count in `first_fired` alone, and need an environment that does not end at success"
        },
    )
    workers: int = field(default=2, metadata={"help": "processes; the result does not depend on it"})
    videos: int = field(default=4, metadata={"help": "film the first so many episodes; 0 needs no OpenGL"})
    compare: Path | None = field(
        default=None,
        metadata={
            "help": "folder of another evaluation of the same starts, to be compared with, start by start; without a "
            "--bundle nothing is run, and what lies at --output is compared"
        },
    )

    def __post_init__(self) -> None:
        check_bounds(self, episodes=MOST_EPISODES, first_seed=(0, 2**31), max_steps=(1, 10**5), workers=WORKERS)
        check_bounds(self, videos=(0, 1000), steps_after_success=(0, 1000))
        try:
            json.dumps(self.environment_kwargs)
        except (TypeError, ValueError) as error:  # YAML also knows dates; the results could not be written
            raise ConfigError(f"environment_kwargs: {one_line(error)}; write it as a text or a number") from error
        if self.videos and self.max_steps > MOST_FILMED:
            raise ConfigError(f"max_steps is {self.max_steps}, must be at most {MOST_FILMED} with --videos")
        if not self.only_compares and (self.policy == "bundle") != (self.bundle is not None):
            raise ConfigError(f"policy {self.policy!r} {'needs a' if self.bundle is None else 'takes no'} --bundle")

    @property
    def only_compares(self) -> bool:
        """Whether there is nothing to run: two evaluations that are there are to be compared."""
        return self.compare is not None and self.bundle is None and self.policy == "bundle"

    @property
    def seeds(self) -> range:
        """The seeds of all episodes."""
        return range(self.first_seed, self.first_seed + self.episodes)

    def terms(self, task: str | None) -> dict[str, Any]:
        """Return what two evaluations must have in common to be compared start by start."""
        environment = {"id": self.environment, "kwargs": self.environment_kwargs}
        return {"task": task, "max_steps": self.max_steps, "environment": environment, "seeds": list(self.seeds)}
