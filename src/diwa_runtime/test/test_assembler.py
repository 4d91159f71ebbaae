"""The assembler: which messages become rows, what was executed between them, and live = from the bag, bit for bit."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from diwa_runtime.errors import InputError
from diwa_runtime.rows.assembler import Assembler, assemble
from diwa_runtime.rows.buffer import Buffer
from diwa_runtime.rows.images import decode_image, encode_jpeg
from diwa_runtime.rows.live import LiveAssembler
from diwa_runtime.rows.row import stack_rows
from diwa_runtime.rows.selection import Selector
from diwa_runtime.rows.streams import stamp_of
from diwa_runtime.spec import CameraSpec, Spec
from diwa_runtime.stream_spec import StreamSpec

SECOND = 1_000_000_000
PERIOD = SECOND // 30
SPEC = Spec()
VISION = Spec(mode="vision", cameras=(CameraSpec("static", 4, 4), CameraSpec("wrist", 4, 4)))


def robot_stream(stamps, seed=0):
    """Values of the Spec's three streams of robot/state: proprio, accepted motion, gripper."""
    rng = np.random.default_rng(seed)
    proprio = rng.standard_normal((len(stamps), 15))
    accepted = rng.uniform(-0.02, 0.02, (len(stamps), 6))
    gripper = rng.choice([-1.0, 1.0], (len(stamps), 1))
    return proprio, accepted, gripper


def assemble_state(stamps, scene_stamps=None, seed=0):
    proprio, accepted, gripper = robot_stream(stamps, seed)
    scene_stamps = stamps if scene_stamps is None else scene_stamps
    scene = np.random.default_rng(seed + 1).standard_normal((len(scene_stamps), 24))
    streams = [(stamps, proprio), (scene_stamps, scene), (stamps, accepted), (stamps, gripper)]
    return assemble(SPEC, streams), proprio, scene, accepted, gripper


def regular(count, start=SECOND, period=PERIOD):
    return start + period * np.arange(count)


def test_a_sensor_at_control_rate_gives_a_row_a_message():
    stamps = regular(50)

    assembly, proprio, scene, _, _ = assemble_state(stamps)

    (rows,) = assembly.segments
    np.testing.assert_array_equal(rows.stamp, stamps)
    np.testing.assert_array_equal(rows.values["proprio"], proprio.astype(np.float32))
    np.testing.assert_array_equal(rows.values["scene"], scene.astype(np.float32))
    assert assembly.held == 0
    assert not assembly.missing


def test_the_action_is_what_was_accepted_after_the_row():
    assembly, _, _, accepted, gripper = assemble_state(regular(20))

    action = assembly.segments[0].action

    np.testing.assert_array_equal(action[:-1, :3], (accepted[1:, :3] / 0.02).astype(np.float32))
    np.testing.assert_array_equal(action[:-1, 3:6], (accepted[1:, 3:] / 0.05).astype(np.float32))
    np.testing.assert_array_equal(action[:-1, 6:], gripper[1:].astype(np.float32))
    np.testing.assert_array_equal(action[-1], [0, 0, 0, 0, 0, 0, gripper[-1, 0]])


@settings(max_examples=40)
@given(
    period=st.floats(0.97, 1.03),
    jitter=st.lists(st.integers(-4_000_000, 4_000_000), min_size=20, max_size=120),
    start=st.integers(0, 2**60),
)
@example(period=0.97, jitter=[0] * 39 + [4_000_000, -4_000_000], start=0)
def test_a_sensor_slightly_off_with_jitter_gives_a_row_a_message(period, jitter, start):
    stamps = start + SECOND + np.round(np.arange(len(jitter)) * PERIOD * period).astype(np.int64) + np.array(jitter)

    assembly = assemble_state(stamps)[0]

    (rows,) = assembly.segments
    np.testing.assert_array_equal(rows.stamp, stamps)
    assert assembly.held == 0


@pytest.mark.parametrize("rate", [75, 100, 250, 1000])
def test_a_faster_sensor_gives_rows_at_control_rate_and_loses_no_motion(rate):
    stamps = regular(10 * rate, period=SECOND // rate)

    assembly, _, _, accepted, _ = assemble_state(stamps)

    (rows,) = assembly.segments
    assert abs(len(rows) - 300) <= 2
    assert np.diff(rows.stamp).max() <= PERIOD + SECOND / rate
    last = np.searchsorted(stamps, rows.stamp[-1])
    np.testing.assert_allclose(rows.action[:-1, :3].sum(0) * 0.02, accepted[1 : last + 1, :3].sum(0), atol=1e-5)


def test_a_short_gap_is_held_and_counted():
    stamps = np.delete(regular(30), [10, 11, 12])

    assembly, proprio, _, accepted, _ = assemble_state(stamps)

    (rows,) = assembly.segments
    assert assembly.held == 3
    assert rows.held.nonzero()[0].tolist() == [10, 11, 12]
    np.testing.assert_allclose(np.diff(rows.stamp), PERIOD, atol=2)
    np.testing.assert_array_equal(rows.values["proprio"][9:13], np.tile(proprio[9].astype(np.float32), (4, 1)))
    np.testing.assert_array_equal(rows.values["proprio"][13], proprio[10].astype(np.float32))
    np.testing.assert_array_equal(rows.action[9:12, :6], np.zeros((3, 6)))
    np.testing.assert_array_equal(rows.action[12, :3], (accepted[10, :3] / 0.02).astype(np.float32))


def test_a_gap_of_more_than_a_fifth_of_a_second_starts_a_new_segment():
    stamps = np.concatenate([regular(10), regular(10, start=2 * SECOND)])

    assembly, _, _, _, gripper = assemble_state(stamps)

    first, second = assembly.segments
    np.testing.assert_array_equal(first.stamp, stamps[:10])
    np.testing.assert_array_equal(second.stamp, stamps[10:])
    np.testing.assert_array_equal(first.action[-1], [0, 0, 0, 0, 0, 0, gripper[9, 0]])
    assert assembly.held == 0


@pytest.mark.parametrize("rate_hz", [30.0, 6.0])
@pytest.mark.parametrize(("beyond_ns", "segments"), [(0, 1), (1, 2)])
def test_the_longest_gap_that_is_held_is_the_specs(rate_hz, beyond_ns, segments):
    spec, period = Spec(rate_hz=rate_hz), round(SECOND / rate_hz)
    before = regular(10, period=period)
    gap = round(spec.max_gap_s * SECOND) + beyond_ns
    stamps = np.concatenate([before, regular(10, start=before[-1] + gap, period=period)])
    values = (*robot_stream(stamps), np.zeros((20, 24)))
    streams = [(stamps, values[0]), (stamps, values[3]), (stamps, values[1]), (stamps, values[2])]

    assembly = assemble(spec, streams)

    assert len(assembly.segments) == segments
    assert bool(assembly.held) is (segments == 1)


def test_what_is_missing_is_counted_by_ticks_however_fast_the_reference_is():
    stamps = regular(500, period=SECOND // 250)

    assembly = assemble_state(stamps, scene_stamps=np.delete(stamps, np.arange(100, 350)))[0]

    assert 20 <= assembly.missing["scene/state"] <= 30, "a second without it, but for what is near enough"


def test_a_message_that_stood_alone_is_no_fault_whatever_it_said():
    assembler = Assembler(SPEC)
    for stamp in [*regular(5), 3600 * SECOND, *regular(5, start=regular(6)[-1])]:
        assembler.feed(0, int(stamp), np.full(15, np.nan if stamp == 3600 * SECOND else 0.0))

    assert assembler.alone == {"robot/state": 1}
    assert not assembler.faults


def test_rows_start_when_every_stream_has_something():
    stamps = regular(30)

    assembly, _, scene, _, _ = assemble_state(stamps, scene_stamps=stamps[12:])

    (rows,) = assembly.segments
    np.testing.assert_array_equal(rows.stamp, stamps[12:])
    np.testing.assert_array_equal(rows.values["scene"][-1], scene[-1].astype(np.float32))
    assert not assembly.missing, "what comes before the first row is not missing from anything"


def test_a_slower_stream_gives_its_nearest_message():
    stamps = regular(60)
    scene_stamps = regular(20, start=SECOND - 5_000_000, period=3 * PERIOD)

    assembly, _, scene, _, _ = assemble_state(stamps, scene_stamps)

    (rows,) = assembly.segments
    nearest = np.abs(scene_stamps[None] - rows.stamp[:, None]).argmin(1)
    np.testing.assert_array_equal(rows.values["scene"], scene[nearest].astype(np.float32))


def test_a_stream_that_pauses_too_long_splits_and_is_counted_by_topic():
    stamps = regular(60)

    assembly = assemble_state(stamps, scene_stamps=np.delete(stamps, np.arange(20, 40)))[0]

    assert len(assembly.segments) == 2
    assert set(assembly.missing) == {"scene/state"}
    assert sum(len(rows) for rows in assembly.segments) + assembly.missing["scene/state"] == 60


def test_a_message_that_is_not_finite_is_a_fault_and_no_row():
    stamps = regular(30)
    proprio, accepted, gripper = robot_stream(stamps)
    proprio[7, 3] = np.nan
    scene = np.zeros((30, 24))

    assembly = assemble(SPEC, [(stamps, proprio), (stamps, scene), (stamps, accepted), (stamps, gripper)])

    assert [(fault.topic, fault.stamp) for fault in assembly.faults] == [("robot/state", stamps[7])]
    assert np.isfinite(assembly.segments[0].values["proprio"]).all()


def test_a_clock_that_goes_back_for_good_is_refused_with_topic_and_place():
    stamps = regular(30)
    stamps[17:] -= 10 * PERIOD

    with pytest.raises(InputError, match=r"robot/state: time goes backwards by 0\.26\d+ s at message 19"):
        assemble_state(stamps)


ELSEWHERE = [0, -5, 10**18, 2**63 + 5]


@pytest.mark.parametrize("place", [0, 12, 29], ids=["first", "in between", "last"])
@pytest.mark.parametrize("stamp", ELSEWHERE, ids=["unset", "negative", "far ahead", "beyond int64"])
def test_one_message_of_an_absurd_time_is_left_out(place, stamp):
    stamps = regular(30).astype(object)
    stamps[place] = stamp

    assembly = assemble_state(stamps, scene_stamps=regular(30))[0]

    kept = np.delete(regular(30), place)
    rows = np.concatenate([rows.stamp[~rows.held] for rows in assembly.segments])
    np.testing.assert_array_equal(rows, kept)
    if place == 12:
        assert assembly.alone["robot/state"] == 3, "one for each of the topic's streams"
        assert assembly.held == 1


def test_impossible_times_are_no_clock():
    stamps = regular(30).astype(object)
    stamps[[0, 1, 10, 11]] = [-7, -5, -7, -5]

    assembly = assemble_state(stamps, scene_stamps=regular(30))[0]

    assert (assembly.alone["robot/state"], assembly.late) == (3 * 4, {})
    np.testing.assert_array_equal(assembly.segments[0].stamp[:8], regular(30)[2:10])


def test_a_message_that_comes_after_a_later_one_is_left_out():
    stamps = regular(30)
    stamps[[12, 13]] = stamps[[13, 12]]

    assembly = assemble_state(stamps, scene_stamps=regular(30))[0]

    (rows,) = assembly.segments
    np.testing.assert_array_equal(rows.stamp[~rows.held], np.delete(regular(30), 12))
    assert (assembly.late["robot/state"], assembly.alone) == (3, {})


def test_a_jump_ahead_that_goes_on_is_a_gap_and_loses_nothing():
    stamps = np.concatenate([regular(10), regular(10, start=10**15)])
    late = np.insert(stamps, 11, stamps[9] - 5)  # of before the jump: it says nothing against it

    assembly = assemble_state(late, scene_stamps=stamps)[0]

    assert [len(rows) for rows in assembly.segments] == [10, 10]
    assert (assembly.late["robot/state"], assembly.alone) == (3, {})


def test_a_repeated_stamp_is_ignored_and_counted():
    stamps = regular(30)
    repeated = np.insert(stamps, 12, stamps[12])

    assembly = assemble_state(repeated)[0]

    np.testing.assert_array_equal(assembly.segments[0].stamp, stamps)
    assert assembly.repeated["robot/state"] == 3, "one for each of the topic's streams"


def test_values_that_do_not_fit_the_spec_are_refused():
    stamps = regular(5)
    proprio, accepted, gripper = robot_stream(stamps)

    with pytest.raises(InputError, match="gives 14 numbers for 'proprio', the Spec has 15"):
        assemble(SPEC, [(stamps, proprio[:, 1:]), (stamps, np.zeros((5, 24))), (stamps, accepted), (stamps, gripper)])


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_what_is_no_number_of_a_robot_is_a_fault(value):
    stamps = regular(5)
    proprio, accepted, gripper = robot_stream(stamps)
    proprio[2, 6] = value  # 1e39 is finite until it becomes a row's float32

    assembly = assemble(SPEC, [(stamps, proprio), (stamps, np.zeros((5, 24))), (stamps, accepted), (stamps, gripper)])

    assert [fault.stamp for fault in assembly.faults] == [stamps[2]]
    assert all(np.isfinite(rows.values["proprio"]).all() for rows in assembly.segments)


def test_a_row_is_as_old_as_its_message_that_came_too_early_for_its_stamp():
    """A slow stream is meant to be behind; one whose clock runs ahead shows what was before."""
    stamps, late = regular(9), 5_000_000
    for ahead in (0, 40_000_000):
        assembler = Assembler(SPEC)
        proprio, accepted, gripper = robot_stream(stamps)
        for row, stamp in enumerate(stamps):
            if row % 3 == 0:
                assembler.feed(1, int(stamp) + ahead, np.zeros(24), int(stamp) + late)
            for index, values in ((0, proprio), (2, accepted), (3, gripper)):
                assembler.feed(index, int(stamp), values[row], int(stamp) + late)
        rows = assembler.rows(final=True)
        assert len(rows) > 5
        ages = {row.stamp + late - row.received for row in rows}
        assert max(ages) == ahead
        assert min(ages) >= 0


def test_an_action_cannot_be_the_nearest_one():
    streams = (*SPEC.streams[:2], StreamSpec("action", "robot/state", "x/msg/Y", ("a",), align="nearest"))

    with pytest.raises(InputError, match="'integrate' or 'hold'"):
        Assembler(Spec(streams=streams))


def fed(assembler, stamps):
    proprio, accepted, gripper = robot_stream(stamps)
    for row, stamp in enumerate(stamps):
        for index, values in enumerate((proprio, np.zeros((len(stamps), 24)), accepted, gripper)):
            assembler.feed(index, int(stamp), values[row], int(stamp) + 5)
    return assembler.rows(final=True)


def test_a_held_row_was_received_with_the_row_that_it_repeats():
    rows = fed(Assembler(SPEC), np.delete(regular(30), [10, 11]))
    assert [row.received for row in rows if row.held] == [rows[9].received] * 2


def test_a_reset_begins_to_count_anew():
    assembler = Assembler(SPEC)
    fed(assembler, np.delete(regular(30), [10, 11]))
    assert assembler.held == 2
    assembler.reset()
    assert len(fed(assembler, regular(30))) == 30
    assert assembler.held == 0


def test_what_no_row_can_ask_for_any_more_is_forgotten():
    assembler = Assembler(SPEC)
    for second in range(40):
        fed(assembler, regular(30, start=SECOND + second * 30 * PERIOD))
    assert max(len(buffer.stamps) for buffer in assembler._buffers) < 300


def test_of_a_streams_messages_the_earlier_of_two_as_near_counts_and_one_as_old_as_allowed():
    buffer = Buffer()
    for stamp in range(0, 3010, 10):
        buffer.append(stamp, stamp, stamp)
    assert buffer.values[buffer.nearest(15, 5)] == 10
    assert buffer.nearest(15, 4) is None
    assert buffer.values[buffer.held(3020, 20)] == 3000
    assert buffer.held(3021, 20) is None
    buffer.forget_before(2995)
    assert buffer.values[buffer.held(2995, 20)] == 2990, "a row at that time can ask for it"


# --- live ------------------------------------------------------------------------------------------------------


def message_at(stamp, **fields):
    time = SimpleNamespace(sec=stamp // SECOND, nanosec=stamp % SECOND)
    return SimpleNamespace(header=SimpleNamespace(stamp=time), **fields)


def vector(values):
    return SimpleNamespace(**dict(zip("xyzw", map(float, values), strict=False)))


def robot_state(stamp, rng):
    quaternion = rng.standard_normal(4)
    return message_at(
        stamp,
        tcp_pose=SimpleNamespace(
            position=vector(rng.standard_normal(3)), orientation=vector(quaternion / np.linalg.norm(quaternion))
        ),
        joint_positions=rng.standard_normal(7),
        gripper_width=float(rng.uniform(0, 0.08)),
        gripper_command=float(rng.choice([-1, 1])),
        accepted_translation=vector(rng.uniform(-0.02, 0.02, 3)),
        accepted_rotation=vector(rng.uniform(-0.05, 0.05, 3)),
    )


def scene_state(stamp, rng):
    order = rng.permutation(24)
    return message_at(stamp, names=[SPEC.scene[index] for index in order], values=rng.standard_normal(24)[order])


def image(stamp, rng):
    return message_at(stamp, format="jpeg", data=encode_jpeg(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)))


@settings(max_examples=25, phases=(Phase.reuse, Phase.generate))  # to shrink takes minutes
@given(data=st.data(), rate=st.sampled_from([25, 30, 60, 100]), seed=st.integers(0, 2**32 - 1))
def test_live_gives_the_same_rows_as_the_whole_bag_bit_for_bit(data, rate, seed):
    """Messages come delayed and interleaved, in order within each topic; some are lost."""
    rng = np.random.default_rng(seed)
    spec = Spec(mode="hybrid", cameras=VISION.cameras)
    fields = (*spec.observation_fields, "scene")
    delay_s = data.draw(st.floats(0, 0.09), label="largest delay")
    arrivals = []
    for topic, make, period in (
        ("robot/state", robot_state, SECOND // rate),
        ("scene/state", scene_state, SECOND // rate),
        ("camera/static/image/compressed", image, PERIOD),
        ("camera/wrist/image/compressed", image, PERIOD),
    ):
        stamps = SECOND + period * np.arange(2 * SECOND // period) + rng.integers(0, 3_000_000, 2 * SECOND // period)
        stamps = stamps[rng.random(len(stamps)) > 0.05]
        received = np.maximum.accumulate(stamps + (rng.random(len(stamps)) * delay_s * SECOND).astype(np.int64))
        arrivals += [(at, topic, make(int(s), rng)) for s, at in zip(stamps, received, strict=True)]
    arrivals.sort(key=lambda arrival: arrival[0])

    live = LiveAssembler(spec, fields)
    rows = [row for at, topic, message in arrivals for row in live.feed(topic, message, int(at))] + live.finish()
    assembly = assemble(spec, by_stream(spec, fields, arrivals), fields)

    assert sum(len(segment) for segment in assembly.segments) == len(rows) > 30
    segments = np.split(np.array(rows, dtype=object), [i for i, row in enumerate(rows) if row.first][1:])
    for ours, theirs in zip([stack_rows(list(segment)) for segment in segments], assembly.segments, strict=True):
        np.testing.assert_array_equal(ours.stamp, theirs.stamp)
        np.testing.assert_array_equal(ours.action, theirs.action)
        np.testing.assert_array_equal(ours.held, theirs.held)
        for name in ("proprio", "scene"):
            np.testing.assert_array_equal(ours.values[name], theirs.values[name], err_msg=name)
        for camera in spec.cameras:
            decoded = np.stack([decode_image(message, camera) for message in theirs.values[camera.name]])
            np.testing.assert_array_equal(ours.values[camera.name], decoded, err_msg=camera.name)


WRONG_TIMES = st.lists(
    st.tuples(st.sampled_from(["robot/state", "scene/state"]), st.integers(1, 9), st.sampled_from(range(-4, 4))),
    max_size=3,
    unique_by=lambda wrong: wrong[1],
)


@settings(max_examples=60, phases=(Phase.reuse, Phase.generate))
@given(wrong=WRONG_TIMES, seed=st.integers(0, 2**32 - 1))
def test_live_gives_the_same_rows_where_messages_are_late_or_of_an_absurd_time(wrong, seed):
    rng = np.random.default_rng(seed)
    arrivals = []
    for topic, make in (("robot/state", robot_state), ("scene/state", scene_state)):
        stamps = regular(60) + rng.integers(0, 3_000_000, 60)
        received = np.maximum.accumulate(stamps + rng.integers(0, 50_000_000, 60))
        for _, at, kind in (found for found in wrong if found[0] == topic):
            at *= 6
            if kind < 0:
                stamps[at] = [0, -7, stamps[at] + 10**13, stamps[at] - 10**9][kind]
            else:
                stamps[[at, at + kind]] = stamps[[at + kind, at]]
        arrivals += [(at, topic, make(int(stamp), rng)) for stamp, at in zip(stamps, received, strict=True)]
    arrivals.sort(key=lambda arrival: arrival[0])

    live = LiveAssembler(SPEC)
    rows = [row for at, topic, message in arrivals for row in live.feed(topic, message, int(at))] + live.finish()
    assembly = assemble(SPEC, by_stream(SPEC, SPEC.observation_fields, arrivals))

    np.testing.assert_array_equal([row.stamp for row in rows], np.concatenate([s.stamp for s in assembly.segments]))
    for name in ("proprio", "scene"):
        whole = np.concatenate([segment.values[name] for segment in assembly.segments])
        np.testing.assert_array_equal([row.values[name] for row in rows], whole, err_msg=name)
    assert live.counts()["late"] == sum(assembly.late.values())
    assert live.counts()["alone"] == sum(assembly.alone.values())


def test_live_refuses_where_a_row_is_made_of_what_proves_to_have_been_alone():
    """All streams say that it is tomorrow: that it is not shows only after the row went out."""
    rng, live = np.random.default_rng(0), LiveAssembler(SPEC)
    for stamp in [*regular(5), 10**15]:
        live.feed("scene/state", scene_state(int(stamp), rng), 0)
        rows = live.feed("robot/state", robot_state(int(stamp), rng), 0)
    assert rows[0].first

    with pytest.raises(InputError, match=r"time goes backwards by .* and a row is made of the later one"):
        live.feed("scene/state", scene_state(int(regular(6)[5]), rng), 0)


def by_stream(spec, fields, arrivals):
    """What ingest does: the messages of each stream, by stamp."""
    streams = []
    for stream in Assembler(spec, fields).streams:
        selection = Selector(spec, spec.streams).selections[spec.streams.index(stream)]
        messages = [message for _, topic, message in arrivals if topic == stream.topic]
        values = messages if selection is None else [selection.values(message) for message in messages]
        streams.append(([stamp_of(message, stream, 0) for message in messages], values))
    return streams


def test_a_row_waits_for_a_camera_that_died_no_longer_than_the_largest_gap():
    rng = np.random.default_rng(0)
    live = LiveAssembler(VISION)
    rows = []
    for stamp in regular(60):
        rows += live.feed("robot/state", robot_state(int(stamp), rng), 0)
        if stamp < regular(60)[20]:
            rows += live.feed("camera/static/image/compressed", image(int(stamp), rng), 0)
            rows += live.feed("camera/wrist/image/compressed", image(int(stamp), rng), 0)

    assert rows[-1].stamp == regular(60)[22], "the last image is within 0.1 s of the three rows after it"
    assert len(live._assembler._pending) <= 7


def test_by_time_of_receipt_nothing_waits_and_stamps_do_not_matter():
    streams = tuple(
        replace(stream, timeline="receipt", align="hold" if stream.field == "scene" else stream.align)
        for stream in SPEC.streams
    )
    live = LiveAssembler(Spec(streams=streams))
    rng = np.random.default_rng(0)
    live.feed("scene/state", scene_state(0, rng), SECOND)
    received = [live.feed("robot/state", robot_state(5, rng), int(at)) for at in regular(10)]

    assert [[row.stamp for row in rows] for rows in received] == [[at] for at in regular(10)[:4]] + [[]] * 6


def test_live_takes_values_by_name_whoever_else_publishes_on_the_topic():
    state, scene, *rest = SPEC.streams
    named = StreamSpec("proprio", "joint_states", "sensor_msgs/msg/JointState", ("position|position:name",))
    parts = replace(state, select=state.select[:3]), named, replace(state, select=state.select[4:])
    live, rng = LiveAssembler(Spec(streams=(*parts, scene, *rest))), np.random.default_rng(0)
    rows, expected = [], []
    for stamp in regular(5):
        message, order = robot_state(int(stamp), rng), rng.permutation(7)
        names = [SPEC.proprio[7:14][at] for at in order]
        expected.append(message.joint_positions)
        joints = message_at(int(stamp), name=names, position=message.joint_positions[order])
        fingers = message_at(int(stamp) - 9, name=["finger"], position=np.zeros(1))
        for topic, found in (("joint_states", fingers), ("joint_states", joints), ("robot/state", message)):
            live.feed(topic, found, 0)
        rows += live.feed("scene/state", scene_state(int(stamp), rng), 0)

    np.testing.assert_array_equal([row.values["proprio"][7:14] for row in rows], np.float32(expected))


def test_messages_without_a_selected_field_are_refused_by_name():
    state = robot_state(SECOND, np.random.default_rng(0))
    del state.gripper_width

    with pytest.raises(InputError, match=r"robot/state: cannot read.*gripper_width"):
        LiveAssembler(SPEC).feed("robot/state", state, 0)


def test_a_scene_without_a_named_value_is_refused_by_name():
    state = scene_state(SECOND, np.random.default_rng(0))
    state.names[state.names.index("drawer")] = "draver"

    with pytest.raises(InputError, match="no value named drawer"):
        LiveAssembler(SPEC).feed("scene/state", state, 0)


def test_a_quaternion_that_is_not_of_unit_length_is_a_fault():
    live = LiveAssembler(SPEC)
    state = robot_state(SECOND, np.random.default_rng(0))
    state.tcp_pose.orientation = vector([0, 0, 0, 0])

    live.feed("robot/state", state, 0)

    assert [fault.topic for fault in live.faults] == ["robot/state"]


@pytest.mark.parametrize(("resets", "rows"), [(False, 1), (True, 0)])
def test_a_reset_forgets_what_waits_for_its_place_too(resets, rows):
    streams = (
        StreamSpec("proprio", "pose", "x/msg/Pose", ("position",)),
        StreamSpec("proprio", "joint_states", "x/msg/Joints", ("position|position:name",)),
        StreamSpec("action", "accepted", "x/msg/Action", ("motion",), align="integrate"),
    )
    spec = Spec(proprio=("tcp_x", "tcp_y", "tcp_z", "j1"), mode="state", streams=(*streams, SPEC.streams[1]))
    live = LiveAssembler(spec, ("proprio",))
    live.feed("joint_states", message_at(SECOND, name=["j1"], position=[0.5]), 0)
    if resets:
        live.reset()
    live.feed("accepted", message_at(SECOND, motion=np.zeros(7)), 0)
    made = live.feed("pose", message_at(SECOND, position=vector([0.1, 0.2, 0.3])), 0) + live.finish()

    assert len(made) == rows


def test_a_row_that_took_a_message_from_after_it_cannot_be_made_unseen_where_that_stood_alone():
    assembler = Assembler(SPEC)
    assembler.feed(1, SECOND, np.zeros(24))
    assembler.feed(1, SECOND + 250_000_000, np.ones(24))
    proprio, accepted, gripper = robot_stream(regular(13))
    for row, stamp in enumerate(regular(13)):
        for index, values in ((0, proprio), (2, accepted), (3, gripper)):
            assembler.feed(index, int(stamp), values[row])
    last = assembler.rows()[-1]
    assert last.stamp < SECOND + 250_000_000
    assert last.values["scene"].all()

    with pytest.raises(InputError, match="a row is made of the later one"):
        assembler.feed(1, SECOND + 100_000_000, np.zeros(24))
