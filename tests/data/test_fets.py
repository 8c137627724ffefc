"""The institutions of FeTS."""

from pathlib import Path

from adpfl.data.fets import read_institutions


def test_the_published_table(tmp_path: Path) -> None:
    assert read_institutions(tmp_path) is None
    (tmp_path / "partitioning_1.csv").write_text(
        "Partition_ID,Subject_ID\n1,FeTS2022_01341\n13,FeTS2022_00000\n"
    )
    assert read_institutions(tmp_path) == (
        {"FeTS2022_01341": "institution-1", "FeTS2022_00000": "institution-13"},
        [],
    )


def test_a_subject_of_two_institutions_is_named(tmp_path: Path) -> None:
    (tmp_path / "partitioning_1.csv").write_text("Partition_ID,Subject_ID\n1,a\n2,a\n")
    assert read_institutions(tmp_path) == (
        {"a": "institution-1"},
        ["partitioning_1.csv: a stands twice, with sites 'institution-1' and 'institution-2'"],
    )
