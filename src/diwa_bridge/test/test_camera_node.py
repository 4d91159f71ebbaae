"""The cameras' node over real topics; skipped where ROS is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("sensor_msgs.msg", reason="needs ROS's messages (make test)")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from rclpy.node import Node  # noqa: E402
from ros_rig import DOMAIN, TIMEOUT_S, RosRig, rigs  # noqa: E402
from sensor_msgs.msg import CameraInfo, CompressedImage  # noqa: E402

from diwa_bridge.cameras.node import CameraNode, camera_info, judged  # noqa: E402
from diwa_bridge.cameras.reader import Status  # noqa: E402
from diwa_bridge.cameras.settings import PARAMETERS  # noqa: E402
from diwa_bridge.cameras.source import Format, Intrinsics  # noqa: E402
from diwa_bridge.cameras.watch import SLEW, CameraState, Counts  # noqa: E402
from diwa_ros.messages import filled  # noqa: E402
from diwa_runtime.errors import DiwaError  # noqa: E402
from diwa_runtime.rows.images import decode_image  # noqa: E402
from diwa_runtime.rows.streams import nanoseconds_of  # noqa: E402
from diwa_runtime.spec import CameraSpec  # noqa: E402

pytestmark = pytest.mark.ros

FORMAT = Format(64, 48, 60)
GREY = (200, 100, 50)
IMAGE, INFO = "camera/{}/image/compressed", "camera/{}/camera_info"
GONE = "opencv:/dev/nothing"


@pytest.fixture
def video(tmp_path: Path) -> str:
    """A minute in which one pixel in eight changes, RGB (200, 100, 50) else."""
    path = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FORMAT.rate_hz, (FORMAT.width, FORMAT.height))
    for n in range(60 * FORMAT.rate_hz):
        image = np.full((FORMAT.height, FORMAT.width, 3), GREY[::-1], np.uint8)
        image[:, :8] = 4 * (n % 64)
        writer.write(image)
    writer.release()
    return f"file:{path}"


def parameters_of(**sources: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for camera, source in sources.items():
        values |= {f"{camera}_source": source, f"{camera}_width": FORMAT.width, f"{camera}_height": FORMAT.height}
        values |= {f"{camera}_rate_hz": FORMAT.rate_hz}
    return values


class Rig(RosRig):
    """A camera node and a listener beside it."""

    def __init__(self, **parameters: Any) -> None:
        super().__init__("listener")
        self.node: Any = self.add(CameraNode(**self.options(**parameters))) if parameters else None

    def listen(self, kind: Any, topic: str, qos: Any = 100) -> list[Any]:
        received = super().listen(kind, topic, qos)
        self.spin_until(lambda: self.peer.count_publishers(topic) > 0)
        return received

    def close(self) -> None:
        if self.node is not None:
            self.node.close()
        super().close()


@pytest.fixture
def make_rig() -> Iterator[Callable[..., Rig]]:
    yield from rigs(Rig)


def stamps_of(messages: list[Any]) -> list[int]:
    return [nanoseconds_of(message.header.stamp) for message in messages]


def latest(diagnostics: list[Any], name: str) -> tuple[Any, dict[str, str]]:
    """Return the newest status of that name and its values."""
    found = [status for array in diagnostics for status in array.status if status.name == f"diwa_cameras: {name}"]
    return (found[-1], {pair.key: pair.value for pair in found[-1].values}) if found else (None, {})


def test_each_frame_goes_out_once_with_the_sensors_stamp(make_rig: Callable[..., Rig], video: str) -> None:
    rig = make_rig(**parameters_of(static=video))
    images, infos = rig.listen(CompressedImage, IMAGE.format("static")), rig.listen(CameraInfo, INFO.format("static"))
    rig.node.start()
    rig.spin_until(lambda: len(images) > 30 and len(infos) >= len(images))
    assert images[0].format == "jpeg"
    assert images[0].header.frame_id == "camera_static"
    image = decode_image(images[0], CameraSpec("static", FORMAT.height, FORMAT.width))
    np.testing.assert_allclose(image[:, 16:].reshape(-1, 3).mean(0), GREY, atol=4)
    stamps = stamps_of(images)
    assert abs(stamps[-1] - time.time_ns()) < TIMEOUT_S * 1e9
    steps = np.diff(stamps) * FORMAT.rate_hz / 1e9
    np.testing.assert_allclose(steps, steps.round(), rtol=1.1 * SLEW, err_msg="the stamps are not the sensor's")
    assert steps.round().min() == 1
    assert stamps_of(infos)[: len(images)] == stamps
    assert (infos[0].width, infos[0].height, infos[0].k[0]) == (64, 48, 0.0)


def test_the_lens_stands_in_the_camera_info() -> None:
    lens = Intrinsics(50.0, 51.0, 32.0, 24.0, "plumb_bob", (0.5, 0.25, 0.0, 0.0, 0.0))
    message = filled(CameraInfo(), camera_info(FORMAT, lens))
    assert list(message.k) == [50, 0, 32, 0, 51, 24, 0, 0, 1]
    assert list(message.p) == [50, 0, 32, 0, 0, 51, 24, 0, 0, 0, 1, 0]
    assert (message.distortion_model, list(message.d)) == ("plumb_bob", [0.5, 0.25, 0, 0, 0])
    assert list(message.r) == [1, 0, 0, 0, 1, 0, 0, 0, 1]


def test_a_camera_that_is_not_there_is_said_and_the_other_goes_on(make_rig: Callable[..., Rig], video: str) -> None:
    rig = make_rig(**parameters_of(static=video, wrist=GONE))
    images, diagnostics = (
        rig.listen(CompressedImage, IMAGE.format("static")),
        rig.listen(DiagnosticArray, "/diagnostics"),
    )
    rig.node.start()
    rig.spin_until(lambda: len(images) > 20 and latest(diagnostics, "camera static")[1].get("frames", "0") != "0")
    status, values = latest(diagnostics, "camera static")
    assert status.level in (DiagnosticStatus.OK, DiagnosticStatus.WARN), "WARN where the machine is too slow"
    assert float(values["rate_hz"]) > 0
    status, values = latest(diagnostics, "camera wrist")
    assert (status.level, status.message) == (DiagnosticStatus.ERROR, f"{GONE} cannot be opened")
    assert values["source"] == GONE
    status, values = latest(diagnostics, "pairing")
    assert (status.level, values["pairs"]) == (DiagnosticStatus.WARN, "0")


@pytest.mark.parametrize(
    ("ahead_s", "refused", "says"),
    [
        pytest.param(0.0, 0, "live", id="well"),
        pytest.param(0.0, 3, "3 frames without a usable stamp", id="stamps that did not grow"),
        pytest.param(7.0, 0, "set back; stamps are 7.0 s ahead", id="the host's clock was set back"),
    ],
)
def test_an_ill_clock_is_said(ahead_s: float, refused: int, says: str) -> None:
    status = Status(CameraState.LIVE, "live", 0.0, ahead_s, Counts(refused=9), None)
    level, text = judged(status, "", refused)
    assert says in text
    assert level == (DiagnosticStatus.OK if says == "live" else DiagnosticStatus.WARN)


def test_with_pairs_only_a_frame_alone_is_counted_and_not_published(make_rig: Callable[..., Rig], video: str) -> None:
    rig = make_rig(**parameters_of(static=video, wrist=GONE), pairs_only=True)
    images, diagnostics = (
        rig.listen(CompressedImage, IMAGE.format("static")),
        rig.listen(DiagnosticArray, "/diagnostics"),
    )
    rig.node.start()
    rig.spin_until(lambda: int(latest(diagnostics, "pairing")[1].get("unpaired_static", 0)) > 20)
    assert images == []


def test_with_pairs_only_the_two_cameras_go_out_pair_by_pair(make_rig: Callable[..., Rig], video: str) -> None:
    rig = make_rig(**parameters_of(static=video, wrist=video), pairs_only=True)
    static, wrist = (rig.listen(CompressedImage, IMAGE.format(camera)) for camera in ("static", "wrist"))
    diagnostics = rig.listen(DiagnosticArray, "/diagnostics")
    rig.node.start()
    rig.spin_until(lambda: min(len(static), len(wrist)) > 30 and latest(diagnostics, "pairing")[0] is not None)
    gaps = [abs(a - b) for a, b in zip(stamps_of(static), stamps_of(wrist), strict=False)]
    assert max(gaps) <= 1e9 / FORMAT.rate_hz / 2 + 1


def test_an_illness_is_said_once(make_rig: Callable[..., Rig], video: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = make_rig(**parameters_of(static=video, wrist=GONE))
    said: list[str] = []
    logger = rig.node.get_logger()
    monkeypatch.setattr(logger, "error", said.append)
    monkeypatch.setattr(rig.node, "get_logger", lambda: logger)
    diagnostics = rig.listen(DiagnosticArray, "/diagnostics")
    rig.node.start()
    rig.spin_until(lambda: len(diagnostics) >= 2)
    assert said == [f"camera wrist: {GONE} cannot be opened; opening it again until it is back"]


def test_a_second_camera_node_on_its_topic_is_an_error_that_names_both(
    make_rig: Callable[..., Rig], video: str
) -> None:
    rig = make_rig(**parameters_of(static=video))
    diagnostics = rig.listen(DiagnosticArray, "/diagnostics")
    second = rig.add(CameraNode(namespace="left", **rig.options(**parameters_of(static=video))))
    stranger = rig.add(Node("diwa_sim", context=rig.context))
    stranger.create_publisher(CompressedImage, IMAGE.format("static"), 10)
    rig.node.start()
    second.start()
    errors = lambda: [s for a in diagnostics for s in a.status if "only one may" in s.message]  # noqa: E731
    rig.spin_until(errors)
    assert errors()[0].level == DiagnosticStatus.ERROR
    assert "camera/static/image/compressed is published by /diwa_cameras and /diwa_sim" in errors()[0].message
    names = lambda: {(s.name, s.hardware_id) for a in diagnostics for s in a.status}  # noqa: E731
    rig.spin_until(lambda: len(names()) == 2)
    assert names() == {
        ("diwa_cameras: camera static", "diwa_cameras"), ("left/diwa_cameras: camera static", "left/diwa_cameras")
    }  # fmt: skip
    second.close()


def test_frames_that_nobody_took_are_no_rate(make_rig: Callable[..., Rig], video: str) -> None:
    """Of 60 frames a second that come and are skipped, none has gone out."""
    rig = make_rig(**parameters_of(static=video))
    pace, counts = rig.node._paces["static"], Counts()
    rig.node._readers["static"].status = lambda: Status(CameraState.LIVE, "live", 0.0, 0.0, replace(counts), None)
    for second in range(4):
        counts.frames, counts.skipped = 60 * (second + 1), 30 * second
        status = rig.node._camera_status("static", pace._before[1] + 1.0)
    assert (status.level, status.message) == (DiagnosticStatus.WARN, "camera static at 30.0 Hz instead of 60")


def test_parameters_are_described_and_fixed(make_rig: Callable[..., Rig], video: str) -> None:
    rig = make_rig(**parameters_of(static=video))
    for name in PARAMETERS:
        descriptor = rig.node.describe_parameter(name)
        assert descriptor.description, name
        assert descriptor.read_only, name


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"jpeg_quality": 90}, "set static_source or wrist_source"),
        ({"static_source": "realsens:1"}, "did you mean 'realsense'"),
        ({"static_source": GONE, "static_width": 0}, "parameter static_width"),
        ({"static_source": GONE, "pairs_only": True}, "both static_source and wrist_source"),
        ({"static_source": GONE, "wrist_source": GONE, "pair_within_s": 0.02}, "half a frame period, 0.01667"),
    ],
)
def test_an_impossible_parameter_is_one_clear_line(
    make_rig: Callable[..., Rig], parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(DiwaError, match=message) as error:
        make_rig(**parameters)
    assert "\n" not in str(error.value)


def command(*parameters: str) -> list[str]:
    named = [word for parameter in parameters for word in ("-p", parameter)]
    return [sys.executable, "-c", "from diwa_bridge.cameras.node import main; main()", "--ros-args", *named]


def environment() -> dict[str, str]:
    return {**os.environ, "ROS_DOMAIN_ID": str(DOMAIN)}


def test_a_format_that_the_source_has_not_ends_the_process_with_2(video: str) -> None:
    ended = subprocess.run(
        command(f"static_source:={video}"), env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert ended.returncode == 2
    assert "gives 64 x 48 at 60 Hz, not 640 x 480 at 30 Hz" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_process_ends_quietly_when_told_to_stop(make_rig: Callable[..., Rig], video: str) -> None:
    rig = make_rig()
    given = [f"{name}:={value}" for name, value in parameters_of(static=video).items()]
    process = subprocess.Popen(command(*given), env=environment(), stderr=subprocess.PIPE, text=True)
    try:
        images = rig.listen(CompressedImage, IMAGE.format("static"))
        rig.spin_until(lambda: images)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "Traceback" not in said
