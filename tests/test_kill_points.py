"""A kill point ends its process where it was told to, and is nothing everywhere else."""

import signal
import subprocess
import sys

import pytest

from adpfl.kill_points import VARIABLE, reach

PROGRAM = """
from adpfl.kill_points import reach
for number in range(1, 4):
    reach("client.sealed")
    reach("client.offered")
    print(number, flush=True)
"""


@pytest.mark.parametrize(
    ("wanted", "printed", "code"),
    [
        (None, "1\n2\n3\n", 0),
        ("client.sealed", "", -signal.SIGKILL),
        ("client.offered:2", "1\n", -signal.SIGKILL),
        ("client.sealed:4", "1\n2\n3\n", 0),
        ("server.closed", "1\n2\n3\n", 0),
        ("no such point", "1\n2\n3\n", 0),
    ],
)
def test_a_process_dies_where_it_is_told_to(wanted, printed, code):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={} if wanted is None else {VARIABLE: wanted},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.returncode) == (printed, code)


def test_nothing_happens_without_the_variable(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    reach("server.committed")
