"""Which data set a folder's cases come from."""

from adpfl.data.case_years import common_convention, strangers

PLAIN = ("kits19", "kits23")


def test_most_cases_decide() -> None:
    told = {"a": ("kits19",), "b": ("kits21",), "c": ("kits21",), "d": ()}
    assert common_convention(told, otherwise="kits23") == "kits21"
    assert strangers(told, "kits21") == [
        "a is laid out as kits19 among cases of kits21; keep years and data sets apart"
    ]


def test_a_case_that_may_be_of_two_years_speaks_against_a_third() -> None:
    told = {"a": PLAIN, "b": ("kits21",), "c": PLAIN}
    assert common_convention(told, otherwise="kits23") == "kits23"
    assert strangers(told, "kits23") == [
        "b is laid out as kits21 among cases of kits23; keep years and data sets apart"
    ]
    assert strangers(told, "kits21")[0].startswith("a is laid out as kits19 or kits23 among cases of kits21")


def test_a_case_that_may_be_of_two_years_follows_those_that_tell() -> None:
    told = {"a": PLAIN, "b": ("kits19",), "c": PLAIN}
    assert common_convention(told, otherwise="kits23") == "kits19"
    assert strangers(told, "kits19") == []


def test_ties_and_silence() -> None:
    assert common_convention({"a": ("kits21",), "b": ("kits19",)}, otherwise="kits23") == "kits19"
    assert common_convention({"a": ("kits19",), "b": ("kits23",)}, otherwise="kits23") == "kits23"
    assert common_convention({"a": ()}, otherwise="kits23") == "kits23"
    assert strangers({"a": ()}, "kits23") == []
