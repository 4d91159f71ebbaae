"""A stream says in what its values are and to which motion an action belongs; rows say the same of every robot."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from diwa_runtime.errors import InputError
from diwa_runtime.rows.assembler import Assembler, assemble
from diwa_runtime.rows.live import LiveAssembler
from diwa_runtime.rows.row import stack_rows
from diwa_runtime.spec import ActionScale, Spec
from diwa_runtime.stream_spec import DEFAULT_STREAMS, StreamSpec

SECOND = 1_000_000_000
PERIOD = SECOND // 30
COUNT = 20
ARM = StreamSpec("proprio", "arm/pose", "x/msg/Pose", ("values",))
MOTION = StreamSpec("action", "arm/action", "x/msg/Action", ("motion",), align="integrate")
GRIPPER = StreamSpec("action", "arm/action", "x/msg/Action", ("grip",), align="hold")
NAMES = ("tcp_x", "tcp_y", "tcp_z")


def spec_of(motion: StreamSpec = MOTION, arm: StreamSpec = ARM, gripper: StreamSpec = GRIPPER) -> Spec:
    streams = (arm, motion, gripper)
    return Spec(mode="vision", cameras=(), proprio=NAMES, scene=(), tasks=(), streams=streams)


def rows_of(spec: Spec, stamps: Any, poses: Any, action_stamps: Any, motions: Any, grips: Any) -> Any:
    actions = [(action_stamps, motions), (action_stamps, np.reshape(grips, (-1, 1)))]
    (rows,) = assemble(spec, [(stamps, poses), *actions]).segments
    return rows


def regular(count: int = COUNT) -> np.ndarray:
    return SECOND + PERIOD * np.arange(count)


def actions(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (COUNT, 6)), rng.choice([-1.0, 1.0], COUNT)


@pytest.mark.parametrize(
    ("scale", "one"),
    [("SI", (0.02, 0.05)), ("normalised", (1.0, 1.0)), ("mm", (20.0, 50.0)), (0.1, (0.2, 0.5)), (1.0, (0.02, 0.05))],
)
def test_an_action_at_full_speed_is_one_in_whatever_units_it_comes(scale, one):
    normalised, grips = actions()
    said = normalised * np.repeat(one, 3)

    rows = rows_of(spec_of(replace(MOTION, scale=scale)), regular(), np.zeros((COUNT, 3)), regular(), said, grips)

    np.testing.assert_allclose(rows.action[:-1, :6], normalised[1:], atol=1e-6)
    np.testing.assert_array_equal(rows.action[:-1, 6], grips[1:])


def test_translation_and_rotation_may_come_in_units_of_their_own():
    parts = (replace(MOTION, scale="mm"), replace(MOTION, select=("turn",), scale="deg"))
    spec = Spec(mode="vision", cameras=(), proprio=NAMES, scene=(), tasks=(), streams=(ARM, *parts, GRIPPER))
    normalised, grips = actions()
    way, turn = normalised[:, :3] * 20.0, np.degrees(normalised[:, 3:] * 0.05)

    streams = [(regular(), np.zeros((COUNT, 3))), (regular(), way), (regular(), turn), (regular(), grips[:, None])]
    (rows,) = assemble(spec, streams).segments

    np.testing.assert_allclose(rows.action[:-1, :6], normalised[1:], atol=1e-6)


def test_a_normalised_stream_beside_one_in_si_is_the_only_one_that_is_not_divided():
    parts = (MOTION, replace(MOTION, select=("turn",), scale="normalised"), replace(GRIPPER, scale="normalised"))
    spec = Spec(mode="vision", cameras=(), proprio=NAMES, scene=(), tasks=(), streams=(ARM, *parts))
    normalised, grips = actions()

    streams = [
        (regular(), np.zeros((COUNT, 3))), (regular(), normalised[:, :3] * 0.02), (regular(), normalised[:, 3:]),
        (regular(), grips[:, None]),
    ]  # fmt: skip
    (rows,) = assemble(replace(spec, action_scale=ActionScale(0.02, 0.5)), streams).segments

    np.testing.assert_allclose(rows.action[:-1, :6], normalised[1:], atol=1e-6)
    np.testing.assert_array_equal(rows.action[:-1, 6], grips[1:])


@pytest.mark.parametrize("closed_open", [(0.0, 1.0), (1.0, -1.0), (0.0, 0.08), (255.0, 0.0)])
def test_a_gripper_is_closed_and_opened_by_whatever_values_its_messages_have(closed_open):
    motions, grips = actions()
    said = np.where(grips > 0, closed_open[1], closed_open[0]) + 0.1 * np.ptp(closed_open) * grips
    gripper = replace(GRIPPER, closed_open=closed_open)
    rows = rows_of(spec_of(gripper=gripper), regular(), np.zeros((COUNT, 3)), regular(), motions, said)
    np.testing.assert_array_equal(rows.action[:-1, 6], grips[1:])


def test_a_gripper_s_message_without_a_number_is_a_fault_like_any_other_that_cannot_be_used():
    motions, grips = actions()
    assembler = Assembler(spec_of(gripper=replace(GRIPPER, closed_open=(0.0, 1.0))))
    for number, stamp in enumerate(regular()):
        told = np.empty(0) if number == 5 else grips[number : number + 1]
        for index, value in enumerate((np.zeros(3), motions[number], told)):
            assembler.feed(index, int(stamp), value)

    assert [(fault.topic, fault.stamp) for fault in assembler.faults] == [(GRIPPER.topic, regular()[5])]
    assert "empty" in assembler.faults[0].reason
    assert len(assembler.rows(final=True)) >= COUNT - 2


def test_an_action_of_seven_numbers_has_its_gripper_last():
    whole = replace(MOTION, select=("all",), align="hold", scale="mm", closed_open=(0.0, 1.0))
    spec = Spec(mode="vision", cameras=(), proprio=NAMES, scene=(), tasks=(), streams=(ARM, whole))
    motions, grips = actions()
    said = np.column_stack([motions * np.repeat((20.0, 50.0), 3), grips > 0])
    (rows,) = assemble(spec, [(regular(), np.zeros((COUNT, 3))), (regular(), said)]).segments
    np.testing.assert_allclose(rows.action[:-1], np.column_stack([motions, grips])[1:], atol=1e-6)
    np.testing.assert_array_equal(said[:, 6], grips > 0)  # what was fed is left as it was


def test_what_is_observed_is_in_si_too():
    poses = np.random.default_rng(1).uniform(-500, 500, (COUNT, 3))
    motions, grips = actions()
    rows = rows_of(spec_of(arm=replace(ARM, scale="mm")), regular(), poses, regular(), motions, grips)
    np.testing.assert_allclose(rows.values["proprio"], poses / 1000, rtol=1e-6)


@pytest.mark.parametrize(("applies", "first"), [("before", 1), ("after", 0)])
@pytest.mark.parametrize("align", ["integrate", "hold"])
def test_an_action_stamped_as_an_observation_belongs_to_the_motion_before_it_or_after_it(applies, first, align):
    motions, grips = actions()
    spec = spec_of(
        replace(MOTION, scale="normalised", applies=applies, align=align), gripper=replace(GRIPPER, applies=applies)
    )

    rows = rows_of(spec, regular(), np.zeros((COUNT, 3)), regular(), motions, grips)

    assert len(rows) == COUNT, "the first action follows the first row"
    np.testing.assert_array_equal(rows.action[:-1, :6], motions[first : COUNT - 1 + first].astype(np.float32))
    np.testing.assert_array_equal(rows.action[:-1, 6], grips[first : COUNT - 1 + first])


def test_of_several_actions_a_row_none_is_lost_and_each_counts_for_the_row_that_it_follows():
    stamps = SECOND + PERIOD // 4 * np.arange(4 * COUNT)
    motions = np.random.default_rng(2).uniform(-1, 1, (4 * COUNT, 6))
    spec = spec_of(replace(MOTION, scale="normalised", applies="after"), gripper=replace(GRIPPER, applies="after"))
    grips = np.tile([1.0, -1.0, -1.0, -1.0], COUNT)

    rows = rows_of(spec, SECOND + 4 * (PERIOD // 4) * np.arange(COUNT), np.zeros((COUNT, 3)), stamps, motions, grips)

    expected = motions.reshape(COUNT, 4, 6).sum(1)[:-1]
    np.testing.assert_allclose(rows.action[:-1, :6], expected, atol=1e-5)
    np.testing.assert_array_equal(rows.action[:-1, 6], -1.0)


def pose(stamp: int, values: Any) -> Any:
    return SimpleNamespace(header=header(stamp), values=values)


def action(stamp: int, motion: Any, grip: float) -> Any:
    return SimpleNamespace(header=header(stamp), motion=motion, grip=grip)


def header(stamp: int) -> Any:
    return SimpleNamespace(stamp=SimpleNamespace(sec=int(stamp) // SECOND, nanosec=int(stamp) % SECOND))


AFTER = spec_of(replace(MOTION, scale="normalised", applies="after"), gripper=replace(GRIPPER, applies="after"))


def test_live_a_row_does_not_wait_for_the_action_that_answers_it():
    """Else a policy whose command is that action would wait for itself."""
    live, made = LiveAssembler(AFTER, ("proprio",)), []
    motions, grips = actions()
    live.feed("arm/action", action(SECOND - PERIOD, motions[0], 1.0), 0)
    for row in range(COUNT):
        stamp = int(regular()[row])
        rows = live.feed("arm/pose", pose(stamp, np.zeros(3)), stamp)
        assert [one.stamp for one in rows] == [stamp], "as soon as the pose is there"
        made += rows
        assert not live.feed("arm/action", action(stamp, motions[row], grips[row]), stamp + 5_000_000)
    assert live.counts()["missing"] == 0
    np.testing.assert_array_equal([one.executed[:6] for one in made[1:]], motions[:-1].astype(np.float32))
    np.testing.assert_array_equal([one.executed[6] for one in made[1:]], grips[:-1])


def test_live_a_row_waits_for_the_action_that_answers_the_one_before():
    live = LiveAssembler(AFTER, ("proprio",))
    motions, _ = actions()
    first, second = (int(stamp) for stamp in regular(2))
    live.feed("arm/action", action(first - PERIOD, motions[0], 1.0), 0)
    assert len(live.feed("arm/pose", pose(first, np.zeros(3)), 0)) == 1
    assert not live.feed("arm/pose", pose(second, np.zeros(3)), 0)
    (row,) = live.feed("arm/action", action(first, motions[1], -1.0), 0)
    np.testing.assert_array_equal(row.executed, np.append(motions[1], -1.0).astype(np.float32))


@settings(max_examples=40, phases=(Phase.reuse, Phase.generate))
@given(
    rate=st.sampled_from([10, 20, 30, 60, 100]), exact=st.booleans(), delay_s=st.floats(0, 0.05),
    lost=st.sampled_from([0.0, 0.05]), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_live_gives_the_same_rows_as_the_whole_bag(rate, exact, delay_s, lost, seed):
    """Actions stamped as the poses, or at any rate; delayed, and some of them lost."""
    assume(not (exact and rate > 30 and lost))  # by the first messages it may look slower than it is
    rng = np.random.default_rng(seed)
    spec = replace(AFTER, rate_hz=min(rate, 30)) if exact else AFTER
    arrivals = []
    for topic, period in (("arm/pose", SECOND // min(rate, 30) if exact else PERIOD), ("arm/action", SECOND // rate)):
        stamps = SECOND + period * np.arange(3 * SECOND // period)
        if not exact:
            stamps += rng.integers(0, 2_000_000, len(stamps))
        stamps = stamps[rng.random(len(stamps)) >= lost]
        received = np.maximum.accumulate(stamps + (rng.random(len(stamps)) * delay_s * SECOND).astype(np.int64))
        for stamp, at in zip(stamps, received, strict=True):
            message = pose(stamp, rng.standard_normal(3))
            if topic == "arm/action":
                message = action(stamp, rng.uniform(-1, 1, 6), float(rng.choice([-1.0, 1.0])))
            arrivals.append((int(at), topic, message))
    arrivals.sort(key=lambda arrival: arrival[0])

    live = LiveAssembler(spec, ("proprio",))
    made = [row for at, topic, message in arrivals for row in live.feed(topic, message, at)] + live.finish()
    streams = []
    for stream in Assembler(spec, ("proprio",)).streams:
        found = [m for _, topic, m in arrivals if topic == stream.topic]
        read = {"values": lambda m: m.values, "motion": lambda m: m.motion, "grip": lambda m: np.array([m.grip])}
        times = [m.header.stamp.sec * SECOND + m.header.stamp.nanosec for m in found]
        streams.append((times, [read[stream.select[0]](m) for m in found]))
    whole = assemble(spec, streams, ("proprio",))

    assert sum(map(len, whole.segments)) == len(made) > 10
    segments = np.split(np.array(made, dtype=object), [i for i, row in enumerate(made) if row.first][1:])
    for ours, theirs in zip([stack_rows(list(segment)) for segment in segments], whole.segments, strict=True):
        np.testing.assert_array_equal(ours.stamp, theirs.stamp)
        np.testing.assert_array_equal(ours.action, theirs.action)


def test_a_file_says_units_and_what_an_action_applies_to_where_they_are_not_as_before():
    plain = json.loads(json.dumps(Spec().to_json()))
    assert {"scale", "applies", "closed_open"}.isdisjoint(key for stream in plain["streams"] for key in stream)
    foreign = spec_of(replace(MOTION, scale=0.001, applies="after"), gripper=replace(GRIPPER, closed_open=(0, 1)))
    ours = Spec.from_json({"version": 1, **foreign.to_json()})
    assert (ours.streams[1].scale, ours.streams[1].applies) == (0.001, "after")
    assert ours.streams[2].closed_open == (0.0, 1.0)
    assert Spec.from_json(ours.to_json()) == ours
    assert Spec.from_json(plain).streams == DEFAULT_STREAMS


@pytest.mark.parametrize(
    ("stream", "changes", "message"),
    [
        (MOTION, {"scale": "inch"}, "scale of stream 'arm/action' is 'inch', must be one of SI, mm, deg, normalised"),
        (MOTION, {"scale": 0.0}, "scale of stream 'arm/action' must be positive"),
        (MOTION, {"scale": math.inf}, "must be from 1e-09 to 1e+09"),
        (MOTION, {"applies": "since"}, "applies of stream 'arm/action' is 'since', must be one of before, after"),
        (ARM, {"applies": "after"}, "'proprio' applies to no motion, only actions do; leave 'applies' out"),
        (ARM, {"scale": "normalised"}, "only actions can be normalised, 'proprio' needs a unit or a factor"),
        (GRIPPER, {"closed_open": (1.0, 1.0)}, "closed_open of stream 'arm/action' must be two different numbers"),
        (GRIPPER, {"closed_open": (math.nan, 1.0)}, "must be two different numbers, not nan and 1"),
        (MOTION, {"closed_open": (0.0, 1.0)}, "closed_open is for a gripper's command"),
        (ARM, {"field": "scene", "closed_open": (0.0, 1.0)}, "closed_open is for a gripper's command"),
        (ARM, {"select": (), "scale": "mm"}, "pictures have no scale"),
        (ARM, {"select": ("a", "b|euler"), "scale": "mm"}, "angles are radians, not 'mm'; give them their own stream"),
    ],
)
def test_units_that_cannot_be_are_refused_with_the_stream(stream, changes, message):
    with pytest.raises(InputError) as caught:
        replace(stream, **changes)
    assert message in str(caught.value)


def test_in_a_file_a_unit_that_is_none_is_named_with_those_that_are():
    plain = spec_of().to_json()
    plain["streams"][1]["scale"] = "milimetre"
    with pytest.raises(InputError, match=r"streams\[1\]: scale: 'milimetre' is not a number or one of SI, mm, deg"):
        Spec.from_json(plain, "lab.json")
