"""The world model: what led to a frame comes before it, nothing before a reset counts, one filter everywhere."""

import dataclasses

import numpy as np
import pytest
import torch
from toy import SPEC, TINY_MODEL, tiny_model

from diwa_runtime.actions import HOLD_ACTION
from diwa_runtime.errors import ConfigError, InputError
from diwa_runtime.spec import Spec
from diwa_trainer.dataset import Dataset
from diwa_trainer.devices.device import numbers
from diwa_trainer.samples.chunks import demonstration_chunks
from diwa_trainer.samples.latents import encode, encode_starts
from diwa_trainer.world import world_model
from diwa_trainer.world.balanced_kl import balanced_kl
from diwa_trainer.world.observations import action_at, observation_at
from diwa_trainer.world.world_model import WorldModel, previous_actions

GENERATOR_SEED = 5


@pytest.fixture(scope="module")
def data(toy_data):
    return Dataset.open(toy_data)


@pytest.fixture(scope="module")
def model(data):
    model = tiny_model()
    model.fit_features(data)
    return model


def window(data, starts, length):
    rows = np.asarray(starts)[:, None] + np.arange(length)
    return observation_at(data, rows), action_at(data, rows)


def generator(seed=GENERATOR_SEED):
    return torch.Generator().manual_seed(seed)


def test_the_action_before_a_frame_is_the_last_rows_and_hold_before_the_first():
    actions = torch.randn(2, 4, 7)

    previous = previous_actions(actions)

    assert torch.equal(previous[:, 1:], actions[:, :-1])
    for row in previous[:, 0]:
        np.testing.assert_array_equal(row, HOLD_ACTION)


def test_latents_know_nothing_of_what_came_before_the_reset(model, data):
    observation, actions = window(data, [10], 6)
    after_other_rows = dataclasses.replace(data.episodes[0], start=10)
    (latents,) = encode(model, data, [after_other_rows.start], [16], None, mode=True)

    alone = model.observe(observation, actions, mode=True).latents[0]
    (from_start,) = encode(model, data, [0], [16], None, mode=True)

    assert torch.equal(latents, alone)
    assert not torch.allclose(from_start[10:], alone)


def test_the_last_action_of_a_window_does_not_reach_its_latents(model, data):
    observation, actions = window(data, [0], 5)
    changed = actions.clone()
    changed[:, -1] = 1.0

    before, after = (model.observe(observation, a, mode=True).latents for a in (actions, changed))

    assert torch.equal(before, after)


def test_the_deployed_filter_is_the_training_filter_step_by_step(model, data):
    observation, actions = window(data, [0, 100, 300], 12)
    expected = model.observe(observation, actions, mode=True).latents

    latent, action = torch.zeros(3, model.latent_size), torch.tensor(np.tile(HOLD_ACTION, (3, 1)))
    for t in range(12):
        latent = model.filter({name: value[:, t] for name, value in observation.items()}, action, latent)
        torch.testing.assert_close(latent, expected[:, t], atol=1e-5, rtol=1e-4, msg=f"step {t}")
        action = actions[:, t]


def test_stretches_of_different_lengths_are_encoded_as_each_alone(model, data):
    starts, ends = [30, len(data) - 7, 0], [50, len(data), 5]

    together = encode(model, data, starts, ends, None, mode=True, batch=2)

    assert [len(latents) for latents in together] == [20, 7, 5]
    for latents, start, end in zip(together, starts, ends, strict=True):
        (alone,) = encode(model, data, [start], [end], None, mode=True)
        torch.testing.assert_close(latents, alone)


def test_first_frame_latents_are_those_of_an_episode_that_begins_there(model, data):
    rows = np.array([3, 40, 90])

    starts = encode_starts(model, data, rows, None, mode=True)

    for latent, row in zip(starts, rows, strict=True):
        (alone,) = encode(model, data, [row], [row + 4], None, mode=True)
        torch.testing.assert_close(latent, alone[0])


def test_chunks_are_the_actions_that_followed_their_latents_and_end_before_the_last_row(model, data):
    episodes = data.episodes_of(kind="demonstration")[:2]

    latents, chunks = demonstration_chunks(model, data, episodes, 4, 3, generator())

    per_episode = [len(episode) - 4 for episode in episodes]
    assert latents.shape == (sum(per_episode), 3, model.latent_size)
    assert not torch.equal(latents[:, 0], latents[:, 1]), "each encoding draws states of its own"
    assert torch.equal(demonstration_chunks(model, data, episodes, 4, 3, generator())[0], latents)
    row = 0
    for episode, count in zip(episodes, per_episode, strict=True):
        for start in range(episode.start, episode.start + count):
            np.testing.assert_array_equal(chunks[row], data.action[start : start + 4])
            row += 1


def test_a_demonstration_of_no_more_rows_than_a_chunk_gives_none(model, data):
    episodes = data.episodes_of(kind="demonstration")

    assert len(demonstration_chunks(model, data, episodes, 19, 1, generator())[1]) == len(episodes)
    with pytest.raises(InputError, match="has more than 20 rows; use shorter chunks"):
        demonstration_chunks(model, data, episodes, 20, 1, generator())


def loss_of(data, **settings):
    torch.manual_seed(0)
    model = WorldModel(SPEC, dataclasses.replace(TINY_MODEL, **settings))
    model.fit_features(data)
    loss, metrics = model.loss(*window(data, [0, 100], 4), generator())
    return model, loss, numbers(metrics)


@torch.no_grad()
def test_the_kl_of_the_frame_after_a_contact_counts_more(data):
    """By `contact_weight`; what comes after a window's last row is not in it."""
    model, without, _ = loss_of(data, contact_weight=4.0, free_nats=0.0, hand_weight=0.0)
    observation, actions = window(data, [0, 100], 4)
    observed = model.observe(observation, actions, generator())
    kl = balanced_kl(observed.posterior, observed.prior, model.config.kl_balance)
    contacts = torch.zeros(2, 4, dtype=torch.bool)
    contacts[0, 1] = contacts[1, 3] = True

    loss, _ = model.loss(observation, actions, generator(), contacts=contacts)

    assert kl[0, 2] > 0
    torch.testing.assert_close(loss - without, model.config.kl_weight * 3 * kl[0, 2] / kl[:, 1:].numel())


@torch.no_grad()
def test_where_the_shortcut_expects_the_hand_counts_by_how_far_hands_go_in_a_row_and_more_after_a_contact(data):
    _, without, _ = loss_of(data, hand_weight=0.0, contact_weight=3.0, kl_weight=0.0)
    model, _, _ = loss_of(data, hand_weight=0.7, contact_weight=3.0, kl_weight=0.0)
    learned_from = data.episodes[:3]
    model.fit_hand_step(data, learned_from)
    observation, actions = window(data, [0, 100], 4)
    expected = model.observe(observation, actions, generator()).expected
    recorded = np.concatenate([np.diff(data.proprio[episode.rows, :3], axis=0) for episode in learned_from])
    step = np.sqrt(np.square(recorded).sum(1).mean())
    places = torch.stack([model.proprio.physical(expected, f"tcp_{axis}") for axis in "xyz"], -1)
    error = 0.5 * (places - observation["proprio"][..., :3]).square().sum(-1)[:, 1:] / float(step) ** 2
    contacts = torch.zeros(2, 4, dtype=torch.bool)
    contacts[0, 1] = contacts[1, 3] = True

    loss, metrics = model.loss(observation, actions, generator(), contacts=contacts)

    assert float(error.mean()) > 0.01
    assert float(metrics["hand"]) == pytest.approx(float(error.mean()), rel=1e-3)
    torch.testing.assert_close(loss - without, 0.7 * (error.sum() + 2 * error[0, 1]) / error.numel(), rtol=1e-3, atol=0)


@torch.no_grad()
def sure_model(data, **settings):
    """A model that is so sure of its states, seen or imagined, that no draw matters."""
    model, *_ = loss_of(data, **settings)
    for layer in (model.rssm.shortcut.seen, model.rssm.shortcut.expected, model.rssm.posterior_out):
        layer.weight.mul_(1e4)
    for layer in (model.rssm.posterior_out, model.rssm.prior_head[-1]):
        layer.bias.mul_(1e4)
    return model


@pytest.mark.parametrize(("steps", "length", "starts"), [(2, 5, 3), (1, 3, 2), (10, 4, 1)])
@torch.no_grad()
def test_open_loop_error_is_that_of_steps_imagined_from_any_frame_that_leaves_room_for_them(
    monkeypatch, data, steps, length, starts
):
    monkeypatch.setattr(world_model, "OPEN_LOOP_STEPS", steps)
    model = sure_model(data)
    observation, actions = window(data, [0, 100, 200], length)
    target, latents = model.features(observation), model.observe(observation, actions, mode=True).latents
    ahead = min(steps, length - 1)
    expected = []
    for start in range(starts):
        latent, error = latents[:, start], 0.0
        for t in range(start, start + ahead):
            latent = model.rssm.imagine_step(latent, actions[:, t], generator())
            error += 0.5 * ((model.decode(latent) - target[:, t + 1]).square() * model.feature_weights).sum(-1).mean()
        expected.append(float(error) / ahead)

    measured = [
        model.loss(observation, actions, generator(seed), with_open_loop=True)[1]["open_loop"] for seed in range(20)
    ]

    found = {index for one in measured for index, other in enumerate(expected) if one == pytest.approx(other, rel=1e-4)}
    assert found == set(range(starts)), "each of them"
    assert all(any(one == pytest.approx(other, rel=1e-4) for other in expected) for one in measured)


def test_the_first_frame_weighs_as_much_as_the_setting_says(data):
    def loss_with(weight):
        _, loss, metrics = loss_of(data, first_step_weight=weight, kl_weight=0.0, hand_weight=0.0)
        return float(loss.detach()), metrics

    plain, metrics = loss_with(1.0)
    weighted, same = loss_with(5.0)

    assert plain == pytest.approx(metrics["reconstruction"], rel=1e-5)
    assert metrics["reconstruction_first"] == same["reconstruction_first"]
    later = (4 * metrics["reconstruction"] - metrics["reconstruction_first"]) / 3
    assert weighted == pytest.approx((5 * metrics["reconstruction_first"] + 3 * later) / 8, rel=1e-5)


def test_the_kl_counts_for_every_frame_but_a_windows_first(data):
    settings = {"free_nats": 0.0}
    (model, with_kl, metrics), (_, without, _) = (loss_of(data, **settings, kl_weight=weight) for weight in (0.5, 0.0))

    kl = kl_of(model, data)

    assert float((with_kl - without).detach()) == pytest.approx(0.5 * float(kl[:, 1:].mean()), rel=1e-4)
    assert metrics["kl"] == pytest.approx(float(kl[:, 1:].mean()), rel=1e-5)
    assert float(kl[:, 0].mean()) != pytest.approx(metrics["kl"], rel=0.01)


def kl_of(model, data):
    """KL of each frame (2, 4) in the window that `loss_of` uses, and the same draws."""
    with torch.no_grad():
        observed = model.observe(*window(data, [0, 100], 4), generator())
        return balanced_kl(observed.posterior, observed.prior, 0.8)


def test_free_nats_are_forgiven_frame_by_frame(data):
    model, without, _ = loss_of(data, kl_weight=0.0)
    kl = kl_of(model, data)[:, 1:]
    free = float(kl.median())

    _, loss, metrics = loss_of(data, kl_weight=0.5, free_nats=free)

    expected = kl.clamp(min=free).mean()
    assert metrics["kl"] == pytest.approx(float(kl.mean()), rel=1e-5), "what is shown is all of it"
    assert float(expected) > max(float(kl.mean()), free) + 0.01
    assert float((loss - without).detach()) == pytest.approx(0.5 * float(expected), rel=1e-4)


def test_the_balance_says_how_much_of_the_kl_teaches_the_prior(data):
    taught = []
    for balance in (1.0, 0.25):
        model, loss, _ = loss_of(data, kl_weight=1.0, free_nats=0.0, kl_balance=balance)
        loss.backward()
        taught.append(model.rssm.prior_head[-1].weight.grad)

    torch.testing.assert_close(taught[1], 0.25 * taught[0], rtol=1e-3, atol=1e-7)


def test_what_is_imagined_is_measured_and_does_not_count(data):
    model, loss, parts = loss_of(data)
    measured, with_open_loop = model.loss(*window(data, [0, 100], 4), generator(), with_open_loop=True)

    assert measured.item() == loss.item()
    assert with_open_loop.pop("open_loop") > 0
    assert numbers(with_open_loop) == parts


def test_a_model_learns_to_tell_where_the_drawer_is(data):
    torch.manual_seed(0)
    model = WorldModel(SPEC, TINY_MODEL)
    model.fit_features(data)
    optimizer, draw, rng = torch.optim.Adam(model.parameters(), 1e-2), generator(), np.random.default_rng(0)

    def step():
        rows = data.windows(rng, 16, 16, fields=())["row"]
        loss, metrics = model.loss(observation_at(data, rows), action_at(data, rows), draw)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return metrics["reconstruction"]

    losses = [step() for _ in range(50)]

    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


def test_a_spec_with_cameras_is_refused_until_the_model_has_eyes():
    for mode in ("hybrid", "vision"):
        with pytest.raises(ConfigError, match=f"mode '{mode}' needs eyes: run train_eyes"):
            WorldModel(Spec(mode=mode), TINY_MODEL)


def test_a_decoded_scene_value_is_in_si_units(model):
    latents = torch.randn(3, model.latent_size)

    value = model.decoded_scene(latents, "drawer")

    column = model.feature_names.index("drawer")
    index = model.scene.names.index("drawer")
    expected = model.decode(latents)[:, column] * model.scene.std[index] + model.scene.mean[index]
    torch.testing.assert_close(value, expected)


@torch.no_grad()
def test_the_loss_decodes_as_the_model_does(data):
    model, _, metrics = loss_of(data)
    observation, actions = window(data, [0, 100], 4)

    observed = model.observe(observation, actions, generator())

    error = model.decode(observed.latents) - model.features(observation)
    expected = 0.5 * (error.square() * model.feature_weights).sum(-1).mean()
    assert metrics["reconstruction"] == pytest.approx(float(expected), rel=1e-5)
