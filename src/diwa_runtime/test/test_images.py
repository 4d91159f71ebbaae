"""Camera messages become RGB images of the size wanted; damaged ones are refused with the camera's name."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from diwa_runtime.errors import InputError
from diwa_runtime.rows.images import decode_image, encode_jpeg
from diwa_runtime.spec import CameraSpec


def gradient(height, width):
    """A smooth image whose channels differ: red grows downwards, green to the right, blue is constant."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, height)[:, None]
    image[..., 1] = np.linspace(0, 255, width)[None]
    image[..., 2] = 40
    return image


def jpeg(image):
    return SimpleNamespace(format="jpeg", data=encode_jpeg(image))


@pytest.mark.parametrize("size", [(480, 640), (128, 128), (64, 64), (100, 90), (32, 32)])
def test_a_jpeg_of_any_size_becomes_the_size_wanted(size):
    image = decode_image(jpeg(gradient(*size)), CameraSpec("static", 64, 64))

    expected = cv2.resize(gradient(*size), (64, 64), interpolation=cv2.INTER_AREA)
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    np.testing.assert_allclose(image.astype(float), expected, atol=8)


def test_a_light_of_a_few_pixels_keeps_its_colour():
    image = np.full((64, 64, 3), 60, np.uint8)
    image[30:32, 40:42] = (20, 230, 40)

    seen = decode_image(jpeg(image), CameraSpec("static", 64, 64))

    np.testing.assert_allclose(seen[30:32, 40:42].mean((0, 1)), (20, 230, 40), atol=25)


def test_decoding_reduced_is_as_good_as_shrinking_the_whole():
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    textured = cv2.GaussianBlur(noise, (9, 9), 0)
    message = jpeg(textured)

    reduced = decode_image(message, CameraSpec("static", 60, 80)).astype(float)

    whole = cv2.cvtColor(cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    whole = cv2.resize(whole, (80, 60), interpolation=cv2.INTER_AREA).astype(float)
    assert np.abs(reduced - whole).mean() < 1.5
    assert whole.std() > 3


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
def test_raw_images_keep_their_colours_and_skip_their_padding(encoding):
    image = gradient(8, 6)
    stored = image[..., ::-1] if encoding == "bgr8" else image
    padded = np.concatenate([stored.reshape(8, 18), np.full((8, 2), 77, np.uint8)], axis=1)
    message = SimpleNamespace(encoding=encoding, height=8, width=6, step=20, data=padded.tobytes())

    np.testing.assert_array_equal(decode_image(message, CameraSpec("wrist", 8, 6)), image)


@pytest.mark.parametrize(
    "message",
    [
        SimpleNamespace(format="jpeg", data=b""),
        SimpleNamespace(format="jpeg", data=b"no image"),
        SimpleNamespace(format="jpeg", data=encode_jpeg(gradient(16, 16))[:40]),
        SimpleNamespace(encoding="yuv", height=1, width=1, step=1, data=b"0"),
        SimpleNamespace(encoding="rgb8", height=2, width=2, step=6, data=b"0"),
        SimpleNamespace(encoding="rgb8", height=0, width=0, step=0, data=b""),
    ],
    ids=["empty", "text", "cut", "unknown encoding", "too short", "no pixels"],
)
def test_damaged_images_are_refused_with_the_camera(message):
    with pytest.raises(InputError, match="camera 'static'"):
        decode_image(message, CameraSpec("static"))


def test_a_header_that_claims_a_huge_image_is_refused_before_decoding():
    data = bytearray(encode_jpeg(gradient(16, 16)))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"

    with pytest.raises(InputError, match="65535 x 65535"):
        decode_image(SimpleNamespace(format="jpeg", data=bytes(data)), CameraSpec("static"))
