"""The cameras without ROS: pairing, clocks, watching, re-plugging, and every source behind the one interface."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diwa_bridge.cameras import realsense
from diwa_bridge.cameras.opencv import OpenCVSource, make_source
from diwa_bridge.cameras.pairing import WAITING, Pairing
from diwa_bridge.cameras.reader import HELD, Reader
from diwa_bridge.cameras.source import CameraLost, Format, Frame, Intrinsics, Source, is_picture
from diwa_bridge.cameras.watch import HOST_SLEW, CameraState, HostClock, SensorClock, Watch, WatchLimits
from diwa_runtime.errors import ConfigError, InputError

MS = 1_000_000
EPOCH_NS = 1_700_000_000_000_000_000
PERIOD_MS = 33
TIMEOUT_S = 60.0
FORMAT = Format(64, 48, 60)
SERIAL = "123"
EAGER = WatchLimits(reopen_after_s=0.0, back_off_s=(0.01,))


def make_frame(stamp_ms: float = 0, number: int = 0, grey: int = 0) -> Frame:
    return Frame(np.full((4, 4, 3), grey, np.uint8), round(stamp_ms * MS), number)


# Pairing


def paired(arrivals: list[tuple[int, float]], tolerance_ms: float = 16) -> tuple[list[tuple[int, int]], list[int]]:
    """Feed (camera, stamp in ms) in the order of arrival; return the pairs' stamps and the unpaired."""
    pairing = Pairing(round(tolerance_ms * MS))
    found = [pairing.add(camera, make_frame(stamp)) for camera, stamp in arrivals]
    pairs = [(pair[0].stamp_ns // MS, pair[1].stamp_ns // MS) for pair in found if pair]
    assert len(pairs) == pairing.pairs
    return pairs, pairing.unpaired


@pytest.mark.parametrize(
    ("arrivals", "pairs", "unpaired"),
    [
        pytest.param([(0, 0), (1, 5), (1, 38), (0, 33)], [(0, 5), (33, 38)], [0, 0], id="either first"),
        pytest.param([(0, 0), (1, 17)], [], [0, 0], id="too far apart; the next may fit"),
        pytest.param([(0, 0), (0, 33), (1, 35)], [(33, 35)], [1, 0], id="a lost partner is not replaced"),
        pytest.param([(0, 0), (0, 20), (1, 12)], [(20, 12)], [1, 0], id="the nearest, not the first"),
        pytest.param([(0, 0), (0, 33), (0, 66), (1, 1), (1, 34)], [(0, 1), (33, 34)], [0, 0], id="slow on its way"),
        pytest.param([(1, 99), (0, 0), (0, 98), (1, 132), (0, 131)], [(98, 99), (131, 132)], [1, 0], id="behind"),
    ],
)
def test_pairs_are_the_nearest_within_the_tolerance(
    arrivals: list[tuple[int, float]], pairs: list[tuple[int, int]], unpaired: list[int]
) -> None:
    assert paired(arrivals) == (pairs, unpaired)


def test_a_camera_alone_fills_no_memory_and_is_counted() -> None:
    pairs, unpaired = paired([(1, PERIOD_MS * n) for n in range(100)])
    assert (pairs, unpaired) == ([], [0, 100 - WAITING])


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(-5, 5), st.booleans()), max_size=80), st.floats(0, 16))
def test_no_frame_is_in_two_pairs_and_none_is_forgotten(rows: list[tuple[int, float, bool]], tolerance: float) -> None:
    pairing, counts, seen = Pairing(round(tolerance * MS)), [0, 0], []
    for camera, jitter_ms, lost in rows:
        counts[camera] += 1
        if not lost and (pair := pairing.add(camera, make_frame(counts[camera] * PERIOD_MS + jitter_ms))):
            assert abs(pair[0].stamp_ns - pair[1].stamp_ns) <= pairing.tolerance_ns
            seen.append(pair)
    came = [sum(row[0] == camera and not row[2] for row in rows) for camera in (0, 1)]
    for camera in (0, 1):
        stamps = [pair[camera].stamp_ns for pair in seen]
        assert stamps == sorted(set(stamps)), "a frame was used twice, or pairs cross"
        assert 0 <= came[camera] - len(seen) - pairing.unpaired[camera] <= WAITING


# The sensor's clock


def settled(late_ms: list[int], origin_ns: int = 0) -> SensorClock:
    clock = SensorClock()
    for n, late in enumerate(late_ms):
        assert clock.stamp_ns(origin_ns + n * PERIOD_MS * MS, EPOCH_NS + (n * PERIOD_MS + late) * MS) is None
    return clock


def test_the_offset_is_that_of_the_frame_that_came_soonest() -> None:
    clock = settled([300, 20, 5, 9, 40])
    assert clock.stamp_ns(1000 * MS, EPOCH_NS + 1012 * MS) == EPOCH_NS + 1005 * MS
    assert clock.jumps == 0


def test_a_clock_in_the_hosts_epoch_is_believed_until_one_is_set() -> None:
    clock = settled([40, 30, 35, 31, 38], origin_ns=EPOCH_NS)
    for at_ms in range(1000, 3000, PERIOD_MS):
        assert clock.stamp_ns(EPOCH_NS + at_ms * MS, EPOCH_NS + (at_ms + 20) * MS) == EPOCH_NS + at_ms * MS
    back_ms = 10_000
    for at_ms in range(3000, 6000, PERIOD_MS):
        stamp_ns = clock.stamp_ns(EPOCH_NS + (at_ms - back_ms) * MS, EPOCH_NS + (at_ms + 20) * MS)
        assert abs(stamp_ns - EPOCH_NS - at_ms * MS) <= 10 * MS, "the usual delay was thought to be 30 ms"
    for at_ms in range(6000, 9000, PERIOD_MS):
        stamp_ns = clock.stamp_ns(EPOCH_NS + (at_ms - back_ms) * MS, EPOCH_NS + (at_ms + 30) * MS)
    assert stamp_ns == EPOCH_NS + at_ms * MS, "it is followed as any other"


def test_a_clock_ahead_of_the_hosts_epoch_is_brought_back() -> None:
    clock = settled([-400] * 5, origin_ns=EPOCH_NS)
    assert clock.stamp_ns(EPOCH_NS + 200 * MS, EPOCH_NS - 200 * MS) == EPOCH_NS + 200 * MS
    assert clock.stamp_ns(EPOCH_NS + 400 * MS, EPOCH_NS - 120 * MS) is None, "more than STEP_NS before it came"
    assert clock.jumps == 1


@pytest.mark.parametrize("odd", range(SensorClock.SETTLING + 1))
def test_one_odd_stamp_does_not_lead_the_clock_astray(odd: int) -> None:
    clock, stamps = SensorClock(), []
    for n in range(12):
        at_ns = n * PERIOD_MS * MS
        stamps.append(clock.stamp_ns(EPOCH_NS if n == odd else at_ns, EPOCH_NS + at_ns))
    assert None not in stamps[-2:]
    assert stamps[-1] == EPOCH_NS + 11 * PERIOD_MS * MS


def test_stamps_that_never_agree_are_refused() -> None:
    clock = SensorClock()
    assert [clock.stamp_ns(n * 10_000 * MS, EPOCH_NS) for n in range(12)] == [None] * 12
    assert clock.refused == 12 - SensorClock.SETTLING + 1


@pytest.mark.parametrize("origin_ns", [0, EPOCH_NS])
@pytest.mark.parametrize("step_ms", [9800, -9800])
def test_a_sensor_that_is_set_is_noticed_at_once(step_ms: int, origin_ns: int) -> None:
    clock = settled([20] * 5, origin_ns)
    delay_ms = 20 if origin_ns else 0
    before, after = 5 * PERIOD_MS, 6 * PERIOD_MS
    assert clock.stamp_ns(origin_ns + before * MS, EPOCH_NS + (before + 20) * MS) is not None
    expected = EPOCH_NS + (after + 20 - delay_ms) * MS
    assert clock.stamp_ns(origin_ns + (after + step_ms) * MS, EPOCH_NS + (after + 20) * MS) == expected
    assert clock.jumps == 1


def test_a_stamp_that_would_not_grow_is_refused_and_the_next_ones_soon_pass_it() -> None:
    clock = settled([0] * 5)
    back_ms = 4 * PERIOD_MS
    sensor_ms = [200, *(200 - back_ms + n * PERIOD_MS for n in range(1, 7))]
    stamps = [clock.stamp_ns(ms * MS, EPOCH_NS + (200 + n * PERIOD_MS) * MS) for n, ms in enumerate(sensor_ms)]
    assert stamps[1:5] == [None] * 4
    assert stamps[5] == EPOCH_NS + (200 + PERIOD_MS) * MS
    assert clock.refused == 4


def test_after_a_restart_stamps_do_not_fall() -> None:
    clock = settled([0] * 5)
    newest = clock.stamp_ns(200 * MS, EPOCH_NS + 200 * MS)
    clock.restart()
    for n in range(5):
        clock.stamp_ns(n * MS, EPOCH_NS + (150 + n) * MS)
    assert clock.stamp_ns(50 * MS, EPOCH_NS + 200 * MS) is None
    assert clock.stamp_ns(51 * MS, EPOCH_NS + 201 * MS) == newest + MS


@pytest.mark.parametrize("ppm", [-200, 50, 200])
def test_a_clock_that_drifts_is_followed_without_a_fall(ppm: int) -> None:
    clock, minutes = settled([0] * 5), 20
    for n in range(5, minutes * 60_000 // PERIOD_MS):
        at_ns = n * PERIOD_MS * MS
        stamp_ns = clock.stamp_ns(at_ns + at_ns * ppm // 1_000_000, EPOCH_NS + at_ns)
        assert stamp_ns is not None, f"frame {n} is refused"
        assert abs(stamp_ns - EPOCH_NS - at_ns) < MS, f"frame {n}"
    assert clock.jumps == 0


def test_load_of_a_second_hardly_moves_the_clock() -> None:
    clock = settled([0] * 5)
    for n in range(5, 65):
        at_ms = n * PERIOD_MS
        stamp_ns = clock.stamp_ns(at_ms * MS, EPOCH_NS + (at_ms + 40) * MS)
    assert 0 <= stamp_ns - EPOCH_NS - at_ms * MS <= 12 * MS


JITTER_MS = 20
STEPS_MS = st.one_of(st.just(0), st.integers(600, 20_000), st.integers(-3_600_000, -600))


@given(
    st.lists(
        st.tuples(st.integers(40, 120), st.integers(-200, 200), st.sampled_from(["host", "sensor"]), STEPS_MS),
        min_size=1,
        max_size=5,
    ),
    st.integers(0, 2**32 - 1),
)
def test_stamps_grow_and_keep_to_the_receipts_whatever_the_clocks_do(
    pieces: list[tuple[int, int, str, int]], seed: int
) -> None:
    late_ns = iter((np.random.default_rng(seed).random(1000) * JITTER_MS * MS).astype(int).tolist())
    host, clock = HostClock(), SensorClock()
    sensor_ns, steady_ns, epoch_ns, newest = 0, 0, EPOCH_NS, 0
    for frames, ppm, which, step_ms in pieces:
        if which == "sensor":
            sensor_ns += step_ms * MS
        else:
            # Ahead of where ours stands; less than that is no step.
            epoch_ns += step_ms * MS + (host.ahead_ns if step_ms > 0 else 0)
        for n in range(frames):
            steady_ns += PERIOD_MS * MS
            sensor_ns += PERIOD_MS * (MS + ppm)
            late = next(late_ns)
            arrival_ns = host.now_ns(steady_ns + late, epoch_ns + steady_ns + late)
            stamp_ns = clock.stamp_ns(sensor_ns, arrival_ns)
            if stamp_ns is not None:
                assert stamp_ns > newest
                assert stamp_ns <= arrival_ns + SensorClock.STEP_NS
                newest = stamp_ns
            if n > SensorClock.WINDOW:
                assert stamp_ns is not None, "refused long after the step"
                assert -MS <= stamp_ns - (arrival_ns - late) <= (JITTER_MS + 1) * MS


def test_the_hosts_clock_is_followed_ahead_at_once_and_back_slowly() -> None:
    clock, step_s = HostClock(), 10
    second = 1000 * MS
    assert clock.now_ns(0, EPOCH_NS) == EPOCH_NS
    ahead_ns = EPOCH_NS + step_s * second
    assert clock.now_ns(second, ahead_ns + second) == ahead_ns + second
    times = [clock.now_ns(n * second, EPOCH_NS + n * second) for n in range(2, 2 + round(step_s / HOST_SLEW))]
    assert 0.99 * second < min(np.diff([ahead_ns + second, *times])) < second
    assert times[0] == ahead_ns + 2 * second - round(HOST_SLEW * second)
    assert times[-1] == EPOCH_NS + (1 + round(step_s / HOST_SLEW)) * second
    assert clock.ahead_ns == 0


def test_a_jump_ahead_is_told_from_a_late_frame() -> None:
    clock = settled([0] * 5)
    late_ms = [10_000] * 5 + [0] + [10_000] * 3 * SensorClock.WINDOW
    stamps = [
        clock.stamp_ns(n * PERIOD_MS * MS, EPOCH_NS + (n * PERIOD_MS + late) * MS) for n, late in enumerate(late_ms, 5)
    ]
    assert stamps[5] == EPOCH_NS + 10 * PERIOD_MS * MS, "a few late frames moved the clock"
    assert stamps[-1] == EPOCH_NS + ((len(late_ms) + 4) * PERIOD_MS + 10_000) * MS
    assert clock.jumps == 1


# Watching a stream


def test_gaps_in_the_numbers_are_drops() -> None:
    watch = Watch(WatchLimits())
    watch.opened(0.0)
    for number in (7, 8, 11, 12):
        watch.saw(make_frame(number=number), 0.0)
    watch.lost("unplugged")
    watch.opened(1.0)
    watch.saw(make_frame(number=500), 1.0)
    assert (watch.counts.frames, watch.counts.dropped, watch.counts.losses) == (5, 2, 1)


def test_each_illness_of_a_stream_is_told_apart() -> None:
    watch = Watch(WatchLimits(frozen_after_s=1.0, silent_after_s=0.5))
    assert watch.state(0.0)[0] is CameraState.LOST
    watch.opened(0.0)
    assert watch.state(0.1)[0] is CameraState.STARTING
    for n in range(12):
        watch.saw(make_frame(grey=n), n / 10)
    assert watch.state(1.2)[0] is CameraState.LIVE
    for n in range(12, 23):
        watch.saw(make_frame(grey=11, number=n), n / 10)
    assert watch.state(2.2) == (CameraState.FROZEN, "one and the same image for 1.1 s")
    watch.saw(make_frame(grey=12), 2.3)
    assert watch.state(2.3)[0] is CameraState.LIVE
    assert watch.state(2.9) == (CameraState.SILENT, "no frame for 0.6 s")
    watch.lost("it was unplugged")
    assert watch.state(2.9) == (CameraState.LOST, "it was unplugged")


def test_a_camera_that_was_opened_and_never_speaks_does_not_start_for_ever() -> None:
    watch = Watch(WatchLimits(reopen_after_s=3.0))
    watch.opened(1.0)
    assert watch.state(3.9)[0] is CameraState.STARTING
    assert watch.state(4.5) == (CameraState.SILENT, "no frame since it was opened 3.5 s ago")


# The reader


class Script:
    """A source that a test drives: it gives the frames that are put in, as long as it is plugged in."""

    name = "script"
    intrinsics: Intrinsics | None = None

    def __init__(self) -> None:
        self.plugged = threading.Event()
        self.opened = 0
        self.is_open = False
        self._frames: list[Frame] = []
        self._put = threading.Condition()

    def put(self, *frames: Frame) -> None:
        with self._put:
            self._frames.extend(frames)
            self._put.notify()

    def open(self) -> None:
        if not self.plugged.is_set():
            raise CameraLost("script is not plugged in")
        self.is_open = True
        self.opened += 1

    def read(self, timeout_s: float) -> Frame | None:
        if not self.plugged.is_set():
            raise CameraLost("script was unplugged")
        with self._put:
            if not self._frames:
                self._put.wait(timeout_s)
            return self._frames.pop(0) if self._frames else None

    def temperature_c(self) -> float | None:
        return 41.0

    def close(self) -> None:
        self.is_open = False


Start = Callable[..., Reader]


@pytest.fixture
def start() -> Iterator[Start]:
    readers: list[Reader] = []

    def start(source: Source, **options: Any) -> Reader:
        reader = Reader(source, **options)
        readers.append(reader)
        reader.start()
        return reader

    yield start
    for reader in readers:
        reader.stop()


def wait_until(reached: Callable[[], object]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not reached():
        assert time.monotonic() < end, "what the test waits for did not come"
        time.sleep(0.005)


def test_a_camera_that_is_unplugged_is_opened_again_until_it_is_back(start: Start) -> None:
    source, arrived = Script(), threading.Event()
    reader = start(source, limits=WatchLimits(back_off_s=(0.01,)), on_frame=arrived.set)
    assert reader.status().state is CameraState.LOST
    for turn in (1, 2):
        source.plugged.set()
        # Its clock begins anew somewhere else.
        source.put(*(make_frame(turn * 1e7 + n, n, grey=n + turn) for n in range(SensorClock.SETTLING + 1)))
        assert arrived.wait(TIMEOUT_S), "no frame after it was plugged in"
        assert reader.status().state is CameraState.LIVE
        arrived.clear()
        source.plugged.clear()
        wait_until(lambda: reader.status().state is CameraState.LOST)
    status = reader.status()
    assert (source.opened, status.counts.losses, status.temperature_c) == (2, 2, 41.0)
    assert status.counts.clock_jumps == 0
    assert "plug" in status.text


def test_a_stream_that_is_silent_is_opened_again(start: Start) -> None:
    source = Script()
    source.plugged.set()
    reader = start(source, limits=EAGER)
    wait_until(lambda: source.opened > 2)
    assert reader.status().counts.frames == 0


PICTURES = [make_frame(n, n, grey=n).image for n in range(SensorClock.SETTLING + 1)]
NO_PICTURES = st.sampled_from(
    [
        np.zeros((0, 0, 3), np.uint8),
        np.zeros((4, 0, 3), np.uint8),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float64),
        np.full((4, 4, 3), np.nan),
        np.zeros(48, np.uint8),
        None,
    ]
)
STAMPS = st.one_of(st.integers(-(2**70), 2**70), st.integers(0, 2**40))
NUMBERS = st.integers(-(2**63), 2**63)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.one_of(NO_PICTURES, st.sampled_from(PICTURES)), STAMPS, NUMBERS), max_size=20))
def test_whatever_a_camera_gives_its_reader_lives_and_only_pictures_go_out(rows: list[tuple[Any, int, int]]) -> None:
    source, taken = Script(), list[Frame]()
    source.plugged.set()
    reader = Reader(source, WatchLimits())
    reader.start()
    source.put(*(Frame(*row) for row in rows))
    odd = sum(not is_picture(image) for image, _, _ in rows)
    wait_until(lambda: reader.status().counts.damaged + reader.status().counts.frames == len(rows))
    assert reader.status().counts.damaged == odd
    taken.extend(iter(reader.take, None))
    assert all(is_picture(frame.image) for frame in taken)
    assert (np.diff([frame.stamp_ns for frame in taken]) > 0).all()
    reader.stop()
    assert not source.is_open, "its thread came to its end"


@pytest.mark.parametrize("error", [ValueError("cannot convert float NaN to integer"), cv2.error("bad"), KeyError(7)])
def test_a_driver_that_fails_in_its_own_way_is_lost_and_opened_again(
    start: Start, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    source = Script()
    source.plugged.set()

    def fail(_: float) -> None:
        raise error

    monkeypatch.setattr(source, "read", fail)
    reader = start(source, limits=WatchLimits(back_off_s=(0.01,)))
    wait_until(lambda: source.opened > 2)
    assert reader.status().counts.losses > 0
    monkeypatch.undo()
    source.put(*(make_frame(n, n, grey=n) for n in range(3)))
    wait_until(lambda: reader.status().counts.frames == 3)


def test_a_host_that_is_set_back_stops_no_stamps(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    source, frames, day = Script(), [], time.time_ns
    source.plugged.set()
    reader = start(source)

    def taken(count: int) -> bool:
        came = reader.status().counts.frames == count
        frames.extend(iter(reader.take, None))
        return came

    source.put(*(make_frame(n, n) for n in range(8)))
    wait_until(lambda: taken(8))
    monkeypatch.setattr(time, "time_ns", lambda: day() - 3600 * 1000 * MS)
    source.put(*(make_frame(n, n) for n in range(8, 11)))
    wait_until(lambda: taken(11))
    assert frames[-1].number == 10
    assert np.diff([frame.stamp_ns for frame in frames]).min() > 0
    status = reader.status()
    assert (status.counts.refused, round(status.ahead_s)) == (0, 3600)
    source.put(make_frame(10, 11))
    wait_until(lambda: reader.status().counts.refused == 1)


def test_the_newest_frames_are_held_and_each_is_given_once(start: Start) -> None:
    source = Script()
    source.plugged.set()
    reader = start(source)
    last = SensorClock.SETTLING + HELD + 1
    source.put(*(make_frame(stamp_ms=n, number=n) for n in range(last + 1)))
    wait_until(lambda: reader.status().counts.skipped == 2)
    frames = list(iter(reader.take, None))
    assert [frame.number for frame in frames] == list(range(last - HELD + 1, last + 1))
    assert abs(frames[-1].stamp_ns - time.time_ns()) < TIMEOUT_S * 1e9, "the stamp is not in the host's epoch"
    reader.stop()
    assert not source.is_open


def test_the_waits_between_tries_grow_to_a_bound() -> None:
    limits = WatchLimits(back_off_s=(0.1, 0.2, 0.5))
    assert [limits.back_off(tries) for tries in range(5)] == [0.1, 0.2, 0.5, 0.5, 0.5]


# How a source is written


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("realsens:1", ConfigError, "did you mean 'realsense'"),
        ("opencv:", ConfigError, "opencv:INDEX"),
        ("0", ConfigError, "realsense:SERIAL"),
        ("opencv:nowhere.avi", InputError, "nowhere.avi"),
        ("file:nowhere.mp4", InputError, "nowhere.mp4"),
        ("file:nowhere.db3", InputError, "nowhere.db3"),
    ],
)
def test_a_source_that_cannot_be_is_one_clear_line(text: str, error: type[Exception], says: str) -> None:
    if text.endswith("db3"):
        pytest.importorskip("pyrealsense2")
    with pytest.raises(error, match=says):
        make_source(text, FORMAT)


@pytest.mark.parametrize("text", ["realsense:1", "file:x.db3"])
def test_without_pyrealsense2_it_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyrealsense2", None)
    with pytest.raises(ConfigError, match="pyrealsense2 and libusb"):
        make_source(text, FORMAT)


def test_a_stream_that_gives_other_pictures_than_it_said_is_lost_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "video.avi")
    source = OpenCVSource(str(tmp_path / "video.avi"), FORMAT)
    source.open()
    for image, found in ((np.zeros((24, 32, 3), np.uint8), "32 x 24"), (np.zeros((48, 64), np.uint8), "64 x 48")):
        monkeypatch.setattr(source, "_next_image", lambda image=image: image)
        with pytest.raises(CameraLost, match=f"gives pictures of {found} now, not of 64 x 48 in colour"):
            source.read(0.1)
    source.close()


# Every source alike

FRAMES = 12


def colour(n: int) -> tuple[int, int, int]:
    return 20 * n, 100, 250 - 20 * n


def image_of(n: int) -> np.ndarray:
    return np.full((FORMAT.height, FORMAT.width, 3), colour(n), np.uint8)


def write_video(path: Path) -> None:
    size = (FORMAT.width, FORMAT.height)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FORMAT.rate_hz, size)
    for n in range(FRAMES):
        writer.write(image_of(n)[..., ::-1])
    writer.release()


class SoftRealSense:
    """A RealSense in software, and a context that finds it while it is plugged in."""

    def __init__(self) -> None:
        self.rs = rs = pytest.importorskip("pyrealsense2")
        self.device, self.plugged = rs.software_device(), True
        self.device.register_info(rs.camera_info.serial_number, SERIAL)
        self.device.register_info(rs.camera_info.name, "soft")
        self.sensor = self.device.add_sensor("RGB Camera")
        self.sensor.add_read_only_option(rs.option.asic_temperature, 41.0)
        lens = rs.intrinsics()
        lens.width, lens.height, lens.fx, lens.fy, lens.ppx, lens.ppy = (
            FORMAT.width,
            FORMAT.height,
            50.0,
            51.0,
            32.0,
            24.0,
        )
        lens.model, lens.coeffs = rs.distortion.brown_conrady, [0.5, 0.25, 0.0, 0.0, 0.0]
        stream = rs.video_stream()
        stream.type, stream.fmt, stream.bpp, stream.uid = rs.stream.color, rs.format.rgb8, 3, 1
        stream.width, stream.height, stream.fps, stream.intrinsics = *size_of(FORMAT), FORMAT.rate_hz, lens
        self.profile = self.sensor.add_video_stream(stream).as_video_stream_profile()

    def query_devices(self) -> list[Any]:
        return [self.device] if self.plugged else []

    def push(self, n: int) -> None:
        frame = self.rs.software_video_frame()
        frame.pixels, frame.stride, frame.bpp = image_of(n), 3 * FORMAT.width, 3
        frame.timestamp, frame.frame_number = 1000 * n / FORMAT.rate_hz, n
        frame.domain, frame.profile = self.rs.timestamp_domain.hardware_clock, self.profile
        self.sensor.on_video_frame(frame)


def size_of(wanted: Format) -> tuple[int, int]:
    return wanted.width, wanted.height


def write_recording(path: Path) -> None:
    soft = SoftRealSense()
    recorder = soft.rs.recorder(str(path), soft.device)
    sensor, queue = recorder.query_sensors()[0], soft.rs.frame_queue(FRAMES)
    sensor.open(sensor.profiles[0])
    sensor.start(queue)
    for n in range(FRAMES):
        soft.push(n)
        time.sleep(1 / FORMAT.rate_hz)  # it is played at the rate that it was recorded at
    sensor.stop()
    sensor.close()


def video_source(folder: Path) -> Source:
    write_video(folder / "video.avi")
    return make_source(f"opencv:{folder / 'video.avi'}", FORMAT)


def recorded_source(folder: Path) -> Source:
    pytest.importorskip("pyrealsense2")
    write_recording(folder / "recording.db3")
    return make_source(f"file:{folder / 'recording.db3'}", FORMAT)


def read_all(source: Source) -> tuple[list[Frame], str]:
    frames: list[Frame] = []
    while True:
        try:
            frame = source.read(0.5)
        except CameraLost as lost:
            return frames, str(lost)
        frames += [frame] if frame is not None else []


@pytest.mark.parametrize("make", [video_source, recorded_source])
def test_a_recording_plays_its_frames_and_ends_and_plays_again(make: Callable[[Path], Source], tmp_path: Path) -> None:
    source = make(tmp_path)
    for _ in range(2):
        source.open()
        frames, why = read_all(source)
        source.close()
        assert "at its end" in why
        assert len(frames) > FRAMES // 2, "a busy machine may drop some, not most"
        assert {(frame.image.shape, frame.image.dtype.name) for frame in frames} == {((48, 64, 3), "uint8")}
        first = frames[0].number
        assert first < FRAMES, "it goes on where it ended"
        for frame in frames:
            np.testing.assert_allclose(frame.image[0, 0], colour(frame.number - first), atol=6, err_msg="RGB, in order")
            due_ms = 1000 * (frame.number - first) / FORMAT.rate_hz
            assert (frame.stamp_ns - frames[0].stamp_ns) / MS == pytest.approx(due_ms, abs=0.01)
    source.close()


@pytest.mark.parametrize("make", [video_source, recorded_source])
def test_a_recording_of_another_format_says_what_it_has(make: Callable[[Path], Source], tmp_path: Path) -> None:
    make(tmp_path)
    path = next(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="64 x 48 at 60 Hz"):
        make_source(f"file:{path}", Format(640, 480, 30)).open()


@pytest.mark.parametrize("name", ["junk.db3", "junk.bag", "junk.avi"])
def test_a_file_that_is_no_recording_is_named(name: str, tmp_path: Path) -> None:
    if not name.endswith("avi"):
        pytest.importorskip("pyrealsense2")
    (tmp_path / name).write_bytes(b"junk" * 1000)
    source = make_source(f"file:{tmp_path / name}", FORMAT)
    with pytest.raises(InputError, match=name):
        source.open()


def test_a_recording_begins_anew_under_the_reader(start: Start, tmp_path: Path) -> None:
    reader = start(video_source(tmp_path), limits=WatchLimits(back_off_s=(0.01,)))
    wait_until(lambda: reader.status().counts.losses >= 2 and reader.take() is not None)
    assert reader.status().counts.dropped == 0


@pytest.mark.parametrize("place", ["/dev/nothing", "99"])
def test_a_camera_of_opencv_that_is_not_there_may_come(place: str, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        with pytest.raises(CameraLost, match=f"opencv:{place} cannot be opened"):
            OpenCVSource(place, FORMAT).open()
    assert capfd.readouterr().err == "", "OpenCV warns at each try"


class Capture:
    """What cv2.VideoCapture is to the source: a camera whose frames have these positions, ms, at each opening."""

    def __init__(self, positions_ms: list[float]) -> None:
        self._positions_ms = positions_ms

    def __call__(self, *_: Any) -> Capture:
        self._left, self._at_ms = list(self._positions_ms), 0.0
        return self

    def isOpened(self) -> bool:
        return True

    def get(self, what: int) -> float:
        formats = {
            cv2.CAP_PROP_FRAME_WIDTH: FORMAT.width,
            cv2.CAP_PROP_FRAME_HEIGHT: FORMAT.height,
            cv2.CAP_PROP_FPS: FORMAT.rate_hz,
        }
        return self._at_ms if what == cv2.CAP_PROP_POS_MSEC else formats[what]

    def set(self, what: int, value: float) -> None:
        assert self.get(what) == value

    def read(self) -> tuple[bool, np.ndarray | None]:
        if not self._left:
            return False, None
        self._at_ms = self._left.pop(0)
        return True, image_of(len(self._left) % 12)

    def release(self) -> None:
        self._left = []


@pytest.mark.parametrize(
    ("positions_ms", "is_stamped"),
    [
        pytest.param([0, 20, 40, 60, 80], True, id="the first is 0"),
        pytest.param([9000, 9020, 9040, 9060, 9080], True, id="the driver's clock"),
        pytest.param([0, 20, 40, 0, 80], True, id="one without a stamp"),
        pytest.param([0] * 5, False, id="no stamps"),
        pytest.param([-1] * 5, False, id="not known"),
    ],
)
def test_a_camera_of_opencv_keeps_to_one_clock(
    positions_ms: list[float], is_stamped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", Capture(positions_ms))
    source = OpenCVSource("0", FORMAT)
    for _ in range(2):
        source.open()
        began_ns = time.monotonic_ns()
        frames, _ = read_all(source)
        stamps = [frame.stamp_ns for frame in frames]
        assert [frame.number for frame in frames] == [1, 2, 3]
        if is_stamped:
            assert stamps == [ms * MS for ms in positions_ms[2:]]
        else:
            assert began_ns <= stamps[0] <= stamps[1] <= stamps[2] <= time.monotonic_ns()


@pytest.mark.parametrize("step_ms", [0, 5])
def test_stamps_of_opencv_grow_over_each_reconnection(
    step_ms: int, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", Capture([step_ms * n for n in range(20)]))
    frames: list[Frame] = []
    reader = start(OpenCVSource("rtsp://camera", FORMAT), limits=WatchLimits(back_off_s=(0.01,)))

    def taken() -> bool:
        frames.extend(iter(reader.take, None))
        return reader.status().counts.losses > 20 and len(frames) > 20

    wait_until(taken)
    assert np.diff([frame.stamp_ns for frame in frames]).min() > 0
    assert abs(frames[-1].stamp_ns - time.time_ns()) < TIMEOUT_S * 1e9


def test_a_realsense_is_found_by_its_serial_number() -> None:
    soft = SoftRealSense()
    with pytest.raises(CameraLost, match=r"RealSense 999 is not connected; 123 \(soft\) is"):
        realsense.connected("999", FORMAT, soft).open()
    with pytest.raises(ConfigError, match="64 x 48 at 60 Hz"):
        realsense.connected(SERIAL, Format(640, 480, 30), soft).open()
    source = realsense.connected(SERIAL, FORMAT, soft)
    source.open()
    soft.push(3)
    frame = source.read(TIMEOUT_S)
    assert frame is not None
    np.testing.assert_array_equal(frame.image, image_of(3))
    assert frame.image.flags.owndata, "librealsense takes its memory back"
    assert (frame.number, frame.stamp_ns, source.temperature_c()) == (3, 50 * MS, 41.0)
    assert source.intrinsics == Intrinsics(50.0, 51.0, 32.0, 24.0, "plumb_bob", (0.5, 0.25, 0.0, 0.0, 0.0))
    source.close()


def test_without_a_realsense_it_is_said_at_once() -> None:
    pytest.importorskip("pyrealsense2")
    source = make_source("realsense:none", FORMAT)
    with pytest.raises(CameraLost, match="not connected"):
        source.open()


def test_a_realsense_that_is_unplugged_goes_on_when_it_is_back(start: Start) -> None:
    soft, arrived = SoftRealSense(), threading.Event()
    source = realsense.connected(SERIAL, FORMAT, soft)
    reader = start(source, limits=WatchLimits(reopen_after_s=1.0, back_off_s=(0.01,)), on_frame=arrived.set)
    numbers = iter(range(10_000))

    def streams() -> bool:
        soft.push(next(numbers) % FRAMES)
        return arrived.is_set()

    for _ in range(2):
        soft.plugged = True
        wait_until(streams)
        soft.plugged = False
        wait_until(lambda: "not connected" in reader.status().text)
        arrived.clear()
    assert reader.status().counts.losses == 2
