"""Where a camera's pictures come from, by what its messages and its node say: noted in datasets and bundles.

A policy that sees through another lens, renderer or compression than it learned from fails in silence; so recordings
say what they came from, bundles carry it, and whoever runs one compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from diwa_runtime.rows.image_header import read_header

LONGEST = 200
"""Characters that are kept of what somebody says."""
DEVICE_TYPE = "std_msgs/msg/String"


def device_topic(camera: str) -> str:
    """Return the latched topic on which a camera's node says what it is: the renderer, or the kind and its number."""
    return f"camera/{camera}/device"


@dataclass(frozen=True)
class CameraSource:
    """What pictures come from. What nobody said is "", or 0, and not compared.

    Attributes:
        device: renderer, or camera and its number, as its node says on `device_topic`.
        frame: `header.frame_id` of its messages.
        encoding: ``jpeg``, ``png`` ..., or that of raw pixels: ``rgb8``.
        height, width: of a picture as it is sent, pixels; what a policy sees of it, the Spec says.
    """

    device: str = ""
    frame: str = ""
    encoding: str = ""
    height: int = 0
    width: int = 0

    @classmethod
    def of(cls, message: Any) -> CameraSource:
        """Read it off a sensor_msgs CompressedImage or Image, which do not say the device; damaged ones say little."""
        frame = _plain(getattr(getattr(message, "header", None), "frame_id", ""))
        if not hasattr(message, "format"):
            return cls("", frame, _plain(message.encoding), int(message.height), int(message.width))
        header = read_header(memoryview(message.data).cast("B"))
        if header is None:
            return cls("", frame)
        return cls("", frame, header.kind.lower(), header.height, header.width)

    def on(self, device: str) -> CameraSource:
        """Return the same with what the camera's node says that it is; "" = nobody has said."""
        return replace(self, device=_plain(device))

    @classmethod
    def from_json(cls, data: Any) -> CameraSource:
        """Build one from plain data.

        Raises:
            ValueError: a field is missing, unknown or of another kind.
        """
        names = {field.name: int if field.name in ("height", "width") else str for field in fields(cls)}
        if not isinstance(data, dict) or {name: type(value) for name, value in data.items()} != names:
            raise ValueError(f"must have {', '.join(names)}")
        if not all(str(value).isprintable() for value in data.values()):
            raise ValueError("has a character that does not print")
        return cls(**data)

    def is_like(self, other: CameraSource) -> bool:
        """Whether all that both know is the same."""
        mine, theirs = asdict(self), asdict(other)
        return all(theirs[name] == value or not (value and theirs[name]) for name, value in mine.items())

    def __str__(self) -> str:
        size = f"{self.width} x {self.height} {self.encoding}" if self.encoding else ""
        return ", ".join(filter(None, (self.device, self.frame and f"frame {self.frame!r}", size))) or "unknown"


def _plain(text: Any) -> str:
    return "".join(character for character in str(text) if character.isprintable())[:LONGEST]


CameraSources = Mapping[str, tuple[CameraSource, ...]]
"""By camera; more than one where recordings differ."""


def joined(sources: Iterable[Mapping[str, CameraSource]]) -> CameraSources:
    """Join what several recordings say, each source once."""
    found: dict[str, tuple[CameraSource, ...]] = {}
    for one in sources:
        for camera, source in one.items():
            if source not in found.setdefault(camera, ()):
                found[camera] += (source,)
    return found


def unlike(camera: str, recorded: Sequence[CameraSource], now: CameraSource) -> str:
    """Say how a camera differs from what was recorded; "" = it does not, or nothing is known."""
    if not recorded or any(now.is_like(source) for source in recorded):
        return ""
    return f"camera {camera!r}: recorded from {' and '.join(map(str, recorded))}; now it is {now}"
