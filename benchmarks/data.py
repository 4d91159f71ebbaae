"""Bags into datasets, and datasets into training windows."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from measuring import Benchmark, Effort, alternate, median_seconds, repeated
from numpy.typing import NDArray
from plain_windows import StepFiles

from diwa_runtime import robot_messages as messages
from diwa_runtime.spec import CameraSpec, Spec
from diwa_sim.bags import BagWriter
from diwa_sim.environment import RATE_HZ, PlayTable
from diwa_trainer.dataset import Dataset, DatasetWriter, field_layouts
from diwa_trainer.ingest.ingestion import ingest

FIELDS = ("proprio", "scene", "action")
BATCH, LENGTH = 16, 50
EPISODE_ROWS, EPISODES, FILED_EPISODES = 320, 125, 8
BAG_SECONDS, VIEWS, WIDTH, HEIGHT = 10, 12, 640, 480
NO_IMAGE = np.zeros((1, 1, 3), np.uint8)


def window_sampling(effort: Effort) -> tuple[float, float]:
    """Steps a second of training windows, ours from all episodes, the plain ones from the first few of them."""
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        episodes = 2 if effort.quick else EPISODES
        with DatasetWriter(Path(folder) / "dataset", Spec()) as writer:
            for _ in range(episodes):
                writer.add_episode(
                    {
                        name: rng.standard_normal((EPISODE_ROWS, *shape)).astype(kind)
                        for name, (kind, shape) in field_layouts(Spec()).items()
                    }
                )
        dataset = Dataset.open(Path(folder) / "dataset")
        filed = dataset.episodes[: 1 if effort.quick else FILED_EPISODES]
        files = StepFiles(Path(folder), [e.start for e in filed], [len(e) for e in filed])
        files.write({name: dataset.arrays[name][: filed[-1].end] for name in FIELDS})
        batch = 1 if effort.quick else BATCH
        calls = 200
        ours, theirs = alternate(
            repeated(lambda: dataset.windows(rng, batch, LENGTH, fields=FIELDS), calls),
            lambda: files.windows(rng, batch, LENGTH, FIELDS),
            effort,
        )
    steps = batch * LENGTH
    return steps * calls / ours, steps / theirs


def ingest_speed(effort: Effort) -> tuple[float, float]:
    """Seconds of recording ingested in a second on the wall, against real time."""
    seconds = 1 if effort.quick else BAG_SECONDS
    spec = Spec(mode="vision", cameras=(CameraSpec("static"), CameraSpec("wrist")))
    with tempfile.TemporaryDirectory() as folder:
        bag, dataset = Path(folder) / "bag", Path(folder) / "dataset"
        write_camera_bag(bag, seconds)

        def once() -> None:
            shutil.rmtree(dataset, ignore_errors=True)  # what has not changed would not be ingested again
            rows = len(ingest([bag], dataset, spec, report=_silent))
            assert rows == round(seconds * RATE_HZ), rows

        taken = median_seconds(once, effort, time.perf_counter)
    return seconds / taken, 1.0


def _silent(line: str) -> None:
    """Report nothing."""


def write_camera_bag(folder: Path, seconds: int) -> None:
    """Record the play table while its expert acts: state at 30 Hz, and two cameras that show a few views in turn."""
    env = PlayTable(task="open_drawer")
    try:
        env.reset(seed=0)
        expert, names = env.expert(), [camera.name for camera in env.contract.cameras]
        views: list[dict[str, bytes]] = []
        with BagWriter(folder) as bag:
            for step in range(round(seconds * RATE_HZ)):
                if len(views) < VIEWS:
                    views.append({name: _jpeg(env.camera_image(name, HEIGHT, WIDTH)) for name in names})
                snapshot = env.snapshot()
                stamp_ns = 1_000_000_000 + round(snapshot.stamp_s * 1e9)
                bag.write_snapshot(snapshot, stamp_ns)
                for name, jpeg in views[step % len(views)].items():
                    header = messages.compressed_image(NO_IMAGE, stamp_ns, name)
                    bag.write(messages.image_topic(name), {**header, "data": np.frombuffer(jpeg, np.uint8)}, stamp_ns)
                env.step(expert.act({"proprio": snapshot.proprio(), "scene": snapshot.scene}))
    finally:
        env.close()


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    """Encode as camera drivers do: halved colour, quality 80."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])
    assert done
    return data.tobytes()


BENCHMARKS = (
    Benchmark(
        "window_sampling",
        "steps/s",
        100,
        f"training windows {BATCH} x {LENGTH} of proprio, scene and action from the memory-mapped dataset",
        "one compressed .npz file a step, as CALVIN stores them",
        window_sampling,
    ),
    Benchmark(
        "ingest",
        "s of recording/s",
        20,
        f"a bag of {BAG_SECONDS} s with two {WIDTH} x {HEIGHT} JPEG cameras and state at 30 Hz to a dataset of 64 px; "
        "two decoding threads, time on the wall",
        "real time",
        ingest_speed,
    ),
)
