"""Two Specs must agree in what is read of them, and in nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest

from diwa_runtime.differences import differences, told
from diwa_runtime.errors import SpecMismatchError
from diwa_runtime.same_spec import Use, check_same_spec
from diwa_runtime.spec import ActionScale, CameraSpec, Mode, Spec, TaskSpec

USES = get_args(Use)


def differs(use: Use, of: Mode, **changes: Any) -> str:
    """Return what two Specs of a mode are said to differ in; "" = they agree."""
    ours = Spec(mode=of)
    try:
        check_same_spec(ours, "ours", replace(ours, **changes), "theirs", use)
    except SpecMismatchError as error:
        return str(error).removeprefix("the Specs of ours and theirs disagree in ").partition(";")[0]
    return ""


def streams(field: str, **changes: Any) -> dict[str, Any]:
    changed = tuple(replace(one, **changes) if one.field == field else one for one in Spec().streams)
    assert changed != Spec().streams
    return {"streams": changed}


LARGER = {"cameras": (CameraSpec("static", 128, 64), CameraSpec("wrist"))}
FEWER = {"scene": ("drawer",), "tasks": (TaskSpec("open_drawer", "drawer", 0.12),)}
OTHER_TASK = {"tasks": (replace(Spec().tasks[0], change=0.1), *Spec().tasks[1:])}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("mode", ["state", "hybrid", "vision"])
def test_what_everybody_reads_must_agree(use, mode):
    assert differs(use, mode) == ""
    assert differs(use, mode, rate_hz=60.0) == "'rate_hz' (30.0 against 60.0)"
    assert differs(use, mode, action_scale=ActionScale(0.01)) == "'action_scale.translation_m' (0.02 against 0.01)"
    assert (
        differs(use, mode, proprio=(*Spec().proprio[:-1], "grip"))
        == '\'proprio[14]\' ("gripper_command" against "grip")'
    )


@pytest.mark.parametrize("use", USES)
def test_cameras_are_read_only_where_pictures_are(use):
    wide = "'cameras[static].height' (64 against 128)"
    assert [differs(use, mode, **LARGER) for mode in ("state", "hybrid", "vision")] == ["", wide, wide]
    one = {"cameras": (CameraSpec("static"),)}
    assert differs(use, "state", **one) == ""
    assert differs(use, "hybrid", **one).startswith("'cameras' ([")


@pytest.mark.parametrize(
    ("field", "use", "modes"),
    [
        ("static", "robot", ("hybrid", "vision")),
        ("static", "training", ("hybrid", "vision")),
        ("scene", "robot", ("state",)),
        ("scene", "skills", ("state",)),
        ("scene", "training", ("state", "hybrid")),
        ("action", "robot", ("state", "hybrid", "vision")),
        ("action", "environment", ()),
        ("static", "environment", ()),
    ],
)
def test_a_stream_is_read_where_its_field_is(field, use, modes):
    refusing = tuple(mode for mode in ("state", "hybrid", "vision") if differs(use, mode, **streams(field, topic="x")))
    assert refusing == modes


def test_the_scene_is_read_where_it_is_observed_or_labels_pictures():
    refusing = {use: [mode for mode in ("state", "hybrid", "vision") if differs(use, mode, **FEWER)] for use in USES}
    assert refusing == {
        "training": ["state", "hybrid", "vision"],  # the last for its tasks
        "skills": ["state"],
        "robot": ["state"],
        "environment": ["state"],
    }


def test_tasks_are_read_in_training_alone():
    assert {use: differs(use, "state", **OTHER_TASK) for use in USES} == {
        "training": "'tasks[open_drawer].change' (0.12 against 0.1)",
        "skills": "", "robot": "", "environment": "",
    }  # fmt: skip


def test_a_robot_is_of_no_mode_and_an_environment_must_give_what_is_observed():
    assert differs("robot", "vision", mode="state") == ""
    assert differs("environment", "vision", mode="hybrid") == ""
    for use, ours, theirs in (("environment", "state", "hybrid"), ("skills", "vision", "hybrid")):
        assert differs(use, ours, mode=theirs) == f'\'mode\' ("{ours}" against "{theirs}")'


def test_the_first_differences_are_told_and_how_many_more_there_are():
    said = differs(
        "robot",
        "state",
        rate_hz=10.0,
        action_scale=ActionScale(0.01, 0.02),
        **streams("proprio", max_age_s=0.2, align="hold"),
    )
    assert said.startswith("'rate_hz' (30.0 against 10.0), 'action_scale.translation_m' (")
    assert said.endswith(" and 2 more")
    assert told(list(differences({"a": 1}, {"a": "x" * 90}))) == f"'a' (1 against \"{'x' * 56}...)"
    found = differences({"a": [1, {"topic": "t", "b": 2}]}, {"a": [2, {"topic": "t", "b": 3}]})
    assert [one.path for one in found] == ["a[0]", "a[t].b"]
