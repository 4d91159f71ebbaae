"""How large an encoded image is, by its header, before any of it is decoded: a damaged one must not cost gigabytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass

SIGNATURES: dict[str, tuple[int, tuple[bytes, ...]]] = {
    "JPEG": (0, (b"\xff\xd8",)),
    "PNG": (0, (b"\x89PNG\r\n\x1a\n",)),
    "WebP": (8, (b"WEBP",)),
    "BMP": (0, (b"BM",)),
    "TIFF": (0, (b"II*\0", b"MM\0*")),
}
"""The bytes by which each kind is known, and where they lie."""
_NO_LENGTH = {0x00, 0x01, *range(0xD0, 0xD9)}
_END, _SCAN = 0xD9, 0xDA
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WIDTH, _HEIGHT, _BITS, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 258, 322, 323


@dataclass(frozen=True)
class ImageHeader:
    """What an image says of itself; `bits` of a value are 8 where it does not say so."""

    kind: str
    height: int
    width: int
    bits: int = 8


def read_header(data: memoryview) -> ImageHeader | None:
    """Return what an image says of itself; None where it is of no kind that is read, or says nothing.

    JPEG's frame header is looked for as libjpeg does, so that both find the same.
    """
    start = bytes(data[:64])
    for kind, (at, signatures) in SIGNATURES.items():
        if start.startswith(signatures, at):
            try:
                return _READERS[kind](data)
            except (struct.error, IndexError, ZeroDivisionError):
                return None
    return None


def _jpeg(data: memoryview) -> ImageHeader | None:
    at = 2
    while True:
        while data[at] != 0xFF:
            at += 1
        while data[at] == 0xFF:
            at += 1
        marker, at = data[at], at + 1
        if marker in (_END, _SCAN):
            return None
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 3)
            return ImageHeader("JPEG", height, width)
        if marker not in _NO_LENGTH:
            at += max(struct.unpack_from(">H", data, at)[0], 2)


def _png(data: memoryview) -> ImageHeader | None:
    chunk, width, height, bits = struct.unpack_from(">4sIIB", data, 12)
    return ImageHeader("PNG", height, width, bits) if chunk == b"IHDR" else None


def _webp(data: memoryview) -> ImageHeader | None:
    chunk = bytes(data[12:16])
    if chunk == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif chunk == b"VP8L":
        (both,) = struct.unpack_from("<I", data, 21)
        width, height = 1 + (both & 0x3FFF), 1 + (both >> 14 & 0x3FFF)
    elif chunk == b"VP8 ":
        width, height = (size & 0x3FFF for size in struct.unpack_from("<HH", data, 26))
    else:
        return None
    return ImageHeader("WebP", height, width)


def _bmp(data: memoryview) -> ImageHeader | None:
    (size,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if size == 12 else "<ii", data, 18)
    return ImageHeader("BMP", abs(height), abs(width))


def _tiff(data: memoryview) -> ImageHeader | None:
    """A tile counts too: it is decoded whole, however little of it the image needs."""
    order = "<" if data[0] == ord("I") else ">"
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, at)
    found: dict[int, int] = {}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, values = struct.unpack_from(f"{order}HHI", data, entry)
        if tag in (_WIDTH, _HEIGHT, _BITS, _TILE_WIDTH, _TILE_HEIGHT):
            # Of more than two values only the place stands here.
            place = struct.unpack_from(f"{order}I", data, entry + 8)[0] if tag == _BITS and values > 2 else entry + 8
            (found[tag],) = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", data, place)
    if _WIDTH not in found or _HEIGHT not in found:
        return None
    height, width = (
        max(found[whole], found.get(tile, 0)) for whole, tile in ((_HEIGHT, _TILE_HEIGHT), (_WIDTH, _TILE_WIDTH))
    )
    return ImageHeader("TIFF", height, width, found.get(_BITS, 8))


_READERS = {"JPEG": _jpeg, "PNG": _png, "WebP": _webp, "BMP": _bmp, "TIFF": _tiff}
