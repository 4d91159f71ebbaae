"""May an episode start from here? Figures against hand-made statistics."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from toy_bundle import toy_manifest

from diwa_policy_node.skills.start_gate import GateLimits, furthest, objection, picture_difference
from diwa_runtime.bundle.manifest import FieldStatistics, ImageStatistics
from diwa_runtime.spec import CameraSpec, Spec

NAMES = ("tcp_x", "tcp_yaw", "joint_1")


def starts(low: tuple[float, ...], high: tuple[float, ...]) -> FieldStatistics:
    return FieldStatistics.of(np.array([low, high]))


@pytest.mark.parametrize(
    ("values", "feature", "distance"),
    [
        ((0.1, 0.0, 0.5), 0, 0.0),
        ((0.4, 0.0, 0.5), 0, 1.0),
        ((-0.2, 0.0, 0.5), 0, 1.0),
        ((0.1, 0.0, 0.6), 2, 5.0),
    ],
    ids=["within", "a range above", "a range below", "a feature that never varied"],
)
def test_distance_is_in_ranges_of_the_training_starts(values: tuple[float, ...], feature: int, distance: float) -> None:
    index, found = furthest(np.array(values), starts((0.0, -0.1, 0.5), (0.2, 0.1, 0.5)), NAMES)
    assert found == pytest.approx(distance)
    if distance:
        assert index == feature


@pytest.mark.parametrize("yaw", [math.pi + 0.05, -math.pi + 0.05, 3 * math.pi + 0.05])
def test_angles_are_compared_the_short_way_round(yaw: float) -> None:
    _, distance = furthest(np.array([0.0, yaw, 0.0]), starts((0.0, 3.0, 0.0), (0.0, 3.1, 0.0)), NAMES)
    assert distance == pytest.approx((math.pi + 0.05 - 3.1) / 0.1, rel=1e-6)


def test_starts_about_a_half_turn_are_near_each_other_and_nothing_else_is() -> None:
    """A gripper that points down has a roll of about pi, which is told as 3.1 as often as as -3.1."""
    rolls = np.array([math.pi - 0.05, -math.pi + 0.05, math.pi - 0.02])
    training = FieldStatistics.of(np.stack([np.zeros(3), rolls, np.zeros(3)], 1), NAMES)
    assert training.maximum[1] - training.minimum[1] == pytest.approx(0.1)
    for roll in (math.pi, -math.pi, math.pi - 0.04, -math.pi + 0.04):
        assert furthest(np.array([0.0, roll, 0.0]), training, NAMES)[1] == 0.0
    for roll in (0.0, 2.5, -2.5):
        assert furthest(np.array([0.0, roll, 0.0]), training, NAMES)[1] > 2.0


def scene_picture(shift: int, brightness: float = 0.0, seed: int = 0) -> np.ndarray:
    """A table full of things, seen by a camera that was moved sideways by so many of 64 pixels."""
    things = np.random.default_rng(9).uniform(40, 220, (8, 16, 3)).repeat(8, axis=0).repeat(8, axis=1)
    noise = np.random.default_rng(seed).normal(0, 6, (64, 64, 3))
    return np.clip(things[:, 20 + shift : 84 + shift] + brightness + noise, 0, 255).astype(np.uint8)


def test_a_camera_that_was_moved_looks_different_and_one_that_was_not_does_not() -> None:
    training = ImageStatistics.of([scene_picture(0, 4.0 * (seed % 3 - 1), seed) for seed in range(20)])
    same = [picture_difference(scene_picture(0, seed=100 + seed), training) for seed in range(10)]
    moved = [picture_difference(scene_picture(shift, seed=1), training) for shift in (-6, 4, 6)]
    assert max(same) < GateLimits().camera < min(moved)


def test_a_moved_camera_is_refused_with_its_name_and_the_figure() -> None:
    spec = Spec(mode="vision", cameras=(CameraSpec("static", 64, 64),))
    seen = ImageStatistics.of([scene_picture(0, seed=seed) for seed in range(20)])
    manifest = replace(toy_manifest(spec, 4), camera_starts={"static": seen})
    manifest = replace(manifest, proprio_starts=FieldStatistics.of(np.zeros((2, 15))))
    observation = {"proprio": np.zeros(15, np.float32), "static": scene_picture(0, seed=50)}
    assert objection(manifest, observation, GateLimits()) is None
    observation["static"] = np.zeros((64, 64, 3), np.uint8)
    found = objection(manifest, observation, GateLimits())
    assert found is not None
    assert "camera 'static'" in found
    assert "allow_moved_camera" in found
    assert objection(manifest, observation, GateLimits(allow_moved_camera=True)) is None


@pytest.mark.parametrize("moved", ["static", "wrist"])
def test_each_camera_is_looked_at(moved: str) -> None:
    spec = Spec(mode="vision", cameras=(CameraSpec("static", 16, 16), CameraSpec("wrist", 16, 16)))
    black = ImageStatistics((0.0,) * 768, (0.0,) * 768)
    manifest = replace(toy_manifest(spec, 4), camera_starts={"static": black, "wrist": black})
    manifest = replace(manifest, proprio_starts=FieldStatistics.of(np.zeros((2, 15))))
    pictures = {name: np.full((16, 16, 3), 255 * (name == moved), np.uint8) for name in ("static", "wrist")}
    found = objection(manifest, {"proprio": np.zeros(15, np.float32), **pictures}, GateLimits())
    assert found is not None
    assert f"camera {moved!r}" in found


@pytest.mark.parametrize(
    ("limits", "difference", "refused"),
    [
        (GateLimits(), 1.05, False),  # 0.92 is the most that an unmoved camera gave, 1.43 the least of a moved one
        (GateLimits(), 1.15, True),
        (GateLimits(camera=2.0), 1.95, False),
        (GateLimits(camera=2.0), 2.05, True),
    ],
    ids=str,
)
def test_the_camera_s_limit_is_where_it_is_said_to_be(limits: GateLimits, difference: float, refused: bool) -> None:
    spec = Spec(mode="vision", cameras=(CameraSpec("static", 16, 16),))
    seen = ImageStatistics((20.0,) * 768, (92.0,) * 768)  # and 8 grey levels that are always added: 100
    manifest = replace(toy_manifest(spec, 4), camera_starts={"static": seen})
    manifest = replace(manifest, proprio_starts=FieldStatistics.of(np.zeros((2, 15))))
    picture = np.full((16, 16, 3), 20 + round(100 * difference), np.uint8)
    found = objection(manifest, {"proprio": np.zeros(15, np.float32), "static": picture}, limits)
    assert (found is not None) == refused


@pytest.mark.parametrize(
    ("limits", "ranges", "refused"),
    [(GateLimits(), 1.95, False), (GateLimits(), 2.05, True), (GateLimits(proprio=4.0), 3.9, False)],
    ids=str,
)
def test_the_arm_s_limit_is_where_it_is_said_to_be(limits: GateLimits, ranges: float, refused: bool) -> None:
    low = np.zeros(15)
    manifest = replace(toy_manifest(Spec(), 4), proprio_starts=FieldStatistics.of(np.stack([low, low + 0.1])))
    proprio = np.zeros(15, np.float32)
    proprio[1] = 0.1 * (1 + ranges)
    assert (objection(manifest, {"proprio": proprio}, limits) is not None) == refused
