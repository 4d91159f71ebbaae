"""What can go wrong, as one tree.

DiwaError                  anything that a person can mend: one line, exit code 2
├── InputError             a file, bag, dataset or message that cannot be used
│   └── BundleError        a deployed bundle that cannot be used
├── SpecMismatchError      two Specs that disagree; names the first differing fields
├── ConfigError            an unknown or impossible setting; names the nearest known one
└── StorageError           the disk refused: full, read-only, not there
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DiwaError(Exception):
    """A fault that a person can mend; `str()` is one line that says what and how."""


class InputError(DiwaError):
    """A file or message that cannot be used: names it, says what is wrong and what to do."""


class BundleError(InputError):
    """A bundle that is damaged, hostile or too old or new."""


class SpecMismatchError(DiwaError):
    """Two Specs that must agree and do not."""


class ConfigError(DiwaError):
    """A setting that does not exist or cannot be."""


class StorageError(DiwaError):
    """The disk refused a write; nothing half-written is left behind."""


def one_line(error: BaseException) -> str:
    """Return what an error says, on one line; "" for one that says nothing."""
    return " ".join(str(error).split())


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant: ``"; did you mean 'seed'?"``, or ``""``."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"; did you mean {matches[0]!r}?" if matches else ""
