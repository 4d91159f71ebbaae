"""`collect`: play and demonstrations of one of LIBERO-90's kitchens as ROS 2 bags."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from diwa_libero import EPISODE_STEPS
from diwa_libero.environment import STARTS, Kitchen
from diwa_libero.scenes import scene_named
from diwa_runtime.config import check_bounds
from diwa_runtime.spec import Spec
from diwa_sim.collection import Collection
from diwa_sim.play import PlaySettings


@dataclass(frozen=True)
class CollectConfig(Collection):
    """Write play and demonstrations of a kitchen as ROS 2 bags."""

    scene: str = field(kw_only=True, metadata={"help": "scene1, scene3, scene4 or scene5"})
    tasks: tuple[str, ...] = field(
        default=(),
        metadata={"help": "what to demonstrate, of the scene's tasks; none: the one that the benchmark judges"},
    )
    play_noise: tuple[float, ...] = field(
        default=(0.1, 0.25, 0.5), metadata={"help": "levels of action noise; each skill segment of play draws one"}
    )
    play_episode_steps: int = field(default=200, metadata={"help": "steps of play between two resets"})
    start: float = field(default=1.0, metadata={"help": "spread of the arm's joints at a start; 1: the benchmark's"})

    def __post_init__(self) -> None:
        if not self.tasks:
            object.__setattr__(self, "tasks", (scene_named(self.scene).task,))
        super().__post_init__()
        check_bounds(self, start=STARTS)

    @property
    def spec(self) -> Spec:
        """The scene's Spec."""
        return scene_named(self.scene).spec()

    @property
    def play(self) -> PlaySettings:
        """What play is made of: handles are thinner here than at the play table, and farther from where the hand is."""
        return PlaySettings(
            noise=self.play_noise, free=0.15, free_steps=(10, 30), misjudged=0.4, misjudged_m=(0.01, 0.02, 0.04),
            segment_steps=110, without=self.play_without,
        )  # fmt: skip

    @property
    def limit(self) -> int:
        """Most steps until a demonstration's success: a person takes the time that it takes."""
        return 2 * EPISODE_STEPS

    def make_table(self, task: str | None) -> Kitchen:
        """Build the kitchen for a task; None is play."""
        return Kitchen(task, self.scene, start=self.start)

    def of_the_table(self) -> dict[str, Any]:
        """Return what else, of the kitchen, determines what is recorded."""
        return {"scene": self.scene, "start": self.start}
