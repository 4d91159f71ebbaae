"""Settings of the whole test run."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

# Property tests look somewhere new at every run of a person's, and at the same places in every run of CI's.
# No example is ever late: how long it takes is the machine's business.
settings.register_profile("person", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "person")


def pytest_configure() -> None:
    """Let Ctrl-C reach what the tests start, even where this run was started in a shell's background, deaf to it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
