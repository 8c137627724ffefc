"""The CSV tables that say which patient an image belongs to."""

import csv
from dataclasses import dataclass
from pathlib import Path

from adpfl.errors import DataError

_IMAGE_COLUMNS = ("image_id", "image", "image_name", "isic_id")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an image came from; None where the table is silent."""

    patient: str | None
    source: str | None


def read_origins(path: Path, *, patient_column: str, source_column: str) -> dict[str, Origin] | None:
    """Patient and source of each image.

    Args:
        path: a CSV file with a header; its image column is `image_id`, `image`, `image_name` or `isic_id`.
        patient_column: name of the column that tells patients apart; an empty cell means unknown.
        source_column: name of the column that tells institutions apart; it may be absent.

    Returns:
        By image, or None where the table has no image or no patient column.

    Raises:
        DataError: the file is no readable CSV, or one image stands in it with two patients.
    """
    origins: dict[str, Origin] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            columns = table.fieldnames or ()
            image_column = next((name for name in _IMAGE_COLUMNS if name in columns), None)
            if image_column is None or patient_column not in columns:
                return None
            for row in table:
                image = (row[image_column] or "").strip()
                origin = Origin(_cell(row.get(patient_column)), _cell(row.get(source_column)))
                if origins.setdefault(image, origin) != origin:
                    raise DataError(
                        f"{path}: line {table.line_num}: {image} stands twice with different entries"
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from error
    return origins


def _cell(text: str | None) -> str | None:
    return (text or "").strip() or None
