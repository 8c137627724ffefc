"""Waiting for what a daemon in the same process does by itself."""

import time


def eventually(holds, what="", seconds=60.0):
    """Return once `holds()` does; that it comes is asserted, how soon only where `seconds` is given."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, what
        time.sleep(0.02)
