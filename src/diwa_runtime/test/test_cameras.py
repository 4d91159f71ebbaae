"""What pictures come from: read off messages, compared where both sides know it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest

from diwa_runtime.cameras import LONGEST, CameraSource, joined, unlike
from diwa_runtime.robot_messages import compressed_image

PICTURE = np.zeros((24, 32, 3), np.uint8)
REAL = CameraSource("RealSense 1", "camera_static", "jpeg", 24, 32)


def jpeg() -> SimpleNamespace:
    fields = compressed_image(PICTURE, 0, "static")
    return SimpleNamespace(**{**fields, "header": SimpleNamespace(**fields["header"])})


def test_a_message_says_frame_encoding_and_size_and_its_node_the_device() -> None:
    assert CameraSource.of(jpeg()) == replace(REAL, device="")
    assert CameraSource.of(jpeg()).on("RealSense 1") == REAL
    raw = SimpleNamespace(header=SimpleNamespace(frame_id="x"), encoding="bgr8", height=24, width=32, data=b"")
    assert CameraSource.of(raw) == CameraSource("", "x", "bgr8", 24, 32)


def test_a_damaged_picture_and_a_strange_text_are_no_error() -> None:
    message = jpeg()
    message.data = message.data[:5]
    assert CameraSource.of(message) == CameraSource("", "camera_static")
    assert CameraSource().on("a\nb\0" + 1000 * "c").device == "ab" + (LONGEST - 2) * "c"


@pytest.mark.parametrize(
    "change", [{"device": "MuJoCo"}, {"frame": "x"}, {"encoding": "png"}, {"height": 48}, {"width": 48}]
)
def test_what_both_know_and_is_another_is_said_with_both(change: dict) -> None:
    now = replace(REAL, **change)
    assert unlike("static", [REAL], now) == f"camera 'static': recorded from {REAL}; now it is {now}"
    assert not unlike("static", [REAL, now], now), "one of what was recorded will do"


def test_what_one_side_does_not_know_is_not_compared() -> None:
    assert not unlike("static", [REAL], CameraSource("", "", "jpeg", 24, 32))
    assert not unlike("static", [replace(REAL, device="")], REAL)
    assert not unlike("static", [], REAL)


def test_sources_of_several_recordings_are_joined_each_once() -> None:
    other = replace(REAL, device="RealSense 2")
    assert joined([{"static": REAL}, {"static": other}, {"static": REAL, "wrist": REAL}]) == {
        "static": (REAL, other),
        "wrist": (REAL,),
    }


def test_it_comes_back_from_json_and_nothing_else_does() -> None:
    assert CameraSource.from_json(json.loads(json.dumps(asdict(REAL)))) == REAL
    for wrong in (
        {},
        {**asdict(REAL), "width": "32"},
        {**asdict(REAL), "device": "a\nb"},
        [],
        {**asdict(REAL), "x": 1},
    ):
        with pytest.raises(ValueError):
            CameraSource.from_json(wrong)
