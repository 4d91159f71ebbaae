"""Rewards: the contrastive loss against a double loop, the classifier on a toy, the predicate on a decoded scene."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from toy import SPEC, TASK, tiny_model

from diwa_runtime.errors import ConfigError
from diwa_trainer.policy.reward import (
    BothRewards,
    Classifier,
    ClassifierConfig,
    ClassifierReward,
    DecodedReward,
    FirstSuccess,
    Starts,
    choose_reward,
    make_rewards,
    nt_xent,
)
from diwa_trainer.samples.stretches import Stretch
from diwa_trainer.verbs import train_reward
from diwa_trainer.verbs.train_reward import TrainRewardConfig


def nt_xent_by_loops(embedding: Tensor, label: Tensor, temperature: float) -> float:
    unit = [row / row.norm() for row in embedding.double()]
    rows = []
    for i, anchor in enumerate(unit):
        others = [j for j in range(len(unit)) if j != i]
        total = sum(math.exp(float(anchor @ unit[j]) / temperature) for j in others)
        losses = [
            -math.log(math.exp(float(anchor @ unit[j]) / temperature) / total) for j in others if label[j] == label[i]
        ]
        if losses:
            rows.append(sum(losses) / len(losses))
    return sum(rows) / len(rows)


@pytest.mark.parametrize("labels", [[0, 1, 0, 1, 1, 0], [0, 0, 0, 0, 1, 1], [0, 1, 1, 1, 1, 1]])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_is_the_double_loop_written_out(labels, temperature):
    embedding, label = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), torch.tensor(labels)

    loss = nt_xent(embedding, label, temperature)

    assert float(loss) == pytest.approx(nt_xent_by_loops(embedding, label, temperature), rel=1e-5)


def test_nt_xent_has_finite_gradients():
    embedding = torch.randn(6, 5, requires_grad=True)

    nt_xent(embedding, torch.tensor([0, 1, 1, 0, 1, 1]), 0.1).backward()

    assert embedding.grad.isfinite().all()
    assert embedding.grad.abs().sum() > 0


@torch.no_grad()
@pytest.mark.parametrize(("temperature", "weight"), [(0.1, 0.5), (0.5, 2.0), (0.5, 0.0)])
def test_the_classifier_s_loss_is_contrast_and_cross_entropy_as_the_settings_weigh_them(temperature, weight):
    torch.manual_seed(0)
    settings = ClassifierConfig(hidden=8, embedding=4, temperature=temperature, cross_entropy_weight=weight)
    classifier, latents, labels = Classifier(settings, 6), torch.randn(5, 6), torch.tensor([0, 1, 1, 0, 1])

    said = classifier(latents)

    surprise = -torch.where(labels.bool(), said, 1 - said).log().mean()
    expected = nt_xent(classifier.encoder(latents), labels, temperature) + weight * surprise
    torch.testing.assert_close(classifier.loss(latents, labels), expected)


def test_the_classifier_learns_what_can_be_separated():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(600, 6, generator=generator)
    labels = (latents[:, 3] + latents[:, 5] > 0).long()
    torch.manual_seed(0)
    classifier = Classifier(ClassifierConfig(hidden=32, embedding=8), 6)
    optimizer = torch.optim.Adam(classifier.parameters(), 1e-2)
    for rows in torch.arange(500).split(50) * 8:
        optimizer.zero_grad()
        classifier.loss(latents[rows], labels[rows]).backward()
        optimizer.step()

    said = classifier(latents[500:]) > 0.5

    assert (said == labels[500:].bool()).float().mean() > 0.9


def linear_decoder(model):
    """Let the drawer, in metres, be the first number of the latent."""
    column = len(model.proprio) + model.scene.names.index("drawer")

    class Decoder(torch.nn.Module):
        def forward(self, latent: Tensor) -> Tensor:
            return latent[..., :1] * torch.nn.functional.one_hot(torch.tensor(column), len(model.feature_names))

    model.decoder = Decoder()
    return model


def test_the_predicate_compares_the_decoded_scene_with_the_recorded_start():
    model = linear_decoder(tiny_model())
    latents = torch.zeros(5, model.latent_size)
    latents[:, 0] = torch.tensor([0.12, 0.121, 0.13, -0.2, -0.12])
    starts = Starts(torch.zeros(5, model.latent_size), torch.tensor([0.0, 0.0, 0.05, 0.0, 0.0]))

    opened = DecodedReward(model, SPEC.task("open_drawer")).judge(starts)(latents)
    closed = DecodedReward(model, SPEC.task("close_drawer")).judge(starts)(latents)

    assert opened.tolist() == [False, True, False, False, False]
    assert closed.tolist() == [False, False, False, True, False]


class Says:
    """A reward of fixed answers."""

    def __init__(self, *answers: bool) -> None:
        self.answers = torch.tensor(answers)

    def judge(self, _):
        return lambda _: self.answers


def test_both_rewards_pay_where_both_agree():
    latents = torch.zeros(4, 3)
    both = BothRewards(Says(True, True, False, False), Says(True, False, True, False))

    assert both.judge(Starts(latents, torch.zeros(4)))(latents).tolist() == [True, False, False, False]


def test_several_judges_of_the_same_episodes_say_what_each_says_alone():
    torch.manual_seed(0)
    after = torch.rand(5, 40).cumsum(0)  # of each chunk, episode by episode
    judges = {str(height): (lambda latent, height=height: latent > height) for height in (0.3, 1.0, 2.5)}

    together = FirstSuccess(judges, 40)
    ended = torch.stack([together(latent) for latent in after])

    for name, judge in judges.items():
        alone = torch.stack([judge(latent) for latent in after])
        succeeded, lengths = alone.any(0), torch.where(alone.any(0), alone.int().argmax(0) + 1, 5)
        assert 0 < together.success(name) == float(succeeded.float().mean())
        assert torch.equal(together.lengths(name), lengths)
    assert torch.equal(ended, after > 2.5), "an episode goes on until the last judge has seen success"


def test_the_classifier_pays_where_it_is_surer_than_the_threshold():
    torch.manual_seed(0)
    classifier = Classifier(ClassifierConfig(hidden=8, embedding=4), 5).requires_grad_(False)
    latents = torch.randn(9, 5)
    median = float(classifier(latents).median())

    fired = ClassifierReward(classifier, median).judge(Starts(latents, torch.zeros(9)))(latents)

    assert int(fired.sum()) == 4
    assert (classifier(latents)[fired] > median).all()


def test_starts_are_drawn_in_pairs_with_replacement():
    starts = Starts(torch.arange(5.0)[:, None], torch.arange(5.0))

    drawn = starts.draw(100, torch.Generator().manual_seed(0))

    assert len(drawn.values) == 100
    assert torch.equal(drawn.latents[:, 0], drawn.values)
    assert set(drawn.values.tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}


def test_every_reward_can_be_chosen_by_name_and_a_missing_one_is_said():
    classifier = Classifier(ClassifierConfig(hidden=8, embedding=4), 32)
    rewards = make_rewards(tiny_model(), classifier, 0.9, SPEC.task(TASK))

    assert isinstance(choose_reward(rewards, "classifier"), ClassifierReward)
    assert isinstance(choose_reward(rewards, "decoded"), DecodedReward)
    assert isinstance(choose_reward(rewards, "both"), BothRewards)
    with pytest.raises(ConfigError, match="'decoded' needs a decoded scene"):
        choose_reward(make_rewards(SimpleNamespace(decodes_scene=False), classifier, 0.9, SPEC.task(TASK)), "decoded")


@pytest.mark.parametrize(("play", "found", "said"), [(9, 2, True), (9, 3, False), (0, 0, False)])
def test_little_play_to_learn_failures_from_is_said(capsys, play, found, said):
    places = {name: Path(name) for name in ("dataset", "world_model", "output")}
    train_reward._say_of_play(
        TrainRewardConfig(**places, task=TASK, play=play), [Stretch(0, 1, np.zeros(1, bool))] * found
    )
    assert (f"warning: {found} of {play} stretches of play for {TASK}" in capsys.readouterr().out) == said
