"""A run's record: one JSON object a line, readable up to the last line even if the process was killed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from diwa_runtime.errors import StorageError
from diwa_runtime.files import make_folder

FORMAT_VERSION = 1
SUFFIX = ".jsonl"


class RunLog:
    """Writes `start`, a `step` for each observation that was decided upon, and `end`.

    Attributes:
        path: the file.
    """

    def __init__(self, folder: Path, name: str, header: Mapping[str, Any]) -> None:
        """Begin a file in `folder`, named by the time and `name`.

        Raises:
            StorageError: the disk refused.
        """
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        self.path = Path(folder) / f"{stamp}_{name}{SUFFIX}"
        self._file: TextIO | None = None
        try:
            make_folder(self.path.parent)
            self._file = open(self.path, "x", encoding="utf-8")  # noqa: SIM115  (a run is longer than a block)
        except OSError as error:
            raise StorageError(f"{self.path}: no run log can be written ({error.strerror})") from None
        except StorageError as error:
            raise StorageError(f"{self.path}: no run log can be written ({error})") from None
        self._write({"kind": "start", "format_version": FORMAT_VERSION, "started": stamp, **header})

    def step(self, fields: Mapping[str, Any]) -> None:
        """Write a control tick.

        Raises:
            StorageError: the disk refused; nothing more is written.
        """
        self._write({"kind": "step", **fields})

    def end(self, fields: Mapping[str, Any]) -> None:
        """Write how the run ended, and close the file; does nothing if it is closed.

        Raises:
            StorageError: the disk refused.
        """
        if self._file is None:
            return
        self._write({"kind": "end", **fields})
        self._file.close()
        self._file = None

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            file, self._file = self._file, None
            with suppress(OSError):  # the same refusal again
                file.close()
            raise StorageError(f"{self.path}: the run log ends here ({error.strerror}); free some disk") from None
