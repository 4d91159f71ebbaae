"""Every number of every verb's settings has bounds."""

from pathlib import Path

import pytest
from bounded_settings import check_every_number_is_bounded, config_classes, numbers_of

from diwa_runtime.errors import ConfigError
from diwa_trainer.__main__ import VERBS
from diwa_trainer.evaluation.settings import EvaluateConfig
from diwa_trainer.verbs.finetune import FinetuneConfig
from diwa_trainer.verbs.train_reward import TrainRewardConfig
from diwa_trainer.verbs.train_world_model import TrainWorldModelConfig

CLASSES = config_classes("diwa_trainer")


def test_every_verb_s_settings_are_among_them():
    assert {cls.__name__ for cls in CLASSES} > set(VERBS.values())
    assert sum(len(list(numbers_of(cls))) for cls in CLASSES) > 80


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_number_is_bounded(cls):
    check_every_number_is_bounded(cls, **({"bundle": Path("x")} if cls.__name__ == "EvaluateConfig" else {}))


HERE = Path("x")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: TrainWorldModelConfig(HERE, HERE, batch=4096, length=64),
            "batch x length are 262,144 rows an update, must be at most 131,072",
        ),
        (
            lambda: TrainRewardConfig(HERE, HERE, HERE, "a", play=10**5, play_length=4096),
            "play x play_length x encodings are",
        ),
        (
            lambda: FinetuneConfig(HERE, HERE, HERE, HERE, HERE, judged_episodes=1 << 16, chunks=4096),
            "judged_episodes x chunks are 268,435,456 imagined chunks",
        ),
        (lambda: TrainWorldModelConfig(HERE, HERE, updates=100, workers=8), r"100, must be a multiple of workers \(8"),
        (lambda: TrainWorldModelConfig(HERE, HERE, save_every=5, workers=2), "save_every is 5, must be a multiple"),
        (lambda: EvaluateConfig(HERE, policy="zero", max_steps=10**5), "must be at most 10000 with --videos"),
    ],
)
def test_numbers_that_do_not_go_together_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
