"""Where networks compute: on the device that there is, with nothing left on the CPU and nothing that waits for it."""

import dataclasses

import numpy as np
import pytest
import torch
from toy import SPEC, TINY_MODEL, TINY_POLICY, TRAINERS, checkpoint_of, tiny_configs, write_toy

from diwa_runtime.errors import ConfigError
from diwa_runtime.spec import CameraSpec
from diwa_trainer.dataset import Dataset
from diwa_trainer.devices import device as device_module
from diwa_trainer.devices.ahead import Ahead
from diwa_trainer.devices.device import Computing, choose_device, compiled, numbers, settled
from diwa_trainer.policy.diffusion import DiffusionPolicy, draw_noise, sample
from diwa_trainer.policy.ppo import Batch, Critic, PPOConfig, base_means, make_losses, mean_log_prob
from diwa_trainer.policy.reward import Classifier, ClassifierConfig
from diwa_trainer.verbs import train_eyes
from diwa_trainer.verbs.train_eyes import TrainEyesConfig
from diwa_trainer.world.eyes.augmentation import AugmentationConfig
from diwa_trainer.world.eyes.eyes import EyesConfig
from diwa_trainer.world.eyes.modes import make_eyes
from diwa_trainer.world.joint import JointConfig
from diwa_trainer.world.observations import Recorded, action_at, observation_at
from diwa_trainer.world.world_model import WorldModel

META = torch.device("meta")
"""A device that computes shapes alone. What meets a tensor of the CPU there, or reads a number, is an error."""
CUDA = torch.cuda.is_available()


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if CUDA else "cpu")


@pytest.fixture(params=["state", "joint"])
def recordings(request, toy_data, tmp_path):
    """A dataset, and the settings of a world model of it: of the scene, or one that codes pictures itself."""
    if request.param == "state":
        return Dataset.open(toy_data), TINY_MODEL
    spec = dataclasses.replace(SPEC, mode="vision", cameras=(CameraSpec("static", 64, 64), CameraSpec("wrist", 64, 64)))
    written = write_toy(tmp_path / "pictures", play=1, demonstrations=2, spec=spec)
    return Dataset.open(written), dataclasses.replace(TINY_MODEL, joint=JointConfig(depth=2, embedding=16))


def test_a_loss_of_the_world_model_leaves_nothing_on_the_cpu_and_waits_for_nothing(recordings):
    data, config = recordings
    model, rows = WorldModel(data.spec, config).to(META), np.arange(24).reshape(2, 12)

    loss, metrics = model.loss(
        observation_at(data, rows, META), action_at(data, rows, META), torch.Generator(), with_open_loop=True
    )
    loss.backward()

    assert {value.device for value in (*metrics.values(), *(p.grad for p in model.parameters()))} == {META}


@pytest.mark.parametrize("mode", ["hybrid", "vision"])
def test_a_loss_of_eyes_leaves_nothing_on_the_cpu_and_waits_for_nothing(tmp_path, mode):
    spec = dataclasses.replace(SPEC, mode=mode, cameras=(CameraSpec("static", 16, 16), CameraSpec("wrist", 16, 16)))
    recorded = Recorded(Dataset.open(write_toy(tmp_path / "data", play=1, demonstrations=2, spec=spec)), META)
    eyes = make_eyes(spec, EyesConfig(channels=(4, 8, 8), camera_code=16, hidden=32, code=4)).to(META)
    changes = AugmentationConfig(shift=1.0)

    eyes.loss(eyes.draw(recorded, np.arange(8), np.random.default_rng(0), changes)).backward()

    assert {p.grad.device for p in eyes.parameters()} == {META}


def test_losses_of_policy_and_reward_leave_nothing_on_the_cpu_and_wait_for_nothing():
    policy, critic, size = DiffusionPolicy(TINY_POLICY, 8).to(META), Critic(8, 8).to(META), TINY_POLICY.size
    classifier = Classifier(ClassifierConfig(hidden=16, embedding=8), 8).to(META)
    latents, chunks = torch.zeros(6, 8, device=META), torch.zeros(6, TINY_POLICY.chunk, 7, device=META)
    chains, values = torch.zeros(6, TINY_POLICY.finetuned_steps + 1, size, device=META), torch.zeros(6, device=META)
    log_probs = mean_log_prob(policy.chain_log_prob(latents, chains), PPOConfig())
    losses = make_losses(policy, critic, PPOConfig(bc_weight=0.1))
    batch = Batch(latents, chains, log_probs.detach(), values, values, base_means(policy, latents, chains), 0.1)

    total = policy.loss(latents, chunks, torch.Generator()) + losses.actor(batch)[0] + losses.critic(batch)
    total = total + classifier.loss(latents, torch.zeros(6, dtype=torch.int64, device=META))
    total.backward()
    noise = draw_noise(TINY_POLICY, (6, TINY_POLICY.denoising_steps + 1), torch.Generator(), META)

    assert total.device == META
    assert sample(policy, policy, latents, noise, explore=True).chain.device == META


def test_a_seed_gives_the_same_loss_on_any_device_and_in_fewer_bits_nearly_the_same(recordings, device):
    data, config = recordings
    torch.manual_seed(0)
    model, rows = WorldModel(data.spec, config), np.arange(48).reshape(4, 12)
    model.fit_features(data)

    def loss(where: torch.device, precision: torch.dtype | None = None) -> float:
        with torch.autocast(where.type, precision, enabled=precision is not None):
            batch = observation_at(data, rows, where), action_at(data, rows, where)
            return numbers(model.to(where).loss(*batch, torch.Generator().manual_seed(0))[1])["loss"]

    here = loss(torch.device("cpu"))
    assert loss(device) == pytest.approx(here, rel=1e-4)
    in_bfloat16 = loss(device, torch.bfloat16)
    assert in_bfloat16 == pytest.approx(here, rel=0.05)
    reached = in_bfloat16 != pytest.approx(here, rel=1e-6)
    assert reached == bool(config.joint.depth), "pictures alone are coded in fewer bits"


VERBS = ("train_world_model", "pretrain", "train_reward", "finetune")


@pytest.mark.skipif(CUDA, reason="there is a graphics card")
@pytest.mark.parametrize("verb", ["train_eyes", *VERBS])
def test_every_verb_that_learns_refuses_a_graphics_card_that_is_not_there(tmp_path, toy_data, toy_runs, verb):
    configs = {**tiny_configs(toy_data, toy_runs), "train_eyes": TrainEyesConfig(toy_data, tmp_path)}
    config = dataclasses.replace(configs[verb], output=tmp_path / "run", device="cuda")

    with pytest.raises(ConfigError, match="finds no graphics card") as refused:
        {**TRAINERS, "train_eyes": train_eyes.run}[verb](config)

    assert "\n" not in str(refused.value)
    assert not config.output.exists()


def test_without_a_compiler_compiling_is_one_line(monkeypatch):
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "/nowhere/g++"))
    monkeypatch.setenv("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")
    loss = compiled(Computing(compile=True), lambda x: x.sin().sum())

    with pytest.raises(ConfigError, match=r"compile: torch cannot .*No working C.. compiler.*; install a C"):
        loss(torch.ones(3))

    assert compiled(Computing(), loss) is loss


def test_a_compiled_loss_takes_what_the_loss_takes_by_name_too(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda loss, **_: loss)

    assert compiled(Computing(compile=True), lambda x, *, contacts: x + contacts)(1, contacts=2) == 3


@pytest.mark.parametrize(("gain", "precision"), [(0.5, "auto"), (2.0, "bfloat16")])
def test_on_a_cpu_auto_is_bfloat16_where_that_is_measured_to_be_quicker(monkeypatch, gain, precision):
    def seconds(product: tuple[int, int, int], *, bfloat16: bool = False) -> float:
        assert product == (8, 4, 2)
        return 1 / gain if bfloat16 else 1.0

    monkeypatch.setattr(device_module, "_seconds", seconds)
    cpu = torch.device("cpu")

    assert settled(Computing(), cpu, (8, 4, 2)).precision == precision
    assert settled(Computing(), cpu).precision == "auto", "which is float32 where nothing is measured"
    assert settled(Computing(precision="float32"), cpu, (8, 4, 2)).precision == "float32"


@pytest.mark.parametrize("ahead", [False, True])
def test_reading_ahead_changes_no_batch_and_a_checkpoint_between_two_knows_the_next(ahead):
    def draw(rng: np.random.Generator) -> int:
        return int(rng.integers(1000))

    plain, rng = np.random.default_rng(0), np.random.default_rng(0)
    with Ahead(draw, rng, ahead) as batches:
        assert [batches.take() for _ in range(3)] == [draw(plain) for _ in range(3)]
        assert rng.bit_generator.state == plain.bit_generator.state
    with Ahead(draw, rng, ahead) as resumed:
        assert resumed.take() == draw(plain)


def test_workers_stay_on_the_cpu(toy_data, toy_runs, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config = tiny_configs(toy_data, toy_runs)["train_world_model"]

    assert choose_device(config).type == "cuda"
    assert choose_device(config, workers=2).type == "cpu"
    assert choose_device(dataclasses.replace(config, device="cpu")).type == "cpu"
    with pytest.raises(ConfigError, match="workers is 2, must be 1 with device 'cuda'"):
        choose_device(dataclasses.replace(config, device="cuda"), workers=2)


@pytest.mark.parametrize("verb", VERBS)
def test_where_a_run_computes_is_no_part_of_what_it_is(tmp_path, toy_data, toy_runs, verb):
    """A run that began on another device keeps its course: it ends with the same metrics as one without a break."""
    config = dataclasses.replace(tiny_configs(toy_data, toy_runs)[verb], device="auto")
    whole, broken = (dataclasses.replace(config, output=tmp_path / name) for name in ("whole", "broken"))
    TRAINERS[verb](whole)

    checkpoint_of(verb, broken, step=2)
    TRAINERS[verb](dataclasses.replace(broken, device="cpu"))

    lines = [(one.output / "metrics.jsonl").read_text().splitlines() for one in (whole, broken)]
    assert lines[0] == lines[1]
