"""Real masks: npz and table read together, and everything wrong is named by case."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adpfl.data.synthetic.kidney_masks import read_masks
from adpfl.errors import DataError


def _volume(label: int = 1) -> np.ndarray:
    labels = np.zeros((4, 5, 6), dtype=np.uint8)
    labels[1:3, 1:4, 1:3] = label
    return labels


def _write(folder: Path, volumes: dict[str, np.ndarray], records: Any) -> Path:
    np.savez_compressed(folder / "masks.npz", **volumes)
    (folder / "masks.json").write_text(json.dumps(records))
    return folder / "masks.npz"


def _record(case: str, **changes: Any) -> dict[str, Any]:
    return {"case": case, "site": 7, "silo": 0, "sz": 2.5} | changes


def test_masks_come_with_hospital_and_slices(tmp_path: Path) -> None:
    volumes = {"case_00001": _volume(), "case_00000": _volume(2)}
    records = [_record("case_00001", site=13, sz=5), _record("case_00000")]
    first, second = read_masks(_write(tmp_path, volumes, records))
    assert (first.case, first.hospital, first.slice_mm) == ("case_00000", 7, 2.5)
    assert (second.case, second.hospital, second.slice_mm) == ("case_00001", 13, 5.0)
    assert np.array_equal(first.labels, _volume(2))


@pytest.mark.parametrize(
    ("volumes", "records", "message"),
    [
        ({"a": _volume()}, [], "a has no record in the table"),
        ({"a": _volume()}, [_record("a"), _record("b")], "b has a record, but no mask"),
        ({"a": _volume(3)}, [_record("a")], "a holds the label 3; must be 0, 1 or 2"),
        ({"a": _volume(0)}, [_record("a")], "a is empty; must hold a kidney"),
        ({"a": _volume()[0]}, [_record("a")], r"a has shape \(5, 6\) and type uint8; must be three"),
        ({"a": _volume().astype(float)}, [_record("a")], "type float64; must be three"),
        ({"a": _volume()}, [_record("a", site="x")], "a has site 'x'; must be a whole number"),
        ({"a": _volume()}, [_record("a", sz=0)], "a has sz 0; must be > 0"),
        ({"a": _volume()}, [{"case": "a"}], "a has site None"),
        ({}, [], "holds no masks"),
        ({"a": _volume()}, {"a": 1}, "must be a list of records"),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, volumes: dict[str, np.ndarray], records: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_masks(_write(tmp_path, volumes, records))


def test_all_problems_are_listed(tmp_path: Path) -> None:
    path = _write(tmp_path, {"a": _volume(), "b": _volume(9)}, [_record("b")])
    with pytest.raises(DataError, match=r"2 problems: a has no record.*; b holds the label 9"):
        read_masks(path)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"masks\.json: cannot be read as JSON"):
        read_masks(tmp_path / "masks.npz")
    (tmp_path / "masks.json").write_text("[]")
    (tmp_path / "masks.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"masks\.npz: cannot be read as npz"):
        read_masks(tmp_path / "masks.npz")


def test_pickled_content_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "masks.npz", a=np.array([{"x": 1}], dtype=object))
    (tmp_path / "masks.json").write_text(json.dumps([_record("a")]))
    with pytest.raises(DataError, match="cannot be read as npz"):
        read_masks(tmp_path / "masks.npz")
