"""What stops the server's start, and what it leaves behind."""

import socket

import pytest

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]


@pytest.mark.parametrize("key", ["port", "enrollment_port"])
def test_a_port_in_use_is_one_line_and_leaves_no_state(federation, key):
    federation.configure(federation.plan())
    federation.command("adpfl_server", "init", "--config", "server.yaml")
    before = sorted(path.name for path in (federation.root / "server").iterdir())
    port = getattr(federation, key)
    with socket.create_server(("127.0.0.1", port)):
        failed = federation.command("adpfl_server", "--config", "server.yaml", code=1)
    lines = failed.stderr.splitlines()
    assert len(lines) == 1, failed.stderr
    assert f"listen: cannot listen on 127.0.0.1:{port}" in lines[0]
    after = sorted(path.name for path in (federation.root / "server").iterdir())
    assert [name for name in after if name not in before and not name.endswith("lock")] == []
