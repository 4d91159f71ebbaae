"""The dataset: what is written comes back, windows stay within episodes, damaged folders are refused."""

import dataclasses
import errno
import json
import pickle

import numpy as np
import pytest
import torch

from diwa_runtime.errors import DiwaError, InputError, StorageError
from diwa_runtime.spec import CameraSpec, Spec
from diwa_trainer.dataset import Dataset, DatasetWriter, Episode, field_layouts
from diwa_trainer.dataset.npy import GrowingArray
from diwa_trainer.world.observations import action_at, observation_at, pictures_at

VISION = Spec(mode="hybrid", cameras=(CameraSpec("static", 8, 6), CameraSpec("wrist", 4, 4)))


def make_rows(count, spec=None, seed=0, first=0):
    rng = np.random.default_rng(seed)
    rows = {}
    for name, (dtype, shape) in field_layouts(spec or Spec()).items():
        if name == "stamp":
            rows[name] = np.arange(first, first + count, dtype=np.int64)
        elif dtype.kind == "u":
            rows[name] = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        else:
            rows[name] = rng.standard_normal((count, *shape)).astype(dtype)
    return rows


def write_dataset(folder, lengths=(10, 3, 25), spec=None):
    with DatasetWriter(folder, spec or Spec()) as writer:
        for number, length in enumerate(lengths):
            rows = make_rows(length, spec, seed=number, first=1000 * number)
            about = {} if number % 2 == 0 else {"kind": "demonstration", "task": "open_drawer", "outcome": "success"}
            writer.add_episode(rows, bag=f"bag_{number}", seed=number, marks=[(length - 1, "open_drawer")], **about)
    return Dataset.open(folder)


@pytest.mark.parametrize("spec", [Spec(), VISION], ids=["state", "hybrid"])
def test_rows_come_back_bit_for_bit(tmp_path, spec):
    dataset = write_dataset(tmp_path / "data", spec=spec)

    for number, episode in enumerate(dataset.episodes):
        expected = make_rows(len(episode), spec, seed=number, first=1000 * number)
        actual = dataset.rows(episode)
        assert actual.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(actual[name], values, err_msg=name)
            assert actual[name].dtype == values.dtype
    assert dataset.spec == spec
    assert set(dataset.images) == ({camera.name for camera in spec.cameras} if spec.uses_cameras else set())


def test_images_stay_on_disk(tmp_path):
    dataset = write_dataset(tmp_path / "data", spec=VISION)

    assert all(isinstance(images, np.memmap) for images in dataset.images.values())
    assert not isinstance(dataset.proprio, np.memmap)


def test_what_an_episode_is_comes_back(tmp_path):
    dataset = write_dataset(tmp_path / "data", lengths=(4, 5))

    assert dataset.episodes == (
        Episode(0, 4, "play", None, None, 0, "bag_0", "", ((3, "open_drawer"),)),
        Episode(4, 9, "demonstration", "open_drawer", "success", 1, "bag_1", "", ((8, "open_drawer"),)),
    )
    assert dataset.episodes_of(kind="play") == dataset.episodes[:1]
    assert dataset.episodes_of(task="open_drawer", outcome="success") == dataset.episodes[1:]
    assert dataset.episodes_of(kind="play", task="open_drawer") == ()


def test_appending_in_pieces_is_the_same_as_at_once(tmp_path):
    rows = make_rows(11, VISION)
    with DatasetWriter(tmp_path / "data", VISION) as writer:
        for cut in np.split(np.arange(11), [4, 4, 9]):
            writer.append({name: values[cut] for name, values in rows.items()})
        writer.end_episode()

    for name, values in Dataset.open(tmp_path / "data").arrays.items():
        np.testing.assert_array_equal(values, rows[name], err_msg=name)


def test_a_discarded_episode_leaves_no_rows(tmp_path):
    with DatasetWriter(tmp_path / "data", VISION) as writer:
        writer.add_episode(make_rows(3, VISION, seed=1))
        writer.append(make_rows(4, VISION, seed=2))
        assert writer.discard_episode() == 4
        writer.add_episode(make_rows(5, VISION, seed=3))
        writer.drop("bag", "a reason", 4)
        writer.drop("bag", "a reason", 2)
    dataset = Dataset.open(tmp_path / "data")

    assert [(episode.start, episode.end) for episode in dataset.episodes] == [(0, 3), (3, 8)]
    np.testing.assert_array_equal(dataset.images["wrist"][3:], make_rows(5, VISION, seed=3)["wrist"])
    assert [(item.bag, item.reason, item.count) for item in dataset.dropped] == [("bag", "a reason", 6)]


def test_windows_never_cross_episodes_and_reach_every_start(tmp_path):
    dataset = write_dataset(tmp_path / "data", lengths=(10, 3, 25))
    episode_of_row = np.repeat([0, 1, 2], [10, 3, 25])

    window = dataset.windows(np.random.default_rng(0), batch=2000, length=4)

    assert (np.diff(window["row"], axis=1) == 1).all()
    assert (episode_of_row[window["row"]] == episode_of_row[window["row"][:, :1]]).all()
    assert set(window["row"][:, 0]) == {*range(7), *range(13, 35)}


@pytest.mark.parametrize("spec", [Spec(), VISION], ids=["state", "hybrid"])
def test_windows_copy_the_rows_that_they_name(tmp_path, spec):
    dataset = write_dataset(tmp_path / "data", spec=spec)

    window = dataset.windows(np.random.default_rng(1), batch=7, length=3)

    for name, array in dataset.arrays.items():
        np.testing.assert_array_equal(window[name], np.asarray(array)[window["row"]], err_msg=name)
        assert not np.shares_memory(window[name], array), name


ROWS = {
    "windows": np.array([[0, 1, 2], [20, 21, 22]]),
    "cut at an end": np.array([[7, 8, 9, 9], [10, 11, 12, 12]]),
    "any": np.array([37, 3, 3, 0]),
    "one": np.array(5),
    "none": np.zeros(0, np.int64),
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("spec", [Spec(), VISION, dataclasses.replace(VISION, mode="vision")], ids=lambda s: s.mode)
def test_what_training_reads_are_the_rows_that_it_names(tmp_path, spec, rows):
    dataset = write_dataset(tmp_path / "data", spec=spec)

    observation, actions = observation_at(dataset, rows), action_at(dataset, rows)
    pictures = pictures_at(dataset, rows)

    cameras = ("static", "wrist") if spec.uses_cameras else ()
    assert tuple(observation) == ("proprio", "scene", *cameras), "numbers, and pictures that nothing has looked at yet"
    looked_at = dataset.with_seen(np.zeros((len(dataset), 2), np.float32))
    assert tuple(observation_at(looked_at, rows)) == ("proprio", "seen", "scene"), "numbers alone"
    assert tuple(pictures) == (spec.observation_fields if spec.uses_cameras else ("proprio",)), "as a robot observes"
    for name, tensor in {**observation, **pictures, "action": actions}.items():
        expected = torch.from_numpy(np.array(dataset.arrays[name])[rows])
        assert tensor.dtype == expected.dtype
        assert torch.equal(tensor, expected), name
        assert not np.shares_memory(tensor.numpy(), dataset.arrays[name]), name


@pytest.mark.parametrize("rows", [[36, 37, 38], [-1, 0, 1]])
def test_rows_that_there_are_not_are_never_read(tmp_path, rows):
    dataset = write_dataset(tmp_path / "data", spec=VISION)

    for name in dataset.arrays:
        with pytest.raises(IndexError, match=rf"{name}: rows {rows[0]} to {rows[-1]} of 38"):
            dataset.take(name, np.array(rows))


def test_windows_come_from_the_given_episodes_and_fields_only(tmp_path):
    dataset = write_dataset(tmp_path / "data", lengths=(10, 12, 25))

    window = dataset.windows(np.random.default_rng(0), 50, 10, episodes=dataset.episodes[1:2], fields=["proprio"])

    assert set(window) == {"proprio", "row"}
    assert set(window["row"][:, 0]) == {10, 11, 12}


def test_windows_repeat_with_the_seed(tmp_path):
    dataset = write_dataset(tmp_path / "data")

    first, second = (dataset.windows(np.random.default_rng(5), 9, 2)["row"] for _ in range(2))

    np.testing.assert_array_equal(first, second)


def test_windows_longer_than_every_episode_are_refused(tmp_path):
    dataset = write_dataset(tmp_path / "data", lengths=(10, 3))

    with pytest.raises(InputError, match="longest has 10"):
        dataset.windows(np.random.default_rng(0), 1, 11)


def test_split_is_deterministic_disjoint_and_holds_out_some_of_each_group(tmp_path):
    dataset = write_dataset(tmp_path / "data", lengths=(4,) * 21)

    train, validation = dataset.split(0.2, seed=3)

    assert sorted(train + validation, key=lambda e: e.start) == list(dataset.episodes)
    assert len([e for e in validation if e.kind == "play"]) == 2
    assert len([e for e in validation if e.kind == "demonstration"]) == 2
    assert dataset.split(0.2, seed=3) == (train, validation)
    assert dataset.split(0.2, seed=4)[1] != validation
    assert dataset.split(0.0, seed=3) == (dataset.episodes, ())


GROUPS = {  # how many episodes of each kind, task and outcome
    ("play", None, None): 3,
    ("demonstration", "open_drawer", "success"): 10,
    ("demonstration", "open_drawer", "failure"): 2,
    ("demonstration", "turn_on_led", "success"): 1,
}


@pytest.mark.parametrize(
    ("fraction", "held_out"), [(0.0, [0, 0, 0, 0]), (0.01, [1, 1, 1, 0]), (0.26, [1, 3, 1, 0]), (0.99, [2, 9, 1, 0])]
)
def test_split_holds_out_its_share_of_each_group_at_least_one_and_never_all(fraction, held_out):
    groups = [group for group, count in GROUPS.items() for _ in range(count)]
    episodes = [Episode(3 * i, 3 * i + 3, *group) for i, group in enumerate(groups)]
    data = Dataset("memory", Spec(), episodes, {})

    train, validation = data.split(fraction, seed=0)

    assert [sum((e.kind, e.task, e.outcome) == group for e in validation) for group in GROUPS] == held_out
    assert sorted(train + validation, key=lambda e: e.start) == episodes


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_a_share_that_leaves_nothing_to_train_on_is_refused(fraction):
    with pytest.raises(ValueError, match="fraction must be in"):
        Dataset("memory", Spec(), (), {}).split(fraction, seed=0)


def test_a_failing_writer_leaves_the_old_dataset(tmp_path):
    write_dataset(tmp_path / "data", lengths=(5,))

    def write_and_fail():
        with DatasetWriter(tmp_path / "data", Spec()) as writer:
            writer.add_episode(make_rows(9))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_and_fail()

    assert len(Dataset.open(tmp_path / "data")) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(GrowingArray, "write", refuse)
    with (
        pytest.raises(StorageError, match=r"No space left on device.*free"),
        DatasetWriter(tmp_path / "d", Spec()) as w,
    ):
        w.add_episode(make_rows(3))

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_dataset_is_never_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")

    with pytest.raises(InputError, match="is no dataset"):
        DatasetWriter(tmp_path, Spec())


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"dataset.json": '{"labels": {"background": 0}, "numTraining": 1}', "case_0.nii": "scan"}, "dataset.json"),
        ({"world_model/world_model.safetensors": "weights"}, "world_model"),
        ({"NOTES.md": "mine"}, "NOTES.md"),
    ],
    ids=["another program's", "what was trained beside the arrays", "notes"],
)
def test_what_is_not_of_a_dataset_is_never_deleted(tmp_path, files, named):
    folder = tmp_path / "data"
    write_dataset(folder)
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    before = sorted(folder.rglob("*"))

    with pytest.raises(InputError, match=named):
        write_dataset(folder)

    assert sorted(folder.rglob("*")) == before


def test_a_dataset_behind_a_link_is_replaced_there(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").symlink_to("disk/data")
    with pytest.raises(StorageError, match="is a link to disk/data, which is not there"):
        DatasetWriter(tmp_path / "data", Spec())
    (tmp_path / "disk" / "data").mkdir()

    for lengths in ((5,), (6,)):
        assert len(write_dataset(tmp_path / "data", lengths)) == lengths[0]

    assert (tmp_path / "data").is_symlink()
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["data"]


def described(folder, name, sha256="ab" * 32, value=0.0):
    rows = make_rows(4)
    with DatasetWriter(folder, Spec()) as writer:
        writer.add_episode({**rows, "proprio": rows["proprio"] + value}, bag=name, sha256=sha256)
        writer.add_source(f"/somewhere/{name}", sha256, 4)
        writer.drop(name, "a reason")
    return Dataset.open(folder).fingerprint


def test_a_fingerprint_is_of_what_a_dataset_holds_not_of_where_that_lay(tmp_path):
    prints = [
        described(tmp_path / "a", "monday"),
        described(tmp_path / "b", "copies/monday"),
        described(tmp_path / "c", "monday", "cd" * 32),
        described(tmp_path / "d", "monday", sha256=""),
        described(tmp_path / "e", "monday", sha256="", value=1.0),
    ]

    assert prints[0] == prints[1]
    assert len(set(prints)) == 4


def test_rows_that_are_not_finite_or_of_another_shape_are_refused(tmp_path):
    rows = make_rows(3)
    broken = {
        "not finite": {**rows, "proprio": np.full((3, 15), np.nan, np.float32)},
        "shape": {**rows, "action": rows["action"][:, :6]},
        "fields": {name: values for name, values in rows.items() if name != "scene"},
    }
    for message, bad in broken.items():
        with pytest.raises(ValueError, match=message), DatasetWriter(tmp_path / "data", Spec()) as writer:
            writer.append(bad)
    assert list(tmp_path.iterdir()) == []


class Canary:
    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


def damage_pickle(folder):
    with open(folder / "proprio.npy", "wb") as file:
        pickle.dump(Canary(), file)


def damage_object_array(folder):
    np.save(folder / "proprio.npy", np.array([Canary()] * 38, dtype=object), allow_pickle=True)


def damage_header(folder):
    data = (folder / "proprio.npy").read_bytes()
    (folder / "proprio.npy").write_bytes(data[:10] + b"(" * 118 + data[128:])


def damage_json(**changes):
    def damage(folder):
        data = json.loads((folder / "dataset.json").read_text())
        (folder / "dataset.json").write_text(json.dumps({**data, **changes}))

    return damage


def damage_camera_path(folder):
    data = json.loads((folder / "dataset.json").read_text())
    data["spec"]["mode"] = "vision"
    data["spec"]["cameras"][0]["name"] = "../../outside"
    (folder / "dataset.json").write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_pickle, "proprio.npy: not a .npy"),
        (damage_object_array, "proprio.npy: holds object"),
        (damage_header, "proprio.npy: not a .npy"),
        (lambda folder: (folder / "action.npy").unlink(), "action.npy: not there"),
        (lambda folder: np.save(folder / "action.npy", np.zeros((38, 6), "f4")), "expected float32"),
        (lambda folder: (folder / "scene.npy").write_bytes((folder / "scene.npy").read_bytes()[:-4]), "bytes of data"),
        (lambda folder: (folder / "dataset.json").write_text("{"), "not JSON"),
        (lambda folder: (folder / "dataset.json").unlink(), "no dataset"),
        (damage_json(format=99), "format 99"),
        (damage_json(rows=10**15), "dataset.json"),
        (damage_json(episodes=[]), "dataset.json"),
        (damage_json(episodes=[{"start": -5}]), "damaged"),
        (damage_camera_path, "cannot name a camera"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_damaged_datasets_are_refused_with_one_line(tmp_path, damage, message):
    write_dataset(tmp_path / "data")
    damage(tmp_path / "data")

    with pytest.raises(DiwaError, match=message) as caught:
        Dataset.open(tmp_path / "data")

    assert "\n" not in str(caught.value)


def test_an_episode_that_was_not_ended_makes_no_dataset(tmp_path):
    with (
        pytest.raises(ValueError, match="last episode was not ended"),
        DatasetWriter(tmp_path / "data", Spec()) as writer,
    ):
        writer.append(make_rows(3))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("row", [-1, 3])
def test_a_mark_outside_of_its_episode_is_refused(tmp_path, row):
    with DatasetWriter(tmp_path / "data", Spec()) as writer:
        writer.add_episode(make_rows(2))
        writer.append(make_rows(3))
        with pytest.raises(InputError, match="mark outside of its rows 2 to 5"):
            writer.end_episode(marks=[(row, "open_drawer")])
        writer.discard_episode()


def test_numbers_of_another_kind_are_refused_and_never_rounded(tmp_path):
    with DatasetWriter(tmp_path / "data", Spec()) as writer:
        rows = make_rows(3)
        with pytest.raises(ValueError, match="stamp is float64, expected int64"):
            writer.append({**rows, "stamp": rows["stamp"] + 0.5})


def test_episodes_that_leave_out_a_row_are_refused(tmp_path):
    path = write_dataset(tmp_path / "data").folder / "dataset.json"
    data = json.loads(path.read_text())
    data["episodes"][1]["start"] += 1
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match="claims rows 11 to 13, expected from 10"):
        Dataset.open(tmp_path / "data")


def test_the_same_rows_under_another_spec_have_another_fingerprint(tmp_path):
    prints = {write_dataset(tmp_path / f"{hz}", spec=Spec(rate_hz=hz)).fingerprint for hz in (20.0, 30.0)}
    assert len(prints) == 2


def test_numbers_of_the_right_size_and_the_wrong_kind_are_refused(tmp_path):
    path = write_dataset(tmp_path / "data").folder / "proprio.npy"
    np.save(path, np.load(path).view(np.int32))
    with pytest.raises(InputError, match=r"proprio\.npy: holds int32 .*, expected float32"):
        Dataset.open(tmp_path / "data")


def test_episodes_are_found_by_their_outcome(tmp_path):
    with DatasetWriter(tmp_path / "data", Spec()) as writer:
        for outcome in ("success", "failure", None):
            writer.add_episode(make_rows(2), kind="demonstration", task="open_drawer", outcome=outcome)
    dataset = Dataset.open(tmp_path / "data")
    assert [episode.start for episode in dataset.episodes_of(outcome="failure")] == [2]
    assert len(dataset.episodes_of(task="open_drawer")) == 3
