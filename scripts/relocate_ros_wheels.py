"""Make the ROS wheels' CMake files name this machine's Python and numpy headers instead of their builder's.

Run with the virtual environment's Python after each change of a ``ros-*`` wheel; running it again changes nothing.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import numpy as np

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
BUILDER = "/opt/python/cp{0}-cp{0}".format(VERSION.replace(".", ""))
REPLACEMENTS = {
    f"{BUILDER}/lib/python{VERSION}/site-packages/numpy/_core/include": np.get_include(),
    f"{BUILDER}/include/python{VERSION}": sysconfig.get_path("include"),
}


def relocate(prefix: Path) -> int:
    """Rewrite every .cmake file under `prefix` that names the builder's folders; return how many there were."""
    changed = 0
    for path in prefix.rglob("*.cmake"):
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        if BUILDER in text:
            for old, new in REPLACEMENTS.items():
                text = text.replace(old, new)
            path.write_text(text, encoding="utf-8", errors="surrogateescape")
            changed += 1
    return changed


if __name__ == "__main__":
    print(f"rewrote {relocate(Path(sys.prefix))} CMake files of the ROS wheels")
