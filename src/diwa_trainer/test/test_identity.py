"""What belongs together: episodes of one recording, files of one, and a stream's first and last messages."""

import numpy as np
import pytest

from diwa_runtime.spec import Spec
from diwa_trainer.ingest.identity import KnownRows
from diwa_trainer.ingest.splits import groups_in
from diwa_trainer.ingest.stream_data import About, StreamData


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


@pytest.mark.parametrize(("away_ms", "kept"), [(290, 8), (1000, 7)])
def test_a_last_message_is_wrong_from_three_usual_steps_on_where_it_came_in_time(away_ms, kept):
    stamps = [*range(1000, 1700, 100), 1600 + away_ms]
    abouts = [About(at * 10**6, at * 10**6, (1000 + 100 * n) * 10**6, n) for n, at in enumerate(stamps)]
    data = StreamData(Spec().streams[0], abouts, list(stamps))
    data.put_in_order(200 * 10**6)
    assert len(data.stamps) == kept
