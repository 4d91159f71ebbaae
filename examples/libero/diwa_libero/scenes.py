"""The four kitchens: what moves in each, what its Spec is, and which of the benchmark's tasks is judged there.

The scenes differ in what stands in them and where, and share no value that a task watches. So each has a Spec, a data
set and a world model of its own: one Spec for all would be columns of which most stand still in any row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from diwa_runtime.errors import InputError, nearest
from diwa_runtime.spec import ANGLES, PROPRIO_NAMES, ActionScale, Spec, TaskSpec

RATE_HZ = 20.0
SCALE = ActionScale(translation_m=0.05, rotation_rad=0.5)
"""What robosuite's OSC_POSE makes of an action of 1."""

DRAWER_TRAVEL_M = 0.16
KNOB_TRAVEL_RAD = 2.1
_POSE = ("x", "y", "z", *ANGLES)


@dataclass(frozen=True)
class Joint:
    """A drawer or a knob.

    Attributes:
        field: its name in the Spec's scene.
        joint: its name in MuJoCo.
        sign: the scene's value is this times MuJoCo's, so that open and on are positive.
        travel: from closed or off to the end, m or rad.
        moved: by how much play's skills are to move it, m or rad.
        opened: whether the hand can open it. It does not fit between the table and a closed bottom drawer's handle.
    """

    field: str
    joint: str
    sign: float
    travel: float
    moved: float
    opened: bool = True


@dataclass(frozen=True)
class Scene:
    """One of the benchmark's scenes, with the one task of it that is judged.

    Attributes:
        name: ours.
        problem: the benchmark's task, which is also its file's name.
        task: our name of that task.
        judged: the scene's value that is 1 where the benchmark's judge says that the task is done, and else 0.
        moves: the field of the joint that the task moves.
        forwards: whether it opens or turns on.
        enough: by how much the joint has moved, about, when the judge says that the task is done; m or rad.
        fixture: the body that stands a little elsewhere in every episode, with the joints.
        out: the direction along the world's y, 1 or -1, in which drawers open.
        joints: what moves in it.
        objects: free bodies.
    """

    name: str
    problem: str
    task: str
    judged: str
    moves: str
    forwards: bool
    enough: float
    fixture: str
    joints: tuple[Joint, ...]
    objects: tuple[str, ...]
    out: float = 0.0

    @property
    def ranges(self) -> Mapping[str, float]:
        """Travel of each joint."""
        return MappingProxyType({joint.field: joint.travel for joint in self.joints})

    def moved_by(self, task: TaskSpec) -> tuple[Joint, bool]:
        """Return the joint that a task moves, and whether forwards."""
        judged = task.field == self.judged
        field, forwards = (self.moves, self.forwards) if judged else (task.field, task.change > 0)
        return next(joint for joint in self.joints if joint.field == field), forwards

    def spec(self) -> Spec:
        """Return the scene's Spec: state mode, tasks with the benchmark's own first.

        Play's skills are tasks too, a drawer pulled and pushed by a third of its travel. What tasks watch is what the
        world model weighs most: the judged value alone would say nothing before it flips.
        """
        skills = [
            TaskSpec(f"{verb}_{joint.field}", joint.field, sign * joint.moved)
            for joint in self.joints
            for verb, sign in _VERBS[joint.field == "knob"]
            if sign < 0 or joint.opened
        ]
        # Not `fixture_x`: a pose is taken for that of a free body, which counts for little, and here lies the handle.
        fixed = ("fixture_forwards", "fixture_left", *(joint.field for joint in self.joints), self.judged)
        free = (f"{name}_{axis}" for name in self.objects for axis in _POSE)
        return Spec(
            mode="state",
            rate_hz=RATE_HZ,
            cameras=(),
            proprio=PROPRIO_NAMES,
            scene=(*fixed, *free),
            action_scale=SCALE,
            tasks=(TaskSpec(self.task, self.judged, 0.5), *skills),
        )


_VERBS = {False: (("pull", 1.0), ("push", -1.0)), True: (("turn_up", 1.0), ("turn_down", -1.0))}


def _drawers(cabinet: str) -> tuple[Joint, ...]:
    levels = ("top", "middle", "bottom")
    return tuple(
        Joint(f"{level}_drawer", f"{cabinet}_{level}_level", -1.0, DRAWER_TRAVEL_M, 0.05, opened=level != "bottom")
        for level in levels
    )


SCENES = MappingProxyType(
    {
        scene.name: scene
        for scene in (
            Scene(
                name="scene1",
                problem="KITCHEN_SCENE1_open_the_top_drawer_of_the_cabinet",
                task="open_top_drawer",
                judged="top_drawer_open",
                moves="top_drawer",
                forwards=True,
                out=1.0,
                enough=0.14,
                fixture="wooden_cabinet_1",
                joints=_drawers("wooden_cabinet_1"),
                objects=("akita_black_bowl_1", "plate_1"),
            ),
            Scene(
                name="scene3",
                problem="KITCHEN_SCENE3_turn_on_the_stove",
                task="turn_on_stove",
                judged="stove_on",
                moves="knob",
                forwards=True,
                enough=0.5,
                fixture="flat_stove_1",
                joints=(Joint("knob", "flat_stove_1_button", 1.0, KNOB_TRAVEL_RAD, 0.4),),
                objects=("chefmate_8_frypan_1", "moka_pot_1"),
            ),
            Scene(
                name="scene4",
                problem="KITCHEN_SCENE4_close_the_bottom_drawer_of_the_cabinet",
                task="close_bottom_drawer",
                judged="bottom_drawer_closed",
                moves="bottom_drawer",
                forwards=False,
                out=-1.0,
                enough=0.15,
                fixture="white_cabinet_1",
                joints=_drawers("white_cabinet_1"),
                objects=("akita_black_bowl_1", "wine_bottle_1"),
            ),
            Scene(
                name="scene5",
                problem="KITCHEN_SCENE5_close_the_top_drawer_of_the_cabinet",
                task="close_top_drawer",
                judged="top_drawer_closed",
                moves="top_drawer",
                forwards=False,
                out=-1.0,
                enough=0.15,
                fixture="white_cabinet_1",
                joints=_drawers("white_cabinet_1"),
                objects=("akita_black_bowl_1", "plate_1", "ketchup_1"),
            ),
        )
    }
)


def scene_of(task: str) -> Scene:
    """Return the scene whose judged task that is.

    Raises:
        InputError: none of them; names the nearest.
    """
    scenes = {scene.task: scene for scene in SCENES.values()}
    if task not in scenes:
        raise InputError(f"no scene is judged by {task!r}{nearest(task, scenes)} (there are {', '.join(scenes)})")
    return scenes[task]


def scene_named(name: str) -> Scene:
    """Return the scene of that name.

    Raises:
        InputError: there is none; names the nearest.
    """
    if name not in SCENES:
        raise InputError(f"no scene {name!r}{nearest(name, SCENES)} (there are {', '.join(SCENES)})")
    return SCENES[name]
