from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from diwa_policy_node.skills.start_gate import GateLimits, picture_difference
from diwa_runtime.bundle.manifest import ImageStatistics
from diwa_runtime.errors import ConfigError
from diwa_sim.environment import PlayTable

pytestmark = pytest.mark.gl
STILL = np.array([0, 0, 0, 0, 0, 0, 1], dtype=np.float32)


@pytest.fixture(scope="module")
def env() -> PlayTable:
    table = PlayTable(task="turn_on_led", mode="vision", render_mode="rgb_array", render_size=(120, 160))
    try:
        table.reset(seed=0)
    except ConfigError as error:
        pytest.skip(str(error))
    return table


def test_images_are_those_of_the_space_and_the_scene_is_hidden(env: PlayTable) -> None:
    observation, _ = env.reset(seed=0)
    assert set(observation) == {"static", "wrist", "proprio"}
    assert env.observation_space.contains(observation)
    for camera in ("static", "wrist"):
        assert observation[camera].std() > 10, camera


def test_every_frame_owns_its_memory_and_shows_motion(env: PlayTable) -> None:
    before, _ = env.reset(seed=0)
    kept = before["wrist"].copy()
    for _ in range(5):
        now, *_ = env.step(np.array([1, 0, 0, 0, 0, 0, 1]))
    np.testing.assert_array_equal(before["wrist"], kept)
    assert not np.shares_memory(now["wrist"], before["wrist"])
    assert (now["wrist"] != kept).mean() > 0.1


def bright_green(image: np.ndarray) -> int:
    """How many pixels shine green."""
    red, green, blue = np.moveaxis(image.astype(int), -1, 0)
    return int(((green > 180) & (red < 150) & (blue < 170)).sum())


def test_the_led_lights_up_in_the_static_image(env: PlayTable) -> None:
    observation, _ = env.reset(seed=0)
    dark = bright_green(observation["static"])
    expert, done = env.expert(), False
    while not done:
        observation, _, done, *_ = env.step(expert.act(observation))
    assert dark == 0
    assert bright_green(observation["static"]) > 5


def test_the_wrist_camera_sees_the_fingers(env: PlayTable) -> None:
    """They are nearest to the camera: the near plane must not cut them off."""
    opened, _ = env.reset(seed=0)
    for _ in range(10):
        closed, *_ = env.step(np.array([0, 0, 0, 0, 0, 0, -1]))
    assert (np.abs(closed["wrist"].astype(int) - opened["wrist"]).max(axis=-1) > 40).mean() > 0.05


def test_looking_changes_nothing(env: PlayTable) -> None:
    blind = PlayTable(task="turn_on_led")
    blind.reset(seed=3)
    env.reset(seed=3)
    for action in np.random.default_rng(0).uniform(-1, 1, (15, 7)):
        blind.step(action)
        env.step(action)
        env.render()
    np.testing.assert_array_equal(env.snapshot().scene, blind.snapshot().scene)
    np.testing.assert_array_equal(env.snapshot().joint_positions, blind.snapshot().joint_positions)


def test_frames_come_in_the_size_asked_for(env: PlayTable) -> None:
    env.reset(seed=0)
    frame = env.render()
    assert frame is not None
    assert frame.shape == (120, 160, 3)
    assert frame.dtype == np.uint8
    assert env.camera_image("static", 300, 200).shape == (300, 200, 3)
    assert PlayTable().render() is None


def test_a_missing_opengl_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "nonesuch")
    env = PlayTable()
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="libegl1"):
        env.camera_image("static", 64, 64)


def turned(image: np.ndarray, pixels: int) -> np.ndarray:
    """What the camera would show about as it was turned sideways by so many pixels."""
    return np.concatenate([np.repeat(image[:, :1], pixels, 1), image[:, :-pixels]], axis=1)


def test_light_and_a_turned_camera_are_what_pictures_show_changed() -> None:
    def pictures(**changes: float) -> dict[str, np.ndarray]:
        table = PlayTable(task="turn_on_led", mode="vision", **changes)
        observation, _ = table.reset(seed=3)
        table.close()
        return observation

    plain = pictures()
    dark, right = pictures(light=0.5), pictures(static_turned_deg=-4 * 13 / 64)

    for camera in ("static", "wrist"):
        assert dark[camera].mean() == pytest.approx(0.5 * plain[camera].mean(), rel=0.15), camera
    shifted = np.abs(right["static"][:, :-4].astype(int) - plain["static"][:, 4:]).mean()
    assert shifted < 0.5 * np.abs(right["static"].astype(int) - plain["static"]).mean(), "four pixels"
    np.testing.assert_array_equal(right["wrist"], plain["wrist"])


@pytest.mark.parametrize("changes", [{"light": 0.0}, {"light": float("nan")}, {"static_turned_deg": 11.0}])
def test_a_light_or_a_turn_that_cannot_be_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(changes))} is .* must be from"):
        PlayTable(**changes)


def test_the_compiler_of_a_cuda_torch_is_loaded_before_opengl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """After it, loading the compiler ends the process."""
    (tmp_path / "triton.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    monkeypatch.setenv("MUJOCO_GL", "fake")
    loaded = []

    def context(*_: int) -> None:
        loaded.append(getattr(sys.modules.get("triton"), "__file__", None))
        raise RuntimeError("seen")

    monkeypatch.setitem(sys.modules, "mujoco.fake", SimpleNamespace(GLContext=context))
    env = PlayTable()
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="seen"):
        env.camera_image("static", 64, 64)

    del sys.modules["triton"]
    assert loaded == [str(tmp_path / "triton.py")]


def test_the_start_gate_tells_a_turned_static_camera_from_other_starts() -> None:
    table = PlayTable(task="turn_on_led", mode="vision", start="far")

    def pictures(seeds: range) -> dict[str, list[np.ndarray]]:
        shown = [table.reset(seed=seed)[0] for seed in seeds]
        return {camera: [observation[camera] for observation in shown] for camera in ("static", "wrist")}

    training, live = pictures(range(20)), pictures(range(1000, 1020))
    table.close()
    for camera, images in live.items():
        seen = ImageStatistics.of(training[camera])
        assert max(picture_difference(image, seen) for image in images) < GateLimits().camera, camera
    seen = ImageStatistics.of(training["static"])
    assert min(picture_difference(turned(image, 4), seen) for image in live["static"]) > GateLimits().camera
