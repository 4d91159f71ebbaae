"""Reads the camera frames that rows need, in one pass over the bag, decoded in threads (OpenCV lets go of the GIL)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.rows.images import decode_image
from diwa_runtime.spec import CameraSpec

Image = NDArray[np.uint8]
AHEAD = 64


class FrameReader(AbstractContextManager["FrameReader"]):
    """Gives frames by camera and number, asked for in rising order; holds only those that may still be asked for."""

    def __init__(
        self,
        cameras: Sequence[CameraSpec],
        messages: Iterator[tuple[str, Any]],
        wanted: Mapping[str, Sequence[int]],
        workers: int,
    ) -> None:
        """Start reading.

        Args:
            cameras: the sizes to decode to.
            messages: (camera's name, message) of every frame, in the bag's order.
            wanted: by camera, the numbers of the frames that will be asked for, rising.
            workers: threads that decode.
        """
        self._cameras = {camera.name: camera for camera in cameras}
        self._messages = messages
        self._wanted = {name: deque(dict.fromkeys(numbers)) for name, numbers in wanted.items()}
        self._seen = dict.fromkeys(self._cameras, 0)
        self._frames: dict[str, dict[int, Future[Image]]] = {name: {} for name in self._cameras}
        self._running: deque[Future[Image]] = deque()
        self._pool = ThreadPoolExecutor(workers)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def frames(self, camera: str, numbers: Sequence[int]) -> Image:
        """Return these frames (n, H, W, 3) uint8 RGB; earlier ones are forgotten.

        Raises:
            InputError: a frame cannot be decoded.
        """
        frames = self._frames[camera]
        while frames.keys().isdisjoint(numbers[-1:]):
            self._read_one()
        self._read_ahead()
        images = np.stack([frames[number].result() for number in numbers])
        for number in [number for number in frames if number < numbers[-1]]:
            del frames[number]
        return images

    def _read_ahead(self) -> None:
        while self._running and self._running[0].done():
            self._running.popleft()
        while len(self._running) < AHEAD and any(self._wanted.values()):
            self._read_one()

    def _read_one(self) -> None:
        """Take the next frame of the bag; decode it if it is wanted."""
        camera, message = next(self._messages)
        number, wanted = self._seen[camera], self._wanted[camera]
        self._seen[camera] = number + 1
        if wanted and wanted[0] == number:
            wanted.popleft()
            future = self._pool.submit(decode_image, message, self._cameras[camera])
            self._frames[camera][number] = future
            self._running.append(future)
