"""The edge of every command line: a fault that a person can mend is one line on stderr, not a traceback."""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Callable, Sequence
from typing import TextIO

from diwa_runtime.errors import DiwaError, one_line

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
EXIT_UNREAD = 141


def run_verb(verb: Callable[[Sequence[str]], object], argv: Sequence[str] | None = None) -> int:
    """Call ``verb(argv)`` and return the process's exit code; `argv` None means what the process was given.

    A DiwaError is printed as one line and gives 2, and so does a lack of memory; Ctrl-C gives 130, with what the
    KeyboardInterrupt says, if anything (``KeyboardInterrupt("update 400 is kept; --resume goes on from it")``). Where
    nobody reads what is printed any more, as after ``| head``, it ends with 141 and says nothing.
    Anything else is a fault of ours and is let through, traceback and all.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path may have bytes that are no text
    try:
        try:
            verb(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if _has_reader(sys.stdout):
            raise
        # Python writes what is left once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_UNREAD
    except DiwaError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except MemoryError:
        print("error: there is not enough memory; use smaller sizes, smaller batches or fewer workers", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt as interrupt:
        print(f"interrupted{': ' if interrupt.args else ''}{one_line(interrupt)}", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def _has_reader(file: TextIO) -> bool:
    poll = select.poll()
    poll.register(file.fileno(), 0)
    return not poll.poll(0)
