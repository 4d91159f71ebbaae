"""A RealSense, connected or recorded, as a source of colour frames.

Works on the sensor, not on librealsense's pipeline: that blocks for 15 s where no device is, and takes no software
device. Knows pyrealsense2 only once it is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from diwa_bridge.cameras.source import CameraLost, Format, Frame, Intrinsics
from diwa_runtime.errors import ConfigError, InputError

QUEUE = 2
"""Frames that librealsense keeps for us; of more, the oldest are dropped, and their numbers show it."""


class RealSenseSource:
    """The colour stream of the device that `find` gives, as `Source` says."""

    def __init__(self, name: str, find: Callable[[], Any], wanted: Format) -> None:
        """Nothing is opened yet.

        Args:
            name: for messages.
            find: returns the pyrealsense2 device; raises CameraLost where there is none.
            wanted: the colour profile that it must have.

        Raises:
            ConfigError: pyrealsense2 cannot be imported.
        """
        self.name = name
        self.intrinsics: Intrinsics | None = None
        self._rs, self._find, self._wanted = load_library(), find, wanted
        self._device: Any = None
        self._sensor: Any = None
        self._queue: Any = None

    def open(self) -> None:
        """Find the device and start its colour sensor.

        Raises:
            CameraLost: it is not there, or in use elsewhere.
            ConfigError: it has no such profile; names those that it has.
        """
        try:
            device = self._find()
            self._sensor, profile = self._colour(device)
            self._device, self._queue = device, self._rs.frame_queue(QUEUE)
            self._keep_global_time()
            self._sensor.open(profile)
            self._sensor.start(self._queue)
            self.intrinsics = _intrinsics(self._rs, profile.as_video_stream_profile().get_intrinsics())
        except RuntimeError as error:
            self.close()
            raise CameraLost(f"{self.name} cannot be opened (in use by another process?): {error}") from None

    def read(self, timeout_s: float) -> Frame | None:
        """Return the next frame; its stamp is in the domain that the device counts in."""
        came, frame = self._queue.try_wait_for_frame(round(timeout_s * 1000))
        if came:
            stamp_ns = round(frame.get_timestamp() * 1e6)
            return Frame(np.array(frame.get_data(), np.uint8), stamp_ns, frame.get_frame_number())
        if not self._device.is_connected():
            raise CameraLost(f"{self.name} was unplugged")
        if self._has_ended():
            raise CameraLost(f"{self.name} is at its end")
        return None

    def temperature_c(self) -> float | None:
        """Return the temperature of the device's chip."""
        option = self._rs.option.asic_temperature
        with suppress(RuntimeError):
            for sensor in self._device.query_sensors():
                if sensor.supports(option):
                    return float(sensor.get_option(option))
        return None

    def close(self) -> None:
        """Stop the sensor; a device that is gone cannot be told so."""
        if self._sensor is not None:
            for end in (self._sensor.stop, self._sensor.close):
                with suppress(RuntimeError):
                    end()
        self._device = self._sensor = self._queue = None

    def _colour(self, device: Any) -> tuple[Any, Any]:
        """Return sensor and profile; of any sensor, for a D405's colour comes from its stereo module."""
        rs, offered = self._rs, set()
        for sensor in device.query_sensors():
            for profile in sensor.get_stream_profiles():
                if profile.stream_type() == rs.stream.color and profile.format() == rs.format.rgb8:
                    video = profile.as_video_stream_profile()
                    found = Format(video.width(), video.height(), video.fps())
                    if found == self._wanted:
                        return sensor, profile
                    offered.add(str(found))
        has = ", ".join(sorted(offered)) or "no RGB at all"
        raise ConfigError(f"{self.name} has no RGB of {self._wanted}; it has {has}")

    def _has_ended(self) -> bool:
        if not self._device.is_playback():
            return False
        return bool(self._device.as_playback().current_status() == self._rs.playback_status.stopped)

    def _keep_global_time(self) -> None:
        """Let librealsense map the sensor's clock to the host's: it follows the drift of the two."""
        option = self._rs.option.global_time_enabled
        if not self._device.is_playback() and self._sensor.supports(option):
            self._sensor.set_option(option, 1)


def connected(serial: str, wanted: Format, context: Any = None) -> RealSenseSource:
    """Return the RealSense with this serial number; `context` as pyrealsense2's, which is made where None is given.

    Raises:
        ConfigError: pyrealsense2 cannot be imported.
    """
    rs = load_library()
    context = context or rs.context()
    name = f"RealSense {serial}"

    def find() -> Any:
        there = {_info(rs, device, "serial_number"): device for device in context.query_devices()}
        if serial not in there:
            names = ", ".join(f"{number} ({_info(rs, device, 'name')})" for number, device in there.items())
            raise CameraLost(f"{name} is not connected; {names or 'no RealSense'} is")
        return there[serial]

    return RealSenseSource(name, find, wanted)


def recorded(path: Path, wanted: Format) -> RealSenseSource:
    """Return a recording of a RealSense (.db3, or .bag of older versions), played in real time.

    Raises:
        InputError: there is no such file.
        ConfigError: pyrealsense2 cannot be imported.
    """
    rs = load_library()
    if not path.is_file():
        raise InputError(f"{path}: there is no such recording")

    def find() -> Any:
        try:
            # A context holds each file once.
            return rs.context().load_device(str(path))
        except RuntimeError as error:
            raise InputError(f"{path}: not a RealSense recording: {error}") from None

    return RealSenseSource(str(path), find, wanted)


def load_library() -> Any:
    """Return pyrealsense2.

    Raises:
        ConfigError: it, or libusb, is not installed.
    """
    try:
        return import_module("pyrealsense2")
    except ImportError as error:
        raise ConfigError(
            f"RealSense cameras and their recordings need pyrealsense2 and libusb-1.0-0 (make setup): {error}"
        ) from None


def _info(rs: Any, device: Any, name: str) -> str:
    info = getattr(rs.camera_info, name)
    return str(device.get_info(info)) if device.supports(info) else "unknown"


def _intrinsics(rs: Any, found: Any) -> Intrinsics:
    # Without distortion all models are one; librealsense's inverse one is no model of ROS.
    inverse = found.model == rs.distortion.inverse_brown_conrady and any(found.coeffs)
    model = "inverse_brown_conrady" if inverse else "plumb_bob"
    if found.model == rs.distortion.kannala_brandt4:
        model = "equidistant"
    return Intrinsics(found.fx, found.fy, found.ppx, found.ppy, model, tuple(found.coeffs))
