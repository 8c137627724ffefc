"""The operator's commands, as they are typed."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from adpfl_server.storage.database import open_database
from adpfl_server.store import DATABASE_FILE
from tests.server.enrolling import rows

ROOT = Path(__file__).parents[2]


@pytest.fixture
def server(tmp_path):
    """Run `adpfl-server ...` in an empty folder; returns the finished process."""

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "adpfl_server", *arguments],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "COLUMNS": "100"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture
def initialised(server, tmp_path, consortium):
    assert server("init", "--host", "localhost").returncode == 0
    path = tmp_path / "server.yaml"
    consortium.write_safetensors(tmp_path / "w.safetensors", consortium.weights(0))
    document = yaml.safe_load(path.read_text()) | {
        "listen": "127.0.0.1:0",
        "enroll_listen": "127.0.0.1:0",
        "runs": [consortium.plan() | {"initial_model": "w.safetensors"}],
    }
    path.write_text(yaml.safe_dump(document))
    return server


def one_line(process, exit_code):
    assert process.returncode == exit_code
    assert process.stderr.count("\n") == 1, process.stderr
    assert process.stderr.startswith("error: ")
    return process.stderr


COMMANDS = (
    "init",
    "init-authority",
    "sign",
    "renew-certificate",
    "certificates",
    "enroll",
    "revoke",
    "check-config",
    "init-model",
    "runs",
    "status",
    "export",
)


@pytest.mark.parametrize(
    "command", [(), *((name,) for name in COMMANDS)], ids=lambda name: " ".join(name) or "daemon"
)
def test_help_is_quick_and_has_an_example(server, command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = server(*command, "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < 2.0  # seconds of work; a busy machine makes it wait as well
    assert shown.returncode == 0
    assert "Example: adpfl-server" in shown.stdout


def test_init_writes_a_starter_once_and_never_overwrites_keys(server, tmp_path):
    assert "give --host" in one_line(server("init"), 2)
    first = server("init", "--host", "fl.example.org", "--consortium", "Lesion Study")
    assert first.returncode == 0
    assert "fl.example.org" in first.stdout
    key = (tmp_path / "state" / "pki" / "ca.key").read_bytes()
    assert "never overwritten" in one_line(server("init", "--host", "fl.example.org"), 1)
    assert (tmp_path / "state" / "pki" / "ca.key").read_bytes() == key


def test_init_takes_an_authority_that_is_brought(server, tmp_path):
    assert server("init", "--host", "localhost", "--consortium", "Own Study").returncode == 0
    (tmp_path / "state" / "pki").rename(tmp_path / "own")
    (tmp_path / "server.yaml").unlink()
    certificate, key = "--authority-certificate=own/ca.pem", "--authority-key=own/ca.key"
    assert "go together" in one_line(server("init", "--host", "localhost", certificate), 2)
    named = server("init", "--host", "localhost", certificate, key, "--consortium", "Other")
    assert "its own organisation" in one_line(named, 2)
    assert "'Own Study'" in server("init", "--host", "localhost", certificate, key).stdout
    made = tmp_path / "state" / "pki" / "ca.key"
    assert made.read_bytes() == (tmp_path / "own" / "ca.key").read_bytes()
    assert made.stat().st_mode & 0o777 == 0o600


def test_a_failed_init_leaves_nothing(server, tmp_path):
    one_line(server("init", "--host", "not a host"), 2)
    one_line(server("init", "--host", "*.example.org"), 1)
    assert [path for path in tmp_path.iterdir() if path.name in {"server.yaml", "state"}] == []


def test_enroll_writes_a_private_bundle(initialised, tmp_path):
    done = initialised("enroll", "hospital1", "--output", "h1.json")
    assert done.returncode == 0, done.stderr
    bundle = json.loads((tmp_path / "h1.json").read_text())
    assert (bundle["role"], bundle["name"]) == ("site", "hospital1")
    assert bundle["address"] == "localhost:7400"
    assert (tmp_path / "h1.json").stat().st_mode & 0o077 == 0
    assert "names hospital9" in initialised("enroll", "hospital9").stdout
    assert "Hospital" in one_line(initialised("enroll", "Hospital 1"), 1)


def test_check_config_says_what_would_be_served(initialised, tmp_path):
    shown = initialised("check-config")
    assert "demo: fl, skin_lesion, 2 rounds, 2 of 3 sites (hospital1, hospital2, hospital3)" in shown.stdout
    (tmp_path / "w.safetensors").write_bytes(b"short")
    assert "no safetensors file" in one_line(initialised("check-config"), 1)
    (tmp_path / "server.yaml").write_text("listen: 1\n")
    assert "state_dir is missing" in one_line(initialised("check-config"), 2)


def test_check_config_says_what_kind_of_guarantee_a_run_has(initialised):
    told = "    fl: no finite guarantee; sites must accept it in writing"
    assert told in initialised("check-config").stdout


def test_check_config_names_an_unknown_task(initialised, tmp_path):
    path = tmp_path / "server.yaml"
    path.write_text(path.read_text().replace("skin_lesion", "skin_leison"))
    message = one_line(initialised("check-config"), 2)
    assert "runs.0.task is skin_leison (run demo); must be one of: " in message
    assert "skin_lesion" in message


def test_the_version_is_told(server):
    assert server("--version").stdout.startswith("adpfl ")


def test_revoking_a_site_that_never_was_fails(initialised):
    assert "there is no site nobody" in one_line(initialised("revoke", "nobody"), 1)
    assert initialised("enroll", "hospital1").returncode == 0
    assert "open tokens, if any, are ended" in initialised("revoke", "hospital1").stdout


def test_questions_before_the_first_start_are_answered(initialised):
    for command in (("runs",), ("status",), ("export", "demo", "out.safetensors")):
        assert "start adpfl-server first" in one_line(initialised(*command), 1)


def test_an_unknown_run_is_named(initialised):
    assert "has no run other" in one_line(initialised("init-model", "other"), 2)


@pytest.mark.parametrize("command", ["pause", "resume", "cancel"])
def test_a_command_for_a_run_that_is_nowhere_is_not_left_for_the_next_daemon(initialised, tmp_path, command):
    open_database(tmp_path / "state" / DATABASE_FILE).close()
    assert "runs has no run other" in one_line(initialised(command, "other"), 2)
    assert rows(open_database(tmp_path / "state" / DATABASE_FILE), "controls") == []


def test_a_second_bundle_says_that_the_first_works_no_longer(initialised):
    assert "works no longer" not in initialised("enroll", "hospital1").stdout
    assert (
        "the earlier bundle of hospital1, which nobody has used, works no longer"
        in initialised("enroll", "hospital1").stdout
    )
    assert "works no longer" not in initialised("enroll", "hospital1", "--role", "operator").stdout


def test_the_configuration_may_stand_before_or_after_the_subcommand(initialised, tmp_path):
    (tmp_path / "server.yaml").rename(tmp_path / "moved.yaml")
    for arguments in (("--config", "moved.yaml", "enroll", "a"), ("enroll", "a", "--config", "moved.yaml")):
        assert initialised(*arguments).returncode == 0
    assert "server.yaml" in one_line(initialised("enroll", "a"), 2)


@pytest.mark.parametrize(
    "command",
    [
        "pause",
        "resume",
        "cancel",
        "status",
        "enroll",
        "audit-log show",
        "audit-log verify",
        "audit-log export",
    ],
)
def test_the_configuration_may_be_named_after_the_subcommand(server, command):
    assert "--config" in server(*command.split(), "--help").stdout


def test_an_unknown_log_level_is_answered_with_the_known_ones(server):
    found = server("--log-level", "loud")
    assert found.returncode == 2
    for level in ("debug", "info", "warning", "error"):
        assert level in found.stderr
