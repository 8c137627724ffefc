"""What `adpfl data check` shows on a terminal, down to a narrow one."""

import io

import pytest
from rich.console import Console

from adpfl.data.case_findings import CaseFinding
from adpfl.data.folder_survey import Summary
from adpfl.experiment.data_tables import case_table, summary_table

GLIOMA = CaseFinding(
    case="BraTS-GLI-00005-100",
    patient="BraTS-GLI-00005",
    patient_is="patient",
    source=None,
    labels="brats2024",
    size=(155, 240, 240),
    spacing_mm=(1.0, 1.0, 1.0),
    orientation="LPS",
    structures={"edema": 14.907, "enhancing tumor": 0.0},
)
PHOTOGRAPH = CaseFinding(
    case="ISIC_1",
    patient="ISIC_1",
    patient_is="image",
    source="rosendahl",
    labels=None,
    size=(450, 600),
    structures={"lesion": 0.256},
)


def shown(renderable, width=200):
    text = io.StringIO()
    Console(file=text, width=width, color_system=None).print(renderable)
    return text.getvalue()


def test_a_row_holds_what_a_volume_holds():
    lines = shown(case_table([GLIOMA])).splitlines()
    assert lines[0].split() == ["case", "patient", "size", "spacing,", "mm", "stored", "mask"]
    assert lines[1].split(maxsplit=5)[:5] == [
        *("BraTS-GLI-00005-100", "BraTS-GLI-00005", "155x240x240", "1x1x1", "LPS")
    ]
    assert "edema 14.9 ml" in lines[1]
    assert "enhancing" not in lines[1]


def test_a_photograph_needs_no_spacing():
    lines = shown(case_table([PHOTOGRAPH])).splitlines()
    assert lines[0].split() == ["case", "source", "size", "mask"]
    assert lines[1].split() == ["ISIC_1", "rosendahl", "450x600", "lesion", "25.6%"]


@pytest.mark.parametrize("width", [30, 60, 80])
def test_a_name_is_never_cut_short(width):
    assert "BraTS-GLI-00005-100" in shown(case_table([GLIOMA]), width)


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"structures": None}, "-"), ({"structures": {"edema": 0.0}}, "empty"), ({"problems": ("x",)}, "wrong")],
)
def test_a_mask_that_holds_nothing_says_so(changes, told):
    finding = CaseFinding(
        case="a", patient="a", patient_is="patient", source=None, labels="kits23", **changes
    )
    assert shown(case_table([finding])).splitlines()[1].split()[-1] == told


def test_the_summary():
    summary = Summary(
        cases=3,
        patients=2,
        patients_are=("image", "patient"),
        sites={"north": 1, "south": 1},
        labels={"kits23": 3},
        least_spacing_mm=(0.5, 0.7, 0.7),
        largest_spacing_mm=(5.0, 0.9, 0.9),
        least_size=(30, 512, 512),
        largest_size=(900, 512, 512),
        structures={"cyst": 1},
        problems=4,
    )
    rows = dict(line.rstrip().split("  ", 1) for line in shown(summary_table(summary)).splitlines())
    assert {name: words.strip() for name, words in rows.items()} == {
        "cases": "3",
        "patients": "2 (for want of patients: images and patients)",
        "sites": "2; patients: north 1, south 1",
        "labels of": "kits23 (3)",
        "sizes": "30x512x512 to 900x512x512",
        "spacings, mm": "0.5x0.7x0.7 to 5x0.9x0.9",
        "cyst": "in 1 of 3 cases",
        "wrong": "4",
    }
