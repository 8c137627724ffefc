"""The institutions of the FeTS challenges: `partitioning_1.csv` in the folder of training cases.

Its rows give each `Subject_ID` (`FeTS2022_00000`) the `Partition_ID` of the institution that it came from.
`partitioning_2.csv`, which splits the larger institutions further by tumour size, is used where it is named
as a table of sites.
"""

from pathlib import Path
from typing import Final

from adpfl.data.site_table import survey_site_table

PARTITIONING: Final = "partitioning_1.csv"


def read_institutions(folder: Path) -> tuple[dict[str, str | None], list[str]] | None:
    """The institution of each case, as `institution-7`, and a problem for each case that has two.

    None where the folder has no such table.

    Raises:
        DataError: the table cannot be read.
    """
    path = folder / PARTITIONING
    return survey_site_table(path) if path.is_file() else None
