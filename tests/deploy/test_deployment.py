"""Service units and container files name commands, options, files and packages that exist."""

import configparser
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
import typer
from packaging.requirements import Requirement

import adpfl_client.cli
import adpfl_server.cli

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "deploy/systemd").glob("*.service"))
CONTAINERS = sorted((ROOT / "deploy/containers").glob("Containerfile.*"))
APPS = {"adpfl-server": adpfl_server.cli.app, "adpfl-client": adpfl_client.cli.app}
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def options_of(name):
    command = typer.main.get_command(APPS[name])
    return {option for parameter in command.params for option in parameter.opts}


def unit(path):
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(path)
    return parser


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_a_command_that_exists(path):
    words = shlex.split(unit(path)["Service"]["ExecStart"])
    command = Path(words[0]).name
    assert command == path.name.removesuffix(".service").removesuffix("@")
    assert command in SCRIPTS
    given = {word for word in words if word.startswith("--")}
    assert given <= options_of(command)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_is_closed_and_comes_back(path):
    service = unit(path)["Service"]
    for key in ("NoNewPrivileges", "PrivateTmp", "RestrictNamespaces", "RestrictSUIDSGID", "LockPersonality"):
        assert service[key] == "yes", key
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""
    assert service["User"] not in {"", "root"}
    assert service["Restart"] == "on-failure"
    assert int(service["LimitNOFILE"]) >= 4096
    assert service["StateDirectoryMode"] == "0700"
    assert service["UMask"] == "0077"


@pytest.mark.parametrize("path", CONTAINERS, ids=lambda path: path.name)
def test_a_container_copies_files_that_exist_and_starts_a_command(path):
    text = path.read_text().replace("\\\n", " ")
    copied = [
        line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY ") and "--from" not in line
    ]
    missing = [name for names in copied for name in names if not (ROOT / name).exists()]
    assert missing == []
    (entry,) = re.findall(r'^ENTRYPOINT \["(.+)"\]$', text, re.MULTILINE)
    command = Path(entry).name
    assert command == f"adpfl-{path.suffix[1:]}"
    assert command in SCRIPTS
    for words in re.findall(r"^CMD \[(.+)\]$", text, re.MULTILINE):
        assert set(re.findall(r'"(--[^"]+)"', words)) <= options_of(command)
    package = SCRIPTS[command].partition(".")[0]
    assert ["adpfl"] in copied
    assert [package] in copied
    assert re.search(r"^USER adpfl$", text, re.MULTILINE)


def test_the_container_of_the_agent_has_the_torch_of_the_makefile():
    torch = re.search(r"^TORCH \?= (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    assert f"ARG TORCH={torch}\n" in (ROOT / "deploy/containers/Containerfile.client").read_text()


@pytest.fixture(scope="module")
def selection():
    spec = importlib.util.spec_from_file_location(
        "select_locked", ROOT / "deploy/containers/select_locked.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_server_container_has_all_that_the_server_imports(selection):
    """By running the server's imports with everything else out of reach, and by what the packages require."""
    listed = set(selection.names_in((ROOT / "deploy/containers/server-packages.txt").read_text()))
    assert not listed & {"torch", "monai", "scipy", "matplotlib"}
    program = (
        "import importlib, pkgutil, sys, adpfl_server\n"
        "for module in pkgutil.iter_modules(adpfl_server.__path__):\n"
        "    if module.name != '__main__': importlib.import_module('adpfl_server.' + module.name)\n"
        "from importlib.metadata import packages_distributions\n"
        "owners = packages_distributions()\n"
        "tops = {name.split('.')[0] for name in sys.modules}\n"
        "found = [owners[top] for top in tops if len(owners.get(top, ())) == 1]\n"
        "print('\\n'.join(sorted({owner for (owner,) in found})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    loaded = {selection.normalised(name) for name in done.stdout.split()}
    incidental = {"adpfl", "attrs", "setuptools", "grpcio-tools"}  # loaded by others where they are installed
    assert loaded - incidental <= listed
    for name in listed:
        try:
            texts = requires(name) or []
        except PackageNotFoundError:
            pytest.skip(f"{name} is not installed here")
        needed = [Requirement(text) for text in texts]
        applies = [found for found in needed if found.marker is None or found.marker.evaluate({"extra": ""})]
        assert {selection.normalised(found.name) for found in applies} <= listed, name


def test_a_part_of_the_lock_keeps_versions_and_hashes(selection, tmp_path, capsys):
    lock = tmp_path / "x.lock"
    lock.write_text(
        "# by hand\n"
        "a-b==1.0 \\\n    --hash=sha256:11 \\\n    --hash=sha256:12\n    # via c\n"
        "c==2 ; python_version < '4' \\\n    --hash=sha256:21\n    # via d\n"
        "d==3 \\\n    --hash=sha256:31\n"
    )
    names = tmp_path / "names.txt"
    names.write_text("# some\nA_b\n")
    assert selection.main([str(lock), str(names), "d"]) == 0
    assert capsys.readouterr().out == (
        "a-b==1.0 \\\n    --hash=sha256:11 \\\n    --hash=sha256:12\nd==3 \\\n    --hash=sha256:31\n"
    )
    assert selection.main([str(lock), str(names), "e"]) == 1
    assert "lacks e" in capsys.readouterr().err


def test_the_lock_has_what_the_server_container_needs(selection):
    known = selection.entries((ROOT / "requirements.lock").read_text())
    listed = selection.names_in((ROOT / "deploy/containers/server-packages.txt").read_text())
    assert [name for name in [*listed, "ninja", "setuptools"] if name not in known] == []
