"""The Spec as a file of a lab's own: what it leaves out is the default, what cannot be is one line with its name."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from diwa_runtime.errors import InputError
from diwa_runtime.spec import SPEC_VERSION, ActionScale, CameraSpec, Spec, TaskSpec
from diwa_runtime.stream_spec import StreamSpec

LIFT = {"name": "lift_cup", "field": "cup_z", "change": 0.1}


def load(tmp_path: Path, **fields: Any) -> Spec:
    path = tmp_path / "lab.json"
    path.write_text(json.dumps({"version": SPEC_VERSION, **fields}), encoding="utf-8")
    return Spec.load(path)


def test_what_a_file_leaves_out_is_the_default(tmp_path: Path) -> None:
    assert load(tmp_path) == Spec()
    ours = load(tmp_path, scene=["cup_z"], tasks=[LIFT], action_scale={"translation_m": 0.01})
    assert ours == Spec(
        scene=("cup_z",), tasks=(TaskSpec("lift_cup", "cup_z", 0.1),), action_scale=ActionScale(0.01, 0.05)
    )
    assert load(tmp_path, **ours.to_json()) == ours


def stream(**changed: Any) -> dict[str, Any]:
    return {"streams": [{"field": "proprio", "topic": "arm", "type": "x/msg/Arm", "select": ["pose"], **changed}]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (stream(align="latest"), "streams[0]: align: 'latest' is not one of nearest, hold, integrate"),
        (stream(timeline="Sensor"), "timeline: 'Sensor' is not one of sensor, receipt"),
        (stream(max_age_s="soon"), "max_age_s: 'soon' is not a number"),
        (stream(max_age_s=0), "max_age_s of stream 'arm' must be positive"),
        (stream(aling="hold"), "did you mean 'align'"),
        (stream(select=["pose|eular"]), "stream 'arm': 'pose|eular' is no selection; use PATH, PATH|euler or"),
        (stream(select=["pose..x"]), "'pose..x' is no selection"),
        (stream(select=["pose|position:name"]), "'pose|position:name' is no selection"),
        (stream(field="action", align="hold", select=["pose|pose:name"]), "an action has no names to select"),
        ({"streams": [{"field": "proprio"}]}, "streams[0]: 'topic' is missing"),
        ({"tasks": [{**LIFT, "field": "drawer", "change": 0}]}, "|change| of task 'lift_cup' must be positive"),
        ({"tasks": [{**LIFT, "field": "drawer", "name": "lift cup"}]}, "'lift cup' cannot name a task"),
        ({"tasks": [{**LIFT, "field": "red_yaw"}]}, "if it never turns that far, name it otherwise (red_angle)"),
        (
            {"scene": ["hinge_yaw", "lift"], "tasks": []},
            "scene has 'hinge_yaw' outside of a triple hinge_roll, hinge_pitch",
        ),
        ({"tasks": [LIFT]}, "'cup_z', which the scene does not have"),
        ({"scene": ["cup_z", "cup_z"], "tasks": []}, "scene has 'cup_z' twice"),
        ({"cameras": [{"name": "a/b"}]}, "'a/b' cannot name a camera"),
        ({"cameras": [{"name": "scene"}]}, "cannot be named 'scene'"),
        ({"cameras": [{"name": "static", "height": "tall"}]}, "height: 'tall' is not a whole number"),
        ({"cameras": [{"name": "static", "width": 0}]}, "width of camera 'static' must be positive"),
        ({"proprio": ["joint_1", "tcp_x", "tcp_y", "tcp_z"]}, "must begin with tcp_x, tcp_y, tcp_z"),
        ({"action_scale": {"rotation_rad": -0.05}}, "rotation_rad of action_scale must be positive"),
        ({"rate_hz": 10**400}, "rate_hz"),
        ({"rate_hz": 1e12}, "rate_hz of the Spec must be from 0.01 to 10000, not 1000000000000.0"),
        ({"rate_hz": 1e-12}, "rate_hz of the Spec must be from 0.01 to 10000, not 1e-12"),
        ({"cameras": [{"name": "static", "height": 10**6}]}, "height of camera 'static' must be from 1 to 2048"),
        ({"cameras": [{"name": "static", "width": 10**400}]}, "width of camera 'static' must be from 1 to 2048"),
        ({"action_scale": {"translation_m": 1e30}}, "translation_m of action_scale must be from 1e-09 to 1000"),
        ({"tasks": [{**LIFT, "field": "drawer", "change": -1e30}]}, "|change| of task 'lift_cup' must be from"),
        (stream(max_age_s=1e30), "max_age_s of stream 'arm' must be from 1e-06 to 1e+06"),
        ({"scene": ["cup\nz"], "tasks": []}, "scene has the name 'cup\\nz'"),
        ({"scene": [""], "tasks": []}, "scene has the name ''"),
        ({"mode": "video"}, "mode: 'video' is not one of"),
        ({"rates_hz": 10}, "did you mean 'rate_hz'"),
        ({"version": 99}, "Spec version 99"),
        ({"version": str(SPEC_VERSION)}, f"Spec version '{SPEC_VERSION}', this DiWA reads {SPEC_VERSION};"),
    ],
)
def test_what_cannot_be_is_refused_with_its_name(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        load(tmp_path, **fields)
    assert message in str(caught.value)
    assert str(tmp_path / "lab.json") in str(caught.value)


def test_a_file_that_is_a_pipe_or_nests_without_end_is_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "deep.json").write_text("[" * 200_000, encoding="utf-8")
    for name, said in (("pipe.json", "cannot be read"), ("deep.json", "nested too deeply")):
        with pytest.raises(InputError, match=f"{name}: .*{said}"):
            Spec.load(tmp_path / name)


@pytest.mark.parametrize(
    "make",
    [
        lambda: StreamSpec("proprio", "arm", "x/msg/Arm", align="latest"),  # type: ignore[arg-type]
        lambda: CameraSpec("static", 0, 64),
        lambda: TaskSpec("lift", "cup_z", math.nan),
        lambda: Spec(rate_hz=math.inf),
    ],
)
def test_code_cannot_make_one_either(make: Any) -> None:
    with pytest.raises(InputError, match="Spec: "):
        make()


@pytest.mark.parametrize(("rate_hz", "limit_s"), [(30.0, 0.2), (1000.0, 0.2), (15.0, 0.2), (10.0, 0.25), (5.0, 0.5)])
def test_rows_bridge_a_fifth_of_a_second_and_at_slow_rates_one_lost_message(rate_hz: float, limit_s: float) -> None:
    assert Spec(rate_hz=rate_hz).max_gap_s == pytest.approx(limit_s)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "robot/spec: not JSON"),
        ("[" * 100_000, "robot/spec: not JSON"),
        ('{"version": NaN}', "robot/spec: not JSON"),
        ('{"version": ' + "1" * 5000 + "}", "robot/spec: "),
        (
            json.dumps(Spec().to_json()) + " " * (1 << 20),
            "robot/spec: a Spec of 10.* characters; at most 1048576 are read",
        ),
        ("[]", "robot/spec: not a Spec"),
    ],
)
def test_what_a_robot_says_of_itself_that_is_no_spec_is_one_line(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        Spec.parse(text, "robot/spec")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_a_spec_that_is_too_long_is_no_more_read_from_a_file_than_from_a_topic(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(Spec().to_json()) + " " * (1 << 20))
    with pytest.raises(InputError, match=r"spec\.json: cannot be read \(larger than 1048576 bytes\)"):
        Spec.load(tmp_path / "spec.json")
