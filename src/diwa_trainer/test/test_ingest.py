"""Ingest: what was recorded is what the dataset holds; what cannot be used is refused or left out, and said."""

import errno
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded_bags import (
    HYBRID,
    IMAGE,
    PERIOD,
    SPEC,
    START,
    assert_same_rows,
    event,
    messages_of,
    play_bag,
    quiet,
    random_rows,
    scene_state,
    stamps_of,
    with_episode,
    write_bag,
)

from diwa_runtime.errors import InputError, StorageError
from diwa_runtime.events import EventKind
from diwa_runtime.rows.images import decode_image, encode_jpeg
from diwa_trainer.__main__ import main
from diwa_trainer.dataset import Dataset
from diwa_trainer.dataset.npy import GrowingArray
from diwa_trainer.ingest.ingestion import ingest, summary

# --- the round trip ---------------------------------------------------------------------------------------------

EPISODES = st.lists(
    st.tuples(st.integers(2, 30), st.sampled_from(["", "open_drawer", "turn_on_led"]), st.booleans()),
    min_size=1,
    max_size=5,
)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(episodes=EPISODES, seed=st.integers(0, 2**32 - 1))
def test_rows_through_a_bag_come_back(tmp_path_factory, episodes, seed):
    folder = tmp_path_factory.mktemp("round_trip")
    messages, expected, start = [], [], START
    for number, (count, task, success) in enumerate(episodes):
        rows = random_rows(count, seed + number)
        row = count - 1 if task and success else None
        messages += with_episode(messages_of(rows, start), task, number, row)
        expected.append((rows, task, row))
        start += round((count + 30) * PERIOD)
    dataset = ingest([write_bag(folder / "bag", messages)], folder / "data", SPEC, report=quiet)

    assert len(dataset.episodes) == len(episodes)
    for number, (episode, (rows, task, row)) in enumerate(zip(dataset.episodes, expected, strict=True)):
        assert_same_rows(dataset, episode, rows)
        assert episode.kind == ("demonstration" if task else "play")
        assert episode.task == (task or None)
        assert episode.outcome == (None if row is None else "success")
        assert episode.seed == number
        assert episode.marks == (() if row is None else ((episode.start + row, task),))
    assert dataset.dropped == ()


def test_images_of_the_rows_come_back_at_their_size(tmp_path):
    rows, rng = random_rows(10, 0), np.random.default_rng(1)
    jpegs, messages = [], messages_of(rows)
    for stamp in stamps_of(10):
        jpegs.append([encode_jpeg(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)) for _ in HYBRID.cameras])
        for camera, data in zip(HYBRID.cameras, jpegs[-1], strict=True):
            fields = {"format": "jpeg", "data": np.frombuffer(data, np.uint8)}
            messages.append((f"camera/{camera.name}/image/compressed", IMAGE, stamp, fields))
    messages.sort(key=lambda message: message[2])
    dataset = ingest([write_bag(tmp_path / "bag", with_episode(messages))], tmp_path / "data", HYBRID, report=quiet)

    assert_same_rows(dataset, dataset.episodes[0], rows)
    for index, camera in enumerate(HYBRID.cameras):
        wanted = [decode_image(SimpleNamespace(format="jpeg", data=data[index]), camera) for data in jpegs]
        np.testing.assert_array_equal(dataset.images[camera.name], np.stack(wanted))


def test_a_damaged_image_drops_its_episode_and_no_other(tmp_path):
    spec = replace(HYBRID, cameras=HYBRID.cameras[:1])
    good = np.frombuffer(encode_jpeg(np.full((16, 16, 3), 100, np.uint8)), np.uint8)
    messages = []
    for number in range(3):
        start = START + number * 10**9
        taken = [
            ("camera/static/image/compressed", IMAGE, stamp, {"format": "jpeg", "data": good[:50] if bad else good})
            for stamp, bad in zip(stamps_of(5, start), [False, False, number == 1, False, False], strict=True)
        ]
        episode = sorted([*messages_of(random_rows(5, number), start), *taken], key=lambda message: message[2])
        messages += with_episode(episode, seed=number)
    dataset = ingest([write_bag(tmp_path / "bag", messages)], tmp_path / "data", spec, report=quiet)

    assert [episode.seed for episode in dataset.episodes] == [0, 2]
    assert [(item.reason[:29], item.count) for item in dataset.dropped] == [("episode with a damaged image ", 1)]
    assert_same_rows(dataset, dataset.episodes[1], random_rows(5, 2))


def test_topics_under_a_namespace_are_found(tmp_path):
    bag = play_bag(tmp_path / "bag", prefix="/lab/arm_2/")

    assert len(ingest([bag], tmp_path / "data", SPEC, report=quiet)) == 20


# --- how episodes are cut -----------------------------------------------------------------------------------------


def test_a_bag_without_marks_is_one_play_episode_a_gap_free_stretch(tmp_path):
    later = START + 5 * 10**9
    messages = [*messages_of(random_rows(10, 0)), *messages_of(random_rows(12, 1), later)]
    dataset = ingest([write_bag(tmp_path / "bag", messages)], tmp_path / "data", SPEC, report=quiet)

    assert [(episode.kind, len(episode)) for episode in dataset.episodes] == [("play", 10), ("play", 12)]
    assert_same_rows(dataset, dataset.episodes[1], random_rows(12, 1))


def test_what_is_outside_of_episodes_discarded_or_too_short_is_counted_not_kept(tmp_path):
    second = 10**9
    messages = [
        *messages_of(random_rows(4, 0)),
        *with_episode(messages_of(random_rows(6, 1), START + second), close=EventKind.DISCARD),
        *with_episode(messages_of(random_rows(1, 2), START + 2 * second)),
        *with_episode(messages_of(random_rows(7, 3), START + 3 * second), close=None),
        *with_episode(messages_of(random_rows(8, 4), START + 4 * second)),
        event(START + 5 * second, EventKind.END),
    ]
    dataset = ingest([write_bag(tmp_path / "bag", messages)], tmp_path / "data", SPEC, report=quiet)

    assert [len(episode) for episode in dataset.episodes] == [7, 8], "START ends the episode before"
    assert {item.reason: item.count for item in dataset.dropped} == {
        "message of the robot's state outside of any episode": 4,
        "episode marked to be discarded": 1,
        "episode of fewer than 2 rows": 1,
        "mark END outside of an episode": 1,
    }


def test_success_in_play_is_a_mark_and_failure_of_a_demonstration_its_outcome(tmp_path):
    second = 10**9
    play, shown = messages_of(random_rows(10, 0)), messages_of(random_rows(10, 1), START + second)
    stamps = stamps_of(10)
    messages = [
        event(stamps[0], EventKind.START),
        *play,
        event(stamps[4], EventKind.SUCCESS, "turn_on_led"),
        event(stamps[7], EventKind.SUCCESS, "open_drawer"),
        event(stamps[9], EventKind.END),
        event(START + second, EventKind.START, "open_drawer", 3),
        *shown,
        event(stamps_of(10, START + second)[9], EventKind.FAILURE, "open_drawer"),
    ]
    dataset = ingest([write_bag(tmp_path / "bag", messages)], tmp_path / "data", SPEC, report=quiet)

    assert dataset.episodes[0].marks == ((4, "turn_on_led"), (7, "open_drawer"))
    assert (dataset.episodes[0].kind, dataset.episodes[0].outcome) == ("play", None)
    assert (dataset.episodes[1].kind, dataset.episodes[1].outcome) == ("demonstration", "failure")


def test_a_demonstration_that_a_gap_splits_stays_one_where_it_succeeds(tmp_path):
    rows = random_rows(40, 0)
    messages = [m for m in messages_of(rows) if not stamps_of(40)[10] <= m[2] <= stamps_of(40)[20]]
    marked = with_episode(messages, "open_drawer", 5)
    marked.insert(-1, event(stamps_of(40)[35], EventKind.SUCCESS, "open_drawer"))
    dataset = ingest([write_bag(tmp_path / "bag", marked)], tmp_path / "data", SPEC, report=quiet)

    before, after = dataset.episodes
    assert (before.kind, before.task, before.outcome, before.marks, len(before)) == ("play", None, None, (), 10)
    assert (after.kind, after.task, after.outcome) == ("demonstration", "open_drawer", "success")
    assert after.marks == ((10 + 35 - 21, "open_drawer"),)
    assert [item.count for item in dataset.dropped if "split" in item.reason] == [1]


def test_a_success_that_falls_into_a_gap_labels_nothing(tmp_path):
    messages = [m for m in messages_of(random_rows(40, 0)) if not stamps_of(40)[10] <= m[2] <= stamps_of(40)[20]]
    marked = with_episode(messages, "open_drawer")
    marked.insert(-1, event(stamps_of(40)[15], EventKind.SUCCESS, "open_drawer"))
    marked.sort(key=lambda message: message[2])
    dataset = ingest([write_bag(tmp_path / "bag", marked)], tmp_path / "data", SPEC, report=quiet)

    assert [(episode.kind, episode.outcome, episode.marks) for episode in dataset.episodes] == [("play", None, ())] * 2
    assert [item.count for item in dataset.dropped if "success that falls into a gap" in item.reason] == [1]


def test_a_success_just_after_the_last_row_is_that_rows(tmp_path):
    """A thinned recording has no row at the stamp at which the operator saved."""
    slow = replace(SPEC, rate_hz=10.0)
    messages = with_episode(messages_of(random_rows(30, 0)), "open_drawer", success_row=29)
    dataset = ingest([write_bag(tmp_path / "bag", messages)], tmp_path / "data", slow, report=quiet)

    (episode,) = dataset.episodes
    assert dataset.stamp[-1] < stamps_of(30)[29], "or the test shows nothing"
    assert (episode.kind, episode.outcome, episode.marks) == ("demonstration", "success", ((9, "open_drawer"),))


def test_marks_of_episodes_that_were_over_before_the_recording_count_for_nothing(tmp_path):
    """Marks are latched: who records later hears of them again."""
    old = [event(START - 5, EventKind.START, "open_drawer"), event(START - 3, EventKind.END, "open_drawer")]
    for name, running in (("play", []), ("shown", [event(START - 1, EventKind.START, "close_drawer")])):
        bag = write_bag(tmp_path / name, [*old, *running, *messages_of(random_rows(10, 0))])
        dataset = ingest([bag], tmp_path / f"{name}_data", SPEC, report=quiet)

        assert [len(episode) for episode in dataset.episodes] == [10]
        assert dataset.episodes[0].task == ("close_drawer" if running else None)
        assert not dataset.dropped


def test_a_task_that_the_spec_does_not_have_is_said(tmp_path):
    said = []
    messages = with_episode(messages_of(random_rows(10, 0)), "open_drawr", success_row=8)
    dataset = ingest([write_bag(tmp_path / "bag", messages)], tmp_path / "data", SPEC, report=said.append)

    assert any("no task 'open_drawr'" in line and "'open_drawer'" in line for line in said)
    assert [item.reason for item in dataset.dropped] == [
        "mark of task 'open_drawr', which the Spec does not have (rows kept)"
    ]
    assert len(dataset) == 10


def test_a_gripper_that_is_told_widths_is_refused_until_the_spec_says_which(tmp_path):
    rows = random_rows(10, 0)
    told = rows.gripper.copy()
    rows.gripper[:] = np.where(told > 0, 0.08, 0.0)
    bag = write_bag(tmp_path / "bag", messages_of(rows))
    said = r"bag: robot/state: a gripper command is 0.*, must be 1 \(open\) or -1 \(closed\).*\"closed_open\""
    with pytest.raises(InputError, match=said):
        ingest([bag], tmp_path / "data", SPEC, report=quiet)

    streams = [
        replace(stream, closed_open=(0.0, 0.08)) if stream.select == ("gripper_command",) else stream
        for stream in SPEC.streams
    ]
    spec = replace(SPEC, streams=tuple(streams))
    dataset = ingest([bag], tmp_path / "data", spec, report=quiet)
    np.testing.assert_array_equal(dataset.action[:-1, 6], told[1:])


def test_a_short_gap_is_held_and_counted(tmp_path):
    messages = [m for m in messages_of(random_rows(20, 0)) if m[2] not in stamps_of(20)[8:10]]
    dataset = ingest([write_bag(tmp_path / "bag", with_episode(messages))], tmp_path / "data", SPEC, report=quiet)

    assert [len(episode) for episode in dataset.episodes] == [20]
    np.testing.assert_array_equal(dataset.proprio[8:10], dataset.proprio[[7, 7]])
    assert [(item.reason[:23], item.count) for item in dataset.dropped] == [("gap of up to 0.2 s: the", 2)]


def test_rows_that_no_policy_can_follow_are_kept_and_counted(tmp_path):
    rows = random_rows(20, 9)
    rows.accepted[5], rows.accepted[9] = [1, -1, 1, -1, 1, -1], [0, 0, 1.2, 0, 0, 0]
    write_bag(tmp_path / "bag", with_episode(messages_of(rows)))
    dataset = ingest([tmp_path / "bag"], tmp_path / "dataset", SPEC, report=quiet)
    (dropped,) = dataset.dropped
    assert dropped.count == 1
    assert "further than an action of 1" in dropped.reason
    np.testing.assert_allclose(dataset.rows(dataset.episodes[0])["action"][8, 2], 1.2, rtol=1e-6)


def test_an_episode_with_nan_in_its_state_is_dropped_and_the_others_kept(tmp_path):
    second = 10**9
    broken = random_rows(10, 1)
    broken.proprio[4, 8] = np.nan
    lines = []
    messages = [
        *with_episode(messages_of(random_rows(10, 0)), seed=0),
        *with_episode(messages_of(broken, START + second), seed=1),
        *with_episode(messages_of(random_rows(10, 2), START + 2 * second), seed=2),
    ]
    dataset = ingest([write_bag(tmp_path / "bag", messages)], tmp_path / "data", SPEC, report=lines.append)

    assert [episode.seed for episode in dataset.episodes] == [0, 2]
    assert "robot/state: not finite" in dataset.dropped[0].reason
    assert "robot/state: not finite" in summary(dataset)
    assert any("not finite" in line for line in lines)


# --- bad input ------------------------------------------------------------------------------------------------------


def backwards(folder):
    messages = messages_of(random_rows(20, 0))
    back = 10 * 10**9
    write_bag(folder, [m if n < 12 else (*m[:2], m[2] - back, m[3]) for n, m in enumerate(messages)])


def without_topic(folder):
    write_bag(folder, [message for message in messages_of(random_rows(10, 0)) if message[0] != "scene/state"])


def of_another_type(folder):
    joints = {"name": ["a"], "position": np.zeros(1), "velocity": np.zeros(1), "effort": np.zeros(1)}
    messages = [("robot/state", "sensor_msgs/msg/JointState", stamp, joints) for stamp in stamps_of(5)]
    write_bag(folder, [*messages, *(scene_state(stamp, np.zeros(24)) for stamp in stamps_of(5))])


def marks_of_another_type(folder):
    joints = {"name": ["a"], "position": np.zeros(1), "velocity": np.zeros(1), "effort": np.zeros(1)}
    marks = [("episode/event", "sensor_msgs/msg/JointState", stamps_of(1)[0], joints)]
    write_bag(folder, [*marks, *messages_of(random_rows(5, 0))])


def of_another_scene(folder):
    messages = messages_of(random_rows(5, 0))
    for message in messages[1::2]:
        message[3]["names"] = ["x", *message[3]["names"][1:]]
    write_bag(folder, messages)


def all_nan(folder):
    rows = random_rows(5, 0)
    rows.scene[:] = np.nan
    write_bag(folder, with_episode(messages_of(rows)))


def two_robots(folder):
    rows = messages_of(random_rows(5, 0))
    write_bag(folder, [*rows, *(("left/" + topic, kind, stamp, fields) for topic, kind, stamp, fields in rows)])


def nothing(_):
    """Make no bag at all."""


def no_bag(folder):
    folder.mkdir()
    (folder / "notes.txt").write_text("nothing recorded")


def empty_file(folder):
    folder.mkdir()
    (folder / "bag.mcap").write_bytes(b"")


def no_mcap(folder):
    folder.mkdir()
    (folder / "bag.mcap").write_bytes(b"#ROSBAG V2.0\n" * 10)


BAD_BAGS = [
    (backwards, r"robot/state: time goes backwards by 9\.9\d+ s at message 8"),
    (without_topic, r"no messages of topic 'scene/state'.*it has /robot/state"),
    (of_another_type, "is of type sensor_msgs/msg/JointState, the Spec has diwa_msgs/msg/RobotState"),
    (marks_of_another_type, "episode/event is of type sensor_msgs/msg/JointState, the Spec has diwa_msgs"),
    (of_another_scene, "no value named slider"),
    (all_nan, "no episode can be made of this bag.*not finite"),
    (two_robots, "could be 'robot/state'"),
    (no_bag, "a folder without .mcap files"),
    (nothing, "not there"),
    (empty_file, "no messages of topic 'robot/state'"),
    (no_mcap, "not an MCAP file"),
]
BAD_IDS = [getattr(make_bad, "__name__", "") for make_bad, _ in BAD_BAGS]


@pytest.mark.parametrize("first", [True, False])
def test_a_topic_of_like_name_and_another_type_is_not_the_robots(tmp_path, first):
    joints = {"name": ["a"], "position": np.zeros(1), "velocity": np.zeros(1), "effort": np.zeros(1)}
    rows, stamp = random_rows(5, 0), stamps_of(5)[0 if first else -1]
    other = [("gripper/robot/state", "sensor_msgs/msg/JointState", stamp, joints)]
    write_bag(tmp_path / "bag", [*(other if first else []), *messages_of(rows), *([] if first else other)])

    dataset = ingest([tmp_path / "bag"], tmp_path / "data", SPEC, report=quiet)

    assert len(dataset) == 5


@pytest.mark.parametrize(("make_bad", "message"), BAD_BAGS, ids=BAD_IDS)
def test_a_bad_bag_is_one_line_and_code_2_and_leaves_nothing(tmp_path, capsys, make_bad, message):
    make_bad(tmp_path / "bag")

    with pytest.raises(InputError, match=message) as caught:
        ingest([tmp_path / "bag"], tmp_path / "data", SPEC, report=quiet)
    code = main(["ingest", "--bags", str(tmp_path / "bag"), "--output", str(tmp_path / "data")])

    assert str(tmp_path / "bag") in str(caught.value), "the bag is named"
    assert code == 2
    assert [line.startswith("error: ") for line in capsys.readouterr().err.splitlines()[-1:]] == [True]
    assert [path.name for path in tmp_path.iterdir()] in (["bag"], [])


@pytest.mark.parametrize("make_bad", [backwards, without_topic, no_mcap])
def test_skip_damaged_leaves_out_the_bad_bag_and_says_so(tmp_path, make_bad):
    play_bag(tmp_path / "bags" / "good")
    make_bad(tmp_path / "bags" / "bad")
    dataset = ingest([tmp_path / "bags"], tmp_path / "data", SPEC, skip_damaged=True, report=quiet)

    assert [source.path for source in dataset.sources] == [str(tmp_path / "bags" / "good")]
    assert [item.bag for item in dataset.dropped] == ["bad"]
    assert len(dataset) == 20


@pytest.mark.parametrize("output", ["bag", "bag/inside", "."], ids=["the bag", "in the bag", "above the bag"])
def test_output_and_input_must_be_apart(tmp_path, output):
    bag = play_bag(tmp_path / "bag")
    before = (bag / "bag.mcap").read_bytes()

    with pytest.raises(InputError, match="is where the bag"):
        ingest([bag], tmp_path / output, SPEC, report=quiet)

    assert (bag / "bag.mcap").read_bytes() == before


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    bag = play_bag(tmp_path / "bag")
    monkeypatch.setattr(GrowingArray, "write", refuse)
    with pytest.raises(StorageError, match="No space left on device"):
        ingest([bag], tmp_path / "data", SPEC, report=quiet)

    assert [path.name for path in tmp_path.iterdir()] == ["bag"]


def test_ctrl_c_leaves_the_older_dataset(tmp_path, monkeypatch):
    first = play_bag(tmp_path / "first")
    ingest([first], tmp_path / "data", SPEC, report=quiet)
    second = play_bag(tmp_path / "second", seed=1)

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("diwa_trainer.ingest.bag_to_rows.assemble", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ingest([first, second], tmp_path / "data", SPEC, report=quiet)

    assert len(Dataset.open(tmp_path / "data")) == 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "first", "second"]


# --- doing it again -----------------------------------------------------------------------------------------------


def never(*_, **__):
    raise AssertionError("this bag was to be taken over, not read")


def test_an_unchanged_dataset_is_not_made_again(tmp_path, monkeypatch):
    bag = play_bag(tmp_path / "bag")
    first = ingest([bag], tmp_path / "data", SPEC, report=quiet)
    monkeypatch.setattr("diwa_trainer.ingest.ingestion.read_recording", never)

    again = ingest([bag], tmp_path / "data", SPEC, report=quiet)

    assert again.fingerprint == first.fingerprint


def test_only_new_bags_are_read(tmp_path, monkeypatch):
    from diwa_trainer.ingest import ingestion as module

    old = write_bag(tmp_path / "old", with_episode(messages_of(random_rows(9, 0)), "open_drawer", 4, 6))
    ingest([old], tmp_path / "data", SPEC, report=quiet)
    new = play_bag(tmp_path / "new", seed=1)
    real = module.read_recording
    monkeypatch.setattr(module, "read_recording", lambda bag, *a: never() if bag.name == "old" else real(bag, *a))
    grown = ingest([new, old], tmp_path / "data", SPEC, report=quiet)
    monkeypatch.undo()

    fresh = ingest([new, old], tmp_path / "fresh", SPEC, report=quiet)
    assert grown.episodes == fresh.episodes
    assert grown.sources == fresh.sources
    for name, array in fresh.arrays.items():
        np.testing.assert_array_equal(grown.arrays[name], array, err_msg=name)


def test_another_spec_or_changed_bytes_are_read_again(tmp_path):
    bag = play_bag(tmp_path / "bag", count=20)
    ingest([bag], tmp_path / "data", SPEC, report=quiet)

    slower = ingest([bag], tmp_path / "data", replace(SPEC, rate_hz=15.0), report=quiet)
    assert len(slower) == 10

    (bag / "bag.mcap").write_bytes((play_bag(tmp_path / "other", count=7) / "other.mcap").read_bytes())
    assert len(ingest([bag], tmp_path / "data", replace(SPEC, rate_hz=15.0), report=quiet)) == 4


def test_the_same_bytes_twice_count_once(tmp_path):
    bag = play_bag(tmp_path / "bag")
    copy = tmp_path / "copy.mcap"
    copy.write_bytes((bag / "bag.mcap").read_bytes())
    dataset = ingest([bag, copy, bag], tmp_path / "data", SPEC, report=quiet)

    assert len(dataset) == 20
    assert len(dataset.sources) == 1
    assert {item.reason for item in dataset.dropped} == {"the same bytes as bag"}


def test_bags_need_no_metadata_and_may_be_split_into_files(tmp_path):
    rows = random_rows(30, 0)
    messages = messages_of(rows)
    first = write_bag(tmp_path / "bag", with_episode(messages[:40], close=None))
    second = write_bag(tmp_path / "rest", messages[40:])
    (first / "bag.mcap").rename(first / "bag_9.mcap")
    (second / "rest.mcap").rename(first / "bag_10.mcap")
    (first / "metadata.yaml").write_text("rosbag2_bagfile_information:\n  version: 9\n  dur")
    dataset = ingest([first], tmp_path / "data", SPEC, report=quiet)

    (episode,) = dataset.episodes
    assert_same_rows(dataset, episode, rows)
