"""Every number of every verb's settings has bounds."""

from pathlib import Path

import pytest
from bounded_settings import check_every_number_is_bounded, config_classes, numbers_of

from diwa_trainer.__main__ import VERBS

CLASSES = config_classes("diwa_trainer")


def test_every_verb_s_settings_are_among_them():
    assert {cls.__name__ for cls in CLASSES} > set(VERBS.values())
    assert sum(len(list(numbers_of(cls))) for cls in CLASSES) > 80


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_number_is_bounded(cls):
    check_every_number_is_bounded(cls, **({"bundle": Path("x")} if cls.__name__ == "EvaluateConfig" else {}))
