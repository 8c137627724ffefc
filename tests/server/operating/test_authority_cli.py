"""The commands of an authority that is kept offline, as they are typed on either machine."""

import shutil
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from adpfl.errors import AdpflError, ConfigError, StateError
from adpfl.security.certificates import AUTHORITY_LIFETIME
from adpfl_server.cli import app


@pytest.fixture
def typed(tmp_path, monkeypatch):
    """Run `adpfl-server ...` in an empty folder; returns what it printed, or raises its error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, answers=""):
        result = CliRunner().invoke(app, list(arguments), input=answers)
        if result.exception is not None:
            raise result.exception
        return result.stdout

    return run


@pytest.fixture
def founded(typed, tmp_path):
    """An authority in `authority`, and a server of its consortium that waits for its first certificate."""
    typed("init-authority", "authority", "--consortium", "Lesion Study")
    shutil.copy(tmp_path / "authority" / "ca.pem", tmp_path / "ca.pem")
    typed("init", "--host", "fl.example.org", "--offline-authority", "ca.pem")
    return typed


def carry(typed):
    typed("requests", "export", "requests.json")
    typed("sign", "requests.json", "--yes")
    return typed("requests", "import", "certificates.json")


def test_an_authority_is_two_files_and_never_overwritten(typed, tmp_path):
    told = typed("init-authority", "authority", "--consortium", "Lesion Study")
    until = datetime.now(UTC) + AUTHORITY_LIFETIME
    assert f"made the authority of 'Lesion Study' in authority, valid until {until:%Y-%m-%d}" in told
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "authority").iterdir()}
    assert modes == {"ca.pem": 0o644, "ca.key": 0o600}
    with pytest.raises(AdpflError, match="never overwritten"):
        typed("init-authority", "authority")


def test_nothing_is_signed_that_nobody_agreed_to(founded, tmp_path):
    founded("requests", "export", "requests.json")
    with pytest.raises(StateError, match="nothing was signed"):  # so that a script does not go on to import
        founded("sign", "requests.json", answers="n\n")
    with pytest.raises(ConfigError, match="no answer; nothing was signed"):
        founded("sign", "requests.json")
    assert not (tmp_path / "certificates.json").exists()
    told = founded("sign", "requests.json", "-o", "c.json", answers="y\n")
    assert "server at fl.example.org: enrolment, asked" in told
    assert "wrote c.json: 1 certificate\n" in told
    assert "certified until" in founded("requests", "import", "c.json")
    assert founded("requests", "list") == "no request waits for a signature\n"


def test_both_machines_show_the_same_fingerprint(founded, tmp_path):
    listed = founded("requests", "list").splitlines()
    assert listed[0].startswith("server at fl.example.org: enrolment, asked ")
    exported = founded("requests", "export", "requests.json").splitlines()
    assert exported[-1] == "wrote requests.json: 1 request"
    signed = founded("sign", "requests.json", "--yes").splitlines()
    assert listed[:2] == exported[:2] == signed[:2]
    assert listed[1].startswith("  key ")


def test_what_is_refused_is_named_and_ends_the_command(founded):
    carry(founded)
    with pytest.raises(
        AdpflError, match=r"1 not taken: request [0-9a-f]{12} \(was signed and taken before\)"
    ):
        founded("requests", "import", "certificates.json")


def test_a_server_without_its_certificate_says_what_it_waits_for(founded):
    with pytest.raises(AdpflError, match=r"server\.pem: is absent; it waits for the authority's signature"):
        founded("enroll", "hospital1")
    carry(founded)
    assert "it works once" in founded("enroll", "hospital1")


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["--offline-authority", "ca.pem", "--consortium", "Other"], "an authority of yours has its own"),
        (
            [
                "--offline-authority=ca.pem",
                "--authority-certificate=ca.pem",
                "--authority-key=authority/ca.key",
            ],
            "contradict each other",
        ),
        (["--offline-authority", "absent.pem"], "absent.pem: cannot be read"),
        (["--offline-authority", "authority/ca.key"], "holds no usable certificate"),
        (["--offline-authority", "ca.pem", "--host", "*.example.org"], "must be a DNS name or an IP address"),
    ],
)
def test_a_founding_that_fails_leaves_nothing(typed, tmp_path, options, rule):
    typed("init-authority", "authority")
    shutil.copy(tmp_path / "authority" / "ca.pem", tmp_path / "ca.pem")
    with pytest.raises(AdpflError, match=rule):
        typed("init", "--host", "fl.example.org", *options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["authority", "ca.pem"]


def test_a_founding_that_was_cut_off_is_finished_by_asking_anew(founded, tmp_path):
    (tmp_path / "state" / "server.sqlite").unlink()
    with pytest.raises(AdpflError, match="there is none yet"):
        founded("requests", "list")
    assert "waits for the authority's signature" in founded("renew-certificate", "--host", "10.0.0.1")
    assert "server at 10.0.0.1, fl.example.org: certified until" in carry(founded)


def test_a_table_of_certificates_names_what_waits(founded):
    assert "enrolment waits for a signature" in " ".join(founded("certificates", "--json").split())
    shown = founded("certificates")
    assert "authority" in shown
    assert "waits" in shown
