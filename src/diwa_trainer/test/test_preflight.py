"""What is said before fine-tuning that would not pay."""

import pytest

from diwa_trainer.policy.judging import preflight_warnings


@pytest.mark.parametrize(
    ("classifier", "decoded", "said"),
    [
        (0.5, 0.55, []),
        (0.5, 0.69, []),
        (0.5, 0.71, ["disagree on the base policy"]),
        (0.71, 0.5, ["disagree on the base policy"]),
        (0.96, 0.95, []),
        (0.98, 0.95, ["no headroom"]),
        (0.025, 0.0, []),
        (0.015, 0.0, ["hardly ever succeeds in imagination"]),
        (0.5, 0.8, ["disagree on the base policy"]),
        (0.99, 0.95, ["no headroom"]),
        (0.0, 0.0, ["hardly ever succeeds in imagination"]),
        (0.01, 0.4, ["disagree on the base policy", "hardly ever succeeds in imagination"]),
    ],
)
def test_preflight_says_what_speaks_against_it(classifier, decoded, said):
    warnings = preflight_warnings({"classifier": classifier, "decoded": decoded}, "classifier")

    assert len(warnings) == len(said)
    assert all(part in warning for part, warning in zip(said, warnings, strict=True))


def test_the_reward_that_is_paid_decides():
    assert preflight_warnings({"classifier": 0.9, "decoded": 0.99}, "classifier") == []
    assert len(preflight_warnings({"classifier": 0.9, "decoded": 0.99}, "decoded")) == 1


def test_without_a_decoded_scene_nothing_is_compared():
    assert preflight_warnings({"classifier": 0.5}, "classifier") == []
