"""Prometheus metrics on a port of their own, off unless `metrics_listen` names one.

Everything is read when somebody asks: counters from the tally, the rest from the states that the daemon
holds and from the database. Run and site names, counts and times; nothing of patients, no key, no digest.
The port speaks plain HTTP without authentication, so it belongs on loopback or a management network.
"""

import os
import platform
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from adpfl import __version__
from adpfl.errors import IdentityError, StateError
from adpfl.security.identity import load_certificate
from adpfl.security.private_files import read_public
from adpfl_server.config import split_address
from adpfl_server.identity.certificate_table import issued
from adpfl_server.identity.pki import AUTHORITY_CERTIFICATE, PKI_FOLDER, SERVER_CERTIFICATE
from adpfl_server.identity.signing_queue import waiting
from adpfl_server.operating.health import StorageHealth
from adpfl_server.runner import Runner
from adpfl_server.storage.database import BUSY_TIMEOUT_SECONDS
from adpfl_server.store import DATABASE_FILE


class ServerCollector(Collector):
    """Gathers every metric at each scrape, in the scraper's thread."""

    def __init__(self, runner: Runner, health: StorageHealth, state_dir: Path) -> None:
        """Read from these; nothing is written."""
        self._runner = runner
        self._health = health
        self._state_dir = state_dir

    def collect(self) -> Iterator[Metric]:
        """Give every metric, as Prometheus's library asks for them."""
        build = GaugeMetricFamily("adpfl_build_info", "Version.", labels=("version", "python"))
        build.add_metric((__version__, platform.python_version()), 1)
        yield build
        yield GaugeMetricFamily("adpfl_serving", "What the health check says.", self._health.serving)
        yield from self._runs()
        yield from self._sites()
        yield from self._counted()
        yield from self._storage()
        yield self._certificates()
        yield from self._waiting_requests()

    def _runs(self) -> Iterator[Metric]:
        closed = GaugeMetricFamily("adpfl_rounds_closed", "Rounds aggregated so far.", labels=("run",))
        planned = GaugeMetricFamily("adpfl_rounds_planned", "Rounds of the plan.", labels=("run",))
        status = GaugeMetricFamily(
            "adpfl_run_status", "1 for the status that the run has.", labels=("run", "status")
        )
        opened = GaugeMetricFamily(
            "adpfl_open_round_age_seconds", "Since the open round was opened.", labels=("run",)
        )
        now = self._runner.clock()
        for run, state in list(self._runner.states.items()):
            closed.add_metric((run,), state.rounds_closed)
            planned.add_metric((run,), state.plan.rounds)
            status.add_metric((run, state.shown_status), 1)
            if state.open_round is not None:
                opened.add_metric((run,), now - state.open_round.opened_at)
        yield from (closed, planned, status, opened)

    def _sites(self) -> Iterator[Metric]:
        ages = GaugeMetricFamily(
            "adpfl_site_last_heard_age_seconds",
            "Since the last sign of life of a site that was heard since the start.",
            labels=("site",),
        )
        now = self._runner.clock()
        heard = self._runner.last_heard()
        for site, at in sorted(heard.items()):
            ages.add_metric((site,), now - at)
        silence = self._runner.site_silence_seconds
        connected = sum(now - at <= silence for at in heard.values())
        yield ages
        yield GaugeMetricFamily(
            "adpfl_connected_sites", "Sites heard within site_silence_seconds.", connected
        )

    def _counted(self) -> Iterator[Metric]:
        tally = self._runner.book.tally
        updates = CounterMetricFamily(
            "adpfl_updates", "Updates of sites by what they were found to be.", labels=("run", "verdict")
        )
        for (run, verdict), count in sorted(tally.updates.items()):
            updates.add_metric((run, verdict), count)
        moved = CounterMetricFamily(
            "adpfl_chunk_bytes", "Bytes of models and updates.", labels=("site", "direction")
        )
        for (site, direction), size in sorted(tally.chunk_bytes.items()):
            moved.add_metric((site, direction), size)
        sums = SummaryMetricFamily("adpfl_aggregation_seconds", "Adding a round up.", labels=("run",))
        for run, (count, seconds) in sorted(tally.aggregations.items()):
            sums.add_metric((run,), count, seconds)
        yield from (updates, moved, sums)

    def _storage(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "adpfl_storage_errors",
            "Refusals of the disk or the database.",
            self._runner.book.tally.storage_errors,
        )
        try:
            found = os.statvfs(self._state_dir)
        except OSError:
            return
        yield GaugeMetricFamily(
            "adpfl_storage_free_bytes", "Free where the state is kept.", found.f_bavail * found.f_frsize
        )

    def _certificates(self) -> Metric:
        ends = GaugeMetricFamily(
            "adpfl_certificate_expiry_timestamp_seconds",
            "When the newest certificate of each holder that was not revoked ends.",
            labels=("role", "name"),
        )
        for role, name, at in (*self._own_certificates(), *self._issued_certificates()):
            ends.add_metric((role, name), at)
        return ends

    def _waiting_requests(self) -> Iterator[Metric]:
        try:
            with closing(self._read_only()) as database:
                count = len(waiting(database))
        except sqlite3.Error:
            return
        yield GaugeMetricFamily(
            "adpfl_signing_requests_waiting", "For an authority whose key is kept offline.", count
        )

    def _own_certificates(self) -> Iterator[tuple[str, str, float]]:
        for role, name in (("authority", AUTHORITY_CERTIFICATE), ("server", SERVER_CERTIFICATE)):
            path = self._state_dir / PKI_FOLDER / name
            try:
                certificate = load_certificate(read_public(path), what=str(path))
            except IdentityError:  # the daemon's log says what is wrong with it
                continue
            yield role, "", certificate.not_valid_after_utc.timestamp()

    def _issued_certificates(self) -> Iterable[tuple[str, str, float]]:
        newest: dict[tuple[str, str], float] = {}
        try:
            with closing(self._read_only()) as database:
                for row in issued(database):
                    if row.revoked_at is None:
                        newest.setdefault((row.holder.role, row.holder.name), row.not_after)
        except sqlite3.Error:  # counted and told where the daemon itself meets it
            return ()
        return [(role, name, at) for (role, name), at in newest.items()]

    def _read_only(self) -> sqlite3.Connection:
        path = self._state_dir / DATABASE_FILE
        database = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_SECONDS)
        database.row_factory = sqlite3.Row
        return database


class MetricsPort:
    """The HTTP server that Prometheus scrapes."""

    def __init__(self, address: str, collector: Collector) -> None:
        """Open the port.

        Args:
            address: `host:port`; port 0 takes a free one.
            collector: what is asked at each scrape.

        Raises:
            StateError: it cannot be listened on.
        """
        host, port = split_address("metrics_listen", address)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(collector)
        try:
            self._server, self._thread = start_http_server(port, host.strip("[]"), registry)
        except OSError as error:
            raise StateError(
                f"metrics_listen: cannot listen on {address}; is the port in use or the host not ours?"
            ) from error
        self.port = int(self._server.server_port)

    def close(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
