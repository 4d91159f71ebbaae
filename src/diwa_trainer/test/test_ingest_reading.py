"""One message, mark or definition that is wrong does not cost the recording: it is left out and counted."""

from dataclasses import replace

import numpy as np
import pytest
from backports import zstd
from recorded_bags import (
    IMAGE,
    PERIOD,
    SPEC,
    START,
    assert_same_rows,
    event,
    messages_of,
    quiet,
    random_rows,
    serialized,
    stamps_of,
    with_episode,
    write_bag,
    write_mcap,
)

from diwa_runtime.errors import InputError
from diwa_runtime.events import EventKind
from diwa_runtime.rows.images import encode_jpeg
from diwa_runtime.spec import CameraSpec, Spec
from diwa_runtime.stream_spec import StreamSpec
from diwa_trainer.dataset import Dataset
from diwa_trainer.ingest.ingestion import ingest

ROWS = random_rows(60, 0)
STAMPS = stamps_of(60)
AT_RECEIPT = replace(SPEC, streams=tuple(replace(stream, timeline="receipt") for stream in SPEC.streams))


def messages():
    """Robot and scene in turn: message 2 n is the robot's of row n."""
    return [list(message) for message in messages_of(ROWS)]


def ingested(tmp_path, found, spec=SPEC, change=None, **settings):
    path = write_mcap(tmp_path / "bag.mcap", found, *([change] if change else []))
    said = []
    dataset = ingest([path], tmp_path / "data", spec, report=said.append, **settings)
    return dataset, {item.reason: item.count for item in dataset.dropped}, said


def assert_all_rows(dataset, but=()):
    assert [len(episode) for episode in dataset.episodes] == [60]
    good = [row for row in range(60) if row not in but]
    for name in ("proprio", "scene"):
        np.testing.assert_allclose(dataset.arrays[name][good], getattr(ROWS, name)[good], atol=1e-6, err_msg=name)


# --- time -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stamp", [0, -5 * 10**9, STAMPS[20] + 10**13], ids=["unset", "negative", "far ahead"])
@pytest.mark.parametrize("row", [0, 20, 59])
def test_a_message_whose_stamp_stands_alone_is_left_out(tmp_path, row, stamp):
    found = messages()
    found[2 * row] = [*found[2 * row][:2], stamp, found[2 * row][3], STAMPS[row]]
    dataset, dropped, _ = ingested(tmp_path, found)

    assert dropped["message of robot/state whose time stands alone, far from those around it"] == 1
    if row == 20:
        assert_all_rows(dataset, but=[20])
    else:
        np.testing.assert_array_equal(dataset.scene, np.delete(ROWS.scene, row, 0))


def test_a_message_that_was_stamped_before_the_one_before_it_is_left_out(tmp_path):
    found = messages()
    found[40], found[42] = [*found[42], STAMPS[20]], [*found[40], STAMPS[21]]
    dataset, dropped, _ = ingested(tmp_path, found)

    assert_all_rows(dataset, but=[20])
    assert dropped["message of robot/state that came after a later one"] == 1


@pytest.mark.parametrize("spec", [SPEC, AT_RECEIPT], ids=["by stamp", "by receipt"])
@pytest.mark.parametrize(
    "order",
    [
        [*range(40), 42, 41, 40, *range(43, 120)],
        [*range(60, 120), *range(60)],
        [*range(40, 80), *range(40), *range(80, 120)],
        [*range(0, 120, 2), *range(1, 120, 2)],
        [*range(119, -1, -1)],
        np.random.default_rng(0).permutation(120).tolist(),
    ],
    ids=["two exchanged", "halves exchanged", "chunks exchanged", "topic by topic", "reversed", "shuffled"],
)
def test_records_may_lie_in_any_order_of_their_times_of_receipt(tmp_path, order, spec):
    found = messages()
    dataset, dropped, _ = ingested(tmp_path, [found[at] for at in order], spec)

    assert_same_rows(dataset, dataset.episodes[0], ROWS)
    assert dropped == {}


@pytest.mark.parametrize("receipt", [0, 2**63 + 5, 2**64 - 1])
def test_wrong_times_of_receipt_do_not_matter_where_stamps_are_right(tmp_path, receipt):
    dataset, dropped, _ = ingested(tmp_path, [[*message, receipt] for message in messages()])

    assert_same_rows(dataset, dataset.episodes[0], ROWS)
    assert dropped == {}


@pytest.mark.parametrize("wrong", ["exchanged", "beyond int64"])
def test_a_wrong_time_of_receipt_costs_one_message_where_rows_go_by_it(tmp_path, wrong):
    found = messages()
    if wrong == "exchanged":
        found[40].append(STAMPS[21])
        found[42].append(STAMPS[20])
    else:
        found[42].append(2**63 + 5)
    dataset, dropped, _ = ingested(tmp_path, found, AT_RECEIPT)

    assert_all_rows(dataset, but=[20, 21])
    assert [count for reason, count in dropped.items() if reason.startswith("message of robot/state")] == [1]


@pytest.mark.parametrize("back_s", [0.3, 1.0, 10.0])
@pytest.mark.parametrize("receipt", [True, False], ids=["the recorder's too", "the sensor's alone"])
def test_a_clock_that_went_back_for_good_is_refused(tmp_path, back_s, receipt):
    back = round(back_s * 1e9)
    found = [
        message if number < 60 else [*message[:2], message[2] - back, message[3], message[2] - back * receipt]
        for number, message in enumerate(messages())
    ]

    with pytest.raises(InputError, match=r"robot/state: time goes backwards by .* at message 32 .*with one clock"):
        ingested(tmp_path, found)


def test_images_in_any_order_are_each_at_their_row(tmp_path):
    spec = Spec(mode="vision", cameras=(CameraSpec("static", 1, 1),))
    found = []
    for row, message in enumerate(messages()[::2]):
        grey = np.frombuffer(encode_jpeg(np.full((8, 8, 3), 4 * row, np.uint8)), np.uint8)
        image = ["camera/static/image/compressed", IMAGE, STAMPS[row], {"format": "jpeg", "data": grey}, STAMPS[row]]
        found += [message, image]
    undecodable = [*found[31][:3], b"\0\1\0\0", found[31][4] + 5]
    exchanged = [*found[61][:4], STAMPS[32] - 5], [*found[63][:4], STAMPS[31] - 5]  # and received in that order
    ordered = [*found[80:], undecodable, *found[:61], exchanged[1], *found[62:63], exchanged[0], *found[64:80]]
    dataset, dropped, _ = ingested(tmp_path, ordered, spec)

    seen = dataset.images["static"][:, 0, 0, 0].astype(int)
    np.testing.assert_allclose(np.delete(seen, 30), 4 * np.delete(np.arange(60), 30), atol=2)
    assert abs(seen[30] - 4 * 30) <= 6, "its neighbour's"
    assert sum(dropped.values()) == 2
    assert dropped["message of camera/static/image/compressed that came after a later one"] == 1


# --- messages, marks, definitions -----------------------------------------------------------------------------------


def scene_of(change):
    def spoilt(message):
        names, values = change(message[3]["names"], message[3]["values"])
        return [*message[:3], {"names": names, "values": values}]

    return spoilt


UNUSABLE = {
    "no such message": lambda message: [*message[:3], b"\0\1\0\0junk"],
    "empty": lambda message: [*message[:3], b""],
    "cut packing": lambda message: [*message[:3], zstd.compress(serialized(message)[3])[:30]],
    "a name is missing": scene_of(lambda names, values: ([*names[:-1], "other"], values)),
    "a value is missing": scene_of(lambda names, values: (names, values[:-1])),
}


@pytest.mark.parametrize("spoil", UNUSABLE.values(), ids=UNUSABLE.keys())
@pytest.mark.parametrize("skip_damaged", [False, True])
def test_a_message_that_cannot_be_used_is_left_out_and_one_that_all_are_is_refused(tmp_path, spoil, skip_damaged):
    found = messages()
    found[41] = spoil(found[41])
    dataset, dropped, _ = ingested(tmp_path, found, skip_damaged=skip_damaged)

    np.testing.assert_array_equal(dataset.proprio[:, :3], ROWS.proprio[:, :3])
    ((reason, count),) = dropped.items()
    assert reason.startswith("message of scene/state that cannot be read (")
    assert count == 1
    with pytest.raises(InputError, match="scene/state"):
        ingested(tmp_path / "all", [spoil(m) if m[0] == "scene/state" else m for m in messages()])


def test_packed_messages_are_read(tmp_path):
    found = [[*message[:3], zstd.compress(serialized(message)[3])] for message in messages()]

    dataset, dropped, _ = ingested(tmp_path, found)

    assert_same_rows(dataset, dataset.episodes[0], ROWS)
    assert dropped == {}


def test_marks_that_cannot_be_used_are_counted_and_the_rest_are_in_order_of_time(tmp_path):
    start, *rest, success, end = with_episode(messages(), "open_drawer", 3, 50)
    late = [*success, STAMPS[59] + 5]
    undecodable = [*event(STAMPS[9], EventKind.END)[:3], b"\0\1\0\0"]
    wrong = [event(STAMPS[9], 77), undecodable, [*event(-(10**9), EventKind.END), STAMPS[9]]]
    dataset, dropped, _ = ingested(tmp_path, [start, *wrong, *rest, end, late])

    (episode,) = dataset.episodes
    assert (episode.task, episode.outcome, episode.marks) == ("open_drawer", "success", ((50, "open_drawer"),))
    assert dropped == {
        "mark of kind 77, which is not known": 1,
        "mark that cannot be read": 1,
        "mark of an impossible time": 1,
        "mark that came after a later one (kept, in order of time)": 1,
    }


def test_a_bag_with_nothing_but_unknown_marks_is_play(tmp_path):
    dataset, dropped, _ = ingested(tmp_path, [*messages(), event(STAMPS[9], 77)])

    assert [(episode.kind, len(episode)) for episode in dataset.episodes] == [("play", 60)]
    assert list(dropped.values()) == [1]


DEFINITIONS = {
    "other line ends": lambda text: text.replace(b"\n", b"\r\n"),
    "a comment in Latin-1": lambda text: b"# in \xb0C\n" + text.replace(b"\n", b" # \xe4\xf6\n", 1),
    "nothing in it": lambda _: b"",
}


@pytest.mark.parametrize("change", DEFINITIONS.values(), ids=DEFINITIONS.keys())
def test_a_definition_may_have(tmp_path, change):
    dataset, dropped, _ = ingested(
        tmp_path, messages(), change=lambda t, k, e, d: (t, k, e if change(d) else b"", change(d))
    )

    assert_same_rows(dataset, dataset.episodes[0], ROWS)
    assert dropped == {}


SCENE_IDL = b"""=====
IDL: diwa_msgs/msg/SceneState
// from a file \xb0
#include "std_msgs/msg/Header.idl"
module diwa_msgs { module msg {
  @verbatim (language="comment", text=
    "What the scene is.")
  struct SceneState { std_msgs::msg::Header header; sequence<string> names; sequence<double> values; };
}; };
=====
IDL: std_msgs/msg/Header
#include "builtin_interfaces/msg/Time.idl"
module std_msgs { module msg { struct Header { builtin_interfaces::msg::Time stamp; string frame_id; }; }; };
=====
IDL: builtin_interfaces/msg/Time
module builtin_interfaces { module msg { struct Time { int32 sec; uint32 nanosec; }; }; };
"""


@pytest.mark.parametrize("idl", [SCENE_IDL, SCENE_IDL.replace(b"\n", b"\r\n"), SCENE_IDL.split(b"\n", 1)[1]])
def test_definitions_in_idl_are_read(tmp_path, idl):
    def change(topic, kind, encoding, definition):
        return (topic, kind, b"ros2idl", idl) if b"scene" in topic else (topic, kind, encoding, definition)

    dataset, *_ = ingested(tmp_path, messages(), change=change)

    assert_same_rows(dataset, dataset.episodes[0], ROWS)


def test_channels_that_nobody_asked_for_may_be_of_anything(tmp_path):
    def change(topic, kind, encoding, definition):
        if b"foreign" in topic:
            return b"/\xff\xb0/foreign", b"\xfe", b"protobuf", b"\xff\xfe"
        return topic, kind, encoding, definition

    dataset, dropped, _ = ingested(tmp_path, [["foreign", "x/msg/Y", START, b"\xff"], *messages()], change=change)

    assert_same_rows(dataset, dataset.episodes[0], ROWS)
    assert dropped == {}


# --- names ----------------------------------------------------------------------------------------------------------

JOINTS = "sensor_msgs/msg/JointState"
ARM = [f"joint_{number}" for number in range(1, 8)]
STATE = SPEC.streams[0]
NAMED = replace(
    SPEC,
    streams=(
        replace(STATE, select=STATE.select[:3]),
        StreamSpec("proprio", "joint_states", JOINTS, ("position|position:name",)),
        replace(STATE, select=STATE.select[4:]),
        *SPEC.streams[1:],
    ),
)
BY_PLACE = replace(
    NAMED, streams=tuple(replace(s, select=("position",)) if s.type == JOINTS else s for s in NAMED.streams)
)


def joint_states(stamp, names, values):
    nothing = {"velocity": np.zeros(0), "effort": np.zeros(0)}
    return ["joint_states", JOINTS, stamp, {"name": names, "position": np.asarray(values, np.float64), **nothing}]


def with_joints(order, start=START):
    """Joint states beside the others; `order` is that of the joints in the message of a row."""
    found = []
    for row, stamp in enumerate(stamps_of(60, start)):
        values = ROWS.proprio[row, 7:14]
        found.append(joint_states(stamp - 5, ["finger_1", "finger_2"], [9, 9]))
        found.append(joint_states(stamp, [ARM[at] for at in order(row)], [values[at] for at in order(row)]))
    return sorted([*messages_of(ROWS, start), *found], key=lambda message: message[2])


def test_joints_are_told_by_their_names_whatever_their_order_and_who_else_publishes(tmp_path):
    found = with_joints(lambda row: np.random.default_rng(row).permutation(7))
    dataset, dropped, _ = ingested(tmp_path, found, NAMED)

    assert_same_rows(dataset, dataset.episodes[0], ROWS)
    assert dropped == {}


def without_fingers(found):
    return [message for message in found if message[0] != "joint_states" or len(message[3]["name"]) == 7]


def test_joints_by_place_whose_names_change_within_a_bag_are_refused(tmp_path):
    found = without_fingers(with_joints(lambda row: range(7) if row < 30 else range(6, -1, -1)))

    with pytest.raises(InputError, match=r"joint_states: 'position' is selected by its place, .* select it by name"):
        ingested(tmp_path, found, BY_PLACE)


@pytest.mark.parametrize("taken_over", [False, True])
def test_joints_by_place_whose_names_change_between_two_bags_are_refused(tmp_path, taken_over):
    first = write_bag(tmp_path / "first", without_fingers(with_joints(lambda _: range(7))))
    second = write_bag(tmp_path / "second", without_fingers(with_joints(lambda _: range(6, -1, -1), START + 10**12)))
    if taken_over:
        ingest([first], tmp_path / "data", BY_PLACE, report=quiet)

    with pytest.raises(InputError, match=r"second: joint_states: 'position' is selected by its place"):
        ingest([first, second], tmp_path / "data", BY_PLACE, report=quiet)
    assert len(ingest([first, second], tmp_path / "named", NAMED, report=quiet)) == 120


# --- rates and clocks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate_hz", [1.0, 4.0, 5.0])
def test_slow_control_rates_give_one_episode_in_spite_of_jitter_and_a_lost_message(tmp_path, rate_hz):
    spec, rng = replace(SPEC, rate_hz=rate_hz), np.random.default_rng(0)
    stamps = [START + round(row * 1e9 / rate_hz) + int(rng.integers(-2_000_000, 2_000_000)) for row in range(60)]
    found = [[*message[:2], stamps[at // 2], message[3]] for at, message in enumerate(messages()) if at // 2 != 30]
    dataset, dropped, _ = ingested(tmp_path, found, spec)

    assert_all_rows(dataset, but=[30])
    assert dropped == {f"gap of up to {2.5 / rate_hz:g} s: the row before it is held (rows kept)": 1}


def test_a_gap_beyond_the_limit_of_the_rate_splits(tmp_path):
    spec = replace(SPEC, rate_hz=5.0)
    stamps = [START + row * 200_000_000 + (row >= 30) * 400_000_000 for row in range(60)]
    found = [[*message[:2], stamps[at // 2], message[3]] for at, message in enumerate(messages())]
    dataset, dropped, _ = ingested(tmp_path, found, spec)

    assert [len(episode) for episode in dataset.episodes] == [30, 30]
    assert dropped == {"gap of more than 0.5 s: the episode is split there (rows kept)": 1}


def with_scene_ahead(seconds, receipt=lambda _, stamp: stamp):
    ahead = round(seconds * 1e9)
    return [
        [*m[:2], m[2] + ahead * (m[0] == "scene/state"), m[3], receipt(at, m[2])] for at, m in enumerate(messages())
    ]


@pytest.mark.parametrize("seconds", [0.3, -0.3, 0.11])
def test_clocks_that_are_apart_are_said(tmp_path, seconds):
    _, dropped, said = ingested(tmp_path, with_scene_ahead(seconds))

    way = "ahead of" if seconds > 0 else "behind"
    what = f"by time of receipt, scene/state is stamped {abs(seconds):.2f} s {way} robot/state"
    assert dropped[f"{what} (rows kept)"] == 1
    assert [line.startswith(f"warning: bag: {what}: ") for line in said].count(True) == 1


SILENT = {
    "clocks agree": lambda: with_scene_ahead(0.09),
    "both are far off": lambda: [[*m[:2], m[2] + 10**12, m[3], m[2]] for m in messages()],
    "written faster than real time": lambda: with_scene_ahead(0.3, lambda at, _: START + 1000 * at),
    "written without times of receipt": lambda: with_scene_ahead(0.3, lambda *_: START),
    "one of them was played slowly": lambda: with_scene_ahead(0, lambda at, s: s if at % 2 else 2 * s - START),
    "played slowly to a recorder": lambda: [[*m[:2], m[2], m[3], 2 * m[2] - START] for m in messages()],
}


@pytest.mark.parametrize("make", SILENT.values(), ids=SILENT.keys())
def test_no_word_of_clocks_where(tmp_path, make):
    _, dropped, _ = ingested(tmp_path, make())

    assert not [reason for reason in dropped if "time of receipt" in reason]


def test_a_stream_by_receipt_has_no_clock_of_its_own(tmp_path):
    streams = tuple(replace(s, timeline="receipt") if s.field == "scene" else s for s in SPEC.streams)
    late = [[*m[:2], m[2], m[3], m[2] + 300_000_000 * (m[0] == "robot/state")] for m in messages()]
    _, dropped, _ = ingested(tmp_path, late, replace(SPEC, streams=streams))

    assert dropped == {}


def test_a_dataset_by_receipt_says_nothing_of_clocks(tmp_path):
    dataset, dropped, _ = ingested(tmp_path, with_scene_ahead(0.3), AT_RECEIPT)

    assert dropped == {}
    assert isinstance(dataset, Dataset)
    assert abs(np.diff(dataset.stamp).max() - PERIOD) < 2


def test_an_episode_that_has_no_rows_is_counted(tmp_path):
    found = [event(START - 10**13, EventKind.START), *with_episode(messages())]
    _, dropped, _ = ingested(tmp_path, found)

    assert dropped == {"episode without a row": 1}
