"""The server's memory while many sites push at once, and what stays with their connections."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]
ROOT = Path(__file__).parents[2]
SITES = 100
MEBIBYTES_EACH = 4


def test_a_hundred_sites_that_push_at_once_take_half_a_mebibyte_each(tmp_path: Path) -> None:
    """A chunk kept for each stream that waits, or a read buffer that grows and stays, is over the bound."""
    figures = tmp_path / "figures.json"
    sizes = ["--agents", str(SITES), "--megabytes", str(MEBIBYTES_EACH), "--repeats", "1", "--empty-agents"]
    written = ["--folder", str(tmp_path), "--json", str(figures)]
    subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "federation.py"), *sizes, *written],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    (found,) = json.loads(figures.read_text(encoding="utf-8"))["transfers"]
    allowed = 64 * 2**20 + SITES * 2**19
    assert found["memory_allowed"] == allowed
    assert found["memory_total"] <= allowed
