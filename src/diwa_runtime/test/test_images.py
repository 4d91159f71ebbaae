"""Camera messages become RGB images of the size wanted; damaged ones are refused with the camera's name."""

import contextlib
import struct
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from diwa_runtime.errors import InputError
from diwa_runtime.rows.image_header import read_header
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


def compressed(extension, image, said="x"):
    done, data = cv2.imencode(extension, image)
    assert done
    return SimpleNamespace(format=said, data=data.tobytes())


BGR = np.ascontiguousarray(gradient(20, 30)[..., ::-1])


@pytest.mark.parametrize(
    ("extension", "said"),
    [
        (".png", "png"),
        (".png", "bgr8; png compressed"),
        (".png", "rgb8; png compressed bgr8"),
        (".jpg", "rgb8; jpeg compressed bgr8"),
        (".jpg", "bayer_rggb8; jpeg compressed bgr8"),
        (".jpg", ""),
        (".webp", "webp"),
        (".tiff", "tiff"),
        (".bmp", "bmp"),
    ],
)
def test_every_format_keeps_its_colours(extension, said):
    image = decode_image(compressed(extension, BGR, said), CameraSpec("static", 20, 30))

    np.testing.assert_allclose(image.astype(float), gradient(20, 30), atol=8)


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp", ".tiff", ".bmp"])
def test_an_image_says_its_size_before_it_is_decoded(extension):
    header = read_header(memoryview(compressed(extension, BGR).data))

    assert (header.height, header.width) == (20, 30)


def huge(extension):
    """An image whose header claims more pixels than any camera has; nothing else of it is looked at."""
    data = bytearray(compressed(extension, BGR).data)
    if extension == ".png":
        data[16:24] = struct.pack(">II", 1 << 15, 1 << 15)
    elif extension == ".bmp":
        data[18:26] = struct.pack("<ii", 1 << 15, -(1 << 15))
    elif extension == ".webp":
        data[12:30] = b"VP8X" + struct.pack("<II", 10, 0) + bytes([255, 127, 0, 255, 127, 0])
    else:
        (at,) = struct.unpack_from("<I", data, 4)
        for entry in range(at + 2, at + 2 + 12 * struct.unpack_from("<H", data, at)[0], 12):
            if struct.unpack_from("<H", data, entry)[0] in (256, 257):
                data[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, 1 << 15)
    return SimpleNamespace(format="x", data=bytes(data))


@pytest.mark.parametrize("extension", [".png", ".webp", ".tiff", ".bmp"])
def test_a_huge_image_of_any_format_is_refused_before_decoding(monkeypatch, extension):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("was decoded"))

    with pytest.raises(InputError, match="camera 'static': an image claims 32768 x 32768 pixels"):
        decode_image(huge(extension), CameraSpec("static"))


def test_a_huge_raw_image_is_refused():
    data = np.broadcast_to(np.zeros(1, np.uint8), (1 << 27,))
    message = SimpleNamespace(encoding="mono8", height=1 << 13, width=1 << 14, step=1 << 14, data=data)

    with pytest.raises(InputError, match="claims 16384 x 8192 pixels"):
        decode_image(message, CameraSpec("static"))


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (SimpleNamespace(encoding="16UC1", height=1, width=1, step=2, data=b"00"), "'16UC1' is depth"),
        (SimpleNamespace(encoding="32FC1", height=1, width=1, step=4, data=b"0000"), "'32FC1' is depth"),
        (SimpleNamespace(encoding="mono16", height=1, width=1, step=2, data=b"00"), "'mono16' is depth"),
        (SimpleNamespace(encoding="bayer_rggb8", height=1, width=1, step=1, data=b"0"), "raw mosaic"),
        (compressed(".png", np.zeros((4, 4), np.uint16), "png"), "a PNG of 16 bits a value is depth"),
        (compressed(".png", np.zeros((4, 4, 3), np.uint16), "png"), "a PNG of 16 bits a value is depth"),
        (compressed(".tiff", np.zeros((4, 4), np.uint16), "tiff"), "a TIFF of 16 bits a value is depth"),
        (compressed(".tiff", np.zeros((4, 4), np.float32), "tiff"), "a TIFF of 32 bits a value is depth"),
        (compressed(".tiff", np.zeros((4, 4, 3), np.uint16), "tiff"), "a TIFF of 16 bits a value is depth"),
        (compressed(".png", np.zeros((4, 4), np.uint8), "16UC1; compressedDepth png"), "compressedDepth png' is depth"),
        (SimpleNamespace(format="32FC1; compressedDepth rvl", data=b"x" * 30), "compressedDepth rvl' is depth"),
        (compressed(".png", np.zeros((4, 4), np.uint8), "16UC1; png compressed "), "is depth"),
        (compressed(".jpg", np.zeros((4, 4), np.uint8), "mono16; jpeg compressed "), "is depth"),
        (compressed(".jpg", np.zeros((4, 4), np.uint8), "bayer_rggb8; jpeg compressed "), "raw mosaic"),
        (SimpleNamespace(format="h264", data=b"\0\0\0\1" + b"x" * 50), "cannot be decoded .format 'h264'"),
    ],
)
def test_what_is_no_colour_picture_is_refused_by_what_it_is(message, said):
    with pytest.raises(InputError, match=f"camera 'wrist': .*{said}") as refused:
        decode_image(message, CameraSpec("wrist"))

    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("encoding", ["rgba8", "bgra8"])
@pytest.mark.parametrize("bigendian", [0, 1])
def test_raw_images_with_an_alpha_channel_keep_their_colours(encoding, bigendian):
    image = gradient(8, 6)
    alpha = np.full((8, 6, 1), 9, np.uint8)
    stored = np.concatenate([image[..., ::-1] if encoding == "bgra8" else image, alpha], axis=2)
    padded = np.concatenate([stored.reshape(8, 24), np.full((8, 4), 77, np.uint8)], axis=1)
    message = SimpleNamespace(
        encoding=encoding, height=8, width=6, step=28, is_bigendian=bigendian, data=padded.tobytes()
    )

    np.testing.assert_array_equal(decode_image(message, CameraSpec("wrist", 8, 6)), image)


def test_an_encoded_alpha_channel_is_left_out():
    stored = np.concatenate([BGR, np.full((20, 30, 1), 9, np.uint8)], axis=2)

    image = decode_image(compressed(".png", stored, "bgra8; png compressed bgra8"), CameraSpec("static", 20, 30))

    np.testing.assert_array_equal(image, gradient(20, 30))


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp", ".tiff", ".bmp"])
def test_damage_anywhere_is_refused_or_decoded_and_nothing_else(extension):
    good = compressed(extension, BGR).data
    random = np.random.default_rng(0)
    for _ in range(150):
        data = bytearray(good[: random.integers(len(good))] if random.random() < 0.3 else good)
        for _ in range(random.integers(1, 4)):
            if data:
                data[random.integers(min(len(data), 80))] = random.integers(256)
        with contextlib.suppress(InputError):
            decode_image(SimpleNamespace(format="x", data=bytes(data)), CameraSpec("static", 8, 8))
