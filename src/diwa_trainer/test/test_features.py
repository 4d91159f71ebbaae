"""Features: rotations without a jump, outliers clamped, nothing that matters clamped away, and the way back."""

import numpy as np
import pytest
import torch
from toy import TINY_MODEL

from diwa_runtime.errors import ConfigError
from diwa_runtime.geometry import euler_to_matrix
from diwa_runtime.spec import PROPRIO_NAMES, SCENE_NAMES, Spec
from diwa_trainer.dataset import Dataset, DatasetWriter
from diwa_trainer.world.data_summary import summarise_dataset
from diwa_trainer.world.features import CLAMP, Features, feature_names
from diwa_trainer.world.world_model import WorldModel

POSE = ("block_x", "block_roll", "block_pitch", "block_yaw")


def fitted(names, raw, watched=None) -> Features:
    features = Features(names, watched)
    features.fit(np.asarray(raw, np.float32))
    return features


def random_angles(count):
    return np.random.default_rng(0).uniform(-np.pi, np.pi, (count, 3))


def test_each_euler_triple_becomes_six_numbers_and_all_else_stays():
    assert feature_names(POSE) == ("block_x", *(f"block_rotation_{i}" for i in range(6)))
    assert len(feature_names(PROPRIO_NAMES)) == 18
    assert len(feature_names(SCENE_NAMES)) == 33


@pytest.mark.parametrize(
    "names", [("a_yaw",), ("a_roll", "a_pitch"), ("a_roll", "a_pitch", "b_yaw"), ("a_pitch", "a_roll", "a_yaw")]
)
def test_an_angle_outside_of_a_triple_is_refused_by_name(names):
    with pytest.raises(ConfigError, match=r"[ab]_(roll|pitch|yaw)' outside of a triple"):
        feature_names(names)


def test_rotations_are_the_first_two_columns_of_the_matrices_of_geometry():
    angles = random_angles(50)
    raw = np.concatenate([np.zeros((50, 1)), angles], -1).astype(np.float32)

    features = Features(POSE).raw_features(torch.from_numpy(raw))[:, 1:]

    columns = euler_to_matrix(angles)[..., :2]
    np.testing.assert_allclose(features, columns.transpose(0, 2, 1).reshape(50, 6), atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_nothing_jumps_where_an_angle_passes_pi(axis):
    raw = np.zeros((2, 4), np.float32)
    raw[:, 1 + axis] = np.pi - 1e-4, -np.pi + 1e-4

    before, after = Features(POSE).raw_features(torch.from_numpy(raw))

    assert (before - after).abs().max() < 1e-3


def test_features_have_mean_zero_and_deviation_one_where_they_vary():
    raw = np.random.default_rng(0).normal([0.3, -1.0], [0.5, 2.0], (4000, 2))

    features = fitted(("tcp_x", "joint_1"), raw)(torch.tensor(raw, dtype=torch.float32))

    np.testing.assert_allclose(features.mean(0), 0, atol=0.01)
    np.testing.assert_allclose(features.std(0), 1, atol=0.01)


def test_a_block_that_tips_over_and_falls_is_no_target_of_hundreds_of_deviations():
    raw = 1e-3 * np.random.default_rng(0).standard_normal((1000, 4)).astype(np.float32)
    raw[7] = 2.0, np.pi / 2, 0.0, 0.0

    features = fitted(POSE, raw, {})
    largest = features(torch.from_numpy(raw)).abs().amax(0)

    assert features.std[0] == pytest.approx(0.1)
    assert features.std[1:].min() >= 0.3
    assert largest[0] == CLAMP
    assert largest[1:].max() < CLAMP


def test_physical_inverts_the_standardisation():
    raw = np.random.default_rng(1).normal(0, 0.1, (200, len(PROPRIO_NAMES))).astype(np.float32)
    features = fitted(PROPRIO_NAMES, raw)
    seen = features(torch.from_numpy(raw))

    for name in ("tcp_x", "tcp_z", "joint_7", "gripper_command"):
        expected = raw[:, PROPRIO_NAMES.index(name)]
        np.testing.assert_allclose(features.physical(seen, name), expected, atol=1e-6, err_msg=name)


def test_the_world_model_weighs_features_as_their_rules_do(toy_data):
    data = Dataset.open(toy_data)
    model = WorldModel(data.spec, TINY_MODEL)
    model.fit_features(data)

    assert model.feature_weights.equal(torch.cat([model.proprio.weight, model.scene.weight]))
    assert model.feature_weights.unique().numel() > 3


def test_features_and_their_way_back_keep_leading_dimensions():
    raw = torch.randn(2, 3, len(SCENE_NAMES))
    features = Features(SCENE_NAMES)

    assert features(raw).shape == (2, 3, 33)
    assert features.physical(features(raw), "led").shape == (2, 3)


def test_the_standardisation_travels_with_the_weights():
    raw = np.random.default_rng(1).normal(0.4, 0.2, (50, 1)).astype(np.float32)
    features, other = fitted(("tcp_x",), raw), Features(("tcp_x",))

    other.load_state_dict(features.state_dict())

    assert torch.equal(other(torch.from_numpy(raw)), features(torch.from_numpy(raw)))


def test_the_summary_of_a_dataset_counts_episodes_and_losses_and_names_the_farthest_value_of_each_feature(tmp_path):
    spec = Spec(rate_hz=10.0)
    with DatasetWriter(tmp_path / "data", spec) as writer:
        for kind, task, outcome, length in (
            ("play", None, None, 30), ("demonstration", "open_drawer", "success", 20), ("play", None, None, 40),
        ):  # fmt: skip
            rows = {
                "stamp": np.arange(length),
                "proprio": np.zeros((length, 15), "f4"),
                "action": np.zeros((length, 7)),
            }
            rows["proprio"][:, 0], rows["proprio"][-1, 0] = 1.0, -9.0  # the farthest is below the mean
            writer.add_episode({**rows, "scene": np.zeros((length, 24), "f4")}, kind=kind, task=task, outcome=outcome)
        writer.drop("bag", "a reason", 4)
    data = Dataset.open(tmp_path / "data")
    model = WorldModel(spec, TINY_MODEL)
    model.fit_features(data)

    summary = summarise_dataset(data, model)

    assert (summary["rows"], summary["hours"]) == (90, 90 / 10 / 3600)
    assert [tuple(group.values()) for group in summary["episodes"]] == [
        ("demonstration", "open_drawer", "success", 1, 20), ("play", "", "", 2, 70),
    ]  # fmt: skip
    assert summary["dropped"] == [{"bag": "bag", "reason": "a reason", "count": 4}]
    assert [feature["name"] for feature in summary["features"]] == list(model.feature_names)
    x = data.proprio[:, 0]
    expected = ("tcp_x", x.mean(), x.std(ddof=1), (x.mean() + 9) / x.std(ddof=1))
    assert tuple(summary["features"][0].values()) == (expected[0], *(pytest.approx(v, rel=1e-4) for v in expected[1:]))
