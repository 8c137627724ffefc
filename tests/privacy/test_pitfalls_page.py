"""Every test that `docs/pitfalls.md` and `docs/audit.md` lean on exists, under the very name."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PITFALLS = (ROOT / "docs" / "pitfalls.md").read_text(encoding="utf-8")
AUDIT = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")

NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PITFALLS)))
FILES = sorted(set(re.findall(r"`(tests/[\w/]+\.py)`", PITFALLS + AUDIT)))


def functions_of(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_a_named_test_exists(path: str, name: str) -> None:
    assert name in functions_of(path)


@pytest.mark.parametrize("path", FILES)
def test_a_named_file_exists(path: str) -> None:
    assert (ROOT / path).is_file()


def test_every_pitfall_names_a_test() -> None:
    rows = [line for line in PITFALLS.splitlines() if line.startswith("| ") and "---" not in line]
    pitfalls = [row for row in rows if not row.startswith("| failure")]
    assert len(pitfalls) >= 25
    for row in pitfalls:
        cells = row.strip("| ").split(" | ")
        assert len(cells) == 4, row
        assert cells[1] in ("total", "false figure"), row
        assert re.search(r"::test_\w+`", cells[3]), row


def test_every_library_defect_is_on_the_page() -> None:
    planted = functions_of("tests/privacy/test_library_defects.py")
    on_the_page = {name for path, name in NAMED if path.endswith("test_library_defects.py")}
    assert {name for name in planted if name.startswith("test_")} == on_the_page
