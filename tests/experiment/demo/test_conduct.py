"""The whole demonstration with real processes over mutual TLS, as small as it goes."""

import io
import os
from dataclasses import replace

import pytest
from rich.console import Console

from adpfl.config import load_yaml
from adpfl.experiment.demo import conduct
from adpfl.experiment.demo.configuration import DemoChoices
from adpfl.experiment.demo.processes import ChildFailedError, Troupe
from adpfl.experiment.report.record import JoinedRecord, read_record
from adpfl_client.config import SiteConfig

pytestmark = pytest.mark.process

SMALL = DemoChoices(sites=2, rounds=2, steps=1, images=8)


@pytest.fixture
def children(monkeypatch):
    """Every process that the demonstration starts."""
    started = []
    start = Troupe.start

    def watched(self, *arguments):
        child = start(self, *arguments)
        started.append(child)
        return child

    monkeypatch.setattr(Troupe, "start", watched)
    return started


def test_from_nothing_to_a_report(tmp_path, children):
    output = io.StringIO()
    folder, run = conduct.run_demo(tmp_path / "demo", SMALL, Console(file=output, width=200))
    assert run.record.server.status == "finished"
    assert [site.status for site in run.record.sites] == ["finished"] * 2
    assert [len(site.steps) for site in run.record.sites] == [2, 2]
    assert [evaluation.round for evaluation in run.record.sites[0].evaluations] == [0, 1, 2]
    assert run.overlays
    assert read_record(folder.record, JoinedRecord) == run.record
    page = folder.report.read_text(encoding="utf-8")
    assert "One person owns all of them" in page
    assert "round 2 of 2: 2 of 2 sites" in output.getvalue()
    assert "training ended; Dice after round 2: hospital1" in output.getvalue()
    assert run.record.data_note.synthetic
    assert "Synthetic images." in page
    keys = [*folder.root.rglob("*.key"), *folder.root.rglob("key.pem")]
    assert keys
    assert all(path.stat().st_mode & 0o077 == 0 for path in keys)
    assert all(child.process.returncode == 0 for child in children)


def test_the_rigorous_arm_trains_under_a_policy_without_exceptions(tmp_path):
    output = io.StringIO()
    folder, run = conduct.run_demo(
        tmp_path / "demo", replace(SMALL, arm="rigorous"), Console(file=output, width=200)
    )
    assert run.record.server.status == "finished"
    for site in run.record.sites:
        policy = load_yaml(folder.site_config(site.site), SiteConfig).policy
        assert not policy.accept_unbounded
        assert 0.0 < site.guarantee.epsilon <= policy.epsilon_cap == 8.0
        assert site.guarantee.threshold == "noisy_bits"
    assert "A finite guarantee: ε at most 8" in folder.report.read_text(encoding="utf-8")


def test_a_failing_command_ends_all_of_it(tmp_path, children, monkeypatch):
    monkeypatch.setattr(conduct, "CLIENT", "adpfl_client_that_is_absent")
    output = io.StringIO()
    with pytest.raises(ChildFailedError, match="hospital1-enroll ended with exit code 1") as caught:
        conduct.run_demo(tmp_path / "demo", SMALL, Console(file=output, width=200))
    assert f"stopped; what every command said stands in {tmp_path / 'demo' / 'logs'}" in output.getvalue()
    assert "No module named" in caught.value.log_tail[-1]
    assert "server" in [child.name for child in children]
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(child.process.pid, 0)
