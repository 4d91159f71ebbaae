"""Eyes: what they learn to see, who sees what they learned from, and that what is trained on is what is deployed."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toy import DRAWER, TASK, TRAINERS, tiny_configs, write_toy
from toy_eyes import CAMERAS, TINY_EYES, config_of, spec_of

from diwa_runtime.bundle import Bundle
from diwa_runtime.bundle.session import PolicySession
from diwa_runtime.errors import ConfigError, InputError
from diwa_runtime.spec import CameraSpec
from diwa_trainer.dataset import Dataset, DatasetWriter
from diwa_trainer.devices.ranks import ALONE
from diwa_trainer.runs.run import Run
from diwa_trainer.runs.trained import load_eyes, open_as_seen
from diwa_trainer.samples.latents import encode
from diwa_trainer.verbs import train_eyes
from diwa_trainer.verbs.train_eyes import make_folds
from diwa_trainer.world.eyes import code_eyes
from diwa_trainer.world.eyes.augmentation import AugmentationConfig, augment
from diwa_trainer.world.eyes.code_eyes import ALIKE, NEARBY, disagreement, nearby
from diwa_trainer.world.eyes.eyes import as_pictures
from diwa_trainer.world.eyes.marked import UNKNOWN, marked_states
from diwa_trainer.world.eyes.modes import make_eyes
from diwa_trainer.world.observations import Recorded, action_at, observation_at, pictures_at


def test_eyes_of_mode_hybrid_estimate_the_scene_of_recordings_that_they_never_saw(tmp_path):
    data = write_toy(tmp_path / "dataset", spec=spec_of("hybrid"))
    train_eyes.run(config_of(data, tmp_path / "eyes", folds=2, updates=600))

    dataset = Dataset.open(data)
    constant = float(np.abs(dataset.scene[:, DRAWER] - dataset.scene[:, DRAWER].mean()).mean())
    drawer = next(
        one for one in json.loads((tmp_path / "eyes/eyes.json").read_text())["features"] if one["name"] == "drawer"
    )
    assert drawer["held_out"] < 0.35 * constant
    assert drawer["folds"] < 0.35 * constant
    assert not drawer["two_valued"]


def test_eyes_of_mode_vision_learn_without_a_scene_a_code_that_tells_the_drawer(tmp_path):
    """A line through the code reads the drawer, which only the pictures show; the recordings hold no scene."""
    data = write_toy(tmp_path / "dataset", spec=spec_of("vision"))
    scene = Dataset.open(write_toy(tmp_path / "truth", spec=spec_of("hybrid"))).scene[:, DRAWER]
    blind = dataclasses.replace(TINY_EYES, marks=0.0, agreement=0.0)
    train_eyes.run(config_of(data, tmp_path / "eyes", eyes=blind, updates=1000))

    assert "scene" not in Dataset.open(data).arrays
    code = np.load(tmp_path / "eyes/seen.npy")
    np.testing.assert_allclose(np.cov(code.T), np.eye(4), atol=0.1)
    seen = np.column_stack([code, np.ones(len(code))])
    line, *_ = np.linalg.lstsq(seen, scene, rcond=None)
    assert np.mean((seen @ line - scene) ** 2) < 0.2 * scene.var()
    steps = np.square(np.diff(code, axis=0)).mean(0)
    assert (np.diff(steps) > -0.05).all(), "slowest first"


def test_rows_that_eyes_learn_from_are_seen_by_eyes_that_did_not(tmp_path):
    dataset = Dataset.open(write_toy(tmp_path / "dataset", spec=spec_of("hybrid")))
    config = config_of(dataset.folder, tmp_path / "eyes", folds=3, updates=2)
    learned, held_out = dataset.split(config.validation, config.split_seed)
    folds = make_folds(learned, config.folds)

    assert sorted((e for fold in folds for e in fold), key=lambda e: e.start) == list(learned)
    for number, fold in enumerate(folds):
        assert {episode.kind for episode in fold} == {"play", "demonstration"}
        rows = set(train_eyes._rows_to_learn(config, learned, folds, number).tolist())
        assert not rows & {row for e in (*fold, *held_out) for row in range(e.start, e.end)}
    train_eyes.run(config)
    eyes, _ = load_eyes(config.output)
    seen = np.load(config.output / "seen.npy")
    own = train_eyes.see(eyes, dataset, np.arange(len(dataset)))
    held = train_eyes.rows_of(held_out)
    np.testing.assert_array_equal(seen[held], own[held])
    rest = train_eyes.rows_of(learned)
    assert (seen[rest] != own[rest]).any(1).all()


def test_what_a_model_learned_from_is_what_its_bundle_sees(world):
    """From pictures alone the deployed filter comes to the latents that policy and reward were trained on."""
    mode, folder = world
    dataset, model, _ = open_as_seen(folder / "dataset", folder / "world_model")
    bundle = Bundle.load(folder / "bundle")
    assert bundle.spec.mode == mode
    assert bundle.spec.observation_fields == ("static", "wrist", "proprio")

    episode = dataset.episodes_of(kind="demonstration", task=TASK)[0]
    expected = encode(model, dataset, [episode.start], [episode.end], None, mode=True)[0].numpy()
    session = PolicySession(bundle)
    for row in range(episode.start, episode.end):
        observation = {name: np.array(dataset.arrays[name][row]) for name in bundle.spec.observation_fields}
        session.observe(observation, dataset.action[row - 1])
        close = np.isclose(session.latent, expected[row - episode.start], atol=1e-3)
        assert close.mean() > 0.9, "but for a state that was nearly drawn"


def test_what_is_seen_is_observed_and_the_recorded_scene_predicted_where_there_is_one(world):
    mode, folder = world
    dataset, model, _ = open_as_seen(folder / "dataset", folder / "world_model")
    rows = np.arange(8).reshape(2, 4)
    observation, actions = observation_at(dataset, rows), action_at(dataset, rows)

    def loss(**changes):
        changed = {name: observation[name] + change for name, change in changes.items()}
        return float(model.loss(observation | changed, actions, torch.Generator().manual_seed(0))[0])

    assert loss(seen=0.0) == loss()
    assert not torch.equal(model.features(observation), model.features(observation | {"seen": observation["seen"] + 1}))
    if mode == "vision":
        assert "scene" not in observation
        assert loss(seen=1.0) != loss()
        return
    assert loss(scene=0.05) != loss(), "the recorded scene is what is predicted"
    assert torch.equal(model.features(observation), model.features(observation | {"scene": observation["scene"] + 1}))
    assert torch.equal(model.scene.std, model.eyes.scene.std)
    assert torch.equal(model.scene.mean, model.eyes.scene.mean)


def test_other_recordings_are_seen_by_the_model_s_own_eyes(world, tmp_path):
    mode, folder = world
    other = write_toy(tmp_path / "other", spec=spec_of(mode), seed=1)

    dataset, model, _ = open_as_seen(other, folder / "world_model")

    expected = train_eyes.see(model.eyes, Dataset.open(other), np.array([5]))
    np.testing.assert_allclose(dataset.arrays["seen"][5], expected[0], atol=1e-5)


def test_eyes_stay_as_they_are_while_the_world_model_learns(world):
    _, folder = world
    before, after = (
        load_file(folder / "eyes/eyes.safetensors"),
        load_file(folder / "world_model/world_model.safetensors"),
    )
    assert before
    for name, weight in before.items():
        assert torch.equal(after[f"eyes.{name}"], weight), name


@pytest.mark.parametrize("mode", ["hybrid", "vision"])
def test_one_camera_of_any_size_will_do(tmp_path, mode):
    spec = dataclasses.replace(spec_of(mode), cameras=(CameraSpec("front", 21, 38),))
    data = write_toy(tmp_path / "dataset", spec=spec, play=2, demonstrations=2)

    train_eyes.run(config_of(data, tmp_path / "eyes", updates=3))

    eyes, _ = load_eyes(tmp_path / "eyes")
    seen = np.load(tmp_path / "eyes/seen.npy")
    assert seen.shape == (len(Dataset.open(data)), len(eyes.names))
    assert np.isfinite(seen).all()


@pytest.mark.parametrize(("workers", "crash_at"), [(1, 7), (2, 6)])
def test_resumed_eyes_are_the_same_eyes(tmp_path, monkeypatch, workers, crash_at):
    data = write_toy(tmp_path / "dataset", spec=spec_of("hybrid"))
    changes = {"updates": 4, "save_every": 2, "log_every": 1, "folds": 2, "workers": workers}
    monkeypatch.setattr(train_eyes, "settled", lambda config, *_: dataclasses.replace(config, precision="bfloat16"))
    train_eyes.run(config_of(data, tmp_path / "straight", **changes))

    def crash(_run, state):
        if state.step == crash_at:
            raise RuntimeError("power cut")

    with monkeypatch.context() as patched:
        patched.setattr(Run, "stop_if_interrupted", crash)
        with pytest.raises(RuntimeError, match="power cut"):
            train_eyes.run(config_of(data, tmp_path / "resumed", **changes))
    monkeypatch.setattr(train_eyes, "settled", lambda config, *_: config)  # bfloat16 is not measured to be quicker now
    train_eyes.run(config_of(data, tmp_path / "resumed", **changes))

    for name in ("eyes.safetensors", "seen.npy", "metrics.jsonl"):
        assert (tmp_path / "straight" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes(), name


@pytest.mark.parametrize(("another_says", "precision"), [(True, "bfloat16"), (False, "auto")])
def test_all_processes_of_a_run_compute_in_the_same_numbers(tmp_path, monkeypatch, another_says, precision):
    """Here bfloat16 is not measured to be quicker; where it is in another process of the run, all take it."""
    monkeypatch.setattr(train_eyes, "settled", lambda config, *_: config)
    share = SimpleNamespace(any=lambda flag: flag or another_says)
    config, state = config_of(tmp_path, tmp_path, precision="auto"), SimpleNamespace(extra={})

    assert train_eyes._settled(config, torch.device("cpu"), state, share).precision == precision
    assert state.extra == {"precision": precision}


def test_what_cannot_be_seen_is_said_in_one_line(tmp_path, toy_data):
    with pytest.raises(InputError, match="mode 'state' has no pictures to see; ingest with --mode hybrid or vision"):
        train_eyes.run(config_of(toy_data, tmp_path / "eyes"))
    vision = write_toy(tmp_path / "vision", spec=spec_of("vision"), play=2, demonstrations=2)
    with pytest.raises(ConfigError, match="folds must be 1 in mode 'vision'"):
        train_eyes.run(config_of(vision, tmp_path / "eyes", folds=2))
    small = dataclasses.replace(spec_of("hybrid"), cameras=(CameraSpec("static", 8, 16),))
    with pytest.raises(ConfigError, match="camera 'static' has pictures of 8 x 16 pixels, eyes need 16"):
        train_eyes.run(config_of(write_toy(tmp_path / "small", spec=small), tmp_path / "eyes"))


def test_what_was_seen_and_is_not_whole_is_one_line(world, tmp_path):
    _, folder = world
    shutil.copytree(folder / "world_model", tmp_path / "world_model")
    seen = tmp_path / "world_model/seen.npy"
    for damage, said in (
        (lambda: seen.write_bytes(seen.read_bytes()[:-4]), "bytes of data"),
        (seen.unlink, "not there"),
    ):
        damage()
        with pytest.raises(InputError, match=rf"seen.npy: .*{said}.*; delete .*world_model and make it anew"):
            open_as_seen(folder / "dataset", tmp_path / "world_model")


def test_a_world_model_takes_only_eyes_of_its_own_recordings(world, tmp_path):
    mode, folder = world
    other = write_toy(tmp_path / "other", spec=spec_of(mode), seed=1)
    config = tiny_configs(other, tmp_path)["train_world_model"]
    with pytest.raises(InputError, match="learned from another dataset"):
        TRAINERS["train_world_model"](dataclasses.replace(config, eyes=folder / "eyes"))
    with pytest.raises(ConfigError, match=f"mode '{mode}' needs eyes"):
        TRAINERS["train_world_model"](config)


@pytest.mark.parametrize("what", ["brightness", "contrast", "colour", "noise", "shift", "blur"])
def test_each_augmentation_changes_pictures_and_none_changes_none(what):
    pictures = torch.rand(6, 3, 16, 16) - 0.5
    still = AugmentationConfig(0, 0, 0, 0, 0)
    assert torch.equal(augment(pictures, still, torch.Generator()), pictures)

    changed = augment(pictures, dataclasses.replace(still, **{what: 0.5}), torch.Generator().manual_seed(0))

    assert changed.shape == pictures.shape
    assert all(not torch.allclose(one, other, atol=1e-3) for one, other in zip(changed, pictures, strict=True))


def test_a_blurred_picture_is_smoother_and_no_darker():
    pictures = torch.rand(4, 3, 16, 16) - 0.5

    blurred = augment(pictures, AugmentationConfig(0, 0, 0, 0, 0, 1), torch.Generator().manual_seed(0))

    assert (blurred.diff(dim=-1).abs().mean((1, 2, 3)) < pictures.diff(dim=-1).abs().mean((1, 2, 3))).all()
    torch.testing.assert_close(blurred.mean((1, 2, 3)), pictures.mean((1, 2, 3)), atol=0.02, rtol=0)


def test_a_shift_of_whole_pixels_moves_the_picture(monkeypatch):
    pictures = torch.rand(1, 3, 16, 16)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor([[1.0, 0.5]]))  # 2 pixels right, none down
    moved = augment(pictures, AugmentationConfig(0, 0, 0, 0, 2), torch.Generator())
    torch.testing.assert_close(moved[..., :-2], pictures[..., 2:], atol=1e-5, rtol=0)


def test_the_other_moment_is_near_and_of_the_same_episode(tmp_path):
    dataset = Dataset.open(write_toy(tmp_path / "dataset", play=[9, 40], demonstrations=1))
    rows = np.repeat(np.arange(len(dataset)), 50)
    other = nearby(dataset, rows, NEARBY, np.random.default_rng(0))
    for episode in dataset.episodes:
        inside = (rows >= episode.start) & (rows < episode.end)
        assert ((other[inside] >= episode.start) & (other[inside] < episode.end)).all()
    assert np.abs(other - rows).max() == NEARBY
    assert set(np.unique(other - rows)) == set(range(-NEARBY, NEARBY + 1))


def test_marks_tell_at_which_end_a_value_is_until_the_opposite_is_marked(tmp_path):
    spec = spec_of("vision")
    marks = [(3, "open_drawer"), (5, "turn_on_led"), (7, "close_drawer")]
    with DatasetWriter(tmp_path / "data", spec, scene=False) as writer:
        rows = {"stamp": np.arange(9), "proprio": np.zeros((9, 15), "f4"), "action": np.zeros((9, 7), "f4")}
        rows |= {camera.name: np.zeros((9, 16, 16, 3), "u1") for camera in CAMERAS}
        writer.add_episode(rows, marks=marks)
        shown = {"kind": "demonstration", "task": "turn_off_led", "outcome": "success"}
        writer.add_episode(rows, marks=[(6, "turn_off_led")], **shown)

    states = dict(zip(spec.watched, marked_states(Dataset.open(tmp_path / "data")).T.tolist(), strict=True))

    unknown = [UNKNOWN] * 9
    assert states["drawer"] == [UNKNOWN] * 3 + [1] * 4 + [0] * 2 + unknown
    assert states["led"] == [UNKNOWN] * 5 + [1] * 4 + [1] * 6 + [0] * 3, "a demonstration begins at the other end"
    assert states["slider"] == unknown * 2


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_line_through_the_code_learns_what_marks_tell_if_it_is_asked_to(tmp_path, weight):
    data = write_toy(tmp_path / "dataset", spec=spec_of("vision"))
    train_eyes.run(config_of(data, tmp_path / "eyes", eyes=dataclasses.replace(TINY_EYES, marks=weight), updates=200))

    dataset, (eyes, _) = Dataset.open(data), load_eyes(tmp_path / "eyes")
    states = marked_states(dataset)[:, 0]
    with torch.no_grad():
        observation = pictures_at(dataset, np.flatnonzero(states != UNKNOWN))
        pictures = {name: as_pictures(observation[name]) for name in ("static", "wrist")}
        said = eyes.told(eyes.normalise(eyes.raw(pictures, observation["proprio"])))[:, 0] > 0
    agree = (said.numpy() == (states[states != UNKNOWN] == 1)).mean()
    assert (agree > 0.97) == bool(weight)


def test_codes_agree_where_each_number_is_the_same_and_none_is_another():
    code = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert float(disagreement(code, code)) == 0
    assert float(disagreement(code, -code)) == pytest.approx(4)
    assert float(disagreement(code[:, :1].expand(-1, 2), code[:, :1].expand(-1, 2))) == pytest.approx(ALIKE)


def test_asked_for_agreement_codes_of_one_second_agree_more(tmp_path):
    data = write_toy(tmp_path / "dataset", spec=spec_of("vision"))
    dataset = Dataset.open(data)
    rows = np.arange(0, len(dataset), 3)
    later = nearby(dataset, rows, round(dataset.spec.rate_hz), np.random.default_rng(1))
    apart = {}
    for weight in (0.0, 3.0):
        config = dataclasses.replace(TINY_EYES, agreement=weight, marks=0.0)
        train_eyes.run(config_of(data, tmp_path / f"eyes{weight}", eyes=config, updates=200))
        eyes, _ = load_eyes(tmp_path / f"eyes{weight}")
        with torch.no_grad():
            still = AugmentationConfig(0, 0, 0, 0, 0)
            batches = [eyes.draw(Recorded(dataset), r, np.random.default_rng(0), still) for r in (rows, later)]
            codes = [eyes._code(batch, ALONE) for batch in batches]
        apart[weight] = float(disagreement(*codes))
    assert apart[3.0] < 0.7 * apart[0.0]


@pytest.mark.parametrize(("rate_hz", "rows"), [(10.0, 10), (30.0, 30), (0.2, 1)])
def test_a_second_is_as_many_rows_as_the_robot_s_rate_says(rate_hz, rows, monkeypatch, tmp_path):
    spec = dataclasses.replace(spec_of("vision"), rate_hz=rate_hz)
    dataset = Dataset.open(write_toy(tmp_path / "dataset", spec=spec))
    asked = []
    monkeypatch.setattr(code_eyes, "nearby", lambda _, rows, most, __: asked.append(most) or rows)
    eyes = make_eyes(spec, dataclasses.replace(TINY_EYES, agreement=1.0))
    eyes.fit_features(dataset)
    eyes.draw(Recorded(dataset), np.arange(4), np.random.default_rng(0), AugmentationConfig())
    assert asked == [NEARBY, rows]
