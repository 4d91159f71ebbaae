"""Ingest says how the hand follows its actions, and warns where these stand in wrong rows or are of another unit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from recorded_bags import SPEC, play_bag, random_rows, robot_state, scene_state, stamps_of, with_episode, write_bag
from test_following import RESPONSE, followed, wandering

from diwa_runtime.spec import Spec
from diwa_runtime.stream_spec import StreamSpec
from diwa_trainer.dataset import Dataset
from diwa_trainer.dataset.following import Following
from diwa_trainer.ingest.hand import Hand
from diwa_trainer.ingest.left_out import odd_actions
from diwa_trainer.verbs.ingest import IngestConfig, run

ROWS = 300
DELTA = "diwa_msgs/msg/EndEffectorDelta"
STUCK = np.zeros(ROWS, bool)
STUCK[120:180] = True
COMMAND = StreamSpec("action", "robot/command", DELTA, ("translation", "rotation"), align="integrate")
GRIPPER = StreamSpec("action", "robot/command", DELTA, ("gripper",), align="hold")


def commanded(motion: StreamSpec, gripper: StreamSpec) -> Spec:
    """The Spec of a robot whose actions are the commands that it was sent."""
    return replace(SPEC, streams=(*(s for s in SPEC.streams if s.field != "action"), motion, gripper))


def recorded(folder: Path, stuck: np.ndarray | None = None, task: str = "") -> tuple[Path, np.ndarray]:
    """A bag of a hand with a known response, and its actions (T, 7).

    `robot/state` says what was accepted until then, in SI. `robot/command` says what is to be done next, from -1 to 1,
    and is stamped as the observation that it answers.
    """
    actions, rows = wandering(0, ROWS), random_rows(ROWS, 0)
    rows.proprio[:, :3] = followed(actions, RESPONSE, stuck)
    messages: list[Any] = []
    for row, stamp in enumerate(stamps_of(ROWS)):
        before = actions[row - 1] if row else np.zeros(7)
        messages.append(robot_state(stamp, rows.proprio[row], before[:6], 1.0))
        messages.append(scene_state(stamp, rows.scene[row]))
        way, turn = (dict(zip("xyz", map(float, part), strict=True)) for part in (actions[row, :3], actions[row, 3:6]))
        messages.append(
            ("robot/command", DELTA, stamp, {"translation": way, "rotation": turn, "gripper": 1.0, "source": "policy"})
        )
    return write_bag(folder, with_episode(messages, task)), actions


def ingested(tmp_path: Path, bag: Path, spec: Spec, capsys: Any) -> tuple[Dataset, list[str], str]:
    """Return the dataset, the warnings and what was printed."""
    (tmp_path / "spec.json").write_text(json.dumps(spec.to_json()))
    run(IngestConfig(bags=(bag,), output=tmp_path / "data", spec=tmp_path / "spec.json"))
    said = capsys.readouterr()
    return Dataset.open(tmp_path / "data"), [x for x in said.err.splitlines() if "warning" in x], said.out


def test_of_a_good_recording_gain_lag_and_contact_are_told_and_nothing_is_warned_of(tmp_path, capsys):
    _, warnings, said = ingested(tmp_path, recorded(tmp_path / "bag", STUCK)[0], SPEC, capsys)
    assert warnings == []
    assert "hand: moves 0.9 times as far as its actions ask, beginning in the row of the action; 100 % of" in said
    (contact,) = [line for line in said.splitlines() if line.startswith("contact: ")]
    assert int(contact.split()[1]) == pytest.approx(STUCK.sum(), abs=15)


def test_what_is_warned_of_is_right_once_it_is_set_as_the_warning_says(tmp_path, capsys):
    bag, actions = recorded(tmp_path / "bag")
    _, (late, large), _ = ingested(tmp_path, bag, commanded(COMMAND, GRIPPER), capsys)
    assert "robot/command: the hand begins to move a row after its action (" in late
    assert 'give the stream "applies": "after" in the Spec' in late
    assert 'robot/command: the hand moves 0.018 times as far as its actions ask; with "scale": "normalised"' in large
    assert "it would be 0.9 times" in large

    spec = commanded(
        replace(COMMAND, applies="after", scale="normalised"), replace(GRIPPER, applies="after", scale="normalised")
    )
    dataset, warnings, said = ingested(tmp_path, bag, spec, capsys)

    assert warnings == []
    assert "hand: moves 0.9 times" in said
    np.testing.assert_allclose(dataset.action[:-1, :6], actions[:-1, :6], atol=1e-6)


def test_actions_that_come_a_row_too_late_are_found_too(tmp_path, capsys):
    spec = replace(SPEC, streams=tuple(replace(s, applies="after") if s.field == "action" else s for s in SPEC.streams))
    _, (early,), _ = ingested(tmp_path, recorded(tmp_path / "bag")[0], spec, capsys)
    assert "begins to move a row before its action" in early
    assert 'which cannot be; give the stream "applies": "before" in the Spec' in early


def test_a_recording_of_which_nothing_can_be_told_warns_of_nothing(tmp_path, capsys):
    _, warnings, said = ingested(tmp_path, play_bag(tmp_path / "bag", ROWS), SPEC, capsys)
    assert warnings == []
    assert "explained by its actions, too little to tell how it follows them" in said


ONE_M = 'with "scale": "SI" for the stream in the Spec it would be 0.96 times; or it is the positions in `proprio`'


@pytest.mark.parametrize(
    ("gain", "scale", "said"),
    [
        (0.00095, "SI", 'moves 0.00095 times as far as its actions ask; with "scale": "mm" for'),
        (0.019, "SI", '0.019 times as far as its actions ask; with "scale": "normalised" for'),
        (48.0, "normalised", f"48 times as far as its actions ask; {ONE_M}"),
        (1e-5, 0.5, '1e-05 times as far as its actions ask; with "scale": 5e-06 for'),
        (1000.0, "SI", '1,000 times as far as its actions ask; with "scale": 1000.0 for'),
        (-0.9, "SI", "the hand moves against its actions; see that both are told in one frame"),
        (0.4, "SI", None),
        (2.5, "SI", None),
    ],
)
def test_the_unit_that_fits_is_named_or_else_the_factor(gain, scale, said):
    spec = commanded(replace(COMMAND, scale=scale), GRIPPER)
    response = gain * np.array([0, 0, 0.5, 0.4, 0.1, 0, 0, 0, 0])
    warnings = list(Hand(spec, Following(response, 0.9, 0.01, 1000), 0, 1000).warnings())
    assert len(warnings) == (said is not None)
    assert said is None or said in warnings[0]
    assert not list(Hand(spec, Following(response, 0.4, 0.01, 1000), 0, 1000).warnings()), "nothing is clear"


def test_actions_that_are_positions_are_known_by_the_hand_that_follows_their_changes():
    response = np.array([0, 0, 0.5, -0.25, -0.15, -0.095, 0, 0, 0])
    (said,) = Hand(commanded(COMMAND, GRIPPER), Following(response, 0.9, 0.01, 1000), 0, 1000).warnings()
    assert "as if they were positions; record motions" in said


def test_a_robot_s_state_that_comes_less_often_than_rows_is_warned_of_once(tmp_path, capsys):
    for name in ("one", "two"):
        play_bag(tmp_path / "bags" / name, ROWS, seed=ord(name[0]))
    _, (slow,), _ = ingested(tmp_path, tmp_path / "bags", replace(SPEC, rate_hz=45.0), capsys)
    assert "robot/state comes at 30 Hz, and rows are made at 45 Hz: of every 45 rows 15 are held ones; set " in slow


def test_where_rows_only_repeat_the_one_before_nothing_is_said_of_the_row_in_which_a_motion_begins(tmp_path, capsys):
    """The rate is what is wrong; to set ``applies`` by what such rows show would break a Spec that is right."""
    early = Following(np.array([0, 0.5, 0.4, 0, 0, 0, 0, 0, 0]), 0.9, 0.01, 1000)
    assert "begins to move" not in str([*Hand(SPEC, early, 0, 1000, held=200).warnings()])
    (said,) = Hand(SPEC, early, 0, 1000, held=20).warnings()
    assert "begins to move a row before its action" in said
    play_bag(tmp_path / "bags" / "one", ROWS)

    dataset, _, _ = ingested(tmp_path, tmp_path / "bags", replace(SPEC, rate_hz=45.0), capsys)

    assert Hand.of(dataset).held > 0.2 * len(dataset)


def recorded_actions(action: np.ndarray, width: np.ndarray) -> SimpleNamespace:
    proprio = np.zeros((len(action), len(SPEC.proprio)), np.float32)
    proprio[:, SPEC.proprio.index("gripper_width")] = width
    return SimpleNamespace(action=action, proprio=proprio, spec=SPEC)


def test_of_actions_that_are_mostly_beyond_1_the_scale_that_fits_is_named():
    action = np.zeros((1000, 7), np.float32)
    action[:, 0] = np.linspace(-2.5, 2.5, 1000)
    (said,) = odd_actions(recorded_actions(action, np.zeros(1000)))
    assert said.startswith("60% of the rows move further than an action of 1")
    assert "within translation_m 0.05: set that as action_scale in the Spec, or a higher rate_hz" in said
    assert not list(odd_actions(recorded_actions(action / 2.5, np.zeros(1000))))


@pytest.mark.parametrize(("sign", "opens_m", "warned"), [(1, 0.08, False), (-1, 0.08, True), (-1, 0.004, False)])
def test_a_gripper_that_is_told_the_other_way_round_is_named(sign, opens_m, warned):
    command = np.repeat([1.0, -1.0, 1.0], 50)
    action = np.zeros((150, 7), np.float32)
    action[:, 6] = command
    said = list(odd_actions(recorded_actions(action, np.where(sign * np.roll(command, 5) > 0, opens_m, 0.0))))
    assert [("gripper is narrower where it is told 1 (open)" in line) for line in said] == [True] * warned
    assert all('give robot/state "closed_open": [1, -1] in the Spec' in line for line in said)


def test_a_recording_whose_positions_are_in_millimetres_is_known_again(tmp_path, capsys):
    """Copies of a recording are found by the values of its reference stream, and these are in metres in rows alone."""
    position, rest = (
        replace(SPEC.streams[0], select=part) for part in (SPEC.streams[0].select[:1], SPEC.streams[0].select[1:])
    )
    spec = replace(SPEC, streams=(replace(position, scale="mm"), rest, *SPEC.streams[1:]))
    recorded(tmp_path / "bags" / "one")
    recorded(tmp_path / "bags" / "two", task="open_drawer")

    dataset, _, _ = ingested(tmp_path, tmp_path / "bags", spec, capsys)

    assert len(dataset) == ROWS
    assert 0 < np.abs(dataset.proprio[:, :3]).max() < 0.01


def test_a_recording_whose_state_names_its_gripper_s_own_values_is_known_again(tmp_path, capsys):
    state = replace(SPEC.streams[0], closed_open=(0.0, 3.0))
    recorded(tmp_path / "bags" / "one")
    recorded(tmp_path / "bags" / "two", task="open_drawer")

    dataset, _, _ = ingested(tmp_path, tmp_path / "bags", replace(SPEC, streams=(state, *SPEC.streams[1:])), capsys)

    assert len(dataset) == ROWS
    assert (dataset.proprio[:, -1] == -1).all(), "the messages' 1 is nearer to closed"
