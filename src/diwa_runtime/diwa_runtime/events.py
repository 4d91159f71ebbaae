"""The marks on a bag's time line, as `diwa_msgs/msg/EpisodeEvent` numbers them."""

from __future__ import annotations

from enum import IntEnum

TOPIC = "episode/event"
TYPE = "diwa_msgs/msg/EpisodeEvent"
NO_SEED = -1
FRAMES_AFTER_SUCCESS = 6
"""A demonstration goes on for so many robot states after its SUCCESS, in simulation and by tele-operation: what learns
to tell success from all else is to see more of it than one row."""


class EventKind(IntEnum):
    """What a mark says."""

    START = 1
    END = 2
    SUCCESS = 3
    FAILURE = 4
    DISCARD = 5
