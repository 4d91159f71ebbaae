"""One status for `/diagnostics`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue


def diagnostic(node: str, name: str, level: bytes, text: str, values: Mapping[str, Any]) -> DiagnosticStatus:
    """Return the status of a node's part `name`; numbers with three digits."""
    pairs = [
        KeyValue(key=key, value=f"{value:.3g}" if isinstance(value, float) else str(value))
        for key, value in values.items()
    ]
    return DiagnosticStatus(level=level, name=f"{node}: {name}", message=text, hardware_id=node, values=pairs)
