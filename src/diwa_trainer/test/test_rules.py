"""Rules of features: found from data and tasks, whatever a scene's values are called."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toy import SPEC, TASK, TINY_MODEL, write_toy

from diwa_runtime.spec import PROPRIO_NAMES, TaskSpec
from diwa_trainer.dataset import Dataset, DatasetWriter
from diwa_trainer.samples.stretches import demonstrations, start_rows
from diwa_trainer.world.data_summary import told_of_scene
from diwa_trainer.world.features import CLAMP, Features
from diwa_trainer.world.observations import action_at, observation_at
from diwa_trainer.world.open_loop import open_loop_report
from diwa_trainer.world.rules import FREE_POSITION, LEVEL, STILL, bodies_of, has_two_levels, rule_of, travel
from diwa_trainer.world.world_model import WorldModel

NAMES = {"slider": "q7", "drawer": "lid", "button": "u", "switch": "tcp_x", "bulb": "joint_1", "led": "gripper_width"}
BODIES = {"red": "nut", "blue": "bolt", "pink": "drawer"}


def renamed(name: str) -> str:
    body, _, coordinate = name.rpartition("_")
    return NAMES.get(name) or f"{BODIES[body]}_{coordinate}"


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Dataset, Dataset]:
    """A scene in which everything moves, under the play table's names and under others."""
    folder = tmp_path_factory.mktemp("names")
    toy = Dataset.open(write_toy(folder / "toy", play=6))
    scene = np.cumsum(np.random.default_rng(0).normal(0, 0.01, toy.scene.shape), 0).astype("f4")
    scene[:, SPEC.scene.index("drawer")] = toy.scene[:, SPEC.scene.index("drawer")]
    for name, rows in (("bulb", 31), ("led", 17)):
        scene[:, SPEC.scene.index(name)] = np.arange(len(toy)) // rows % 2
    tasks = tuple(dataclasses.replace(task, field=renamed(task.field)) for task in SPEC.tasks)
    other = dataclasses.replace(SPEC, scene=tuple(map(renamed, SPEC.scene)), tasks=tasks)
    found = []
    for spec in (SPEC, other):
        with DatasetWriter(folder / f"data_{len(found)}", spec) as writer:
            for e in toy.episodes:
                rows = {name: array[e.rows] for name, array in toy.arrays.items()} | {"scene": scene[e.rows]}
                writer.add_episode(rows, kind=e.kind, task=e.task, outcome=e.outcome, bag=e.bag)
        found.append(Dataset.open(folder / f"data_{len(found)}"))
    return found[0], found[1]


def model_of(data: Dataset) -> WorldModel:
    torch.manual_seed(0)
    model = WorldModel(data.spec, TINY_MODEL)
    model.fit_features(data)
    return model


def test_a_world_model_begins_and_learns_alike_whatever_a_scene_calls_its_values(both):
    weights, losses = [], []
    for data in both:
        model, rows = model_of(data), np.arange(4)[:, None] * 20 + np.arange(12)
        weights.append(model.state_dict())
        loss, _ = model.loss(observation_at(data, rows), action_at(data, rows), torch.Generator().manual_seed(0))
        losses.append(loss.item())

    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert losses[0] == losses[1]


def test_flips_and_what_moved_are_the_same_whatever_a_scene_calls_its_values(both):
    ours, theirs = (open_loop_report(model_of(data), data, data.episodes, 0, windows=20) for data in both)

    assert ours["flips"].keys() == {"bulb", "led"}
    assert ours["flips"] == {name: theirs["flips"][renamed(name)] for name in ours["flips"]}
    assert ours["features"] == {
        name: theirs["features"][name if name == "tcp" else renamed(name)] for name in ours["features"]
    }


def test_imagined_episodes_start_in_the_same_rows_whatever_a_scene_calls_its_values(both):
    rows = [
        start_rows(data, TASK, demonstrations(data, TASK, 1), data.episodes, 20, np.random.default_rng(0))
        for data in both
    ]

    assert len(rows[0]) > 0
    np.testing.assert_array_equal(*rows)


def lies_at_two_levels(values) -> bool:
    """The oracle, value by value."""
    values = [float(value) for value in values]
    low, high = min(values), max(values)
    return low < high and all(min(value - low, high - value) <= LEVEL * (high - low) for value in values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1, 1, 0], True),
        ([-1, -1, -1, 1], True),
        ([3.3, 3.31, 0.02, 0, 3.29], True),
        ([0.4] * 5, False),
        ([0, 1, 0.5], False),
        ([0, 0.06, 1], False),
        (np.linspace(0, 0.2, 50), False),
    ],
    ids=["light", "command", "voltage", "still", "half way", "a bit off", "drawer"],
)
def test_two_levels_are_what_a_value_always_lies_at_one_of(values, expected):
    assert has_two_levels(torch.tensor(np.float32(values))) == expected == lies_at_two_levels(values)


def test_two_levels_are_found_as_by_looking_at_each_value():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        values = rng.integers(0, 2, 6) + rng.choice([0.0, 0.03, 0.2]) * rng.uniform(-1, 1, 6)
        found.append(has_two_levels(torch.from_numpy(values)))
        assert found[-1] == lies_at_two_levels(values), values
    assert 50 < sum(found) < 250


def fitted(names, raw, watched=None) -> Features:
    features = Features(names, watched)
    features.fit(np.asarray(raw, np.float32).T)
    return features


ROWS = np.arange(4000)
STEADY = np.zeros(len(ROWS))


def ramp(to):
    return np.linspace(0, to, len(ROWS))


def test_a_part_counts_once_it_has_moved_and_by_how_far():
    """Deviations are floored where values rest most of the time: a press of a hundred rows in four thousand."""
    press = np.where(ROWS < 3900, 0.0, 0.03)
    press[-1] = 0.02  # on its way back: no light
    noise = 1e-3 * np.random.default_rng(0).uniform(-1, 1, len(ROWS))
    features = fitted(("press", "stuck", "big", "lamp"), [press, noise, 1000 * press, ROWS >= 3990], {})

    assert features.weight.tolist() == pytest.approx([4.0, 0.5, 4.0, 4.0])
    assert features.shares == (2.0, 0.05, 2.0, 1.0)
    assert features.std.tolist() == pytest.approx([0.006, 0.05, 6.0, 0.25])


def test_one_odd_row_far_off_is_no_travel():
    odd = ramp(0.2)
    odd[7] = 50.0

    assert travel(torch.from_numpy(odd)) == pytest.approx(0.2, rel=0.01)


@pytest.mark.parametrize(("far", "change"), [(1.0, 0.5), (0.22, 0.12), (0.285, 0.15), (1.2, 0.1)])
def test_the_far_end_of_what_tasks_watch_is_not_clamped_away(far, change):
    """A value that rests at one end in all but a hundredth of the rows."""
    values = np.where(ROWS < 3960, 0.0, far)

    features = fitted(("part",), [values], {"part": change})
    seen = features(torch.tensor(np.float32(values))[:, None])

    assert seen.abs().max() < CLAMP
    assert features.physical(seen, "part")[-1] == pytest.approx(far, abs=1e-5)


def test_a_body_counts_once_tasks_watch_one_of_its_coordinates():
    pose = [f"cup_{end}" for end in ("x", "y", "z", "roll", "pitch", "yaw")]
    other = [name.replace("cup", "ball") for name in pose]
    features = fitted((*pose, *other), [0.01 * ramp(1)] * 12, {"cup_z": 0.1})
    by_name = dict(zip(features.names, zip(features.std.tolist(), features.weight.tolist(), strict=True), strict=True))

    assert by_name["cup_z"] == pytest.approx((0.05, 8.0))
    assert by_name["cup_x"] == pytest.approx((0.02, 8.0))
    assert by_name["ball_x"] == pytest.approx((0.1, 0.003))
    assert by_name["cup_rotation_0"][1] > by_name["ball_rotation_0"][1]


@pytest.mark.parametrize("watched", ["cup_angle", "cup_in_place", "cup"])
def test_a_body_counts_too_where_tasks_watch_something_else_of_it(watched):
    features = fitted(("cup_x", "cup_y", watched, "cups_x", "cups_y"), [0.01 * ramp(1)] * 5, {watched: 0.1})
    weights = dict(zip(features.names, features.weight.tolist(), strict=True))

    assert weights["cup_x"] == weights["cup_y"] == pytest.approx(8.0)
    assert weights["cups_x"] == pytest.approx(0.003), "another body"


def test_what_counts_how_much_is_told_as_it_is_weighed():
    names = ("door_angle", "door_x", "door_y", "cup_x", "cup_y", "rope", "wall")
    scene = torch.from_numpy(np.stack([*[0.1 * ramp(1)] * 6, np.full(len(ROWS), 0.3)], -1))
    watched = {"door_angle": 0.3}
    told = told_of_scene(SimpleNamespace(spec=SimpleNamespace(scene=names, watched=watched), scene=scene.numpy()))

    assert told == (
        "watched by tasks: door_angle; learned: door_x, door_y, rope; free bodies, hardly learned: cup; never moved, "
        "not learned: wall"
    )
    rules = {name: rule_of(name, scene[:, i], watched, bodies_of(names)) for i, name in enumerate(names)}
    assert rules["cup_x"] == rules["cup_y"] == FREE_POSITION
    assert rules["wall"] == STILL
    assert min(rules[name].weight for name in ("door_x", "door_y", "rope")) > STILL.weight


def test_one_coordinate_alone_is_a_part_that_moves_and_no_pose():
    assert bodies_of(("cup_x", "cup_yaw", "handle_z", "x", "lid")) == {"cup"}


def test_an_arm_of_other_names_is_standardised_by_how_far_it_goes():
    names = ("tcp_x", "tcp_y", "tcp_z", "elbow", "claw", "lost", "force")
    features = fitted(
        names, [ramp(1), ramp(1), ramp(1), ramp(3), ROWS % 2, STEADY, np.where(ROWS < 3900, 0, ROWS - 3900)]
    )

    assert features.weight.tolist() == pytest.approx([8, 8, 8, 0.5, 1.0, 0.5, 0.5])
    assert features.shares == (8, 8, 8, 0.5, 1.0, 0.05, 0.5)
    assert features.std[-1] >= 95 / 5, "newtons, most of the time none"
    contract = fitted(PROPRIO_NAMES, [ramp(1)] * len(PROPRIO_NAMES))
    shares = dict(zip(contract.names, contract.shares, strict=True))
    assert (shares["joint_7"], shares["gripper_command"], shares["tcp_rotation_3"]) == (0.1, 1.0, 0.8)


def test_an_older_file_without_weights_of_features_still_loads_and_training_weighs_by_the_data(both):
    data = both[0]
    old = {
        name: value for name, value in model_of(data).state_dict().items() if not name.endswith((".weight", ".share"))
    }
    whole = model_of(data).state_dict()
    old |= {name: value for name, value in whole.items() if name.split(".")[0] not in ("proprio", "scene")}
    fresh, goes_on = WorldModel(data.spec, TINY_MODEL), model_of(data)

    fresh.load_state_dict(old)
    goes_on.load_state_dict(old)

    assert torch.equal(fresh.scene.std, whole["scene.std"])
    assert torch.equal(goes_on.feature_weights, model_of(data).feature_weights)


def test_tasks_of_one_field_are_weighed_by_the_least_they_ask_for():
    spec = dataclasses.replace(
        SPEC,
        tasks=(TaskSpec("open", "drawer", 0.12), TaskSpec("crack", "drawer", 0.05), TaskSpec("shut", "drawer", -0.1)),
    )
    features = fitted(("drawer",), [0.2 * (ROWS == 5)], spec.watched)
    assert float(features.std) == pytest.approx(0.05), "a quarter of the travel, which is more than half of the change"
