"""Which bags are found at a path, what else lies there and is said, and which recordings are one and the same."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from backports import zstd
from recorded_bags import (
    PERIOD,
    SPEC,
    START,
    assert_same_rows,
    messages_of,
    quiet,
    random_rows,
    robot_state,
    scene_state,
    stamps_of,
    with_episode,
    write_mcap,
)

from diwa_runtime.errors import InputError
from diwa_runtime.events import EventKind
from diwa_trainer.ingest.bags import find
from diwa_trainer.ingest.ingestion import ingest

ROWS = random_rows(60, 0)
MESSAGES = messages_of(ROWS)
HOUR = 3600 * 10**9


def bag(path, seed=0, hours=0):
    return write_mcap(path, messages_of(random_rows(20, seed), START + hours * HOUR))


def split(folder, messages=MESSAGES, packed=()):
    """Write a bag in three files, some of them packed as a whole."""
    third = len(messages) // 3
    for number in range(3):
        path = folder / f"{folder.name}_{number}.mcap"
        write_mcap(path, messages[number * third : (number + 1) * third if number < 2 else None])
        if number in packed:
            path.with_name(path.name + ".zstd").write_bytes(zstd.compress(path.read_bytes()))
            path.unlink()
    return folder


def names(found):
    return {found.name: [path.name for path in found.files] for found in found.bags}


def said_of(found):
    return {item.path.name: (item.reason, item.count) for item in found.unread}


# --- what is found --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [(0, 1, 2), (0, 2), (1,)])
def test_splits_that_are_packed_are_read_in_their_order(tmp_path, packed):
    dataset = ingest([split(tmp_path / "bag", packed=packed)], tmp_path / "data", SPEC, report=quiet)

    assert_same_rows(dataset, dataset.episodes[0], ROWS)
    assert dataset.dropped == ()


def test_of_a_split_that_lies_there_packed_and_unpacked_one_is_read_and_the_other_said(tmp_path):
    folder = split(tmp_path / "bag")
    (folder / "bag_1.mcap.zstd").write_bytes(zstd.compress((folder / "bag_1.mcap").read_bytes()))
    dataset = ingest([folder], tmp_path / "data", SPEC, report=quiet)

    assert_same_rows(dataset, dataset.episodes[0], ROWS)
    assert [(Path(item.bag).name, item.count) for item in dataset.dropped] == [("bag_1.mcap.zstd", 1)]


def test_bags_are_found_at_any_depth_beside_loose_files(tmp_path):
    bag(tmp_path / "monday.mcap")
    bag(tmp_path / "tuesday.mcap", 1, 1)
    bag(tmp_path / "week" / "bag_0.mcap", 2, 2)
    bag(tmp_path / "week" / "deep" / "down" / "x" / "x_0.mcap", 3, 3)
    (tmp_path / "week" / "loop").symlink_to(tmp_path)

    assert names(find([tmp_path])) == {
        "monday": ["monday.mcap"],
        "tuesday": ["tuesday.mcap"],
        "week": ["bag_0.mcap"],
        "x": ["x_0.mcap"],
    }
    assert len(ingest([tmp_path], tmp_path / "data", SPEC, report=quiet).episodes) == 4


def test_what_is_not_read_is_named_with_what_to_do_and_counted(tmp_path):
    root = tmp_path / "root"
    bag(root / "good" / "good_0.mcap")
    bag(root / ".play_001.77.partial" / "play_001" / "play_001.mcap")
    bag(root / "kept.78.partial" / "kept" / "kept.mcap")
    for name in ("old/old_0.db3", "old/old_1.db3", "old/metadata.yaml", "ros.bag", "a.mcap.gz", "notes.txt", ".hidden"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    (root / "._good.mcap").write_bytes(b"a Macintosh was here")
    lines = []
    dataset = ingest([root], tmp_path / "data", SPEC, report=lines.append)

    unfinished, convert = (
        "an unfinished recording is not read unless it is named itself",
        "is not read; convert it with ",
    )
    assert {(Path(item.bag).name, item.reason): item.count for item in dataset.dropped} == {
        (".play_001.77.partial", unfinished): 1,
        ("kept.78.partial", unfinished): 1,
        ("old", f"old_0.db3, old_1.db3: sqlite3 {convert}`ros2 bag convert` to storage id mcap"): 2,
        (
            "root",
            f"ros.bag: ROS 1 {convert}`rosbags-convert --src BAG --dst FOLDER --dst-storage mcap`",
        ): 1,
        ("root", "a.mcap.gz: only zstd is unpacked here; unpack it first"): 1,
        ("root", "notes.txt: no recording, not read"): 1,
    }
    assert len([line for line in lines if line.startswith("warning: ")]) == 6
    assert len(dataset) == 20


def test_an_unfinished_recording_that_is_named_is_read(tmp_path):
    bag(tmp_path / ".play_001.77.partial" / "play_001" / "play_001.mcap")

    assert names(find([tmp_path / ".play_001.77.partial"])) == {"play_001": ["play_001.mcap"]}


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("old_0.db3", "no .mcap file; old_0.db3: sqlite3 is not read; convert it with `ros2 bag convert`"),
        ("ros.bag", "no .mcap file; ros.bag: ROS 1 is not read; convert it with `rosbags-convert"),
        (".", "a folder without .mcap files; old_0.db3: sqlite3 is not read"),
    ],
)
def test_a_path_with_nothing_that_is_read_is_refused_with_what_to_do(tmp_path, name, advice):
    (tmp_path / "old_0.db3").write_bytes(b"x")
    (tmp_path / "ros.bag").write_bytes(b"x")

    with pytest.raises(InputError) as caught:
        find([tmp_path / name])

    assert advice in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_no_file_can_have_is_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        find([tmp_path / ("x" * 300)])


# --- which files are one recording ----------------------------------------------------------------------------------


@pytest.mark.parametrize("close", [EventKind.END, EventKind.DISCARD])
def test_files_of_one_split_bag_are_one_bag_however_they_are_named(tmp_path, close):
    folder = split(tmp_path / "bag", with_episode(MESSAGES, "open_drawer", 3, 55, close))
    files = sorted(folder.iterdir(), reverse=True)
    for paths in ([folder], files, [files[1], folder], [folder, *files]):
        if close is EventKind.DISCARD:
            with pytest.raises(InputError, match="no episode can be made"):
                ingest(paths, tmp_path / "data", SPEC, report=quiet)
        else:
            dataset = ingest(paths, tmp_path / "data", SPEC, report=quiet)
            assert [(e.task, e.outcome, len(e)) for e in dataset.episodes] == [("open_drawer", "success", 60)]
            assert dataset.dropped == ()


def test_files_that_metadata_lists_together_are_one_bag_and_others_are_not(tmp_path):
    for name in ("b", "a", "c", "run_7", "run_8"):
        bag(tmp_path / f"{name}.mcap")
    listed = "".join(f"    - {name}\n" for name in ("bag/b.mcap", "a.mcap.zstd"))
    (tmp_path / "metadata.yaml").write_text(f"rosbag2_bagfile_information:\n  relative_file_paths:\n{listed}")

    assert sorted(names(find([tmp_path])).values()) == [
        ["a.mcap", "b.mcap"],
        ["c.mcap"],
        ["run_7.mcap", "run_8.mcap"],
    ]


def test_a_part_of_a_recording_that_is_named_alone_is_read_and_what_is_missing_said(tmp_path):
    folder = split(tmp_path / "bag")
    found = find([folder / "bag_1.mcap"])

    assert names(found) == {"bag_1": ["bag_1.mcap"]}
    ((reason, count),) = said_of(found).values()
    assert reason.startswith("1 of the 3 files of one recording")
    assert count == 2


def test_a_recording_that_is_empty_is_called_so_with_what_to_do(tmp_path):
    good = write_mcap(tmp_path / "good.mcap", MESSAGES)
    empty = tmp_path / "empty.mcap"
    empty.touch()

    with pytest.raises(InputError, match=r"empty.mcap: is empty \(0 bytes\); leave the bag out with --skip-damaged"):
        ingest([good, empty], tmp_path / "data", SPEC, report=quiet)
    dataset = ingest([good, empty], tmp_path / "data", SPEC, skip_damaged=True, report=quiet)
    assert [episode.bag for episode in dataset.episodes] == ["good"]
    (dropped,) = dataset.dropped
    assert dropped.bag == "empty"
    assert dropped.reason.endswith("empty.mcap: is empty (0 bytes)")


# --- which recordings are the same ----------------------------------------------------------------------------------


def later(messages):
    return messages_of(random_rows(40, 5), messages[-1][2] + round(PERIOD))


COPIES = {
    "packed anew": MESSAGES,
    "cut off": MESSAGES[:70],
    "begun later": MESSAGES[40:],
    "begun later, gone on longer": [*MESSAGES[80:], *later(MESSAGES)],
    "without its marks": MESSAGES,
    "with messages lost": [message for number, message in enumerate(MESSAGES) if number % 7],
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES.keys())
def test_an_episode_that_is_in_the_dataset_already_is_left_out_counted_and_said(tmp_path, copy):
    first = write_mcap(tmp_path / "a" / "first.mcap", with_episode(MESSAGES, "open_drawer", 3, 55))
    second = write_mcap(tmp_path / "b" / "second.mcap", copy)
    lines = []
    dataset = ingest([first, second], tmp_path / "data", SPEC, report=lines.append)

    assert [episode.bag for episode in dataset.episodes] == ["first"]
    assert [(item.bag, item.reason) for item in dataset.dropped if item.bag == "second"][-1:] == [
        ("second", "episode of the same recording as first")
    ]
    assert "warning: second: episode of the same recording as first; left out" in lines


def test_a_part_that_is_in_another_bag_leaves_the_other_episodes(tmp_path):
    half = with_episode(MESSAGES[:60], "open_drawer", 3, 25)
    first = write_mcap(tmp_path / "first.mcap", half)
    second = write_mcap(tmp_path / "second.mcap", [*half, *with_episode(MESSAGES[60:], "close_drawer", 4, 25)])
    dataset = ingest([first, second], tmp_path / "data", SPEC, report=quiet)

    assert [(episode.bag, episode.task) for episode in dataset.episodes] == [
        ("first", "open_drawer"),
        ("second", "close_drawer"),
    ]


def other(rows, like=0):
    """Other rows at the same stamps, the first of them the same: a simulator that starts from the same state."""
    made = random_rows(60, 99)
    for name in ("proprio", "scene", "accepted", "gripper"):
        getattr(made, name)[:like] = getattr(rows, name)[:like]
    return messages_of(made)


@pytest.mark.parametrize(
    "messages",
    [other(ROWS), other(ROWS, like=20), [*MESSAGES[118:], *later(MESSAGES)]],
    ids=["equal stamps", "equal stamps and beginning", "cut where the other one ends"],
)
def test_another_recording_is_kept(tmp_path, messages):
    first = write_mcap(tmp_path / "first.mcap", MESSAGES)
    second = write_mcap(tmp_path / "second.mcap", messages)

    assert len(ingest([first, second], tmp_path / "data", SPEC, report=quiet).episodes) == 2


def test_of_a_fast_sensor_two_recorders_make_other_rows_of_the_same_messages(tmp_path):
    rows = random_rows(300, 1)
    fast = []
    for row in range(300):
        stamp = START + row * 10**7
        fast.append(robot_state(stamp, rows.proprio[row], rows.accepted[row] / 4, rows.gripper[0]))
        fast.append(scene_state(stamp, rows.scene[row]))
    first, second = write_mcap(tmp_path / "first.mcap", fast), write_mcap(tmp_path / "second.mcap", fast[202:])
    alone = ingest([second], tmp_path / "alone", SPEC, report=quiet)
    both = ingest([first, second], tmp_path / "data", SPEC, report=quiet)

    assert not set(alone.stamp) & set(both.stamp), "or the test shows nothing"
    assert [episode.bag for episode in both.episodes] == ["first"]


def test_bags_that_are_taken_over_are_compared_too_and_come_back_when_the_other_is_gone(tmp_path):
    first = write_mcap(tmp_path / "first.mcap", MESSAGES)
    second = write_mcap(tmp_path / "second.mcap", MESSAGES[:100])
    ingest([first], tmp_path / "data", SPEC, report=quiet)

    both = ingest([second, first], tmp_path / "data", SPEC, report=quiet)
    assert [episode.bag for episode in both.episodes] == ["second"]
    assert [(item.bag, item.reason) for item in both.dropped] == [("first", "episode of the same recording as second")]

    again = ingest([first], tmp_path / "data", SPEC, report=quiet)
    assert_same_rows(again, again.episodes[0], ROWS)
    assert again.dropped == ()


def test_a_copy_under_another_name_counts_once(tmp_path):
    first = write_mcap(tmp_path / "a" / "demo.mcap", MESSAGES)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    dataset = ingest([first, tmp_path / "b"], tmp_path / "data", SPEC, report=quiet)

    assert len(dataset) == 60
    assert len(np.unique(dataset.stamp)) == len(stamps_of(60))
