"""What OpenCV opens as a source of colour frames, and how a person writes any source: `KIND:WHERE`."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np

from diwa_bridge.cameras import realsense
from diwa_bridge.cameras.source import CameraLost, Format, Frame, Intrinsics, Source
from diwa_runtime.errors import ConfigError, InputError, nearest

KINDS = ("realsense", "file", "opencv")
NETWORK_MS = 3000
"""How long a camera in the network may take for its answer or its next frame."""


class OpenCVSource:
    """A camera by index or /dev path, one in the network by URL, or a video file in real time, as `Source` says.

    OpenCV passes on no frame numbers of a camera, so its drops go unseen; the rate shows them. Not every driver stamps:
    a camera's first two frames only show whether its stamps grow; if not, a frame's stamp is the time of its receipt.
    """

    intrinsics: Intrinsics | None = None

    def __init__(self, place: str, wanted: Format) -> None:
        """Nothing is opened yet.

        Raises:
            InputError: there is no such file.
        """
        self.name = f"opencv:{place}"
        self._place, self._wanted = place, wanted
        self._is_file = not (place.isdecimal() or "://" in place or place.startswith("/dev/"))
        if self._is_file and not Path(place).is_file():
            raise InputError(f"{place}: there is no such video file")
        self._capture: cv2.VideoCapture | None = None
        self._number = 0
        self._began_s = 0.0
        self._is_stamped: bool | None = None

    def open(self) -> None:
        """Open it and ask for the format.

        Raises:
            CameraLost: it cannot be opened.
            InputError: the file is no video.
            ConfigError: it gives another format; says which.
        """
        # Each try would warn on stderr; who opens says it once.
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
        capture = self._captured()
        if not capture.isOpened():
            if self._is_file:
                raise InputError(f"{self._place}: not a video that OpenCV reads")
            raise CameraLost(f"{self.name} cannot be opened")
        self._capture = capture
        wanted = self._wanted
        if not self._is_file:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, wanted.width)
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, wanted.height)
            capture.set(cv2.CAP_PROP_FPS, wanted.rate_hz)
        found = Format(
            int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
            # Some cameras do not say.
            round(capture.get(cv2.CAP_PROP_FPS)) or wanted.rate_hz,
        )
        if found != wanted:
            self.close()
            raise ConfigError(f"{self.name} gives {found}, not {wanted}; set width, height and rate to what it gives")
        self._number, self._began_s, self._is_stamped = 0, time.monotonic(), None

    def read(self, timeout_s: float) -> Frame | None:  # noqa: ARG002 (OpenCV waits as long as it likes)
        """Return the next frame; a file's when its time has come."""
        if not self._is_file and self._is_stamped is None:
            self._is_stamped = self._grows()
        image = self._next_image()
        if image.shape != (self._wanted.height, self._wanted.width, 3):
            found, wanted = " x ".join(map(str, image.shape[1::-1])), f"{self._wanted.width} x {self._wanted.height}"
            raise CameraLost(f"{self.name} gives pictures of {found} now, not of {wanted} in colour")
        stamp_ns = self._stamp_ns()
        self._number += 1
        return Frame(np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8), stamp_ns, self._number)

    def temperature_c(self) -> float | None:
        """Return None: OpenCV knows of none."""
        return None

    def close(self) -> None:
        """Give the device back."""
        if self._capture is not None:
            self._capture.release()
        self._capture = None

    def _captured(self) -> cv2.VideoCapture:
        if self._is_file:
            return cv2.VideoCapture(self._place)
        if "://" in self._place:
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, NETWORK_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, NETWORK_MS]
            return cv2.VideoCapture(self._place, cv2.CAP_FFMPEG, limits)
        place = int(self._place) if self._place.isdecimal() else self._place
        return cv2.VideoCapture(place, cv2.CAP_V4L2)

    def _next_image(self) -> np.ndarray:
        assert self._capture is not None, "read before open"
        came, image = self._capture.read()
        if not came or image is None:
            raise CameraLost(f"{self.name} {'is at its end' if self._is_file else 'gives no more frames'}")
        return image

    def _grows(self) -> bool:
        """Say whether the driver stamps its buffers; a first stamp of 0 is as good as any."""
        self._next_image()
        first_ns = self._driver_ns()
        self._next_image()
        return self._driver_ns() > first_ns

    def _stamp_ns(self) -> int:
        if self._is_file:
            at_s = self._number / self._wanted.rate_hz
            time.sleep(max(self._began_s + at_s - time.monotonic(), 0.0))
            return round(at_s * 1e9)
        # Not the time of day, which may be set back.
        return self._driver_ns() if self._is_stamped else time.monotonic_ns()

    def _driver_ns(self) -> int:
        assert self._capture is not None
        return round(self._capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)


def make_source(text: str, wanted: Format) -> Source:
    """Return the source that a person wrote as `KIND:WHERE`.

    Kinds: `realsense:SERIAL`; `file:PATH`, a RealSense recording (.db3, .bag) or a video; `opencv:` with an index, a
    /dev path, a URL or a video file.

    Raises:
        ConfigError: it is none of these, or its library is not installed.
        InputError: there is no such file.
    """
    kind, _, where = text.partition(":")
    if kind not in KINDS or not where:
        must = "must be realsense:SERIAL, file:PATH or opencv:INDEX"
        raise ConfigError(f"camera source {text!r}: {must}{'' if kind in KINDS else nearest(kind, KINDS)}")
    if kind == "realsense":
        return realsense.connected(where, wanted)
    if kind == "file" and Path(where).suffix in (".db3", ".bag"):
        return realsense.recorded(Path(where), wanted)
    return OpenCVSource(where, wanted)
