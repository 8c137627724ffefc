"""The page names every test of this folder, and no other."""

import ast
import re
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
PAGE = (FOLDER / "README.md").read_text(encoding="utf-8")
UNLISTED = {"test_link.py", "test_readme.py"}
"""Tests of the tools."""


def found_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        f"{path.name}::{node.name}"
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_fault_stands_in_the_table():
    faults = PAGE[PAGE.index("## Faults") : PAGE.index("## Bugs found")]
    listed = re.findall(r"`(test_\w+\.py::test_\w+)`", faults)
    known = set().union(*(found_in(path) for path in FOLDER.glob("test_*.py") if path.name not in UNLISTED))
    assert len(listed) == len(set(listed))
    assert set(listed) == known


def test_every_bug_has_a_test_that_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", PAGE[PAGE.index("## Bugs found") :])
    assert len(named) >= 5
    for path, name in named:
        assert f"{Path(path).name}::{name}" in found_in(ROOT / path)
