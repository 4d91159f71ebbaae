"""From a camera's message to the image that the policy sees; the same for bags and for live topics."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from diwa_runtime.errors import InputError
from diwa_runtime.spec import CameraSpec

MAX_PIXELS = 64_000_000
"""Larger images are refused before they are decoded: a damaged header must not cost gigabytes."""

THUMBNAIL = 16
THUMBNAIL_SIZE = THUMBNAIL * THUMBNAIL * 3
"""Numbers in a thumbnail."""

_REDUCED = ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4), (2, cv2.IMREAD_REDUCED_COLOR_2))


def decode_image(message: Any, camera: CameraSpec) -> NDArray[np.uint8]:
    """Turn a sensor_msgs CompressedImage or Image into (H, W, 3) uint8 RGB of the camera's size.

    Shrinks by area, so that nothing aliases. A JPEG that is larger by 2, 4 or 8 is decoded at that part of its size,
    as the format allows, which averages too; only the rest of the way is resized. That takes half of the time.

    Raises:
        InputError: damaged, or an encoding that is not known; names the camera.
    """
    if hasattr(message, "format"):
        image = _decode_compressed(_buffer(message.data), camera)
    else:
        image = _decode_raw(message, camera)
    if image.shape[:2] != (camera.height, camera.width):
        shrinks = image.shape[0] >= camera.height and image.shape[1] >= camera.width
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        image = np.asarray(cv2.resize(image, (camera.width, camera.height), interpolation=interpolation), np.uint8)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the image (H, W, 3) shrunk by area to (16, 16, 3) float32 grey levels: what is where, without detail."""
    small = cv2.resize(image.astype(np.float32), (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32)


JPEG_QUALITY = 95


def encode_jpeg(image: NDArray[np.uint8], quality: int = JPEG_QUALITY) -> bytes:
    """Turn an image (H, W, 3) uint8 RGB into a JPEG.

    Colour keeps its full resolution (4:4:4): in an image of 64 pixels a light is four of them.
    """
    settings = [
        cv2.IMWRITE_JPEG_QUALITY, quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]  # fmt: skip
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)
    if not done:
        raise ValueError(f"image of shape {image.shape} cannot be a JPEG")
    return data.tobytes()


def _decode_compressed(data: NDArray[np.uint8], camera: CameraSpec) -> NDArray[np.uint8]:
    """Decode to BGR, OpenCV's order, of at least the camera's size where the image has it."""
    try:
        size = _jpeg_size(data)
        if size is not None and size[0] * size[1] > MAX_PIXELS:
            raise InputError(
                f"camera {camera.name!r}: an image claims {size[1]} x {size[0]} pixels; its header is damaged"
            )
        image = cv2.imdecode(data, _read_flag(size, camera))
    except cv2.error:
        image = None
    if image is None:
        raise InputError(f"camera {camera.name!r}: an image of {len(data)} bytes cannot be decoded")
    return np.asarray(image, np.uint8)


def _read_flag(size: tuple[int, int] | None, camera: CameraSpec) -> int:
    if size is not None:
        for factor, flag in _REDUCED:
            if size[0] >= factor * camera.height and size[1] >= factor * camera.width:
                return flag
    return cv2.IMREAD_COLOR


def _jpeg_size(data: NDArray[np.uint8]) -> tuple[int, int] | None:
    """Return (height, width) from a JPEG's frame header; None where the data is no JPEG (a PNG, say)."""
    if data[:2].tobytes() != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = int(data[at + 1]), int(data[at + 2]) << 8 | int(data[at + 3])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int(data[at + 5]) << 8 | int(data[at + 6]), int(data[at + 7]) << 8 | int(data[at + 8])
        at += 2 + length
    return None


def _decode_raw(message: Any, camera: CameraSpec) -> NDArray[np.uint8]:
    """Turn raw pixels into BGR."""
    channels = {"rgb8": 3, "bgr8": 3, "mono8": 1}.get(message.encoding)
    if channels is None:
        raise InputError(f"camera {camera.name!r}: encoding {message.encoding!r} is not known (rgb8, bgr8, mono8 are)")
    data, height, width, step = _buffer(message.data), message.height, message.width, message.step
    if height * step != len(data) or step < width * channels or not len(data) or not width:
        raise InputError(
            f"camera {camera.name!r}: {len(data)} bytes are no image of {width} x {height} {message.encoding}"
        )
    image = data.reshape(height, step)[:, : width * channels].reshape(height, width, channels)
    if channels == 1:
        return np.repeat(image, 3, axis=2)
    return np.ascontiguousarray(image[..., ::-1] if message.encoding == "rgb8" else image)


def _buffer(data: Any) -> NDArray[np.uint8]:
    return data if isinstance(data, np.ndarray) else np.frombuffer(data, dtype=np.uint8)
