"""A world model that codes pictures itself: the paper's sizes, fast ways against plain ones, every verb behind it."""

import dataclasses
import itertools
import json

import numpy as np
import plain_world_model
import pytest
import torch
import training
from torch import nn
from toy import SPEC, TINY_MODEL, TRAINERS, tiny_configs, write_toy

from diwa_runtime.bundle import Bundle
from diwa_runtime.bundle.session import PolicySession
from diwa_runtime.config import config_from
from diwa_runtime.errors import ConfigError
from diwa_runtime.spec import CameraSpec
from diwa_trainer.dataset import Dataset
from diwa_trainer.runs.trained import load_world_model, open_as_seen
from diwa_trainer.samples.latents import encode
from diwa_trainer.verbs import export
from diwa_trainer.verbs.export import ExportConfig
from diwa_trainer.verbs.presets import PAPER
from diwa_trainer.world.eyes.eyes import EyesConfig
from diwa_trainer.world.eyes.modes import make_eyes
from diwa_trainer.world.joint import JointConfig, Transposed
from diwa_trainer.world.observations import action_at, observation_at
from diwa_trainer.world.rssm import RSSMConfig
from diwa_trainer.world.world_model import WorldModel, WorldModelConfig

CAMERAS = (CameraSpec("static", 64, 64), CameraSpec("wrist", 64, 64))
TINY_JOINT = dataclasses.replace(TINY_MODEL, joint=JointConfig(depth=2, embedding=16))


def spec_of(mode):
    return dataclasses.replace(SPEC, mode=mode, cameras=CAMERAS)


def paper():
    return config_from(WorldModelConfig, PAPER["train_world_model"]["model"], "preset paper")


def count(*modules):
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Recordings of pictures by mode, a few rows each."""
    folder = tmp_path_factory.mktemp("recorded")
    return {mode: write_toy(folder / mode, play=4, spec=spec_of(mode)) for mode in ("hybrid", "vision")}


def window(data, count=2, length=3):
    rows = np.arange(length) + 5 * np.arange(count)[:, None]
    return observation_at(data, rows), action_at(data, rows)


def test_the_papers_preset_has_the_papers_parameters():
    """As LUMOS has them: 1024 + 32 x 32 with hidden layers of 1000, two encoders 48-96-192-384 and their decoders."""
    model = WorldModel(spec_of("vision"), paper())

    a_layer = lambda inputs, outputs, bias=1: inputs * outputs + bias * outputs  # noqa: E731
    norm = lambda size: 2 * size  # noqa: E731
    channels = [3, 48, 96, 192, 384]
    encoder = 2 * sum(a_layer(16 * a, b) for a, b in itertools.pairwise(channels))
    encoder += a_layer(2 * 384 * 2 * 2, 1536) + norm(1536)
    gru = 3 * (a_layer(1000, 1024) + a_layer(1024, 1024))
    posterior = a_layer(1024, 1000) + a_layer(1536 + 18, 1000, bias=0) + norm(1000) + a_layer(1000, 1024)
    prior = a_layer(1024, 1000) + norm(1000) + a_layer(1000, 1024)
    rssm = a_layer(1024, 1000) + a_layer(7, 1000, bias=0) + norm(1000) + gru + posterior + prior
    transposed = [(1536, 192, 5), (192, 96, 5), (96, 48, 6), (48, 3, 6)]
    decoder = a_layer(2048, 1536) + 2 * sum(a * b * kernel**2 + b for a, b, kernel in transposed)

    assert model.latent_size == 2048
    assert count(model.encoder) == encoder
    assert count(model.rssm) == rssm
    assert count(model.pictures) == decoder


def test_the_papers_preset_takes_a_training_step_and_an_imagined_one(recorded):
    torch.manual_seed(0)
    data = Dataset.open(recorded["vision"])
    model = WorldModel(data.spec, paper())
    model.fit_features(data)
    observation, actions = window(data)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-4)

    losses = []
    for _ in range(2):
        loss, metrics = model.loss(observation, actions, torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(metrics["pictures"]))
    with torch.no_grad():
        latent = model.observe(observation, actions, torch.Generator().manual_seed(0)).latents[:, -1]
        imagined = model.rssm.imagine_step(latent, actions[:, -1], torch.Generator().manual_seed(0))
        drawn = model.draw(imagined)

    assert losses[1] < losses[0]
    assert all(parameter.grad is not None for name, parameter in model.named_parameters())
    assert imagined.shape == (2, 2048)
    assert not torch.equal(imagined, latent)
    assert {name: images.shape for name, images in drawn.items()} == dict.fromkeys(("static", "wrist"), (2, 64, 64, 3))


@pytest.mark.parametrize(("kernel", "out", "side"), [(5, 4, 1), (6, 3, 1), (5, 6, 5), (6, 3, 7), (6, 8, 7)], ids=str)
def test_a_transposed_convolution_is_pytorchs_whichever_way_it_is_computed(kernel, out, side):
    torch.manual_seed(0)
    ours = Transposed(5, out, kernel)
    plain = nn.ConvTranspose2d(5, out, kernel, 2)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(3, 5, side, side)
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]

    results = [network(given) for network, given in zip((ours, plain), inputs, strict=True)]
    weight = torch.randn_like(results[0])
    for result in results:
        (result * weight).sum().backward()

    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)
    for one, other in [inputs, *zip(ours.parameters(), plain.parameters(), strict=True)]:
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "changes", [{}, {"shortcut": False, "by_spread": False, "numbers": False}], ids=["default", "paper"]
)
@pytest.mark.parametrize("mode", ["hybrid", "vision"])
def test_the_plain_loss_and_all_its_gradients_are_ours(recorded, tmp_path, mode, changes):
    data = Dataset.open(recorded[mode])
    joint = dataclasses.replace(TINY_JOINT, joint=dataclasses.replace(TINY_JOINT.joint, weight=0.01, **changes))
    config = dataclasses.replace(tiny_configs(data.folder, tmp_path)["train_world_model"], model=joint)
    model = training.our_training(config, data).model
    observation, actions = window(data, 3, 6)

    gradients = []
    for loss_of in (lambda *args: model.loss(*args)[0], lambda *args: plain_world_model.loss(model, *args)):
        model.zero_grad()
        loss_of(observation, actions, torch.Generator().manual_seed(3)).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    ours, plain = gradients
    for name, gradient in ours.items():
        scale = float(plain[name].abs().max())
        torch.testing.assert_close(gradient, plain[name], rtol=0, atol=2e-4 * scale + 1e-7, msg=name)


@pytest.mark.parametrize("numbers", [True, False])
def test_latents_learn_from_decoded_numbers_unless_these_are_for_people_alone(recorded, numbers):
    data = Dataset.open(recorded["vision"])
    torch.manual_seed(0)
    joint = dataclasses.replace(TINY_JOINT.joint, numbers=numbers, weight=0.0)
    model = WorldModel(data.spec, dataclasses.replace(TINY_JOINT, joint=joint, kl_weight=0.0))
    observation, actions = window(data)

    loss, _ = model.loss(observation, actions, torch.Generator().manual_seed(0))
    loss.backward()

    assert model.decoder[0].weight.grad.abs().sum() > 0
    assert (float(model.rssm.posterior_e.weight.grad.abs().sum()) > 0) == numbers


def test_half_of_the_states_begin_as_scales_of_proprio_and_the_others_are_free(recorded):
    data = Dataset.open(recorded["hybrid"])
    torch.manual_seed(0)
    joint = dataclasses.replace(TINY_JOINT, rssm=RSSMConfig(16, 8, 8, 16))
    model = WorldModel(data.spec, joint)
    model.fit_features(data)
    seen, read = model.rssm.shortcut.seen.weight.unflatten(0, (8, 8)), model.read.weight.unflatten(1, (8, 8))

    assert (seen[:4].abs().sum((1, 2)) > 0).all()
    assert not seen[4:].any()
    assert read[: len(model.proprio), :4].any()
    assert not read[:, 4:].any()
    assert not read[len(model.proprio) :].any()


@pytest.fixture(scope="module", params=["hybrid", "vision"])
def world(request, recorded, tmp_path_factory):
    """A folder with one run of every verb behind a world model that codes pictures itself."""
    folder = tmp_path_factory.mktemp(f"joint_{request.param}")
    configs = tiny_configs(recorded[request.param], folder)
    configs["train_world_model"] = dataclasses.replace(configs["train_world_model"], model=TINY_JOINT, updates=6)
    for verb, config in configs.items():
        TRAINERS[verb](config)
    parts = {name: folder / name for name in ("world_model", "reward", "finetuned")}
    parts |= {"dataset": recorded[request.param], "policy": folder / "pretrained"}
    export.run(ExportConfig(output=folder / "bundle", **parts))
    return recorded[request.param], folder


def test_the_later_verbs_see_what_the_models_own_encoder_sees(world):
    data, folder = world
    as_seen, model, _ = open_as_seen(data, folder / "world_model")
    bare = Dataset.open(data)
    rows = np.array([[3, 4, 5]])

    with torch.no_grad():
        from_pictures = model.observe(observation_at(bare, rows), action_at(bare, rows), mode=True).latents
        from_seen = model.observe(observation_at(as_seen, rows), action_at(as_seen, rows), mode=True).latents

    assert "static" not in observation_at(as_seen, rows)
    torch.testing.assert_close(from_seen, from_pictures)


def test_the_deployed_filter_takes_the_steps_that_training_took(world):
    data, folder = world
    as_seen, model, _ = open_as_seen(data, folder / "world_model")
    session = PolicySession(Bundle.load(folder / "bundle"))
    expected = encode(model, as_seen, [0], [6], None, mode=True)[0].numpy()
    for row in range(6):
        observation = {name: np.array(as_seen.arrays[name][row]) for name in model.spec.observation_fields}
        session.observe(observation, as_seen.action[row - 1] if row else None)
        close = np.isclose(session.latent, expected[row], atol=1e-3)
        assert close.mean() > 0.9, "but for a state that was nearly drawn"


def test_the_run_keeps_a_film_and_the_error_of_pictures(world):
    _, folder = world
    last = json.loads((folder / "world_model/metrics.jsonl").read_text().splitlines()[-1])

    assert last["held_out_pictures"] > 0
    assert (folder / "world_model/open_loop.json").exists()


def test_a_saved_model_is_loaded_with_its_encoder_and_decoders(world):
    _, folder = world
    model, _ = load_world_model(folder / "world_model")

    assert model.config == TINY_JOINT
    assert set(model.draw(torch.zeros(1, model.latent_size))) == {"static", "wrist"}


def test_a_model_sees_in_one_way_alone():
    with pytest.raises(ConfigError, match=r"'state' takes no joint.depth"):
        WorldModel(SPEC, TINY_JOINT)
    small = dataclasses.replace(SPEC, mode="vision", cameras=(CameraSpec("static", 32, 32),))
    with pytest.raises(ConfigError, match=r"32 x 32 pixels.*--image-size 64"):
        WorldModel(small, TINY_JOINT)
    with pytest.raises(ConfigError, match=r"needs eyes.*--model.joint.depth"):
        WorldModel(spec_of("vision"), TINY_MODEL)
    with pytest.raises(ConfigError, match="leave out --eyes"):
        WorldModel(spec_of("vision"), TINY_JOINT, make_eyes(spec_of("vision"), EyesConfig()))
