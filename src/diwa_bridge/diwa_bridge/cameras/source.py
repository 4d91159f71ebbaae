"""Colour cameras without ROS: what a frame is, and the one interface of whatever gives frames.

A source (a RealSense, a recording of one, anything that OpenCV opens) stamps frames by its own clock and says when it
is gone. `camera_reader` does the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class CameraLost(Exception):
    """The camera is not there, or no longer; trying again may help. Says why."""


@dataclass(frozen=True)
class Frame:
    """One colour image.

    Attributes:
        image: (H, W, 3) uint8 RGB, owned by the frame.
        stamp_ns: from a source: the sensor's clock. From a reader: the host's epoch.
        number: counted by the camera where it counts, so that a gap is a lost frame.
    """

    image: NDArray[np.uint8]
    stamp_ns: int
    number: int


@dataclass(frozen=True)
class Intrinsics:
    """The lens: focal lengths and centre in pixels, distortion as ROS names it."""

    fx: float
    fy: float
    cx: float
    cy: float
    model: str
    coefficients: tuple[float, ...]


@dataclass(frozen=True)
class Format:
    """What is asked of a source: width and height in pixels, frames a second."""

    width: int
    height: int
    rate_hz: int

    def __str__(self) -> str:
        return f"{self.width} x {self.height} at {self.rate_hz} Hz"


def is_picture(image: object) -> bool:
    """Say whether this is what a frame's image must be; drivers give what is empty, grey or nothing at all, too."""
    return (
        isinstance(image, np.ndarray)
        and image.dtype == np.uint8
        and image.ndim == 3
        and image.shape[2] == 3
        and image.size > 0
    )


class Source(Protocol):
    """Where frames come from. Only the reader calls it, from one thread at a time."""

    name: str
    intrinsics: Intrinsics | None
    """Known, if at all, once it is open."""

    def open(self) -> None:
        """Begin the stream.

        Raises:
            CameraLost: it is not there.
            DiwaError: it can never work as it was asked for.
        """

    def read(self, timeout_s: float) -> Frame | None:
        """Return the next frame; None where none came in time.

        Raises:
            CameraLost: it is gone, or the recording is at its end.
        """

    def temperature_c(self) -> float | None:
        """Return the sensor's temperature where it is known."""

    def close(self) -> None:
        """End the stream; harmless when it is not open."""
