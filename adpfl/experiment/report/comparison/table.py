"""A table as data, so that the page and the Markdown cannot disagree."""

from collections.abc import Sequence
from dataclasses import dataclass

Row = tuple[str, ...]

DASH = "\N{EN DASH}"
"""In a cell that has no figure."""


@dataclass(frozen=True)
class RowGroup:
    """Rows that belong together.

    Attributes:
        heading: what they share; empty where a table has a single group.
        rows: each with one text a column, the first naming the row.
        arms: the arm of each row, which gives it a mark; empty where rows are no arms.
    """

    heading: str
    rows: tuple[Row, ...]
    arms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table with one line of headings.

    Attributes:
        caption: what a reader must know to read it.
        columns: headings, the first over the rows' names.
        groups: at least one.
        prose: whether cells hold sentences rather than figures.
    """

    caption: str
    columns: Row
    groups: tuple[RowGroup, ...]
    prose: bool = False

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows, whatever their group."""
        return tuple(row for group in self.groups for row in group.rows)


def table(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Row],
    *,
    arms: Sequence[str] = (),
    prose: bool = False,
) -> Table:
    """A table of one group."""
    return Table(caption, tuple(columns), (RowGroup("", tuple(rows), tuple(arms)),), prose=prose)


def as_markdown(shown: Table) -> str:
    """The table in Markdown: its caption, then its lines; a group's heading stands before its rows' names."""
    lines = [shown.caption, ""] if shown.caption else []
    lines += [
        _line(shown.columns),
        _line(["---", *["---:" if not shown.prose else "---"] * (len(shown.columns) - 1)]),
    ]
    for group in shown.groups:
        for name, *cells in group.rows:
            lines.append(_line([f"{group.heading}: {name}" if group.heading else name, *cells]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
