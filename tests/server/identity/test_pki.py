import os
from datetime import UTC, datetime, timedelta

import pytest

from adpfl.errors import IdentityError
from adpfl.security import private_files
from adpfl.security.certificates import (
    AUTHORITY_LIFETIME,
    SERVER_LIFETIME,
    create_authority,
    issue_server_certificate,
    new_key,
    to_pem,
)
from adpfl.security.identity import check_issued_by
from adpfl_server.identity.pki import init_consortium, load_authority, load_server_identity

NOW = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
HOSTS = ["aggregator.example", "192.0.2.7"]


@pytest.fixture
def state_dir(tmp_path):
    init_consortium(tmp_path / "state", "Lesion Study", HOSTS, now=NOW)
    return tmp_path / "state"


def snapshot(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_consortium_is_four_files_with_closed_keys(state_dir):
    modes = {path.name: path.stat().st_mode & 0o777 for path in (state_dir / "pki").iterdir()}
    assert modes == {"ca.pem": 0o644, "ca.key": 0o600, "server.pem": 0o644, "server.key": 0o600}
    assert (state_dir / "pki").stat().st_mode & 0o777 == 0o700
    assert [path.name for path in state_dir.iterdir()] == ["pki"]


def test_what_is_loaded_is_what_was_made(tmp_path):
    made = init_consortium(tmp_path, "Lesion Study", HOSTS, now=NOW)
    loaded = load_server_identity(tmp_path, now=NOW)
    authority = load_authority(tmp_path, now=NOW)
    assert loaded.certificate == made.certificate
    assert loaded.key.private_numbers() == made.key.private_numbers()
    assert loaded.authority == made.authority == authority.certificate
    assert loaded.consortium == "Lesion Study"
    assert authority.key.public_key() == loaded.authority.public_key()
    assert loaded.key.public_key() != authority.key.public_key()
    check_issued_by(loaded.certificate, authority.certificate, what="server")


def test_a_consortium_is_never_overwritten(state_dir):
    before = snapshot(state_dir)
    with pytest.raises(IdentityError, match="pki: exists already"):
        init_consortium(state_dir, "Another Study", HOSTS, now=NOW)
    assert snapshot(state_dir) == before


@pytest.mark.parametrize(("consortium", "hosts"), [("", HOSTS), ("Study", []), ("Study", ["host:50051"])])
def test_bad_names_leave_nothing_behind(tmp_path, consortium, hosts):
    with pytest.raises(IdentityError):
        init_consortium(tmp_path / "state", consortium, hosts, now=NOW)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", range(1, 5))
def test_a_crash_at_any_file_leaves_no_consortium_and_a_repeat_makes_one(tmp_path, monkeypatch, call):
    calls = 0
    real = os.fsync

    def crash(descriptor):
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(private_files.os, "fsync", crash)
        with pytest.raises(KeyboardInterrupt):
            init_consortium(tmp_path, "Lesion Study", HOSTS, now=NOW)
    assert not (tmp_path / "pki").exists()
    with pytest.raises(IdentityError, match="adpfl-server init"):
        load_server_identity(tmp_path, now=NOW)
    init_consortium(tmp_path, "Lesion Study", HOSTS, now=NOW)
    load_server_identity(tmp_path, now=NOW)
    assert [path.name for path in tmp_path.iterdir()] == ["pki"]


@pytest.mark.parametrize(("key", "load"), [("server.key", load_server_identity), ("ca.key", load_authority)])
def test_a_loose_key_is_refused(state_dir, key, load):
    (state_dir / "pki" / key).chmod(0o604)
    with pytest.raises(IdentityError, match=f"{key}: mode is 0604.*chmod 600"):
        load(state_dir, now=NOW)


@pytest.mark.parametrize("name", ["ca.pem", "server.pem", "server.key"])
def test_an_absent_file_is_named(state_dir, name):
    (state_dir / "pki" / name).unlink()
    with pytest.raises(IdentityError, match=f"{name}: cannot be read: No such file"):
        load_server_identity(state_dir, now=NOW)


def test_dates_are_checked_at_the_start(state_dir):
    load_server_identity(state_dir, now=NOW + SERVER_LIFETIME)
    with pytest.raises(IdentityError, match=r"server\.pem: expired at 2033-08-08 07:08:09 UTC"):
        load_server_identity(state_dir, now=NOW + SERVER_LIFETIME + timedelta(seconds=1))
    with pytest.raises(IdentityError, match=r"ca\.pem: expired"):
        load_authority(state_dir, now=NOW + AUTHORITY_LIFETIME + timedelta(seconds=1))
    with pytest.raises(IdentityError, match=r"ca\.pem: not valid before 2031-05-06 07:03:09 UTC"):
        load_server_identity(state_dir, now=NOW - timedelta(hours=1))


def test_files_of_two_consortia_do_not_mix(state_dir):
    other = create_authority("Lesion Study", now=NOW)
    path = state_dir / "pki" / "server.pem"
    genuine = path.read_bytes()
    key = load_server_identity(state_dir, now=NOW).key
    path.write_bytes(to_pem(issue_server_certificate(other, key.public_key(), HOSTS, now=NOW)))
    with pytest.raises(IdentityError, match=r"server\.pem: was not signed by"):
        load_server_identity(state_dir, now=NOW)

    authority = load_authority(state_dir, now=NOW)
    path.write_bytes(to_pem(issue_server_certificate(authority, new_key().public_key(), HOSTS, now=NOW)))
    with pytest.raises(IdentityError, match=r"server\.pem: is for another private key"):
        load_server_identity(state_dir, now=NOW)

    path.write_bytes(genuine)
    (state_dir / "pki" / "ca.pem").write_bytes(to_pem(other.certificate))
    with pytest.raises(IdentityError, match=r"ca\.pem: is for another private key"):
        load_authority(state_dir, now=NOW)
