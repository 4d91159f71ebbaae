"""What a reader is shown of eyes: redrawn pictures, the film of what is expected, and where they are wrong."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from toy import DRAWER, SPEC, write_toy
from toy_eyes import config_of, spec_of

from diwa_trainer.dataset import Dataset
from diwa_trainer.runs.result_files import worst_picture
from diwa_trainer.runs.trained import load_eyes, open_as_seen
from diwa_trainer.verbs import train_eyes
from diwa_trainer.world.eyes.augmentation import AugmentationConfig
from diwa_trainer.world.eyes.beside import CAPTION, GAP, LARGER
from diwa_trainer.world.eyes.film import open_loop_film
from diwa_trainer.world.eyes.judged import WORST, judge
from diwa_trainer.world.eyes.marked import marked_states
from diwa_trainer.world.eyes.seen import rows_of, see
from diwa_trainer.world.observations import Recorded


@pytest.mark.parametrize("mode", ["hybrid", "vision"])
def test_pictures_are_redrawn_from_what_is_seen(tmp_path, mode):
    """From what eyes see of a row, and the row's pose, its own picture comes back, better than the mean picture."""
    data = write_toy(tmp_path / "dataset", spec=spec_of(mode))
    train_eyes.run(config_of(data, tmp_path / "eyes", updates=600))
    dataset, (eyes, _) = Dataset.open(data), load_eyes(tmp_path / "eyes")
    rows = np.arange(0, len(dataset), 7)
    pose = eyes.proprio(torch.from_numpy(dataset.proprio[rows]))

    drawn = eyes.pictures(torch.from_numpy(train_eyes.see(eyes, dataset, rows)), pose)

    assert list(drawn) == ["static", "wrist"]
    for camera, pictures in drawn.items():
        truth = dataset.take(camera, rows).astype(float)
        assert pictures.shape == truth.shape
        assert pictures.dtype == torch.uint8
        error = np.square(pictures.numpy() - truth).mean()
        assert error < 0.5 * np.square(truth.mean(0) - truth).mean(), camera


@pytest.mark.parametrize("mode", ["hybrid", "vision"])
def test_cameras_that_are_redrawn_for_the_reader_teach_the_eyes_nothing(tmp_path, mode):
    dataset = Dataset.open(write_toy(tmp_path / "dataset", spec=spec_of(mode), play=2, demonstrations=2))
    config = config_of(dataset.folder, tmp_path / "eyes")

    def gradients(others):
        _, (eyes,) = train_eyes._make(config, dataset)
        for name in () if others else list(eyes.others):
            del eyes.others[name]
        batch = eyes.draw(Recorded(dataset), np.arange(64), np.random.default_rng(0), AugmentationConfig())
        eyes.train().loss(batch).backward()
        return {name: parameter.grad for name, parameter in eyes.named_parameters() if parameter.grad is not None}

    alone, beside = gradients(others=False), gradients(others=True)

    assert any(name.startswith("cameras.wrist") for name in alone), "though the eyes look through it"
    assert all(torch.equal(beside[name], gradient) for name, gradient in alone.items())
    assert all(name.startswith("others.wrist") for name in beside.keys() - alone.keys())
    assert beside.keys() > alone.keys()


def test_eyes_of_older_files_redraw_the_first_camera_alone(world, tmp_path):
    _, folder = world
    for run in ("eyes", "world_model"):
        shutil.copytree(folder / run, tmp_path / run)
        file = tmp_path / run / f"{run}.safetensors"
        with safe_open(file, "pt") as opened:
            header = opened.metadata()
        save_file({name: one for name, one in load_file(file).items() if "others." not in name}, file, header)

    eyes, _ = load_eyes(tmp_path / "eyes")
    dataset, model, _ = open_as_seen(folder / "dataset", tmp_path / "world_model")

    rows = np.arange(3)
    pose = eyes.proprio(torch.from_numpy(dataset.proprio[rows]))
    for one in (eyes, model.eyes):
        assert list(one.pictures(torch.from_numpy(dataset.arrays["seen"][rows]), pose)) == ["static"]


def test_the_film_is_of_held_out_windows_what_was_recorded_left_and_what_is_expected_right(world, tmp_path):
    """Windows lie side by side; of each, pairs of pictures, one camera below the other."""
    mode, folder = world
    dataset, model, _ = open_as_seen(folder / "dataset", folder / "world_model")
    assert not open_loop_film(model, dataset, dataset.episodes, seed=0), "none is long enough"
    long = Dataset.open(write_toy(tmp_path / "long", play=[90, 90], demonstrations=1, spec=spec_of(mode)))
    long = long.with_seen(train_eyes.see(model.eyes, long, np.arange(len(long))))

    frames = open_loop_film(model, long, long.episodes[:2], seed=0)

    rows = long.windows(np.random.default_rng(0), 4, 82, long.episodes[:2], fields=())["row"]
    assert len(frames) == 82
    size, gap = 16 * LARGER, GAP * LARGER
    for window in range(4):
        left = window * (2 * size + gap)
        for camera, top in (("static", CAPTION), ("wrist", CAPTION + size + gap)):
            recorded = frames[7][top : top + size : LARGER, left : left + size : LARGER]
            np.testing.assert_array_equal(recorded, long.arrays[camera][rows[window, 7]])
    expected = [frame[CAPTION:, size : 2 * size] for frame in (frames[7], frames[60])]
    assert not np.array_equal(*expected), "the model imagines something"


def test_estimates_and_lights_are_counted_beside_the_truth_of_held_out_rows(world):
    mode, folder = world
    report = json.loads((folder / "eyes/eyes.json").read_text())
    dataset, (eyes, _) = Dataset.open(folder / "dataset"), load_eyes(folder / "eyes")
    rows = rows_of(dataset.split(0.1, 0)[1])
    assert set(report["redrawn"]) == {"static", "wrist"}
    if mode == "vision":
        assert report["error"] == report["redrawn"]["static"]
        known = {name: int(n) for name, n in zip(SPEC.watched, (marked_states(dataset)[rows] >= 0).sum(0), strict=True)}
        assert {name: one["rows"] for name, one in report["marks"].items()} == {k: n for k, n in known.items() if n}
        assert all(one["values"] == {} for one in report["worst"])
        return
    truth = dataset.scene[rows][:, DRAWER]
    drawer = report["estimates"]["drawer"]
    edges = np.linspace(drawer["low"], drawer["high"], len(drawer["counts"]) + 1)
    said = eyes.scene.physical(torch.from_numpy(np.load(folder / "eyes/seen.npy")[rows]), "drawer").numpy()
    np.testing.assert_allclose(np.sum(drawer["counts"], 1), np.histogram(truth, edges)[0], atol=2)
    np.testing.assert_allclose(np.sum(drawer["counts"], 0), np.histogram(said, edges)[0], atol=2)
    assert sum(map(sum, drawer["counts"])) == len(rows)
    assert report["lights"] == {}, "what has never changed is no light"


def test_what_tasks_watch_and_has_two_levels_is_counted_as_a_light(tmp_path):
    dataset = Dataset.open(write_toy(tmp_path / "data", spec=spec_of("hybrid"), play=4, demonstrations=2))
    lit = dataset.scene[:, DRAWER] > 0.1
    dataset.arrays["scene"][:, SPEC.scene.index("led")] = np.where(lit, 5.0, 1.0)
    _, (eyes,) = train_eyes._make(config_of(dataset.folder, tmp_path / "eyes"), dataset)
    held_out = dataset.split(0.5, 0)[1]

    report = judge(eyes, dataset, see(eyes, dataset, np.arange(len(dataset))), dataset.episodes, held_out, 0).report

    assert set(report["lights"]) == {"led"}
    assert {one["name"] for one in report["features"] if one["two_valued"]} == {"led"}
    on = int(lit[rows_of(held_out)].sum())
    assert (report["lights"]["led"]["on"], report["lights"]["led"]["off"]) == (on, len(rows_of(held_out)) - on)


def test_the_world_model_is_measured_by_what_its_mode_predicts(world):
    mode, folder = world
    report = json.loads((folder / "world_model/open_loop.json").read_text())
    if mode == "vision":
        assert list(report["features"]) == ["tcp", "code_0", "code_1", "code_2", "code_3"]
        assert report["flips"] == {}
        return
    assert list(report["features"]) == ["tcp", *SPEC.watched]
    assert report["flips"] == {}, "no light of the toy ever changes"
    assert report["features"]["drawer"]["moved_windows"] > 0
    assert report["features"]["drawer"]["moved"]["model"] is not None


def test_the_worst_rows_are_of_different_held_out_episodes_and_shown_as_pictures(world):
    mode, folder = world
    report = json.loads((folder / "eyes/eyes.json").read_text())
    dataset, (eyes, _) = Dataset.open(folder / "dataset"), load_eyes(folder / "eyes")
    _, held_out = dataset.split(0.1, 0)
    assert len(report["worst"]) == min(WORST, len(held_out))
    seen = torch.from_numpy(np.load(folder / "eyes/seen.npy"))
    for number, one in enumerate(report["worst"]):
        image = np.asarray(Image.open(folder / "eyes" / worst_picture(number)))[CAPTION:]
        static = image[: 16 * LARGER : LARGER, : 16 * LARGER : LARGER]
        (row,) = [
            episode.start + one["step"]
            for episode in held_out
            if one["step"] < len(episode)
            and np.array_equal(dataset.arrays["static"][episode.start + one["step"]], static)
        ][:1]
        if mode == "hybrid":
            values = one["values"]["drawer"]
            assert values["truth"] == pytest.approx(dataset.scene[row, DRAWER], abs=1e-6)
            assert values["seen"] == pytest.approx(float(eyes.scene.physical(seen[row], "drawer")), abs=1e-6)
            errors = (seen - eyes.scene(torch.from_numpy(dataset.scene))).abs() @ eyes.weight
            (episode,) = (episode for episode in held_out if episode.start <= row < episode.end)
            assert float(errors[row]) == pytest.approx(float(errors[episode.start : episode.end].max()), rel=1e-4)
