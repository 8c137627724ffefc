"""A running agent's certificate is renewed over the way that it dialled from the start."""

import dataclasses
from datetime import timedelta
from pathlib import Path

import pytest

from adpfl.wire.operations import RenewResponse
from adpfl_client.connection import Connection
from adpfl_client.link import running_identity
from adpfl_client.link.proxy import route_of
from adpfl_client.link.running_identity import open_channel, with_certificate_renewed
from adpfl_client.local_site import Site


@pytest.fixture
def dialled(monkeypatch):
    """The routes of the channels that a renewal opens."""
    routes = []

    def opened(identity, route):
        routes.append(route)
        return open_channel(identity, route)

    monkeypatch.setattr(running_identity, "open_channel", opened)
    return routes


def test_credentials_of_the_proxy_that_are_gone_do_not_end_a_running_agent(
    consortium, make_config, stopping, dialled, tmp_path, monkeypatch
):
    secret = tmp_path / "proxy.secret"
    secret.write_text("user:password")
    secret.chmod(0o600)
    config = make_config().model_copy(
        update={"proxy": "http://proxy.example.org:3128", "proxy_credentials": secret}
    )
    route = route_of(config)
    identity = consortium.site("server.example.org:7400")
    later = identity.certificate.not_valid_after_utc - timedelta(days=1)
    renewed = dataclasses.replace(identity)

    def renew(_folder: Path, _identity, ask, **_options):
        assert ask(b"request")
        return renewed

    monkeypatch.setattr(running_identity, "renew", renew)
    connection = Connection(open_channel(identity, route), stopping, route=route)
    monkeypatch.setattr(connection, "renew", lambda _request: RenewResponse(b"chain"))
    parts = dict.fromkeys(part.name for part in dataclasses.fields(Site))
    site = Site(
        **parts
        | {
            "config": config,
            "identity": identity,
            "connection": connection,
            "clock": later.timestamp,
        }
    )
    secret.unlink()  # what handed it over takes it away again
    try:
        assert with_certificate_renewed(site).identity is renewed
    finally:
        connection.close()
    assert dialled == [route]
