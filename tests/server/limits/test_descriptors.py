"""What the daemon does about the number of files that it may open."""

import os
import resource
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from adpfl_server.limits.descriptors import RESERVED, DescriptorWatch, connections_within, take_descriptors


def test_the_process_takes_what_the_system_gives():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
        assert take_descriptors() == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("descriptors", "connections"), [(65_536, 1000), (-1, 1000), (RESERVED + 600, 300), (100, 1)]
)
def test_connections_leave_room_for_the_servers_own_files(descriptors, connections):
    with capture_logs() as logs:
        assert connections_within(1000, descriptors) == connections
    assert [line["connections"] for line in logs] == ([connections] if connections < 1000 else [])
    assert all("LimitNOFILE" in line["mend"] for line in logs)


def test_scarcity_is_said_once_and_so_is_its_end():
    with capture_logs() as logs:
        watch = DescriptorWatch(sum(1 for _ in Path("/proc/self/fd").iterdir()) + 20)
        watch.look()
        opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
        watch.look()
        watch.look()
        for descriptor in opened:
            os.close(descriptor)
        watch._limit = 10_000
        watch.look()
    assert [(line["log_level"], line["event"]) for line in logs] == [
        ("error", "file descriptors run out: connections are refused"),
        ("info", "file descriptors suffice again"),
    ]
