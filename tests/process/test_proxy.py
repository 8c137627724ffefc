"""Real daemons with a hospital's HTTP proxy between them, which alone knows the server's address."""

import base64

import pytest
import yaml

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]

HOST = "aggregator.test"
CREDENTIALS = "hospital1:correct horse:battery@staple"
SITE = "hospital1"


@pytest.fixture
def proxied(federation, connect_proxy):
    """One site that must use the proxy; `named` writes into its file how."""
    federation.sites = (SITE,)
    federation.proxy = connect_proxy(known_hosts={HOST: "127.0.0.1"})
    plain = federation.configure

    def configure(plan):
        plain(plan)
        rewrite(
            federation.root / "server.yaml",
            public_address=f"{HOST}:{federation.port}",
            public_enroll_address=f"{HOST}:{federation.enrollment_port}",
        )
        named(federation, proxy=federation.proxy.url)

    federation.configure = configure
    return federation


def rewrite(path, **changes):
    document = yaml.safe_load(path.read_text()) | changes
    path.write_text(yaml.safe_dump({key: value for key, value in document.items() if value is not None}))


def named(federation, **keys):
    rewrite(federation.root / "sites" / f"{SITE}.yaml", **keys)


def failures(federation):
    return [entry for entry in federation.logged(SITE) if entry["event"].startswith("call failed")]


def test_a_federation_through_a_proxy_that_asks_for_credentials(proxied):
    secret = proxied.root / "sites" / "proxy.secret"
    secret.write_text(f"{CREDENTIALS}\n")
    secret.chmod(0o600)
    proxied.proxy.credentials = CREDENTIALS
    plain = proxied.configure

    def configure(plan):
        plain(plan)
        named(proxied, proxy_credentials="proxy.secret")

    proxied.configure = configure
    proxied.prepare(proxied.plan(rounds=2))
    assert proxied.proxy.places == {f"{HOST}:{proxied.enrollment_port}"}
    checked = proxied.command("adpfl_client", "check", "--site", SITE).stdout
    assert f"through the proxy {proxied.proxy.url} and admits {SITE}" in checked
    proxied.start_agent(SITE)
    assert proxied.finish(SITE) == 0, proxied.log(SITE)

    assert proxied.site_record(SITE)["status"] == "finished"
    assert proxied.proxy.places == {f"{HOST}:{proxied.enrollment_port}", f"{HOST}:{proxied.port}"}
    carried = [bytes(stream) for stream in proxied.proxy.carried if stream]
    assert sum(map(len, carried)) > 1_000_000, "three models down and two updates up must have passed here"
    assert all(stream[:2] == b"\x16\x03" for stream in carried), "a tunnel begins with a TLS handshake record"
    everything = b"".join(carried) + b"".join(proxied.proxy.heads)
    for word in (b"skin_lesion", SITE.encode(), b"survivor", b"adpfl.v1.Federation"):
        assert word not in everything
    for text in (CREDENTIALS, base64.b64encode(CREDENTIALS.encode()).decode(), "battery"):
        assert text not in proxied.log(SITE)


def test_a_proxy_that_dies_in_the_middle_of_training_costs_time_alone(proxied):
    proxied.prepare(proxied.plan(rounds=3))
    proxied.start_agent(SITE)
    proxied.wait_until(lambda: proxied.trains(SITE, 2), "the second round's training")
    proxied.proxy.stop()
    proxied.wait_until(lambda: len(failures(proxied)) >= 2, "the agent to notice")
    proxied.proxy.start()
    assert proxied.finish(SITE) == 0, proxied.log(SITE)
    record = proxied.server_record()
    assert record["status"] == "finished"
    assert len(record["rounds"]) == 3
    assert f"the proxy {proxied.proxy.url} (proxy in the site's file)" in failures(proxied)[-1]["details"]


def test_an_agent_says_what_its_proxy_refuses(proxied):
    proxied.prepare(proxied.plan(rounds=1))
    proxied.proxy.credentials = CREDENTIALS
    proxied.start_agent(SITE)
    assert proxied.running[SITE].wait(60) == 2
    assert "wants other credentials than it was given (407); put user:password into a file" in proxied.log(
        SITE
    )
    del proxied.running[SITE]
    proxied.proxy.credentials = None
    named(proxied, proxy="direct")
    checked = proxied.command("adpfl_client", "check", "--site", SITE, code=1).stdout
    assert f"resolving {HOST}" in checked or f"failed for {HOST}" in checked, (
        "nothing but the proxy knows the name"
    )
    named(proxied, proxy="http://someone:secret@127.0.0.1:1")
    refused = proxied.command("adpfl_client", "check", "--site", SITE, code=2).stderr
    assert "proxy must not hold a user or a password" in refused
    assert "secret" not in refused
