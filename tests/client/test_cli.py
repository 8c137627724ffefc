"""What a person types, and what comes back: one line an error, the right exit code, help at once."""

import json
import subprocess
import sys

import pytest
import structlog
import yaml

from adpfl_client import cli

COMMANDS = ["init", "enroll", "check", "check-config", "ledger", "verify", "models", "predict"]


@pytest.fixture
def type_command(monkeypatch, capsys):
    """Run `adpfl-client` with these words; gives exit code, output and errors."""

    def type_command(*words):
        monkeypatch.setattr(sys, "argv", ["adpfl-client", *map(str, words)])
        capsys.readouterr()  # what fixtures printed
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield type_command
    # The command sent the logs to a captured stream that ends with this test.
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def config_file(make_config, tmp_path):
    path = tmp_path / "hospital1.yaml"
    path.write_text(yaml.safe_dump(json.loads(make_config().model_dump_json())), encoding="utf-8")
    return path


@pytest.fixture
def finished_run(open_agent, make_config, make_plan, serve):
    serve(make_plan())
    config = make_config()
    with open_agent(config) as agent:
        agent.work(until_finished=True)
    return config


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_help_shows_an_example(type_command, command):
    code, out, _ = type_command(*([command] if command else []), "--help")
    assert code == 0
    assert f"Example: adpfl-client {command}".rstrip() in out


def test_help_loads_nothing_heavy():
    script = (
        "import sys; sys.argv = ['adpfl-client', '--help']\n"
        "from adpfl_client.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'monai', 'grpc', 'pydantic', 'numpy', 'cryptography'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--site is missing"),
        (["--site", "nowhere"], "there is no sites/nowhere.yaml"),
        (["check-config", "absent.yaml"], "there is no such file"),
        (["ledger", "--site", "nowhere"], "there is no sites/nowhere.yaml"),
    ],
)
def test_bad_usage_is_one_line_and_code_2(type_command, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = type_command(*words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_good_configuration_is_said_to_be_good(type_command, config_file):
    code, out, _ = type_command("check-config", config_file)
    assert code == 0
    assert "ok, site hospital1, data for skin_lesion" in out


@pytest.mark.parametrize(
    ("key", "changed"), [("data", {"data": {"skin_leison": {"path": "."}}}), ("policy.allowed_tasks", {})]
)
def test_an_unknown_task_is_named(type_command, config_file, key, changed):
    document = yaml.safe_load(config_file.read_text()) | changed
    if not changed:
        document["policy"]["allowed_tasks"] = ["skin_leison"]
    config_file.write_text(yaml.safe_dump(document))
    code, _, err = type_command("check-config", config_file)
    assert code == 2
    assert f"{key} names task skin_leison; must be one of: " in err


def test_the_version_is_told(type_command):
    assert type_command("--version")[1].startswith("adpfl ")


def test_the_site_may_stand_before_or_after_the_command(type_command, config_file):
    before = type_command("--config", config_file, "models")
    after = type_command("models", "--config", config_file)
    assert before == after
    assert before[0] == 0
    assert "no models yet" in before[1]


def test_a_site_that_is_not_enrolled_cannot_start(type_command, config_file):
    code, _, err = type_command("--config", config_file, "--until-finished")
    assert code == 1
    assert "enrol" in err


def test_a_checkup_names_each_part_and_goes_on_after_a_failure(type_command, config_file):
    code, out, _ = type_command("check", "--config", config_file)
    assert code == 1
    lines = out.splitlines()
    assert [line.split(":")[0].split(maxsplit=1) for line in lines] == [
        ["ok", "configuration"],
        ["ok", "data, skin_lesion"],
        ["ok", "policy"],
        ["ok", "state folder"],
        ["failed", "identity"],
        ["ok", "ledger"],
        ["failed", "server"],
    ]


def test_a_ledger_that_does_not_exist_is_said_and_not_made(type_command, config_file, make_config):
    code, _, err = type_command("ledger", "--config", config_file)
    assert code == 1
    assert "has no ledger yet" in err
    assert not make_config().state_dir.exists()


def test_what_was_spent_is_shown(type_command, config_file, finished_run):
    code, out, _ = type_command("ledger", "--config", config_file)
    assert code == 0
    assert "2 committed" in out
    assert "No finite guarantee since" in out
    code, out, _ = type_command("ledger", "--config", config_file, "--json")
    document = json.loads(out)
    assert document["epsilon"] == "inf"
    assert [row["status"] for row in document["reservations"]] == ["committed", "committed"]


def test_received_models_are_listed(type_command, config_file, finished_run):
    _, out, _ = type_command("models", "--config", config_file)
    assert [line.split("  ")[1] for line in out.splitlines()] == [f"round {one} of 2" for one in range(3)]
    _, out, _ = type_command("models", "--config", config_file, "--json")
    assert [row["round"] for row in json.loads(out)] == [0, 1, 2]


def test_a_received_model_segments_new_images(type_command, finished_run, clinic, tmp_path):
    model = finished_run.state_dir / "models" / "derm" / "round-0002.safetensors"
    code, out, _ = type_command("predict", model, clinic, "--output", tmp_path / "masks")
    assert code == 0
    assert out.startswith("12 masks written")
    assert len(list((tmp_path / "masks").glob("*.png"))) == 12


def test_a_file_that_is_no_model_is_said(type_command, clinic, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"no model")
    code, _, err = type_command("predict", path, clinic, "--output", tmp_path / "masks")
    assert code == 1
    assert "is no safetensors file" in err
    assert not (tmp_path / "masks").exists()


def test_the_ledger_is_verified_with_the_receipts(
    type_command, config_file, finished_run, monkeypatch, consortium
):
    def enrolled(*_arguments, **_options):
        return consortium.site("127.0.0.1:1")

    monkeypatch.setattr("adpfl_client.ledger.ledger_check.load_site_identity", enrolled)
    code, out, err = type_command("verify", "--config", config_file)
    assert (code, err) == (0, "")
    assert "2 receipts, each signed by the server" in out


def test_receipts_of_another_server_are_refused(
    type_command, config_file, finished_run, monkeypatch, foreign_consortium
):
    monkeypatch.setattr(
        "adpfl_client.ledger.ledger_check.load_site_identity",
        lambda *_a, **_k: foreign_consortium.site("127.0.0.1:1"),
    )
    code, _, err = type_command("verify", "--config", config_file)
    assert code == 1
    assert "signature" in err


def test_init_writes_a_site_file_that_the_next_commands_find(type_command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = type_command("check", "--site", "hospital1")
    assert (code, "adpfl-client init --site hospital1" in err) == (2, True)
    code, out, _ = type_command("init", "--site", "hospital1", "--task", "kidney_tumor", "--data", "ct")
    assert code == 0
    assert "next: adpfl-client enroll BUNDLE --site hospital1, then" in out
    code, out, _ = type_command("check-config", "sites/hospital1.yaml")
    assert (code, out) == (0, "sites/hospital1.yaml: ok, site hospital1, data for kidney_tumor\n")
    code, _, err = type_command("init", "--site", "hospital1")
    assert (code, err) == (
        2,
        "error: sites/hospital1.yaml: exists already; a site's file is never overwritten\n",
    )
    code, _, err = type_command("init")
    assert (code, "--site is missing" in err) == (2, True)
    code, out, _ = type_command("init", "--site", "hospital2", "--config", "second.yaml")
    assert "next: adpfl-client enroll BUNDLE --config second.yaml, then" in out
