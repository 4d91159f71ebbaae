"""Whether two Specs agree in what is read of them: who reads what is decided here, once for all who ask."""

from __future__ import annotations

from typing import Any, Literal

from diwa_runtime.differences import differences, told
from diwa_runtime.errors import SpecMismatchError
from diwa_runtime.spec import Spec

Use = Literal["training", "skills", "robot", "environment"]
"""For what two Specs must agree.

training: recordings, eyes and networks. Tasks, since recordings are labelled by them, and all that rows are made of.
skills: bundles that one node runs. What their mode observes, and which streams that and the actions come from.
robot: a bundle and a robot. The same, but a robot is of no mode: what a policy observes of it is its own business.
environment: a bundle and an environment. The same again without streams, for observations come as they are; of its
mode, whether it gives the bundle's fields. Its tasks are its own: it says itself what it calls success.
"""


def check_same_spec(ours: Spec, ours_name: str, theirs: Spec, theirs_name: str, use: Use) -> None:
    """Refuse two Specs that disagree in what is read of them.

    Raises:
        SpecMismatchError: names the first fields that differ, with both values, and how many more do.
    """
    fields = ours.observation_fields
    if use == "training" and ours.mode == "hybrid":
        fields = (*fields, "scene")  # which the pictures' labels are
    found = list(differences(_read(ours, fields, use), _read(theirs, fields, use)))
    lacks_fields = use == "environment" and not set(fields) <= set(theirs.observation_fields)
    if use in ("training", "skills") or lacks_fields:
        found = [*differences({"mode": ours.mode}, {"mode": theirs.mode}), *found]
    if found:
        raise SpecMismatchError(
            f"the Specs of {ours_name} and {theirs_name} disagree in {told(found)}; "
            "make both from the same robot and settings"
        )


def _read(spec: Spec, fields: tuple[str, ...], use: Use) -> dict[str, Any]:
    """Return what is read of a Spec, as plain data."""
    plain = spec.to_json()
    parts = ["version", "rate_hz", "action_scale", *(name for name in ("proprio", "scene") if name in fields)]
    if use == "training":
        parts.append("tasks")
    read = {name: plain[name] for name in parts}
    read["cameras"] = [camera for camera in plain["cameras"] if camera["name"] in fields]
    if use != "environment":
        read["streams"] = [stream for stream in plain["streams"] if stream["field"] in (*fields, "action")]
    return read
