"""The table that keeps patient, source and label convention with a case wherever it goes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from adpfl.data.case import Case
from adpfl.data.volume_table import read_volume_table, told_labels, with_origins, write_volume_table
from adpfl.errors import DataError

Maker = Callable[..., list[Case]]


def test_what_is_written_reads_back(patients: Maker, tmp_path: Path) -> None:
    cases = [replace(case, labels="kits19") for case in patients([2, 1], "north, left wing")]
    write_volume_table(cases, tmp_path)
    table = read_volume_table(tmp_path)
    bare = [replace(case, patient=case.case, source=None) for case in cases]
    assert with_origins(bare, table) == (cases, [])
    assert {told_labels(case.case, table) for case in cases} == {"kits19"}
    assert told_labels("other", table) is None


def test_without_a_table_cases_stay_as_they_are(patients: Maker, tmp_path: Path) -> None:
    cases = patients([1, 1])
    assert read_volume_table(tmp_path) is None
    assert with_origins(cases, None) == (cases, [])
    assert told_labels("c000-0", None) is None
    (tmp_path / "metadata.csv").write_text("image_id,age\nc000-0,61\n")
    assert read_volume_table(tmp_path) is None


def test_what_table_and_folder_disagree_on_is_listed(patients: Maker, tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("case,patient\nc000-0,anna\ngone,bert\n")
    cases, problems = with_origins(patients([1, 1]), read_volume_table(tmp_path))
    assert [case.patient for case in cases] == ["anna", "p001"]
    assert problems == ["c001-0 is missing in metadata.csv", "gone is listed in metadata.csv, but absent"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("case,patient\na,anna\na,bert\n", "line 3: a stands twice, differently"),
        ("case,labels\na,kits20\n", "line 2: labels is 'kits20'; must be one of kits19"),
        ("case,site\na,\xff\x00".encode("latin-1"), "cannot be read as CSV"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(tmp_path: Path, content: str | bytes, told: str) -> None:
    (tmp_path / "metadata.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=rf"metadata\.csv: {told}"):
        read_volume_table(tmp_path)
