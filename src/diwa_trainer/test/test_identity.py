"""Whether an episode is of a recording that is known already."""

import numpy as np
import pytest

from diwa_trainer.ingest.identity import KnownRows
from diwa_trainer.ingest.splits import groups_in


def test_a_recording_is_known_whichever_of_its_episodes_came_last():
    known, values = KnownRows(), np.arange(20, dtype=np.float32).reshape(10, 2)
    for first in (100, 10, 50):
        known.add("a", np.arange(first, first + 10), values)
    for first in (100, 10, 50):
        assert known.same_as("b", np.arange(first, first + 10), values) == "a"
        assert known.same_as("b", np.arange(first, first + 10), values + 1) is None
    assert known.same_as("a", np.arange(100, 110), values) is None


@pytest.mark.parametrize(
    ("names", "groups"),
    [(["run_0.mcap", "run_1.mcap", "run_10.mcap"], 1), (["run_20260101.mcap", "run_20260102.mcap"], 2)],
    ids=["numbered by a recorder", "dates"],
)
def test_files_that_differ_in_a_recorders_number_are_one_recording_and_dates_are_not(tmp_path, names, groups):
    assert len(groups_in(tmp_path, names)) == groups
