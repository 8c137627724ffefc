"""Tables of sites, in the spellings that data sets have."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adpfl.data.case import Case
from adpfl.data.site_table import divided_patients, place_cases, read_site_table, survey_site_table
from adpfl.errors import DataError

Maker = Callable[..., list[Case]]


def table(tmp_path: Path, content: str | list[Any] | dict[str, Any], name: str = "sites.csv") -> Path:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("case,site\na,north\nb,south\n", {"a": "north", "b": "south"}),
        ("Partition_ID,Subject_ID\n1,a\n22,b\n", {"a": "institution-1", "b": "institution-22"}),
        ("Case_ID;x,Hospital,case_id\n1,North,a\n2,South,b\n", {"a": "North", "b": "South"}),
        (
            "lesion_id,image_id,dataset\nl1,a,rosendahl\nl2,b,vidir_modern\n",
            {"a": "rosendahl", "b": "vidir_modern"},
        ),
        ("case,site\na,\nb,-1\nc,0\n\n", {"a": None, "b": None, "c": "site-0"}),
        ("\ufeffcase,site\n a , north \n", {"a": "north"}),
        ("case,site\na,north\na,north\n", {"a": "north"}),
    ],
)
def test_csv(tmp_path: Path, content: str, expected: dict[str, str | None]) -> None:
    assert read_site_table(table(tmp_path, content)) == expected


@pytest.mark.parametrize(
    ("content", "column", "expected"),
    [
        ([{"case": "a", "site": 13, "silo": 1}], None, {"a": "site-13"}),
        ([{"case": "a", "site": 13, "silo": 1}], "silo", {"a": "silo-1"}),
        ([{"case": "a", "site": 13, "silo": -1}], "silo", {"a": None}),
        ([{"case": "a", "site": "north"}, {"case": "b", "site": None}], None, {"a": "north", "b": None}),
        ({"a": "north", "b": 2}, None, {"a": "north", "b": "site-2"}),
    ],
)
def test_json(tmp_path: Path, content: Any, column: str | None, expected: dict[str, str | None]) -> None:
    assert read_site_table(table(tmp_path, content, "sites.json"), column=column) == expected


@pytest.mark.parametrize(
    ("content", "name", "told"),
    [
        ("case,site\n", "a.csv", "holds no cases"),
        ("name,site\na,b\n", "a.csv", "has no column for the case; must have case or case_id"),
        ("case,city\na,b\n", "a.csv", "has no column for the site; must have site or hospital"),
        ("case,site\na,north\na,south\n", "a.csv", "a stands twice, with sites 'north' and 'south'"),
        ("{", "a.json", "cannot be read as JSON"),
        ("[1, 2]", "a.json", "must be a list of records, or an object"),
        ('"text"', "a.json", "must be a list of records, or an object"),
        (
            '[{"case": "a", "site": 1.5}]',
            "a.json",
            "holds 1.5; cases and sites must be words or whole numbers",
        ),
        ('[{"case": "a", "site": true}]', "a.json", "holds True; cases and sites must be words"),
        ('[{"case": ["a"], "site": 1}]', "a.json", r"holds \['a'\]"),
        ("[" * 100_000, "a.json", "cannot be read as JSON"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: str, name: str, told: str) -> None:
    with pytest.raises(DataError, match=rf"{name}: {told}"):
        read_site_table(table(tmp_path, content, name))


def test_an_absent_or_binary_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.csv: cannot be read as CSV"):
        read_site_table(tmp_path / "gone.csv")
    (tmp_path / "a.csv").write_bytes(b"case,site\n\xff\xfe,\x00")
    with pytest.raises(DataError, match=r"a\.csv: cannot be read as CSV"):
        read_site_table(tmp_path / "a.csv")


def test_every_case_with_two_sites_is_named(tmp_path: Path) -> None:
    path = table(tmp_path, "case,site\na,north\nb,north\na,south\nb,\na,south\nc,south\n")
    contested = [
        "sites.csv: a stands twice, with sites 'north' and 'south'",
        "sites.csv: b stands twice, with sites 'north' and None",
    ]
    assert survey_site_table(path) == ({"a": "north", "b": "north", "c": "south"}, contested)
    with pytest.raises(DataError, match=r"sites\.csv: 2 problems: a stands twice.*; b stands twice"):
        read_site_table(path)


def test_an_unknown_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no column for the site; must have city"):
        read_site_table(table(tmp_path, "case,site\na,b\n"), column="City")


def test_what_table_and_folder_disagree_on_is_listed(patients: Maker) -> None:
    cases = patients([1, 1, 1])
    placed, problems = place_cases(cases, {"c000-0": "north", "c001-0": None, "gone": "south"}, "sites.csv")
    assert [case.source for case in placed] == ["north", None, None]
    assert problems == ["c002-0 is not listed in sites.csv", "gone is listed in sites.csv, but absent"]


def test_every_case_of_a_divided_patient_is_named(patients: Maker) -> None:
    north = patients([3, 1], "north")
    cases = [north[0], *(replace(case, source="south") for case in north[1:])]
    assert divided_patients(cases) == [
        f"{case} is in south, but its patient's c000-0 is in north; a patient must be in one"
        for case in ("c000-1", "c000-2")
    ]


@settings(max_examples=150, deadline=None)
@given(content=st.text(max_size=80), name=st.sampled_from(["a.csv", "a.json"]))
def test_any_text_is_read_or_refused_in_one_line(
    content: str, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / name
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    try:
        assert all(read_site_table(path))
    except DataError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017 - either outcome is right


@settings(max_examples=60, deadline=None)
@given(
    sites=st.dictionaries(
        st.text("abc_0123", min_size=1, max_size=8),
        st.one_of(st.none(), st.text("xyz", min_size=1)),
        min_size=1,
    )
)
def test_both_formats_say_the_same(
    sites: dict[str, str | None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("same")
    rows = [f"{case},{site or ''}" for case, site in sites.items()]
    records = [{"case": case, "site": site} for case, site in sites.items()]
    from_csv = read_site_table(table(folder, "\n".join(["case,site", *rows])))
    assert from_csv == read_site_table(table(folder, records, "sites.json")) == sites


@pytest.mark.real_data
def test_the_hospitals_of_kits19(real_data: Path) -> None:
    path = real_data / "kits19_masks" / "kits19_masks_3mm.json"
    hospitals, silos = read_site_table(path), read_site_table(path, column="silo")
    assert len(hospitals) == len(silos) == 210
    placed = [silo for silo in silos.values() if silo is not None]
    assert set(placed) == {f"silo-{number}" for number in range(6)}
    assert 90 <= len(placed) <= 110
