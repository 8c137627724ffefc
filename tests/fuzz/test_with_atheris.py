"""A short coverage-guided burst at each parser; `make fuzz` takes as long as it is given."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.database_targets import DATABASE_TARGETS
from tests.fuzz.file_targets import FILE_TARGETS
from tests.fuzz.wire_targets import WIRE_TARGETS

ROOT = Path(__file__).parents[2]
SECONDS = 2
NAMES = [target.name for target in (*WIRE_TARGETS, *FILE_TARGETS, *DATABASE_TARGETS)]

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        importlib.util.find_spec("atheris") is None,
        reason="atheris is not installed: it has wheels for Linux on x86-64 alone",
    ),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_burst_of_guided_inputs_breaks_nothing(name, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.with_atheris", name, "--seconds", str(SECONDS)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
