"""The way to the server: what names a proxy, what overrules what, and what is said when it fails."""

import base64
from datetime import UTC, datetime, timedelta

import grpc
import pytest
import structlog
from pydantic import SecretStr

from adpfl.errors import ConfigError, IdentityError
from adpfl.security.bundle import EnrollmentBundle, write_bundle
from adpfl.security.certificates import Holder, to_pem
from adpfl.wire.messages import JoinRequest
from adpfl_client.connection import Connection, StopRequestedError
from adpfl_client.link.enrollment import enroll
from adpfl_client.link.proxy import Route, environment_route, route_of
from adpfl_client.link.running_identity import open_channel

SECRET = "user:pass word:with@signs"
JOIN = JoinRequest("hospital1", "0" * 32, "test", None, {})
REFUSED = b"HTTP/1.1 403 Forbidden\r\n\r\n"


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def site_with(make_config):
    """A site's configuration with these keys."""
    return lambda **keys: make_config().model_copy(update=keys)


@pytest.fixture
def dial(consortium, federation, stopping):
    """Open a connection to the stand-in by a route; it gives up after a few attempts."""
    opened = []

    def open_connection(route, address=None):
        waits = []

        def pause(seconds):
            waits.append(seconds)
            if len(waits) == 3:
                stopping.set()

        channel = open_channel(consortium.site(address or federation.address), route)
        opened.append(Connection(channel, stopping, pause=pause, route=route))
        return opened[-1]

    yield open_connection
    for connection in opened:
        connection.close()


def write_secret(path, text, mode=0o600):
    path.write_text(text)
    path.chmod(mode)
    return path


# What names the proxy -----------------------------------------------------------------------------


def test_without_a_word_the_server_is_dialled_directly(site_with):
    assert route_of(site_with()) == Route()


def test_the_sites_file_overrules_the_environment(
    site_with, connect_proxy, dial, federation, monkeypatch, make_plan
):
    proxy, other = connect_proxy(), connect_proxy()
    monkeypatch.setenv("https_proxy", other.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("no_grpc_proxy", "127.0.0.1")
    federation.service.plan = make_plan()
    assert dial(route_of(site_with(proxy=proxy.url))).join(JOIN).runs
    assert proxy.places == {federation.address}
    assert other.heads == []


def test_direct_overrules_the_environment(site_with, connect_proxy, dial, monkeypatch):
    proxy = connect_proxy()
    monkeypatch.setenv("https_proxy", proxy.url)
    dial(route_of(site_with(proxy="direct"))).join(JOIN)
    assert proxy.heads == []


@pytest.mark.parametrize("way", ["direct", "named", "environment"])
def test_no_variable_of_grpcs_own_leads_elsewhere(
    site_with, connect_proxy, dial, federation, monkeypatch, way
):
    proxy, hidden = connect_proxy(), connect_proxy()
    monkeypatch.setenv("GRPC_ADDRESS_HTTP_PROXY", hidden.url.removeprefix("http://"))
    monkeypatch.setenv("GRPC_ADDRESS_HTTP_PROXY_ENABLED_ADDRESSES", "127.0.0.1")
    named = {"direct": "direct", "named": proxy.url}.get(way)
    dial(route_of(site_with(proxy=named))).join(JOIN)
    assert hidden.heads == []
    assert bool(proxy.heads) == (way == "named")


@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
def test_the_environments_proxy_is_followed_with_its_credentials(
    site_with, connect_proxy, dial, federation, monkeypatch, variable
):
    proxy = connect_proxy(credentials="user:p@ss")
    monkeypatch.setenv(variable, proxy.url.replace("//", "//user:p%40ss@"))
    route = route_of(site_with())
    dial(route).join(JOIN)
    assert proxy.places == {federation.address}
    assert route.proxy == proxy.url
    assert "p%40ss" not in repr(route)


def test_no_proxy_excepts_the_server_from_the_environments_proxy(site_with, connect_proxy, dial, monkeypatch):
    proxy = connect_proxy()
    monkeypatch.setenv("https_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    dial(route_of(site_with())).join(JOIN)
    assert proxy.heads == []


def test_an_empty_variable_means_no_proxy():
    assert environment_route({"grpc_proxy": "", "https_proxy": "http://proxy:3128"}).proxy is None


@pytest.mark.parametrize(
    "value",
    [
        "proxy:3128",
        "https://u:secret@proxy:3128",
        "http://proxy",
        "socks5://proxy:1080",
        "http://u:secret@:1",
    ],
)
def test_a_proxy_that_grpc_would_pass_over_in_silence_is_an_error(value):
    with pytest.raises(ConfigError, match="https_proxy in the environment names no usable proxy") as refused:
        environment_route({"https_proxy": value})
    assert "secret" not in str(refused.value)


def test_credentials_come_from_a_private_file(site_with, connect_proxy, dial, tmp_path):
    proxy = connect_proxy(credentials=SECRET)
    path = write_secret(tmp_path / "proxy.secret", f"{SECRET}\n")
    route = route_of(site_with(proxy=proxy.url, proxy_credentials=path))
    dial(route).join(JOIN)
    assert len(proxy.heads) == 1
    assert base64.b64encode(SECRET.encode()).decode() not in repr(route)


@pytest.mark.parametrize(
    ("text", "mode", "error", "rule"),
    [
        ("user:password", 0o640, IdentityError, "chmod 600"),
        ("password", 0o600, ConfigError, "must hold user:password in one line"),
        (":password", 0o600, ConfigError, "must hold user:password in one line"),
        ("user:pass\nword", 0o600, ConfigError, "must hold user:password in one line"),
        ("user:" + "p" * 508, 0o600, ConfigError, "at most 512 characters"),
        ("user:pass\r\nX-Header: word", 0o600, ConfigError, "must hold user:password in one line"),
    ],
)
def test_an_unusable_file_of_credentials_is_refused(site_with, tmp_path, text, mode, error, rule):
    path = write_secret(tmp_path / "proxy.secret", text, mode)
    with pytest.raises(error, match=rule) as refused:
        route_of(site_with(proxy="http://proxy:3128", proxy_credentials=path))
    assert "password" not in str(refused.value).replace("user:password", "")


# What is said when it fails -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
            r"wants other credentials .* \(407\); put user:password into a file .* as proxy_credentials",
        ),
        (REFUSED, r"refuses the connection \(403\); ask its administrators to allow CONNECT"),
    ],
)
def test_a_proxy_that_refuses_stops_an_agent_that_never_got_through(
    site_with, connect_proxy, dial, answer, words
):
    proxy = connect_proxy()
    proxy.answer_instead = answer
    with pytest.raises(ConfigError, match=words) as refused:
        dial(route_of(site_with(proxy=proxy.url))).join(JOIN)
    assert f"Join: the proxy {proxy.url} (proxy in the site's file)" in str(refused.value)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "cannot reach the server (502)"),
        (b"", "does it run, let CONNECT pass and leave TLS unopened?"),
        (b"HELO mail.example\r\n", "does it run, let CONNECT pass and leave TLS unopened?"),
        (
            b"HTTP/1.1 200 OK\r\n\r\nHTTP is what I speak",
            "does it run, let CONNECT pass and leave TLS unopened?",
        ),
        (None, "does it run, let CONNECT pass and leave TLS unopened?"),
    ],
)
def test_a_proxy_in_trouble_is_named_and_tried_again(site_with, connect_proxy, dial, answer, words):
    proxy = connect_proxy()
    proxy.answer_instead = answer
    if answer is None:
        proxy.stop()
    with structlog.testing.capture_logs() as logs, pytest.raises(StopRequestedError):
        dial(route_of(site_with(proxy=proxy.url))).join(JOIN)
    assert len(logs) == 3
    assert all(f"the proxy {proxy.url}" in line["details"] and words in line["details"] for line in logs)


def test_a_proxy_that_refuses_later_is_waited_for(site_with, connect_proxy, dial, federation):
    proxy = connect_proxy()
    connection = dial(route_of(site_with(proxy=proxy.url)))
    connection.join(JOIN)
    proxy.stop()
    proxy.answer_instead = REFUSED
    proxy.start()
    with structlog.testing.capture_logs() as logs, pytest.raises(StopRequestedError):
        connection.join(JOIN)
    assert "refuses the connection (403)" in logs[-1]["details"]


def test_an_upper_case_variable_is_said_to_be_ignored(site_with, consortium, dial, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://u:secret@proxy:3128")
    route = route_of(site_with())
    assert route.proxy is None
    with structlog.testing.capture_logs() as logs, pytest.raises(StopRequestedError):
        dial(route, "127.0.0.1:1").join(JOIN)
    assert "HTTPS_PROXY is set, but only lower case is followed" in logs[-1]["details"]
    assert "secret" not in str(logs)


def test_enrolment_says_what_the_proxy_refuses_and_may_be_repeated(
    consortium, connect_proxy, site_with, tmp_path
):
    proxy = connect_proxy()
    proxy.answer_instead = REFUSED
    now = datetime.now(UTC)
    bundle = EnrollmentBundle(
        consortium="Test consortium",
        name="hospital1",
        address="127.0.0.1:1",
        enroll_address="127.0.0.1:2",
        authority_certificate=to_pem(consortium.server.authority).decode(),
        server_certificate=to_pem(consortium.server.certificate).decode(),
        token=SecretStr("t" * 43),
        expires_at=now + timedelta(days=1),
    )
    write_bundle(tmp_path / "bundle.json", bundle)
    route = route_of(site_with(proxy=proxy.url))
    for _ in range(2):
        with pytest.raises(IdentityError, match=r"enrolment at 127\.0\.0\.1:2: the proxy .* \(403\)"):
            enroll(
                tmp_path / "bundle.json",
                tmp_path / "state",
                Holder("site", "hospital1"),
                now=now,
                route=route,
            )
    assert proxy.places == {"127.0.0.1:2"}
    assert (tmp_path / "state" / "identity.pending" / "request.der").exists()


def test_a_refusal_of_the_server_is_not_put_down_to_the_proxy(site_with, connect_proxy, dial, federation):
    proxy = connect_proxy()
    federation.service.faults["Join"] = [grpc.StatusCode.PERMISSION_DENIED]
    with pytest.raises(IdentityError) as refused:
        dial(route_of(site_with(proxy=proxy.url))).join(JOIN)
    assert "proxy" not in str(refused.value)
