"""`collect`: play and demonstrations of the simulated play table as ROS 2 bags."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from diwa_runtime.config import check_bounds
from diwa_runtime.config.bounds import PIXELS
from diwa_runtime.spec import TASKS, Spec
from diwa_sim.collection import Collection
from diwa_sim.environment import PlayTable
from diwa_sim.starts import start_difficulty


@dataclass(frozen=True)
class CollectConfig(Collection):
    """Write play and demonstrations of the simulated table as ROS 2 bags."""

    tasks: tuple[str, ...] = field(
        default=tuple(task.name for task in TASKS), metadata={"help": "what to demonstrate; play has every task"}
    )
    start: str | float = field(
        default="wide", metadata={"help": "spread of the starts: narrow, medium, wide, far, or 0 to 2"}
    )
    cameras: int = field(default=0, metadata={"help": "height and width of the images in pixels; 0: no images"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(self, cameras=(0, PIXELS[1]))
        start_difficulty(self.start)

    @property
    def spec(self) -> Spec:
        """The play table's Spec."""
        return Spec(mode="vision" if self.cameras else "state")

    def make_table(self, task: str | None) -> PlayTable:
        """Build the table for a task; None is play."""
        return PlayTable(task=task, mode=self.spec.mode, image_size=self.cameras or 64, start=self.start)

    def of_the_table(self) -> dict[str, Any]:
        """Return what else, of the table, determines what is recorded."""
        return {"start": str(self.start), "cameras": self.cameras}
