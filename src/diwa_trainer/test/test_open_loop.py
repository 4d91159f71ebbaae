"""Open-loop figures: a perfect model has no error, the baselines are what they say, what moved is counted apart."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toy import DRAWER, SPEC, STRIDE_M, tiny_model, write_toy

from diwa_runtime.spec import TCP_POSITION
from diwa_trainer.dataset import Dataset, Episode
from diwa_trainer.world import open_loop
from diwa_trainer.world.observations import observation_at
from diwa_trainer.world.open_loop import (
    CHUNK,
    CONTEXT,
    HORIZON,
    SHOWN_HORIZONS,
    _errors,
    _least_moves,
    measurable,
    open_loop_report,
    predict,
)

LED, ROW = SPEC.scene.index("led"), SPEC.proprio.index("joint_1")
WINDOWS = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Dataset:
    """Play in which the LED flips every 25 rows, the drawer sticks in half of it, and the first joint counts rows."""
    data = Dataset.open(write_toy(tmp_path_factory.mktemp("open_loop") / "data", play=4, demonstrations=2))
    rows = np.arange(len(data))
    data.arrays["scene"][:, LED] = rows // 25 % 2
    data.arrays["proprio"][:, ROW] = rows
    for episode in data.episodes_of(kind="play")[::2]:
        data.arrays["scene"][episode.rows, DRAWER] = 0.05
    return data


@pytest.fixture(scope="module")
def pressed(data) -> Dataset:
    """The same, but the hand does what its actions ask for, or stands still: 12 rows of 40."""
    arrays = {name: array.copy() for name, array in data.arrays.items()}
    for episode in data.episodes:
        moved = STRIDE_M * arrays["action"][episode.rows, :3]
        moved[np.arange(len(episode)) % 40 >= 28] = 0.0
        arrays["proprio"][episode.rows, :3] = np.cumsum(moved, 0) - moved
    return Dataset(data.folder, data.spec, data.episodes, arrays)


class Oracle:
    """A model whose latent is the number of the row: it remembers the whole recording."""

    def __init__(self, data: Dataset, error: float = 0.0) -> None:
        fitted = tiny_model()
        fitted.fit_features(data)
        self.proprio, self.scene = fitted.proprio, fitted.scene
        self.remembered = fitted.features(observation_at(data, np.arange(len(data))))
        self.remembered[:, fitted.feature_names.index("drawer")] += error / float(
            fitted.scene.std[fitted.scene.names.index("drawer")]
        )
        self.accepted = torch.from_numpy(data.action)
        self.device = self.accepted.device
        self.rssm = SimpleNamespace(imagine_step=self.imagine_step)

    def imagine_step(self, latent, action, generator):
        assert generator is not None
        assert torch.equal(action, self.accepted[latent[:, 0].long()])  # what was accepted after this very row
        return latent + 1

    def observe(self, observation, actions, generator):
        assert observation["proprio"].shape[:2] == actions.shape[:2]
        assert generator is not None
        return SimpleNamespace(latents=observation["proprio"][..., ROW : ROW + 1])

    def decode(self, latent):
        return self.remembered[latent[..., 0].long()]


class Frozen(Oracle):
    """Remembers, but takes nothing to change."""

    def __init__(self, data: Dataset) -> None:
        super().__init__(data)
        self.rssm = SimpleNamespace(imagine_step=lambda latent, action, generator: latent)  # noqa: ARG005


class Loose(Oracle):
    """Remembers, but has the hand do what any action asks for; the latent is the row and the hand's position."""

    def __init__(self, data: Dataset) -> None:
        super().__init__(data)
        self.of_hand = [self.proprio.names.index(name) for name in TCP_POSITION]

    def observe(self, observation, actions, generator):
        rows = super().observe(observation, actions, generator).latents
        return SimpleNamespace(latents=torch.cat([rows, observation["proprio"][..., :3]], -1))

    def imagine_step(self, latent, action, generator):
        moved = super().imagine_step(latent[:, :1], action, generator)
        return torch.cat([moved, latent[:, 1:] + STRIDE_M * action[:, :3]], -1)

    def decode(self, latent):
        decoded = super().decode(latent)
        mean, std = (values[self.of_hand] for values in (self.proprio.mean, self.proprio.std))
        decoded[..., self.of_hand] = (latent[..., 1:] - mean) / std
        return decoded


def report(model, data, seed=0):
    return open_loop_report(model, data, data.episodes, seed, windows=WINDOWS)


def windows_of(data, seed=0):
    play = data.episodes_of(kind="play")
    return data.windows(np.random.default_rng(seed), WINDOWS, CONTEXT + HORIZON, play, fields=())["row"]


def test_a_perfect_model_has_no_error_anywhere(data):
    for name, errors in report(Oracle(data), data)["features"].items():
        for which in ("all", "moved"):
            if errors[which]["model"] is not None:
                assert max(errors[which]["model"]) < 1e-5, (name, which)
        assert errors["posterior_first"] < 1e-5
        assert errors["posterior_last"] < 1e-5


def test_a_known_error_is_reported_in_metres(data):
    errors = report(Oracle(data, error=0.03), data)["features"]["drawer"]

    assert errors["all"]["model"] == pytest.approx([0.03] * len(SHOWN_HORIZONS), abs=1e-5)
    assert errors["posterior_first"] == pytest.approx(0.03, abs=1e-5)


def test_the_baselines_are_the_last_frame_and_its_velocity_drawn_on(data):
    rows = windows_of(data)
    features = report(Oracle(data), data)["features"]
    values = {"tcp": data.proprio[:, :3].astype(float), "drawer": data.scene[:, [DRAWER]].astype(float)}

    for name, value in values.items():
        for position, ahead in enumerate(SHOWN_HORIZONS):
            constant, linear = [], []
            for window in rows:
                last, before, truth = (value[window[t]] for t in (CONTEXT - 1, CONTEXT - 2, CONTEXT - 1 + ahead))
                constant.append(math.dist(last, truth))
                linear.append(math.dist(last + ahead * (last - before), truth))
            assert features[name]["all"]["constant"][position] == pytest.approx(np.mean(constant)), name
            assert features[name]["all"]["linear"][position] == pytest.approx(np.mean(linear)), name


def test_a_model_that_takes_nothing_to_change_is_the_constant_baseline(data):
    for name, errors in report(Frozen(data), data)["features"].items():
        assert errors["all"]["model"] == pytest.approx(errors["all"]["constant"], abs=1e-5), name


def test_windows_in_which_something_moved_are_counted_apart(data):
    drawer = data.scene[windows_of(data)][..., DRAWER]
    moved = np.abs(drawer[:, CONTEXT:] - drawer[:, CONTEXT - 1 : CONTEXT]).max(1) > 0.12 / 2

    errors = report(Frozen(data), data)["features"]["drawer"]

    assert 0 < moved.sum() < WINDOWS
    assert errors["moved_windows"] == moved.sum()
    assert errors["moved"]["constant"][-1] == pytest.approx(
        np.abs(drawer[moved, -1] - drawer[moved, CONTEXT - 1]).mean()
    )


def test_flips_of_a_light_are_foreseen_or_missed(data):
    led = data.scene[windows_of(data)][..., LED]
    flipped = int((led[:, CONTEXT - 1] != led[:, -1]).sum())

    assert set(report(Oracle(data), data)["flips"]) == {"led"}, "the bulb never shone, the drawer is no light"
    perfect, frozen = (report(model, data)["flips"]["led"] for model in (Oracle(data), Frozen(data)))

    assert perfect == {"flipped": flipped, "foreseen": flipped, "unflipped": WINDOWS - flipped, "false": 0}
    assert frozen == {**perfect, "foreseen": 0}


def chunks_of(data, held):
    """How many chunks held all of their motion, or none of it, and asked for enough to tell, counted one by one."""
    usual = STRIDE_M * np.sqrt(np.square(data.action[:, :3].astype(float)).sum(1).mean())
    count = 0
    for episode in data.episodes:
        for first in range(CONTEXT - 1, len(episode) - CHUNK):
            asked = [STRIDE_M * data.action[episode.start + first + k, :3].astype(float) for k in range(CHUNK)]
            moved = data.proprio[episode.start + first + CHUNK, :3] - data.proprio[episode.start + first, :3]
            share = moved @ sum(asked) / (sum(asked) @ sum(asked))
            count += np.linalg.norm(sum(asked)) > CHUNK * usual / 4 and (share < 1 / 4 if held else share > 3 / 4)
    return count


def test_a_held_hand_is_imagined_to_stay_or_to_go_through_and_a_free_one_to_move_or_to_be_held(pressed):
    oracle, loose, frozen = (report(model(pressed), pressed)["contacts"] for model in (Oracle, Loose, Frozen))

    assert oracle["held"] == pytest.approx(chunks_of(pressed, held=True), rel=0.03)
    assert oracle["free"] == pytest.approx(chunks_of(pressed, held=False), rel=0.03)
    assert oracle == {**oracle, "through": 0, "stuck": 0}
    assert loose == {**oracle, "through": 1}
    assert frozen == {**oracle, "stuck": 1}


def test_contacts_are_of_some_chunks_from_all_over_and_of_none_where_there_are_none(data, pressed, monkeypatch):
    seen = []
    monkeypatch.setattr(open_loop, "MOST_CHUNKS", 10)
    monkeypatch.setattr(open_loop, "predict", lambda *given: (seen.append(given[2]), predict(*given))[1])

    found = report(Oracle(pressed), pressed)["contacts"]

    assert (found["held"], found["free"]) == (10, 10)
    kinds = {
        episode.kind for episode in pressed.episodes if np.isin(seen[-1], np.arange(episode.start, episode.end)).any()
    }
    assert kinds == {"play", "demonstration"}
    assert report(Oracle(data), data)["contacts"] == {"held": 0, "through": None, "free": 10, "stuck": 0}


def test_nothing_is_said_of_contacts_where_actions_do_not_explain_the_motion(data):
    arrays = {name: array.copy() for name, array in data.arrays.items()}
    arrays["proprio"][:, :3] = np.random.default_rng(0).normal(size=(len(data), 3))
    other = Dataset(data.folder, data.spec, data.episodes, arrays)

    assert report(Oracle(other), other)["contacts"] is None


def test_a_prediction_depends_on_what_is_seen_in_the_context_alone(data):
    model = tiny_model()
    model.fit_features(data)
    rows = windows_of(data)
    before = predict(model, data, rows, CONTEXT, seed=0)
    blind = Dataset(data.folder, data.spec, data.episodes, {name: array.copy() for name, array in data.arrays.items()})
    for window in rows:
        blind.arrays["proprio"][window[CONTEXT:]] = 0.0
    alone = np.setdiff1d(rows[:, CONTEXT:], rows[:, :CONTEXT])
    blind.arrays["scene"][alone] = 0.0
    seen = np.isin(rows[:, :CONTEXT], rows[:, CONTEXT:]).any(1)

    after = predict(model, blind, rows, CONTEXT, seed=0)

    assert before.shape == (WINDOWS, CONTEXT + HORIZON, len(model.feature_names))
    assert not seen.all()
    assert torch.equal(before[~seen], after[~seen])


def test_play_is_measured_where_it_is_long_enough_else_anything_that_is(data):
    play, shown = data.episodes_of(kind="play"), data.episodes_of(kind="demonstration")

    assert measurable(data.episodes) == list(play)
    assert measurable(shown) == []
    long, longer = Episode(0, 60, "demonstration", "open_drawer"), Episode(60, 130, "demonstration", "open_drawer")
    assert measurable([long, longer]) == [long, longer]
    assert measurable([long, *play, longer]) == list(play)


@pytest.mark.parametrize(
    ("name", "moves", "moved"),
    [
        ("tcp", [0.01, 0.03, 0.1], 2),
        ("drawer", [0.05, 0.07, 0.2], 2),
        ("led", [0.2, 0.3, 1.0], 2),
        ("code_0", [0.4, 0.6, 1.0], 2),
    ],
)
def test_what_counts_as_moved_is_two_centimetres_of_the_hand_and_half_of_what_tasks_ask_for(data, name, moves, moved):
    """Each window moves by so much and back; a code by half a deviation."""
    truth = np.zeros((3, CONTEXT + HORIZON, 1))
    truth[:, CONTEXT + 20, 0] = moves

    errors = _errors(truth, np.zeros_like(truth), _least_moves(data, [name])[name])

    assert errors["moved_windows"] == moved
    assert errors["moved"]["model"] is not None


def test_errors_of_the_context_are_of_its_first_and_of_its_last_frame():
    truth = np.zeros((2, CONTEXT + HORIZON, 1))

    errors = _errors(truth, truth + np.arange(1, CONTEXT + HORIZON + 1)[None, :, None], 0.06)

    assert (errors["posterior_first"], errors["posterior_last"]) == (1, CONTEXT)
    assert errors["all"]["model"] == [CONTEXT + ahead for ahead in SHOWN_HORIZONS]
    assert errors["curve"]["model"] == list(range(CONTEXT + 1, CONTEXT + HORIZON + 1))


def test_another_seed_draws_other_windows_and_other_states(data):
    model = tiny_model()
    model.fit_features(data)
    rows = windows_of(data)

    first, again, other = (predict(model, data, rows, CONTEXT, seed) for seed in (0, 0, 1))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert report(Oracle(data), data)["examples"] != report(Oracle(data), data, seed=1)["examples"]


def test_examples_are_the_windows_in_which_most_happened(data):
    examples = report(Oracle(data), data)["examples"]["drawer"]
    spans = np.sort(np.ptp(data.scene[windows_of(data)][..., DRAWER], axis=1))[::-1]

    assert [np.ptp(example["truth"]) for example in examples] == pytest.approx(spans[:12:3], abs=1e-3)
    for example in examples:
        np.testing.assert_allclose(example["truth"], example["predicted"], atol=1e-3)


def test_the_usable_horizon_is_of_windows_in_which_the_quantity_moved_and_of_the_first_to_end(data):
    perfect, still = (
        open_loop_report(model, data, data.episodes, seed=0, windows=60) for model in (Oracle(data), Frozen(data))
    )

    usable = {name: feature["usable"] for name, feature in perfect["features"].items()}
    assert usable["led"] == usable["drawer"] == HORIZON
    assert {feature["usable"] for feature in still["features"].values()} <= {0, None}
    assert still["usable"]["steps"] == 0
    few = report(Oracle(data), data)["features"]["drawer"]
    assert few["moved_windows"] < 10
    assert few["usable"] is None


def test_the_usable_horizon_is_said_in_steps_and_seconds(data):
    found = open_loop_report(Oracle(data), data, data.episodes, seed=0, windows=60)["usable"]
    assert found == {"steps": HORIZON, "seconds": HORIZON / SPEC.rate_hz, "limited_by": None}


def test_a_model_that_always_says_the_mean_is_usable_for_nothing(data):
    class Mean(Oracle):
        """Says of every row what is recorded in the mean."""

        def decode(self, latent):
            rows = windows_of_sixty.reshape(-1)
            return self.remembered[rows].mean(0).expand(*latent.shape[:-1], -1)

    play = data.episodes_of(kind="play")
    windows_of_sixty = data.windows(np.random.default_rng(0), 60, CONTEXT + HORIZON, play, fields=())["row"]

    features = open_loop_report(Mean(data), data, data.episodes, seed=0, windows=60)["features"]

    assert features["led"]["usable"] == features["drawer"]["usable"] == 0
