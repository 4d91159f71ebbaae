"""From a camera's message to the image that the policy sees; the same for bags and for live topics."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from diwa_runtime.errors import InputError
from diwa_runtime.rows.image_header import SIGNATURES, ImageHeader, read_header
from diwa_runtime.spec import CameraSpec

MAX_PIXELS = 64_000_000
"""Larger images are refused before they are decoded: a damaged header must not cost gigabytes."""

THUMBNAIL = 16
THUMBNAIL_SIZE = THUMBNAIL * THUMBNAIL * 3
"""Numbers in a thumbnail."""

_CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}
_DEPTHS = ("16UC", "16SC", "32FC", "32SC", "64FC", "MONO16")
_NO_COLOUR = "depth, or finer than 8 bits, and no colour picture; name a topic of colour images in the Spec"
_REDUCED = ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4), (2, cv2.IMREAD_REDUCED_COLOR_2))


def decode_image(message: Any, camera: CameraSpec) -> NDArray[np.uint8]:
    """Turn a sensor_msgs CompressedImage or Image into (H, W, 3) uint8 RGB of the camera's size.

    Shrinks by area, so that nothing aliases. A JPEG that is larger by 2, 4 or 8 is decoded at that part of its size,
    as the format allows, which averages too; only the rest of the way is resized. That takes half of the time.

    Raises:
        InputError: damaged, too large, depth, or an encoding that is not known; names the camera.
    """
    image = _decode_compressed(message, camera) if hasattr(message, "format") else _decode_raw(message, camera)
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


def _decode_compressed(message: Any, camera: CameraSpec) -> NDArray[np.uint8]:
    """Decode to BGR, OpenCV's order, of at least the camera's size where the image has it.

    Of `format` the first word is the encoding that was compressed (``rgb8; jpeg compressed bgr8``); which colour is
    which, the file itself says.
    """
    encoding = str(message.format).partition(";")[0].strip()
    _check_colour(encoding, str(message.format), camera)
    data = np.ascontiguousarray(_buffer(message.data))
    header = read_header(data.data)
    if header is None:
        raise InputError(
            f"camera {camera.name!r}: an image of {len(data)} bytes cannot be decoded (format "
            f"{str(message.format)[:60]!r}; it is damaged, or none of {', '.join(SIGNATURES)})"
        )
    _check_size(header.height, header.width, camera)
    if header.bits > 8:
        raise InputError(f"camera {camera.name!r}: a {header.kind} of {header.bits} bits a value is {_NO_COLOUR}")
    try:
        image = cv2.imdecode(data, _read_flag(header, camera))
    except cv2.error:
        image = None
    if image is None or image.dtype != np.uint8:
        raise InputError(f"camera {camera.name!r}: an image of {len(data)} bytes cannot be decoded")
    return np.asarray(image, np.uint8)


def _check_colour(encoding: str, said: str, camera: CameraSpec) -> None:
    """Refuse what is no colour picture, or none yet, by what the message says of itself."""
    if said.count("compressedDepth") or encoding.upper().startswith(_DEPTHS):
        raise InputError(f"camera {camera.name!r}: {said[:60]!r} is {_NO_COLOUR}")
    if encoding.startswith("bayer") and "compressed bgr" not in said:
        raise InputError(
            f"camera {camera.name!r}: {said[:60]!r} is a raw mosaic; name a topic of colour images in the Spec"
        )


def _check_size(height: int, width: int, camera: CameraSpec) -> None:
    if height * width > MAX_PIXELS:
        raise InputError(
            f"camera {camera.name!r}: an image claims {width} x {height} pixels; it is damaged, or too large"
        )


def _read_flag(header: ImageHeader, camera: CameraSpec) -> int:
    if header.kind != "JPEG":
        return cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    for factor, flag in _REDUCED:
        if header.height >= factor * camera.height and header.width >= factor * camera.width:
            return flag
    return cv2.IMREAD_COLOR


def _decode_raw(message: Any, camera: CameraSpec) -> NDArray[np.uint8]:
    """Turn raw pixels into BGR; `is_bigendian` means nothing to values of 8 bits."""
    encoding = str(message.encoding)
    _check_colour(encoding, encoding, camera)
    channels = _CHANNELS.get(encoding)
    if channels is None:
        known = ", ".join(_CHANNELS)
        raise InputError(f"camera {camera.name!r}: encoding {encoding[:60]!r} is not known ({known} are)")
    data, height, width, step = _buffer(message.data), message.height, message.width, message.step
    _check_size(height, width, camera)
    if height * step != len(data) or step < width * channels or not len(data) or not width:
        raise InputError(f"camera {camera.name!r}: {len(data)} bytes are no image of {width} x {height} {encoding}")
    image = data.reshape(height, step)[:, : width * channels].reshape(height, width, channels)
    if channels == 1:
        return np.repeat(image, 3, axis=2)
    return np.ascontiguousarray(image[..., 2::-1] if encoding.startswith("rgb") else image[..., :3])


def _buffer(data: Any) -> NDArray[np.uint8]:
    return data if isinstance(data, np.ndarray) else np.frombuffer(data, dtype=np.uint8)
