"""Reads the camera frames that rows need, in one pass over the bag, decoded in threads (OpenCV lets go of the GIL)."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.errors import InputError
from diwa_runtime.rows.images import decode_image
from diwa_runtime.spec import CameraSpec

Image = NDArray[np.uint8]
AHEAD = 64


class FrameReader(AbstractContextManager["FrameReader"]):
    """Gives frames by camera and number, asked for in the order that was told; holds those that may still be asked for.

    The frames of a bag need not lie in it in order of time: those that lie before their turn wait, decoded.
    """

    def __init__(
        self,
        cameras: Sequence[CameraSpec],
        messages: Iterator[tuple[str, Callable[[], Any]]],
        wanted: Mapping[str, Sequence[int]],
        workers: int,
    ) -> None:
        """Start reading.

        Args:
            cameras: the sizes to decode to.
            messages: (camera's name, what reads the message) of every frame, in the bag's order.
            wanted: by camera, the numbers of the frames that will be asked for, in that order.
            workers: threads that decode.
        """
        self._cameras = {camera.name: camera for camera in cameras}
        self._messages = messages
        self._wanted = {name: list(numbers) for name, numbers in wanted.items()}
        self._asked = dict.fromkeys(self._cameras, 0)
        self._left = {name: Counter(numbers) for name, numbers in self._wanted.items()}
        self._unread = {name: set(numbers) for name, numbers in self._wanted.items()}
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

    def frames(self, camera: str, count: int) -> Image:
        """Return the next `count` frames that are wanted of a camera (n, H, W, 3) uint8 RGB.

        Raises:
            InputError: a frame cannot be decoded, or is not there any more.
        """
        start, frames = self._asked[camera], self._frames[camera]
        numbers = self._wanted[camera][start : start + count]
        for number in numbers:
            while number not in frames:
                self._read_one()
        self._read_ahead()
        images = np.stack([frames[number].result() for number in numbers])
        self.pass_to(camera, start + count)
        return images

    def pass_to(self, camera: str, end: int) -> None:
        """Forget what is wanted of a camera up to the frame of this index, which is counted over all that is wanted."""
        for number in self._wanted[camera][self._asked[camera] : end]:
            self._left[camera][number] -= 1
            if not self._left[camera][number]:
                self._frames[camera].pop(number, None)
                self._unread[camera].discard(number)
        self._asked[camera] = max(end, self._asked[camera])

    def _read_ahead(self) -> None:
        while self._running and self._running[0].done():
            self._running.popleft()
        while len(self._running) < AHEAD and any(self._unread.values()):
            self._read_one()

    def _read_one(self) -> None:
        """Take the next frame of the bag; decode it if it is wanted."""
        camera, read = next(self._messages, ("", None))
        if read is None:
            raise InputError("the bag has fewer images than before; was it changed while it was read?")
        number = self._seen[camera]
        self._seen[camera] = number + 1
        if number in self._unread[camera]:
            self._unread[camera].remove(number)
            future = self._pool.submit(_decoded, read, self._cameras[camera])
            self._frames[camera][number] = future
            self._running.append(future)


def _decoded(read: Callable[[], Any], camera: CameraSpec) -> Image:
    return decode_image(read(), camera)
