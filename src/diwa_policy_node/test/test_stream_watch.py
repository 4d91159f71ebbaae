"""Which streams live, which cameras are stuck, and what a hand-over feels like."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from diwa_policy_node.skills.stream_watch import StampRate, StreamWatch, StuckCameras
from diwa_runtime.logs.seams import measure_seams
from diwa_runtime.spec import Spec

SECOND = 1_000_000_000


def test_ages_and_rates_go_by_receipt() -> None:
    watch = StreamWatch(["a", "b"])
    watch.rates_hz(0)
    for tick in range(30):
        watch.note("a", tick * SECOND // 30)
    assert watch.rates_hz(SECOND) == {"a": 30.0, "b": 0.0}
    assert watch.silent(SECOND, 0.1) == ["b has never come"]
    assert watch.silent(2 * SECOND, 0.1) == ["a silent for 1.03 s", "b has never come"]


@pytest.mark.parametrize(
    ("steps_ms", "rate_hz"),
    [
        ([50] * 9, None),
        ([50] * 10, 20.0),
        ([50, 0] * 10, 20.0),
        ([50] * 20 + [5000], 20.0),
        ([10] * 30 + [50] * 30, 20.0),
        ([10] * 20 + [-9000] + [50] * 10, 20.0),
        ([50] * 20 + [-9000], None),
    ],
    ids=["too few", "enough", "repeated", "a gap", "the last alone", "set back", "set back just now"],
)
def test_a_rate_by_stamps_is_that_of_the_last_intervals(steps_ms: list[int], rate_hz: float | None) -> None:
    rate = StampRate()
    for stamp_ms in np.cumsum([10_000, *steps_ms]):
        rate.note(int(stamp_ms) * 1_000_000)
    assert rate.rate_hz == rate_hz


def feed(cameras: StuckCameras, pictures: list[bytes], speed_m_s: float) -> list[str]:
    found = []
    for tick, picture in enumerate(pictures):
        cameras.moved_to(np.array([speed_m_s * tick / 30, 0.0, 0.0]))
        reason = cameras.objection("camera/static", SimpleNamespace(data=picture), tick * SECOND // 30)
        if reason:
            found.append(reason)
    return found


@pytest.mark.parametrize(
    ("pictures", "speed", "stuck"),
    [
        ([b"same"] * 30, 0.1, True),
        ([b"same"] * 30, 0.0, False),
        ([bytes([tick]) for tick in range(30)], 0.1, False),
        ([b"same"] * 10, 0.5, False),
        ([b"same"] * 12 + [b"other"] * 12, 0.1, False),
    ],
    ids=["stuck", "nothing moves", "live", "not for long", "changes in time"],
)
def test_f21_a_camera_with_one_picture_while_the_arm_moves_is_stuck(
    pictures: list[bytes], speed: float, stuck: bool
) -> None:
    found = feed(StuckCameras(after_s=0.5, moved_m=0.03), pictures, speed)
    assert bool(found) is stuck
    if stuck:
        assert "camera/static shows one and the same picture for 0.5 s while the arm moved 5 cm" in found[0]


def test_seams_are_measured_where_chunks_begin_and_nowhere_else() -> None:
    actions = np.zeros((8, 7), np.float32)
    actions[:4, 0], actions[4:, 0] = 0.1, 0.6  # steady, a jump at the hand-over, steady
    begins = np.array([True, False, False, False] * 2)
    seams = measure_seams(actions, begins, Spec())
    assert seams.count == 1
    assert seams.at_seams.velocity_m_s == pytest.approx(0.5 * 0.02 * 30)
    assert seams.at_seams.jerk_m_s3 == pytest.approx(0.5 * 0.02 * 30**3)
    assert seams.within.velocity_m_s == pytest.approx(0.1 * 0.02 * 30), "the start from standstill"
    nothing = measure_seams(np.zeros((0,)), np.zeros(0), Spec())
    assert (nothing.count, nothing.within.position_m) == (0, 0.0)
