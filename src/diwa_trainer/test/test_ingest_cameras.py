"""What cameras a dataset's pictures come from: read off its bags, kept with the dataset, and said where they differ."""

from pathlib import Path

import numpy as np
from recorded_bags import HYBRID, IMAGE, PERIOD, START, messages_of, quiet, random_rows, write_bag

from diwa_runtime.cameras import DEVICE_TYPE, CameraSource, device_topic
from diwa_runtime.rows.images import encode_jpeg
from diwa_trainer.dataset import Dataset
from diwa_trainer.dataset.cameras import camera_sources
from diwa_trainer.ingest.ingestion import ingest

ROWS = 4


def write_pictures(folder: Path, seed: int, width: int, device: str = "") -> Path:
    """Write a bag whose pictures are so wide, by cameras that say what they are, if anything."""
    start = START + seed * 10**12
    messages = messages_of(random_rows(ROWS, seed), start)
    said = np.random.default_rng(seed).integers(0, 255, (48, width, 3), np.uint8)
    fields = {"format": "jpeg", "data": np.frombuffer(encode_jpeg(said), np.uint8)}
    for camera in HYBRID.cameras:
        for row in range(ROWS):
            messages.append((f"camera/{camera.name}/image/compressed", IMAGE, start + round(row * PERIOD), fields))
        if device:
            text = device.encode() + b"\0"
            data = b"\0\1\0\0" + len(text).to_bytes(4, "little") + text
            messages.append((device_topic(camera.name), DEVICE_TYPE, start, data))
    return write_bag(folder, messages)


def test_two_bags_of_different_cameras_are_kept_apart_and_said(tmp_path):
    bags = [write_pictures(tmp_path / "a", 1, 64, "RealSense 1"), write_pictures(tmp_path / "b", 2, 32, "RealSense 1")]
    said: list[str] = []
    ingest(bags, tmp_path / "dataset", HYBRID, report=said.append)
    wide, narrow = (CameraSource("RealSense 1", "base", "jpeg", 48, width) for width in (64, 32))
    sources = camera_sources(Dataset.open(tmp_path / "dataset"))
    assert sources == {"static": (wide, narrow), "wrist": (wide, narrow)}
    assert f"warning: b: camera 'static': recorded from {wide}; now it is {narrow}; eyes learn from both" in said


def test_what_is_taken_over_unchanged_keeps_its_cameras(tmp_path):
    first = write_pictures(tmp_path / "a", 1, 64, "RealSense 1")
    ingest([first], tmp_path / "dataset", HYBRID, report=quiet)
    said: list[str] = []
    ingest([first, write_pictures(tmp_path / "b", 2, 64)], tmp_path / "dataset", HYBRID, report=said.append)
    assert any("taken over unchanged" in line for line in said)
    known = CameraSource("RealSense 1", "base", "jpeg", 48, 64)
    assert camera_sources(Dataset.open(tmp_path / "dataset"))["static"] == (known, known.on(""))
    assert not any("now it is" in line for line in said), "who says nothing is not compared"
