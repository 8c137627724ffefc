"""Deals of whole data sets, by each method."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from adpfl.data.brain_layouts import read_brain_folder
from adpfl.data.case import Case
from adpfl.data.deal import deal, site_name
from adpfl.data.lesion_size import lesion_size
from adpfl.data.partition_plan import PartitionPlan
from adpfl.data.skin_layouts import read_skin_folder
from adpfl.errors import ConfigError, DataError

Maker = Callable[..., list[Case]]
Folder = Callable[..., Path]


def hospitals(patients: Maker, counts: dict[str, int]) -> list[Case]:
    """Patients with one image each, so many at each source."""
    sources = [source for source, count in counts.items() for _ in range(count)]
    return [
        replace(case, source=source)
        for case, source in zip(patients([1] * len(sources)), sources, strict=True)
    ]


@pytest.fixture
def small_lesions_and_large(tmp_path: Path) -> list[Case]:
    """40 photographs, whose lesions grow with the case's number."""
    cases = []
    for number in range(40):
        mask = np.zeros((20, 20), np.uint8)
        mask[: number // 2 + 1, :10] = 255
        path = tmp_path / f"{number:02d}.png"
        Image.fromarray(mask).save(path)
        cases.append(Case(f"c{number:02d}", f"p{number:02d}", path, path))
    return cases


@pytest.mark.parametrize("method", ["equal", "quantity", "dirichlet"])
def test_no_patient_is_divided_and_none_is_lost(small_lesions_and_large: list[Case], method: str) -> None:
    cases = [*small_lesions_and_large, replace(small_lesions_and_large[0], case="again")]
    sites = deal(cases, PartitionPlan(method=method), 4, seed=0)
    assert list(sites) == ["site1", "site2", "site3", "site4"]
    assert sorted(case.case for share in sites.values() for case in share) == sorted(
        case.case for case in cases
    )
    groups = [{case.patient for case in share} for share in sites.values()]
    assert sum(map(len, groups)) == 40
    assert min(map(len, groups)) >= 2
    assert deal(cases[::-1], PartitionPlan(method=method), 4, seed=0) == sites
    assert deal(cases, PartitionPlan(method=method), 4, seed=1) != sites


def test_strata_of_lesions_make_sites_differ_in_them(small_lesions_and_large: list[Case]) -> None:
    def apart(concentration: float) -> float:
        """Between the sites' mean lesions, on average over seeds."""
        plan = PartitionPlan(method="dirichlet", concentration=concentration)
        gaps = []
        for seed in range(5):
            shares = deal(small_lesions_and_large, plan, 3, seed).values()
            gaps.append(np.ptp([np.mean([lesion_size(case) for case in share]) for share in shares]))
        return float(np.mean(gaps))

    assert apart(0.05) > 1.8 * apart(1000.0)


def test_strata_of_sources(patients: Maker) -> None:
    cases = hospitals(patients, {"north": 30, "south": 30})
    plan = PartitionPlan(method="dirichlet", covariate="source", concentration=0.01)
    shares = deal(cases, plan, 3, seed=0)
    assert sum(map(len, shares.values())) == 60
    for source in ("north", "south"):  # nearly whole at one site; a bare site takes two
        assert max(sum(case.source == source for case in share) for share in shares.values()) >= 26


def test_sources_are_sites_and_the_largest_come_first(patients: Maker) -> None:
    cases = hospitals(patients, {"North Clinic": 3, "south": 5, "east": 2, "tiny": 1})
    assert {
        name: len(share) for name, share in deal(cases, PartitionPlan(method="source"), 3, 0).items()
    } == {"east": 2, "north-clinic": 3, "south": 5}
    with pytest.raises(DataError, match="sources tiny have fewer than 2 patients; at most 3 sites"):
        deal(cases, PartitionPlan(method="source"), None, 0)
    with pytest.raises(DataError, match="the number of sources is 4; must be >= 5"):
        deal(cases, PartitionPlan(method="source"), 5, 0)
    with pytest.raises(ConfigError, match="the number of sites is 0; must be >= 1"):
        deal(cases, PartitionPlan(method="source"), 0, 0)


def test_a_table_stands_for_the_data_sets_own_sources(patients: Maker, tmp_path: Path) -> None:
    cases = patients([1] * 6, "as published")
    sites = [1, 1, 2, 2, -1, 2]
    rows = [{"case": case.case, "silo": site} for case, site in zip(cases, sites, strict=True)]
    path = tmp_path / "sites.json"
    path.write_text(json.dumps([*rows, {"case": "elsewhere", "silo": 3}]))
    dealt = deal(cases, PartitionPlan(method="source", table=path, table_column="silo"), None, 0)
    assert {name: [case.case for case in share] for name, share in dealt.items()} == {
        "silo-1": ["c000-0", "c001-0"],
        "silo-2": ["c002-0", "c003-0", "c005-0"],
    }
    path.write_text(json.dumps(rows[1:]))
    with pytest.raises(DataError, match=r"sites\.json: c000-0 is not listed in sites\.json"):
        deal(cases, PartitionPlan(method="source", table=path), None, 0)


def test_a_patient_of_two_hospitals_is_refused(patients: Maker) -> None:
    cases = patients([2, 2, 2], "north")
    cases[1] = replace(cases[1], source="south")
    with pytest.raises(DataError, match="is in sources 'north' and 'south'; must be in one"):
        deal(cases, PartitionPlan(method="source"), None, 0)


@pytest.mark.parametrize("method", ["equal", "quantity", "dirichlet"])
def test_too_few_patients_are_refused(patients: Maker, method: str) -> None:
    with pytest.raises(DataError, match="the number of patients is 5; must be >= 6, 2 for each of 3 sites"):
        deal(patients([1] * 5), PartitionPlan(method=method), 3, 0)
    with pytest.raises(ConfigError, match=f"the number of sites is None; must be >= 1 to deal by {method}"):
        deal(patients([1] * 5), PartitionPlan(method=method), None, 0)


def test_plans_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ValidationError, match="table goes with sources; method is equal"):
        PartitionPlan(table=Path("a.csv"))
    with pytest.raises(ValidationError, match="table_column goes with table"):
        PartitionPlan(method="source", table_column="silo")
    with pytest.raises(ValidationError, match="greater than 0"):
        PartitionPlan(method="quantity", concentration=0.0)


def test_site_names_are_safe() -> None:
    assert site_name("Rosendahl (AT) / 2") == "rosendahl-at-2"
    assert len(site_name("x" * 200)) == 63
    with pytest.raises(DataError, match="source '---' has no letter or digit"):
        site_name("---")


def test_two_sources_of_one_name_are_refused(patients: Maker) -> None:
    with pytest.raises(DataError, match="two sources would both be the site 'north'"):
        deal(hospitals(patients, {"North": 2, "north": 2}), PartitionPlan(method="source"), None, 0)


def test_a_lesion_is_measured_in_ml(brats_folder: Folder, patients: Maker) -> None:
    case = read_brain_folder(brats_folder("brats2023"))[0]
    assert lesion_size(case) == pytest.approx(6 * 12.0 / 1000.0)
    with pytest.raises(DataError, match="has no mask; the size of its lesion is not known"):
        lesion_size(patients([1])[0])


@pytest.mark.real_data
def test_real_lesions_are_dealt_by_size(real_data: Path) -> None:
    cases = read_skin_folder(real_data / "isic2017")
    plan = PartitionPlan(method="dirichlet", concentration=0.3)
    shares = deal(cases, plan, 4, seed=0)
    assert sum(map(len, shares.values())) == 98
    means = [np.mean([lesion_size(case) for case in share]) for share in shares.values()]
    assert max(means) > 1.5 * min(means)


@pytest.mark.real_data
def test_the_real_hospitals_of_kits19(real_data: Path, patients: Maker) -> None:
    table = real_data / "kits19_masks" / "kits19_masks_3mm.json"
    records = json.loads(table.read_text())
    cases = [
        Case(record["case"], record["case"], Path(record["case"]), None, labels="kits19")
        for record in records
    ]
    plan = PartitionPlan(method="source", table=table, table_column="silo")
    shares = deal(cases, plan, None, 0)
    assert list(shares) == [f"silo-{number}" for number in range(6)]
    counts = {name: sum(f"silo-{record['silo']}" == name for record in records) for name in shares}
    assert {name: len(share) for name, share in shares.items()} == counts
