"""The cameras as a ROS node: each frame as a JPEG with its sensor's stamp, and how the cameras are.

Thin: reader threads hold the newest frames and wake the single-threaded executor, which encodes and publishes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage
from std_msgs.msg import String

from diwa_bridge.cameras.opencv import make_source
from diwa_bridge.cameras.pairing import Pairing
from diwa_bridge.cameras.reader import Reader, Status
from diwa_bridge.cameras.settings import CAMERAS, declare_settings
from diwa_bridge.cameras.source import Format, Frame, Intrinsics
from diwa_bridge.cameras.watch import CameraState, Counts
from diwa_ros.diagnostics import Pace, diagnostic
from diwa_ros.messages import filled
from diwa_ros.peers import Rivals, full_name
from diwa_ros.process import ros_process, spin_until_told
from diwa_ros.qos import LATCHED, RELIABLE
from diwa_runtime.cameras import device_topic
from diwa_runtime.cli import run_verb
from diwa_runtime.robot_messages import Fields, compressed_image, image_topic

NODE = "diwa_cameras"
WATCH_S = 0.1
AHEAD_S = 0.1
"""How far stamps may stand ahead of the host's clock before it is said."""


class CameraNode(Node):
    """Publishes what the readers read."""

    def __init__(self, **options: Any) -> None:
        """Declare the parameters, make the sources and all topics; `options` are rclpy's. `start` sets it going.

        Raises:
            ConfigError, InputError: a parameter, or a source that can never be.
        """
        super().__init__(NODE, **options)
        self.settings = settings = declare_settings(self)
        self._arrived = self.create_guard_condition(self.on_frames)
        self._readers = {
            camera: Reader(make_source(source, settings.formats[camera]), settings.limits, self._arrived.trigger)
            for camera, source in settings.sources.items()
        }
        self._pairing = Pairing(settings.pair_within_ns)
        self._images = {
            camera: self.create_publisher(CompressedImage, image_topic(camera)[0], RELIABLE) for camera in self._readers
        }
        self._infos = {
            camera: self.create_publisher(CameraInfo, f"camera/{camera}/camera_info", RELIABLE)
            for camera in self._readers
        }
        self._devices = {
            camera: self.create_publisher(String, device_topic(camera), LATCHED) for camera in self._readers
        }
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", RELIABLE)
        self._rivals = {camera: Rivals(self, (image_topic(camera)[0],)) for camera in self._readers}
        self._paces = {
            camera: Pace(f"camera {camera}", settings.formats[camera].rate_hz, self.get_logger(), time.monotonic())
            for camera in self._readers
        }
        self._states = dict.fromkeys(self._readers, CameraState.STARTING)
        self._reported = dict.fromkeys(self._readers, Counts())
        self._reported_pairs = self._reported_unpaired = 0
        self._reported_at = time.monotonic()

    def start(self) -> None:
        """Read and publish from now on.

        Raises:
            DiwaError: a source can never work as it was asked for.
        """
        for camera, reader in self._readers.items():
            self._devices[camera].publish(String(data=reader.source.name))
            reader.start()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(WATCH_S, self.on_watch, clock=steady)
        self.create_timer(1.0, self.on_diagnostics, clock=steady)

    def close(self) -> None:
        """End the readers."""
        for reader in self._readers.values():
            reader.stop()

    def on_frames(self) -> None:
        """Publish what is new."""
        for camera, reader in self._readers.items():
            while (frame := reader.take()) is not None:
                self._on_frame(camera, frame)

    def on_watch(self) -> None:
        """Say once that a camera fell ill, and once that it is well again."""
        for camera, reader in self._readers.items():
            status = reader.status()
            if status.state is self._states[camera] or status.state is CameraState.STARTING:
                continue
            self._states[camera] = status.state
            if status.state is CameraState.LIVE:
                self.get_logger().info(f"camera {camera} is live")
            else:
                again = "; opening it again until it is back" if status.state is CameraState.LOST else ""
                self.get_logger().error(f"camera {camera}: {status.text}{again}")

    def on_diagnostics(self) -> None:
        """Say how the cameras are."""
        now = time.monotonic()
        period_s, self._reported_at = now - self._reported_at, now
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        message.status = [self._camera_status(camera, now) for camera in self._readers]
        if len(self._readers) == len(CAMERAS):
            message.status.append(self._pairing_status(period_s))
        self._diagnostics.publish(message)

    def _on_frame(self, camera: str, frame: Frame) -> None:
        pair = self._pairing.add(CAMERAS.index(camera), frame) if len(self._readers) == len(CAMERAS) else None
        if not self.settings.pairs_only:
            self._publish(camera, frame)
        elif pair is not None:
            for name, half in zip(CAMERAS, pair, strict=True):
                self._publish(name, half)

    def _publish(self, camera: str, frame: Frame) -> None:
        info = camera_info(self.settings.formats[camera], self._readers[camera].source.intrinsics)
        image = compressed_image(frame.image, frame.stamp_ns, camera, self.settings.jpeg_quality)
        self._images[camera].publish(filled(CompressedImage(), image))
        self._infos[camera].publish(filled(CameraInfo(), {"header": image["header"], **info}))

    def _camera_status(self, camera: str, now_s: float) -> DiagnosticStatus:
        status, pace = self._readers[camera].status(), self._paces[camera]
        before, self._reported[camera] = self._reported[camera], status.counts
        # What nobody took or could stamp did not go out, however often it came.
        count = status.counts.frames - status.counts.skipped - status.counts.refused
        is_live = status.state is CameraState.LIVE and before.frames > 0
        pace.look(count, now_s, judged=is_live)
        level, text = judged(status, pace.slow, status.counts.refused - before.refused)
        if self._rivals[camera].who:
            level, text = DiagnosticStatus.ERROR, self._rivals[camera].who
        values = {
            "source": self.settings.sources[camera],
            "rate_hz": pace.rate_hz,
            "wanted_hz": float(pace.wanted_hz),
            "age_s": status.age_s,
            "ahead_s": status.ahead_s,
            **asdict(status.counts),
        }
        if status.temperature_c is not None:
            values["temperature_c"] = status.temperature_c
        return diagnostic(full_name(self), f"camera {camera}", level, text, values)

    def _pairing_status(self, period_s: float) -> DiagnosticStatus:
        pairing, unpaired = self._pairing, sum(self._pairing.unpaired)
        rate_hz = (pairing.pairs - self._reported_pairs) / period_s
        fresh = unpaired - self._reported_unpaired
        self._reported_pairs, self._reported_unpaired = pairing.pairs, unpaired
        text = f"{fresh} frames without a partner" if fresh else "paired" if rate_hz else "no pairs"
        values = {
            "rate_hz": rate_hz,
            "pairs": pairing.pairs,
            **{f"unpaired_{camera}": count for camera, count in zip(CAMERAS, pairing.unpaired, strict=True)},
            "gap_ms": pairing.gap_ns / 1e6,
            "tolerance_ms": pairing.tolerance_ns / 1e6,
        }
        level = DiagnosticStatus.OK if rate_hz and not fresh else DiagnosticStatus.WARN
        return diagnostic(full_name(self), "pairing", level, text, values)


def camera_info(wanted: Format, lens: Intrinsics | None) -> Fields:
    """Return the fields of sensor_msgs/msg/CameraInfo but its header; no lens: zeros, ROS's word for uncalibrated."""
    fields: Fields = {"width": wanted.width, "height": wanted.height}
    if lens is None:
        return fields
    rows = [[lens.fx, 0.0, lens.cx], [0.0, lens.fy, lens.cy], [0.0, 0.0, 1.0]]
    return {
        **fields,
        "distortion_model": lens.model,
        "d": list(lens.coefficients),
        "k": np.array(rows).ravel(),
        "r": np.eye(3).ravel(),
        "p": np.array([[*row, 0.0] for row in rows]).ravel(),
    }


def judged(status: Status, slow: str, refused: int) -> tuple[bytes, str]:
    """Return the level and the line of a camera's diagnostics.

    Args:
        status: how it is.
        slow: the line about its rate; "" = fast enough.
        refused: how many frames had no usable stamp since the last diagnostics.
    """
    if status.state is CameraState.STARTING:
        return DiagnosticStatus.WARN, status.text
    if status.state is not CameraState.LIVE:
        return DiagnosticStatus.ERROR, status.text
    if slow:
        return DiagnosticStatus.WARN, slow
    if refused:
        return DiagnosticStatus.WARN, f"{refused} frames without a usable stamp"
    if status.ahead_s > AHEAD_S:
        return DiagnosticStatus.WARN, f"the host's clock was set back; stamps are {status.ahead_s:.1f} s ahead of it"
    return DiagnosticStatus.OK, status.text


def run(argv: Sequence[str]) -> None:
    """Run the node until it is told to stop.

    Raises:
        ConfigError: a parameter is of the wrong type or out of range, or a camera has no such format.
        InputError: a recording that cannot be read.
    """
    with ros_process([sys.argv[0], *argv]):
        node = CameraNode()
        try:
            node.start()
            spin_until_told(node)
        finally:
            node.close()
            node.destroy_node()


def main() -> None:
    """Run the node with the process's arguments."""
    sys.exit(run_verb(run))
