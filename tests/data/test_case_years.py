"""Which data set a folder's cases come from."""

from adpfl.data.case_years import common_convention, strangers


def test_most_cases_decide() -> None:
    told = {"a": "kits19", "b": "kits21", "c": "kits21", "d": None}
    assert common_convention(told, otherwise="kits23") == "kits21"
    assert strangers(told, "kits21") == [
        "a is laid out as kits19 among cases of kits21; keep years and data sets apart"
    ]


def test_ties_and_silence() -> None:
    assert common_convention({"a": "kits21", "b": "kits19"}, otherwise="kits23") == "kits19"
    assert common_convention({"a": None}, otherwise="kits23") == "kits23"
    assert strangers({"a": None}, "kits23") == []
