"""What is imported is declared, and what is declared is locked: in range, with hashes."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
BESIDE_THE_LOCK = {"torch"}  # by docs/adr/0006


def locked(name: str) -> dict[str, tuple[str, int]]:
    """Version and number of hashes of each package of a lock file."""
    found: dict[str, tuple[str, int]] = {}
    for entry in re.split(r"\n(?=\S)", (ROOT / name).read_text()):
        if match := re.match(r"([A-Za-z0-9._-]+)==(\S+)", entry):
            found[canonicalize_name(match[1])] = match[2], entry.count("--hash=sha256:")
    return found


def imported() -> set[str]:
    """The names at the head of every absolute import of the packages."""
    names: set[str] = set()
    for package in ("adpfl", "adpfl_server", "adpfl_client"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names.update(alias.name.partition(".")[0] for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module:
                    names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"adpfl", "adpfl_server", "adpfl_client"}


def test_every_import_is_a_declared_dependency():
    declared = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    owners = packages_distributions()
    undeclared = {
        name
        for name in imported()
        if not {canonicalize_name(owner) for owner in owners.get(name, ())} & declared
    }
    assert undeclared == set()


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("requirements.lock", [*PROJECT["dependencies"], *EXTRAS["build"]]),
        ("requirements-dev.lock", [*PROJECT["dependencies"], *EXTRAS["build"], *EXTRAS["dev"]]),
    ],
)
def test_every_declared_dependency_is_locked_within_its_range(name, wanted):
    lock = locked(name)
    for requirement in map(Requirement, wanted):
        package = canonicalize_name(requirement.name)
        if package not in BESIDE_THE_LOCK:
            version, hashes = lock[package]
            assert requirement.specifier.contains(version), f"{requirement} but {version} is locked"
            assert hashes > 0, package


def test_both_locks_agree_and_hash_everything():
    lock, dev = locked("requirements.lock"), locked("requirements-dev.lock")
    assert len(lock) > 20
    assert {package: dev.get(package) for package in lock} == lock
    assert [package for package, (_, hashes) in dev.items() if not hashes] == []
