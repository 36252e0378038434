"""Console output of run.sh and of the installer."""

import shutil
import time
from contextlib import suppress
from typing import TextIO


class Screen:
    """Prints lines.  One that ends in "…" is progress: on a terminal the next line replaces it."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._is_terminal = out.isatty()
        self._has_progress_line = False
        self._next_progress_at = 0.0

    def __call__(self, text: str) -> None:
        """Print a line immediately.  In a file or pipe, progress is printed at most every 10 s."""
        if text.endswith("…"):
            self._write_progress(text)
            return
        self._write(("\r\x1b[K" if self._has_progress_line else "") + text + "\n")
        self._has_progress_line = False

    def _write_progress(self, text: str) -> None:
        if self._is_terminal:
            # A line of the full width would wrap, and "\r" would not return to its start.
            width = shutil.get_terminal_size().columns - 1
            self._write("\r\x1b[K" + text[:width])
            self._has_progress_line = True
        elif time.monotonic() >= self._next_progress_at:
            self._next_progress_at = time.monotonic() + 10
            self._write(text + "\n")

    def _write(self, text: str) -> None:
        # The reader of a pipe may be gone. Without its output the program still has to end cleanly.
        with suppress(BrokenPipeError):
            self._out.write(text)
            self._out.flush()
