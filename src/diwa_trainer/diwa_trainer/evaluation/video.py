"""Films of episodes, small enough to lie inside a web page: H.264 in MP4, which every browser plays offline."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe
from numpy.typing import NDArray

from diwa_runtime.errors import StorageError, one_line

_QUALITY = "27"
"""x264's constant rate factor: 0 is lossless, 51 the worst. 27 gives some 15 kB a second at 320 pixels."""


def encode_mp4(frames: Sequence[NDArray[np.uint8]], rate_hz: float, width: int = 320) -> bytes:
    """Return an MP4 of RGB frames (H, W, 3), scaled to `width` pixels; the same frames give the same bytes.

    Raises:
        ValueError: no frames, or frames of different sizes.
        StorageError: ffmpeg failed.
    """
    shapes = {frame.shape for frame in frames}
    if len(shapes) != 1:
        raise ValueError(f"frames have the shapes {sorted(shapes)}, expected one")
    height, source_width, _ = shapes.pop()
    try:
        return _encoded(b"".join(frame.tobytes() for frame in frames), f"{source_width}x{height}", rate_hz, width)
    except (OSError, RuntimeError) as error:  # no ffmpeg, none that runs here, or no room for its file
        raise StorageError(f"a video could not be made ({one_line(error)[:200]}); evaluate with --videos 0") from None


def _encoded(raw: bytes, size: str, rate_hz: float, width: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        command = [
            get_ffmpeg_exe(), "-loglevel", "error",
            "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", f"{rate_hz:g}", "-i", "-",
            "-vf", f"scale={width}:-2", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", _QUALITY, "-threads", "1",
            "-movflags", "+faststart", str(path),
        ]  # fmt: skip
        result = subprocess.run(command, input=raw, capture_output=True, check=False)
        if result.returncode != 0:
            reason = " ".join(result.stderr.decode(errors="replace").split())
            raise StorageError(f"a video could not be made ({reason[-200:]}); evaluate with --videos 0")
        return path.read_bytes()
