"""The usable horizon of made-up errors: where a model loses to the baselines, whatever the first steps."""

import numpy as np
import pytest

from diwa_trainer.world.usable import CLEARLY, usable_of_all, usable_steps

H = 50
AHEAD = np.arange(1, H + 1)
CONSTANT, LINEAR = 0.01 * AHEAD, 0.03 * AHEAD


def test_a_perfect_model_is_usable_to_the_end_and_one_that_repeats_the_last_frame_never():
    assert usable_steps(np.zeros(H), CONSTANT, LINEAR) == H
    assert usable_steps(CONSTANT, CONSTANT, LINEAR) == 0
    assert usable_steps(np.zeros(H), np.zeros(H), np.zeros(H)) == 0, "nothing moved, so nothing was foreseen"


@pytest.mark.parametrize("lost_at", [10, 20, 35])
def test_it_ends_where_the_model_gets_as_bad_as_the_baseline(lost_at):
    assert usable_steps(ahead_of((1, lost_at)), CONSTANT, LINEAR) == pytest.approx(lost_at, abs=2)


def test_the_better_baseline_counts():
    model = 0.5 * CONSTANT
    assert usable_steps(model, CONSTANT, LINEAR) == H
    assert usable_steps(model, CONSTANT, 0.4 * CONSTANT) == 0
    assert usable_steps(model, 0.4 * CONSTANT, LINEAR) == 0


def test_a_model_that_hedges_between_two_states_knows_nothing():
    """In windows in which a light flips, in the middle on average, half on is nearer than as it was."""
    as_it_was, hedged = np.clip(AHEAD / 30, 0, 1), np.full(H, 0.5)
    assert usable_steps(hedged, as_it_was, as_it_was) == H
    assert usable_steps(hedged, as_it_was, as_it_was, hedged) == 0


def test_a_floor_that_no_baseline_has_in_the_first_steps_does_not_count():
    assert usable_steps(0.1 + 0.1 * CONSTANT, CONSTANT, LINEAR) == H


@pytest.mark.parametrize(("share", "expected"), [(CLEARLY - 0.01, H), (CLEARLY + 0.01, 0)])
def test_a_little_better_is_not_clearly_better(share, expected):
    assert usable_steps(share * CONSTANT, CONSTANT, LINEAR) == expected


def ahead_of(*stretches: tuple[int, int]) -> np.ndarray:
    """Errors that are six tenths of the constant baseline's in stretches of steps (first, last), else as large."""
    inside = [(first <= AHEAD) & (last >= AHEAD) for first, last in stretches]
    return np.where(np.any(inside, 0), 0.6, 1.0) * CONSTANT


@pytest.mark.parametrize(
    ("stretches", "expected"),
    [
        ([(1, 20), (24, 40)], 40),
        ([(1, 20), (32, 50)], 20),
        ([(3, 4), (15, 30)], 30),
        ([(12, 14)], 0),
    ],
    ids=["a short dip does not end it", "a long one does", "early luck does not begin it", "luck is none"],
)
def test_it_begins_and_ends_with_several_steps_on_end(stretches, expected):
    assert usable_steps(ahead_of(*stretches), CONSTANT, LINEAR) == pytest.approx(expected, abs=2)


def test_noise_of_a_few_dozen_windows_moves_it_by_a_few_steps():
    rng = np.random.default_rng(0)
    model = np.where(AHEAD <= 20, 0.4, 1.05) * CONSTANT
    found = [usable_steps(model * (1 + 0.15 * rng.standard_normal(H)), CONSTANT, LINEAR) for _ in range(200)]
    assert np.mean(np.abs(np.array(found) - 20) <= 3) > 0.95


def test_of_all_quantities_the_first_to_end_counts():
    assert usable_of_all({"tcp": 50, "led": 18, "bulb": None, "drawer": 40}, H) == (18, "led")
    assert usable_of_all({"tcp": 50, "led": 50}, H) == (50, None)
    assert usable_of_all({"led": None}, H) is None
