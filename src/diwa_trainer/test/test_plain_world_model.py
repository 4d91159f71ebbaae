"""The plain update of the world model, which ours is measured against, does the same work to the same end."""

from dataclasses import replace

import plain_rssm
import plain_world_model
import pytest
import torch
import training
from toy import SPEC, TINY_MODEL, tiny_configs

from diwa_trainer.dataset import Dataset
from diwa_trainer.world.world_model import WorldModel


@pytest.fixture
def both(toy_data, tmp_path):
    """Make our training and the plain one in numbers of 64 bits, so that no draw hangs on the last digit."""

    def make(unimix=0.0, **changes):
        model = replace(TINY_MODEL, rssm=replace(TINY_MODEL.rssm, unimix=unimix), **changes)
        config = replace(tiny_configs(toy_data, tmp_path)["train_world_model"], model=model)
        ours, plain = training.both_trainings(config, Dataset.open(toy_data))
        ours.model.double()
        plain.model.double()
        plain.rows.rows = {name: rows.double() for name, rows in plain.rows.rows.items()}
        ours.recordings.dataset.arrays |= {name: rows.numpy() for name, rows in plain.rows.rows.items()}
        torch.set_default_dtype(torch.float64)
        return ours, plain

    yield make
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "changes",
    [{}, {"free_nats": 0.0, "kl_weight": 0.5, "kl_balance": 0.6}, {"hand_weight": 0.7}],
    ids=["default", "kl", "hand"],
)
@pytest.mark.parametrize("unimix", [0.0, 0.01])
def test_the_plain_loss_and_all_its_gradients_are_ours(both, unimix, changes):
    ours, plain = both(unimix, **changes)
    window = plain.rows.windows(plain.rng, 3, 9, ("proprio", "scene", "action"))

    loss, _ = ours.model.loss(window, window["action"], ours.state.generator)
    plain_loss = plain_world_model.loss(plain.model, window, window["action"], plain.generator)

    torch.testing.assert_close(plain_loss, loss, rtol=1e-12, atol=0)
    for one in (loss, plain_loss):
        one.backward()
    for (name, ours_weight), weight in zip(ours.model.named_parameters(), plain.model.parameters(), strict=True):
        scale = float(ours_weight.grad.abs().max())
        torch.testing.assert_close(
            weight.grad, ours_weight.grad, rtol=0, atol=1e-10 * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_plain_updates_see_the_same_windows_and_leave_the_same_weights(both):
    ours, plain = both()

    for _ in range(3):
        assert plain.update() == pytest.approx(ours.update()["loss"], rel=1e-9)

    for (name, weight), other in zip(ours.model.named_parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(other, weight, rtol=0, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


def test_the_plain_pass_keeps_what_is_too_unlikely_for_a_probability():
    rssm = WorldModel(SPEC, TINY_MODEL).rssm
    logits = torch.linspace(-2000, 0, rssm.config.stochastic)[None]
    assert plain_rssm.log_mixed(rssm, logits).isfinite().all()
