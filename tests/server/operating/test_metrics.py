"""What a scrape of the metrics port tells, and what it never may."""

import socket
import time
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from adpfl.errors import ConfigError, StateError

SITES = ("hospital1", "hospital2", "hospital3")


def scrape(daemon) -> tuple[str, dict[tuple[str, frozenset], float]]:
    url = f"http://127.0.0.1:{daemon.ports.metrics}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    values = {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    return text, values


def value(found, name, *labels):
    return found[name, frozenset(labels)]


@pytest.fixture
def after_a_round(consortium, revoke):
    """Three sites, a closed round, a repeated commit, and a site shut out."""
    daemon = consortium.start(metrics_listen="127.0.0.1:0")
    callers = [consortium.caller(site) for site in SITES]
    for number, caller in enumerate(callers):
        caller.enter(str(number))
    base = callers[0].next_task().base_digest
    callers[0].fetch(base)
    updates = [consortium.update(seed) for seed in range(3)]
    for caller, update in zip(callers, updates, strict=True):
        caller.send(1, base, update)
    callers[0].commit(1, base, updates[0].manifest.digest)
    assert callers[0].next_task(10).round == 2
    revoke(consortium.state_dir, "hospital3")
    return daemon, updates


def test_a_scrape_tells_rounds_updates_bytes_sites_and_certificates(after_a_round):
    daemon, updates = after_a_round
    _, found = scrape(daemon)
    assert value(found, "adpfl_rounds_closed", "demo") == 1
    assert value(found, "adpfl_rounds_planned", "demo") == 2
    assert value(found, "adpfl_run_status", "demo", "running") == 1
    assert value(found, "adpfl_updates_total", "demo", "accepted") == 3
    assert value(found, "adpfl_updates_total", "demo", "repeated") == 1
    pushed = sum(len(chunk) for chunk in updates[0].chunks.values())
    assert value(found, "adpfl_chunk_bytes_total", "hospital1", "received") == pushed
    assert value(found, "adpfl_chunk_bytes_total", "hospital1", "sent") == pushed
    assert value(found, "adpfl_connected_sites") == 3
    assert 0 <= value(found, "adpfl_site_last_heard_age_seconds", "hospital2") < 60
    assert value(found, "adpfl_aggregation_seconds_count", "demo") == 1
    assert value(found, "adpfl_aggregation_seconds_sum", "demo") > 0
    assert value(found, "adpfl_storage_errors_total") == 0
    assert value(found, "adpfl_storage_free_bytes") > 0
    assert value(found, "adpfl_serving") == 1
    year = time.time() + 360 * 86400
    assert value(found, "adpfl_certificate_expiry_timestamp_seconds", "site", "hospital1") > year
    assert value(found, "adpfl_certificate_expiry_timestamp_seconds", "server", "") > year
    assert ("adpfl_certificate_expiry_timestamp_seconds", frozenset({"site", "hospital3"})) not in found
    assert value(found, "adpfl_signing_requests_waiting") == 0


def test_a_scrape_says_nothing_of_patients_keys_or_digests(after_a_round):
    daemon, updates = after_a_round
    text, _ = scrape(daemon)
    assert "patient" not in text
    assert "PRIVATE" not in text
    assert not any(update.manifest.digest[:12] in text for update in updates)


def test_metrics_are_off_unless_asked_for(consortium):
    assert consortium.start().ports.metrics is None


def test_a_taken_metrics_port_is_one_clear_error(consortium):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StateError, match=rf"metrics_listen: cannot listen on 127.0.0.1:{port}"):
            consortium.start(metrics_listen=f"127.0.0.1:{port}")


def test_a_port_without_a_host_is_refused(consortium):
    with pytest.raises(ConfigError, match="metrics_listen is '7402'"):
        consortium.configure(metrics_listen="7402")
