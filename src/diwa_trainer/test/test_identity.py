"""Whether an episode is of a recording that is known already."""

import numpy as np

from diwa_trainer.ingest.identity import KnownRows


def test_a_recording_is_known_whichever_of_its_episodes_came_last():
    known, values = KnownRows(), np.arange(20, dtype=np.float32).reshape(10, 2)
    for first in (100, 10, 50):
        known.add("a", np.arange(first, first + 10), values)
    for first in (100, 10, 50):
        assert known.same_as("b", np.arange(first, first + 10), values) == "a"
        assert known.same_as("b", np.arange(first, first + 10), values + 1) is None
    assert known.same_as("a", np.arange(100, 110), values) is None
