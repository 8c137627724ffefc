"""What an officer and an operator type: ledger, statement, verify, exclude, approve, acknowledge-clock."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from typer.testing import CliRunner, Result

from adpfl.errors import ConfigError, IdentityError, IntegrityError, StateError
from adpfl.privacy.ledger import AcceptUnbounded, LedgerPolicy, SpendRequest
from adpfl.privacy.plan import FixedThreshold, PaperPrivacy, PercentileThreshold, Sampling
from adpfl.security.certificates import Holder, create_request, issue_client_certificate, new_key, to_pem
from adpfl.security.identity import key_to_pem
from adpfl_client.cli import app
from adpfl_client.config import SiteConfig
from adpfl_client.ledger.statement_command import verify_statement, write_statement
from adpfl_client.ledger_store import LedgerStore
from adpfl_client.rounds.site_data import load_site_data
from adpfl_client.rounds.site_record import read_record

NOW = time.time()
FIXED = PaperPrivacy(
    mode="paper",
    nominal_epsilon=1.0,
    reading="multiplier",
    threshold=FixedThreshold(method="fixed", clip_norm=1.0),
    sampling=Sampling(mode="full"),
)
ADAPTIVE = FIXED.model_copy(update={"threshold": PercentileThreshold(method="percentile")})
POLICY = LedgerPolicy(
    epsilon_cap=100.0,
    delta=1e-5,
    accept_unbounded=(AcceptUnbounded(run="open", reason="public images", by="Dr. Ada"),),
)
REQUEST = SpendRequest(
    run="derm",
    plan_digest="a" * 64,
    privacy=FIXED,
    round_number=1,
    base_digest="b" * 64,
    data_set_id="set1",
    patients=("ann lee", "bob ray"),
    unit_count=2,
    dimension=1000,
    first_step=0,
    steps=5,
    planned_steps=10,
)


@pytest.fixture
def config(make_config: Callable[..., SiteConfig]) -> SiteConfig:
    return make_config()


@pytest.fixture
def config_file(config: SiteConfig, tmp_path: Path) -> Path:
    path = tmp_path / "hospital1.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return path


@pytest.fixture
def command(config_file: Path) -> Callable[..., Result]:
    def run(*arguments: str) -> Result:
        name, *rest = arguments
        return CliRunner().invoke(app, [name, "--config", str(config_file), *rest])

    return run


@pytest.fixture
def ledger(config: SiteConfig) -> Iterator[LedgerStore]:
    with LedgerStore.open(config.state_dir, NOW) as store:
        yield store


@pytest.fixture
def enrolled(config: SiteConfig, consortium: Any) -> Path:
    """The identity folder as enrolment leaves it; returns the site's certificate."""
    folder = config.state_dir / "identity"
    folder.mkdir(mode=0o700, parents=True)
    files = {
        "key.pem": key_to_pem(consortium.site_key),
        "certificate.pem": to_pem(consortium.site_certificate),
        "ca.pem": to_pem(consortium.server.authority),
        "server.pem": to_pem(consortium.server.certificate),
        "federation.json": json.dumps(
            {
                "consortium": "Test consortium",
                "name": "hospital1",
                "address": "127.0.0.1:1",
                "token_sha256": "0" * 64,
            }
        ).encode(),
    }
    for name, data in files.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_bytes(data)
    return folder / "certificate.pem"


@pytest.fixture
def statement(config: SiteConfig, ledger: LedgerStore, enrolled: Path, tmp_path: Path) -> Path:
    ledger.reserve(REQUEST, POLICY, now=NOW)
    write_statement(config, "derm", tmp_path / "derm.json", now=datetime.now(UTC))
    return tmp_path / "derm.json"


def test_the_table_answers_an_officers_questions(command: Callable[..., Result], ledger: LedgerStore) -> None:
    ledger.reserve(REQUEST, POLICY, now=NOW)
    open_run = replace(REQUEST, run="open", plan_digest="c" * 64, privacy=ADAPTIVE)
    ledger.reserve(open_run, POLICY, now=NOW)
    ledger.exclude("cyd", reason="consent withdrawn", by="Dr. Ada", now=NOW)
    ledger.approve("derm", "a" * 64, by="Dr. Bea", now=NOW)
    shown = command("ledger")
    assert shown.exit_code == 0, shown.output
    text = " ".join(shown.output.split())
    for part in (
        "data set set1",
        "5 steps of laplace_l2",
        "unit patient",
        "zero-out",
        "No finite guarantee since",
        "not a guarantee of this run",
        "Excluded patients: 1",
        "Approved by Dr. Bea",
        "infinite (1e-05)",
    ):
        assert part.replace(" ", "") in text.replace(" ", "").replace("│", ""), part
    assert "ann" not in text


def test_the_json_has_every_figure_and_infinity_as_text(
    command: Callable[..., Result], ledger: LedgerStore
) -> None:
    ledger.reserve(replace(REQUEST, run="open", privacy=ADAPTIVE), POLICY, now=NOW)
    document = json.loads(command("ledger", "--json").output)
    assert document["epsilon"] == "inf"
    assert document["epsilon_of_finite_runs"] == 0.0
    (run,) = document["runs"]
    assert run["guarantee"]["epsilon"] == "inf"
    assert run["guarantee"]["epsilon_if_fixed"] > 0
    assert run["threshold"].startswith("percentile")
    (row,) = document["reservations"]
    assert (row["run"], row["patients"], row["finite_guarantee"]) == ("open", 2, False)


def test_no_ledger_yet_is_said(command: Callable[..., Result]) -> None:
    assert isinstance(command("ledger").exception, StateError)


def test_a_statement_is_verified_with_either_certificate(
    command: Callable[..., Result], statement: Path, enrolled: Path
) -> None:
    for certificate in (enrolled, enrolled.with_name("ca.pem")):
        checked = CliRunner().invoke(
            app, ["verify", "--statement", str(statement), "--certificate", str(certificate)]
        )
        assert checked.exit_code == 0, checked.output
        assert "hospital1 states that run derm has epsilon" in checked.output
    stated = json.loads(statement.read_text())["statement"]
    assert stated["patients"] == 2
    assert stated["declared_units"] == 2
    assert stated["steps"] == 5
    assert stated["threshold"] == "fixed, clip_norm 1.0"
    assert stated["plan_digest"] == "a" * 64
    assert stated["epsilon_if_fixed"] is None
    assert "ann lee" not in statement.read_text()


def test_an_infinite_epsilon_never_stands_without_its_companion(
    config: SiteConfig, ledger: LedgerStore, enrolled: Path, tmp_path: Path
) -> None:
    ledger.reserve(replace(REQUEST, run="open", privacy=ADAPTIVE), POLICY, now=NOW)
    write_statement(config, "open", tmp_path / "open.json", now=datetime.now(UTC))
    stated = json.loads((tmp_path / "open.json").read_text())["statement"]
    assert stated["epsilon"] == stated["data_set_epsilon"] == "inf"
    assert stated["epsilon_if_fixed"] > 0
    assert "not a guarantee of this run" in stated["epsilon_if_fixed_meaning"]
    assert stated["no_finite_guarantee_since"]
    assert verify_statement(tmp_path / "open.json", enrolled).epsilon == float("inf")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epsilon", 0.5),
        ("steps", 1),
        ("dated", "2026-01-01T00:00:00Z"),
        ("caveats", ["none"]),
        ("patients", 3),
    ],
)
def test_an_edited_statement_is_refused(statement: Path, enrolled: Path, key: str, value: object) -> None:
    document = json.loads(statement.read_text())
    assert document["statement"][key] != value
    document["statement"][key] = value
    statement.write_text(json.dumps(document))
    with pytest.raises(IdentityError):
        verify_statement(statement, enrolled)


def test_a_statement_signed_by_another_key_is_refused(
    statement: Path, enrolled: Path, consortium: Any, foreign_consortium: Any, tmp_path: Path
) -> None:
    key = new_key()
    request = create_request(key, "hospital2").public_bytes(serialization.Encoding.DER)
    other = issue_client_certificate(
        consortium.authority, request, Holder("site", "hospital2"), now=datetime.now(UTC)
    )
    path = tmp_path / "other.pem"
    path.write_bytes(to_pem(other))
    with pytest.raises(IdentityError, match="is of site hospital1; the certificate is of hospital2"):
        verify_statement(statement, path)
    path.write_bytes(to_pem(foreign_consortium.site_certificate))
    with pytest.raises(IdentityError, match="signature is not that of hospital1"):
        verify_statement(statement, path)
    path.write_bytes(to_pem(foreign_consortium.server.authority))
    with pytest.raises(IdentityError, match="was not signed by"):
        verify_statement(statement, path)


def test_a_file_that_is_no_statement_is_refused(tmp_path: Path, enrolled: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("not json")
    with pytest.raises(IntegrityError, match="is not JSON"):
        verify_statement(path, enrolled)
    path.write_text("{}")
    with pytest.raises(ConfigError, match="statement is missing"):
        verify_statement(path, enrolled)


def test_a_statement_of_an_unknown_run_is_refused(
    config: SiteConfig, ledger: LedgerStore, enrolled: Path, tmp_path: Path
) -> None:
    with pytest.raises(StateError, match="run other is not in the ledger"):
        write_statement(config, "other", tmp_path / "x.json", now=datetime.now(UTC))


def first_patient(config: SiteConfig) -> str:
    return load_site_data("skin_lesion", config.data_of("skin_lesion")).training_patients[0]


def test_exclude_needs_a_known_patient_a_reason_and_a_person(
    command: Callable[..., Result], config: SiteConfig, ledger: LedgerStore
) -> None:
    patient = first_patient(config)
    by = ("--by", "Dr. Ada")
    unknown = command("exclude", "nobody", "--reason", "withdrew", *by)
    assert isinstance(unknown.exception, ConfigError)
    assert "is in no data folder" in str(unknown.exception)
    named = command("exclude", patient, "--reason", f"{patient} withdrew", *by)
    assert isinstance(named.exception, ConfigError)
    assert command("exclude", patient, "--reason", "withdrew").exit_code == 2
    assert ledger.exclusions() == ()
    done = command("exclude", patient, "--reason", "withdrew", *by)
    assert done.exit_code == 0, done.output
    assert "from the next round on (in the data of skin_lesion); 1 excluded in all" in done.output
    assert command("exclude", "nobody", "--reason", "withdrew", *by, "--not-in-data").exit_code == 0
    assert ledger.excluded_among([patient, "nobody", "other"]) == {patient, "nobody"}


def test_a_clock_is_acknowledged_by_a_command(command: Callable[..., Result], ledger: LedgerStore) -> None:
    ledger.reserve(REQUEST, POLICY, now=NOW + 86_400)
    done = command("acknowledge-clock", "--reason", "wrong year", "--by", "Dr. Ada")
    assert done.exit_code == 0, done.output
    assert "times count from now on" in done.output
    later = replace(REQUEST, round_number=2, first_step=5)
    assert ledger.reserve(later, POLICY, now=time.time()).status == "reserved"


def test_a_clock_that_is_not_behind_is_nothing_to_acknowledge(
    command: Callable[..., Result], ledger: LedgerStore
) -> None:
    entries = ledger.verify().entries
    done = command("acknowledge-clock", "--reason", "wrong year", "--by", "Dr. Ada")
    assert done.exit_code == 0, done.output
    assert "the clock is not behind the ledger" in done.output
    assert "nothing was changed" in done.output
    assert ledger.verify().entries == entries


def test_approval_of_a_run_that_was_never_offered_is_refused(command: Callable[..., Result]) -> None:
    refused = command("approve", "derm", "--by", "Dr. Ada")
    assert isinstance(refused.exception, ConfigError)
    assert "has not been offered it yet" in str(refused.exception)


def test_a_run_waits_for_approval_and_then_begins(
    command: Callable[..., Result],
    config: SiteConfig,
    config_file: Path,
    open_agent: Any,
    make_plan: Any,
    serve: Any,
) -> None:
    serve(make_plan())
    strict = config.model_copy(update={"policy": config.policy.model_copy(update={"require_approval": True})})
    with open_agent(strict) as agent:
        (refused,) = agent.work(until_finished=True)
    assert refused.status == "refused"
    assert "adpfl-client approve derm" in refused.summary
    shown = command("approve", "derm")
    assert "the plan calls this epsilon" in shown.output
    assert make_plan().digest() in shown.output
    other = command("approve", "derm", "--by", "Dr. Ada", "--digest", "0" * 64)
    assert isinstance(other.exception, ConfigError)
    done = command("approve", "derm", "--by", "Dr. Ada")
    assert done.exit_code == 0
    assert done.stdout.endswith("; the agent heeds it from its next start on\n")
    with open_agent(strict) as agent:
        (finished,) = agent.work(until_finished=True)
    assert finished.status == "finished"


def test_an_excluded_patient_takes_part_no_more_and_keeps_a_place(
    config: SiteConfig, open_agent: Any, make_plan: Any, serve: Any
) -> None:
    service = serve(make_plan(privacy={"mode": "none", "sampling": {"mode": "full"}}))
    with LedgerStore.open(config.state_dir, NOW) as store:
        store.exclude(first_patient(config), reason="withdrew", by="Dr. Ada", now=NOW)
    with open_agent(config) as agent:
        (outcome,) = agent.work(until_finished=True)
    assert outcome.status == "finished", outcome.summary
    record = read_record(config.state_dir / "runs" / "derm")
    assert record is not None
    declared = service.joins[0].training_patients["skin_lesion"]
    assert {step.units for step in record.steps} == {declared - 1}
    with LedgerStore.open(config.state_dir, NOW + 1e6) as store:
        assert {one.patients for one in store.reservations("derm")} == {declared - 1}
        terms = store.terms("derm")
        assert terms is not None
        assert terms.unit_count == declared


def test_an_exclusion_between_question_and_reservation_is_heeded(
    config: SiteConfig, open_agent: Any, make_plan: Any, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(make_plan(privacy={"mode": "none", "sampling": {"mode": "full"}}))
    reserve = LedgerStore.reserve

    def excluding(store: LedgerStore, *arguments: Any, now: float) -> Any:
        store.exclude(first_patient(config), reason="withdrew", by="Dr. Ada", now=now)
        return reserve(store, *arguments, now=now)

    monkeypatch.setattr(LedgerStore, "reserve", excluding)
    with open_agent(config) as agent:
        (outcome,) = agent.work(until_finished=True)
    assert outcome.status == "finished", outcome.summary


RIGOROUS = {
    "mode": "rigorous",
    "mechanism": "gaussian",
    "threshold": {"method": "fixed", "clip_norm": 1.0},
    "sampling": {"mode": "full"},
    "target_epsilon": 8.0,
    "total_steps": 2,
}


def test_a_run_calibrated_to_the_cap_finishes_and_takes_it_whole(
    config: SiteConfig, command: Callable[..., Result], open_agent: Any, make_plan: Any, serve: Any
) -> None:
    serve(make_plan(privacy=RIGOROUS, rounds=1))
    with open_agent(config) as agent:
        (outcome,) = agent.work(until_finished=True)
    assert outcome.status == "finished", outcome.summary
    document = json.loads(command("ledger", "--json").output)
    assert document["dedicated_to"] == "derm"
    assert 7.9 < document["epsilon"] <= document["epsilon_cap"] == 8.0
    offer = (config.state_dir / "runs" / "derm" / "offer.json").read_text()
    assert "no other run may ever follow on these patients" in offer


def test_a_run_that_could_not_finish_is_refused_before_anything_is_spent(
    config: SiteConfig, open_agent: Any, make_plan: Any, serve: Any
) -> None:
    service = serve(make_plan(privacy=RIGOROUS | {"target_epsilon": 8.5}, rounds=1))
    with open_agent(config) as agent:
        (outcome,) = agent.work(until_finished=True)
    assert outcome.status == "refused"
    assert "epsilon_cap is 8" in outcome.summary
    assert service.commits == []
    with LedgerStore.open(config.state_dir, NOW) as store:
        assert store.reservations() == ()
