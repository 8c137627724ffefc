"""Sentences and figures as a person reads them."""

import math

import pytest

from adpfl.experiment.report import words
from adpfl.experiment.report.timeline_words import MOST_LINES, SERVER, happenings, shortened
from adpfl.federated.records import TimelineEvent


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0.001, "0.001"),
        (0.69812, "0.698"),
        (19.04, "19"),
        (8.25, "8.25"),
        (3.68e8, "3.7 × 10⁸"),  # noqa: RUF001 - typography of the report
        (1e-5, "10⁻⁵"),
        (math.inf, "∞"),
        (0.0, "0"),
        (50.0, "50"),
        (100.0, "100"),
    ],
)
def test_numbers(value, told):
    assert words.number(value) == told


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (7.99987, "8"),
        (8.0, "8"),
        (19.041, "19.1"),
        (12345.1, "12346"),
        (3.61e8, "3.7 × 10⁸"),  # noqa: RUF001 - typography of the report
        (0.00051, "5.1 × 10⁻⁴"),  # noqa: RUF001 - as above
        (0.0, "0"),
        (math.inf, "∞"),
    ],
)
def test_bounds_are_rounded_up(value, told):
    assert words.at_most(value) == told


def test_durations_and_counts():
    assert [words.duration(seconds) for seconds in (8.2, 252, 11_100)] == ["8 s", "4 min 12 s", "3 h 05 min"]
    assert [words.count(n, "site") for n in (1, 3, 12)] == ["one site", "three sites", "12 sites"]
    assert words.joined(["a", "b", "c"]) == "a, b and c"


def test_the_run_in_one_sentence(plan_of, server_of):
    sentence = words.run_sentence(server_of(plan_of("adp-fl")))
    assert sentence.count(".") == 1
    for part in (
        "Three sites",
        "tiny U-Net",
        "skin-lesion segmentation",
        "ten rounds",
        "ADP-FL",
        "no image left",
    ):
        assert part in sentence


def test_a_run_that_broke_off_tells_the_rounds_that_it_had(plan_of, server_of):
    server = server_of(plan_of("adp-fl"))
    sentence = words.run_sentence(server.model_copy(update={"rounds": server.rounds[:4]}))
    assert "in four of ten rounds" in sentence


def test_equal_neighbouring_rounds_are_one_line(plan_of, server_of):
    server = server_of(plan_of("adp-fl"), missing={4: ("hospital2",), 5: ("hospital2",)})
    lines = words.participation(server.rounds, 3)
    assert [(line.rounds, line.share, line.missing) for line in lines] == [
        ("Rounds 1 to 3", "3 of 3", ()),
        ("Rounds 4 to 5", "2 of 3", ("hospital2",)),
        ("Rounds 6 to 10", "3 of 3", ()),
    ]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["FL", "DP-FL"], "FL and DP-FL"),
        (["Rigorous, warm start"], "Rigorous, warm start"),
        (["FL", "FL, warm start", "Rigorous"], "“FL”, “FL, warm start” and “Rigorous”"),
    ],
)
def test_names_that_hold_a_comma_do_not_fall_apart(names, told):
    assert words.listed(names) == told


def event(second, kind, **more):
    return TimelineEvent(at_unix_seconds=1_800_000_000.0 + second, kind=kind, **more)


def test_the_timeline_is_told_in_order_of_time():
    told = happenings(
        [
            (SERVER, event(9, "server_restarted", round=2)),
            ("hospital1", event(5, "agent_restarted", round=2, detail="after a crash")),
            (SERVER, event(0, "site_joined", site="hospital1")),
        ]
    )
    assert [line.words for line in told] == [
        "hospital1 joined",
        "The agent of hospital1 was restarted in round 2: after a crash",
        "The server was restarted in round 2",
    ]
    assert [line.notable for line in told] == [False, True, True]
    assert told[0].clock == "15 January 2027, 08:00:00"
    assert told[1].clock == "08:00:05"


def test_what_a_site_records_after_it_joined_is_not_told_as_if_it_came_before():
    told = happenings(
        [
            (SERVER, event(0, "site_joined", site="hospital1")),
            ("hospital1", event(1, "agent_started")),
            ("hospital1", event(2, "unbounded_accepted", detail="a trial (accepted by Dr. A)")),
            (SERVER, event(3, "run_finished")),
            ("hospital1", event(4, "finished", detail="finished: answered 2 of 2 rounds")),
        ]
    )
    assert [line.words for line in told] == [
        "hospital1 joined",
        "The agent of hospital1 took the run up",
        "The policy of hospital1 accepts this run without a finite ε: a trial (accepted by Dr. A)",
        "The run finished at the server",
        "The agent of hospital1 was done: answered 2 of 2 rounds",
    ]


def test_a_kind_of_another_version_is_told_by_its_name():
    (line,) = happenings([("hospital2", event(0, "budget_refused", round=7, detail="cap reached"))])
    assert (line.words, line.notable) == ("hospital2, budget refused in round 7: cap reached", True)


def test_a_long_timeline_keeps_its_ends_and_its_disturbances():
    kinds = [
        "run_created",
        *["site_returned"] * MOST_LINES,
        "server_restarted",
        "site_returned",
        "run_finished",
    ]
    lines = happenings([(SERVER, event(place, kind)) for place, kind in enumerate(kinds)])
    assert [line.words for line in shortened(lines)] == [
        "The server opened the run",
        "The server was restarted",
        "The run finished at the server",
    ]
    assert shortened(lines[:5]) == lines[:5]
