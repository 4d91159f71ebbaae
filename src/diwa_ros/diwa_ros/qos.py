"""How the stack's topics are sent and heard: every quality of service has its name here."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

RELIABLE = QoSProfile(depth=10)
"""What comes once and counts: states, commands, marks."""
SUMS = QoSProfile(depth=1000)
"""For what has happened since the message before: a reader may stand still for a second of a robot's at 1 kHz, or for
half a minute of one at 30 Hz, and loses none of it."""
NEWEST = QoSProfile(depth=1)
"""Reliable, but only the newest matters: what is answered at once or not at all."""
NEWEST_IMAGE = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
"""Images for whoever acts on them: the newest is the only one that matters."""
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""What holds until it changes, such as the Spec: who comes late hears it too."""
LATCHED_MARKS = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""The marks of an episode: a recorder that comes late to one hears them too."""
ALL_MARKS = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""For whoever counts marks and may be busy meanwhile."""
