"""Peak memory of a call, as the kernel counts resident pages; Linux alone.

Torch's own count leaves out what oneDNN and other libraries allocate. The high-water mark of a process holds
everything, but also what an allocator keeps after it was freed, so a process that is to be measured starts
with `RETURNED_AT_ONCE` in its environment.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

RETURNED_AT_ONCE: Final = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""glibc then gives what is freed back to the kernel."""


def peak_bytes_over(run: Callable[[], object], *, times: int = 1) -> int:
    """Most bytes resident at once during the runs, over what was resident before the first."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark starts anew
    before = _resident_bytes("VmRSS")
    for _ in range(times):
        run()
    return _resident_bytes("VmHWM") - before


def _resident_bytes(field: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])
