"""The bundles that ship with DiWA: that they are whole, do what they are said to, and are shown as they are."""

import numpy as np
import onnxruntime
import pytest
import ship_bundles
import try_bundles
from PIL import Image

from diwa_runtime.bundle import Bundle
from diwa_runtime.bundle.manifest import GRAPHS
from diwa_runtime.config import config_from, read_yaml
from diwa_runtime.errors import DiwaError
from diwa_runtime.spec import Spec
from diwa_trainer.deploy.half import with_half_weights
from diwa_trainer.evaluation.evaluation import evaluate
from diwa_trainer.evaluation.film import CAPTION, FAILURE, SUCCESS, TILE, Take, decode_mp4, encode_webp, side_by_side
from diwa_trainer.evaluation.settings import EvaluateConfig
from diwa_trainer.evaluation.video import encode_mp4


@pytest.mark.parametrize("skill", ["open_drawer", "turn_on_led"])
def test_the_shipped_bundles_are_whole_and_the_fine_tuned_one_succeeds(tmp_path, skill):
    folder = ship_bundles.BUNDLES / skill
    base, tuned = (Bundle.load(folder / policy).manifest for policy in ship_bundles.POLICIES)

    assert {base.skill, tuned.skill} == {skill}
    assert base.spec == tuned.spec == Spec()
    assert base.provenance["world_model"] == tuned.provenance["world_model"]
    assert tuned.provenance["iterations"] > 0
    settings = {
        **read_yaml(folder / ship_bundles.SETTINGS), "output": str(tmp_path), "bundle": str(folder / "finetuned"),
        "first_seed": 700_000, "episodes": 4, "videos": 0, "workers": 1,
    }  # fmt: skip
    found = evaluate(config_from(EvaluateConfig, settings, "settings"))
    assert found.successes >= 3, "on another machine's arithmetic one may go otherwise"


def linear(weight):
    from onnx import TensorProto, helper, numpy_helper

    node = helper.make_node("MatMul", ["x", "weight"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size]) for name, size in
            (("x", weight.shape[0]), ("y", weight.shape[1]))]  # fmt: skip
    graph = helper.make_graph([node], "linear", ends[:1], ends[1:], [numpy_helper.from_array(weight, "weight")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def test_large_weights_are_stored_in_half_the_room_and_computed_with_as_before():
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    x = np.ones((1, 64), np.float32)
    whole, half = linear(weight), with_half_weights(linear(weight))

    (expected,), (found,) = (onnxruntime.InferenceSession(graph).run(None, {"x": x}) for graph in (whole, half))

    assert len(half) < 0.6 * len(whole)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=0.02)
    np.testing.assert_allclose(found, x @ weight.astype(np.float16).astype(np.float32), atol=1e-5)
    small = linear(weight[:8, :8])
    assert with_half_weights(small) == small
    with pytest.raises(ValueError, match="weight has a weight of 1e\\+06, too large for float16"):
        with_half_weights(linear(np.full((64, 64), 1e6, np.float32)))


def test_a_film_runs_all_episodes_at_once_and_frames_those_that_are_done():
    grey = np.full((48, 64, 3), 128, np.uint8)
    takes = [Take([grey] * 4, success=True), Take([grey] * 7, success=False), Take([grey] * 7, success=True)]

    pictures = side_by_side({"before": takes[1:2] * 2, "after": takes[1:]}, every=3)

    assert len(pictures) == 3  # steps 0, 3 and 6
    assert pictures[0].size == (2 * TILE[0], 2 * (CAPTION + TILE[1]))
    corners = [(0, CAPTION), (TILE[0], CAPTION), (0, 2 * CAPTION + TILE[1]), (TILE[0], 2 * CAPTION + TILE[1])]
    assert [pictures[2].getpixel(corner) for corner in corners] == [FAILURE, FAILURE, FAILURE, SUCCESS]
    assert all(pictures[1].getpixel(corner) == (128, 128, 128) for corner in corners)
    (early,) = side_by_side({"one": takes[:1]}, every=10)[1:]
    assert early.getpixel((0, CAPTION)) == SUCCESS


def test_a_film_is_an_animation_that_repeats_and_holds_its_last_picture(tmp_path):
    grey = np.full((48, 64, 3), 128, np.uint8)
    frames = [np.clip(grey + shade, 0, 255).astype(np.uint8) for shade in range(0, 70, 10)]
    path = tmp_path / "film.webp"
    path.write_bytes(encode_webp(side_by_side({"one": [Take(frames, success=True)]}, every=3), 10.0))

    film = Image.open(path)

    assert (film.n_frames, film.info["loop"]) == (3, 0)
    durations = []
    for number in range(film.n_frames):
        film.seek(number)
        film.load()
        durations.append(film.info["duration"])
    assert durations == [100, 100, 1500]


def test_pictures_come_back_out_of_a_video():
    frames = [np.full((48, 320, 3), shade, np.uint8) for shade in (40, 120, 200)]

    found = decode_mp4(encode_mp4(frames, 30.0))

    assert [picture.shape for picture in found] == [(48, 320, 3)] * 3
    np.testing.assert_allclose([picture.mean() for picture in found], [40, 120, 200], atol=4)
    with pytest.raises(DiwaError, match="a video could not be read"):
        decode_mp4(b"no video")


def test_what_ships_is_made_of_a_finished_demo_and_tried(tmp_path, capsys):
    run, shipped = tmp_path / "run", tmp_path / "bundles"
    for skill in ship_bundles.SKILLS:
        for policy in ship_bundles.POLICIES:
            folder = run / skill / f"bundle_{policy}"
            folder.mkdir(parents=True)
            for name in (*GRAPHS, "manifest.json"):
                (folder / name).write_bytes((ship_bundles.BUNDLES / skill / policy / name).read_bytes())
        evaluation = run / skill / "evaluation_finetuned"
        evaluation.mkdir()
        (evaluation / "config.yaml").write_text(
            "environment: diwa_sim:PlayTable-v0\nenvironment_kwargs: {start: far}\nmax_steps: 3\nepisodes: 100\n"
        )
    ship_bundles.main(run, shipped)

    try_bundles.run(try_bundles.TryConfig(output=tmp_path / "tried", episodes=2, workers=1), shipped)

    assert read_yaml(shipped / "open_drawer" / ship_bundles.SETTINGS) == {
        "environment": "diwa_sim:PlayTable-v0", "environment_kwargs": {"start": "far"}, "max_steps": 3,
    }  # fmt: skip
    shown = capsys.readouterr().out
    assert "turn_on_led         0 of 2        0 of 2" in shown
    page = (tmp_path / "tried" / "index.html").read_text()
    assert page.count("data:image/webp;base64,") == 2
    assert {path.name for path in (tmp_path / "tried").iterdir()} == {
        "index.html",
        "open_drawer.webp",
        "turn_on_led.webp",
    }
