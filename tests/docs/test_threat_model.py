"""Every file and test that the threat model names exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/threat_model.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`((?:tests|adpfl|adpfl_server|adpfl_client)/[^`]+)`", PAGE)))


@pytest.mark.parametrize("named", NAMED)
def test_what_is_named_exists(named):
    path, _, test = named.partition("::")
    assert (ROOT / path).is_file()
    if test:
        assert re.search(rf"^def {test}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)


def test_every_defence_names_its_test():
    rows = [row for row in PAGE.splitlines() if row.startswith("| ") and "| ---" not in row]
    defences = [row for row in rows if len(row.split("|")) == 5 and "stopped by" not in row]
    without = [row for row in defences if "::test_" not in row]
    assets = PAGE[: PAGE.index("## Whom")]
    assert [row for row in without if row not in assets] == []
    assert len(defences) > 30
