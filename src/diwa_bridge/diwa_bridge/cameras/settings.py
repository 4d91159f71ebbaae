"""The camera node's parameters: declared with description and range, read once, never changed while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rclpy.node import Node

from diwa_bridge.cameras.source import Format
from diwa_bridge.cameras.watch import WatchLimits
from diwa_ros.parameters import Parameter, declared
from diwa_runtime.errors import ConfigError

CAMERAS = ("static", "wrist")
_LIMITS = WatchLimits()


def _of_camera(camera: str) -> dict[str, Parameter]:
    return {
        f"{camera}_source": Parameter("", "realsense:SERIAL, file:PATH or opencv:INDEX; empty = no such camera"),
        f"{camera}_width": Parameter(640, "pixels", 16, 4096),
        f"{camera}_height": Parameter(480, "pixels", 16, 4096),
        f"{camera}_rate_hz": Parameter(30, "frames a second", 1, 240),
    }


PARAMETERS = {
    **_of_camera("static"),
    **_of_camera("wrist"),
    "jpeg_quality": Parameter(90, "of the compressed images", 1, 100),
    "pair_within_s": Parameter(0.0, "s that a pair's stamps may be apart; 0 = half a frame period", 0.0, 1.0),
    "pairs_only": Parameter(False, "publish only frames that have a partner; both cameras then fall silent together"),
    "frozen_after_s": Parameter(_LIMITS.frozen_after_s, "s of identical bytes until a camera is frozen", 0.1, 60.0),
    "silent_after_s": Parameter(_LIMITS.silent_after_s, "s without a frame until a camera is silent", 0.05, 60.0),
}


@dataclass(frozen=True)
class CameraSettings:
    """What the node was told; the parameters' descriptions say what each is.

    Attributes:
        sources: by camera; a camera that has none is left out.
        formats: by camera.
    """

    sources: dict[str, str]
    formats: dict[str, Format]
    jpeg_quality: int
    pair_within_ns: int
    pairs_only: bool
    limits: WatchLimits


def declare_settings(node: Node) -> CameraSettings:
    """Declare the node's parameters, and read them.

    Raises:
        ConfigError: one is of the wrong type or out of range, or they do not go together.
    """
    return settings_of(declared(node, PARAMETERS))


def settings_of(values: dict[str, Any]) -> CameraSettings:
    """Turn the parameters' values into settings.

    Raises:
        ConfigError: no camera at all; pairs of one camera; a tolerance that would pair a frame with two.
    """
    sources = {camera: source for camera in CAMERAS if (source := values[f"{camera}_source"])}
    formats = {
        camera: Format(values[f"{camera}_width"], values[f"{camera}_height"], values[f"{camera}_rate_hz"])
        for camera in sources
    }
    if not sources:
        raise ConfigError("diwa_cameras: no camera; set static_source or wrist_source, to realsense:SERIAL for example")
    if values["pairs_only"] and len(sources) < 2:
        raise ConfigError("diwa_cameras: pairs_only needs both static_source and wrist_source")
    half_s = 0.5 / min(wanted.rate_hz for wanted in formats.values())
    if values["pair_within_s"] > half_s:
        raise ConfigError(f"diwa_cameras: pair_within_s must be at most half a frame period, {half_s:.4g} s")
    return CameraSettings(
        sources=sources,
        formats=formats,
        jpeg_quality=values["jpeg_quality"],
        pair_within_ns=round((values["pair_within_s"] or half_s) * 1e9),
        pairs_only=values["pairs_only"],
        limits=WatchLimits(values["frozen_after_s"], values["silent_after_s"]),
    )
