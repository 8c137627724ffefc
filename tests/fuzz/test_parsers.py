"""No input makes a parser fail otherwise than it says, take long, or take much memory; see `Target`."""

import time
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.database_targets import DATABASE_TARGETS
from tests.fuzz.file_targets import FILE_TARGETS
from tests.fuzz.mutations import NASTY, inputs
from tests.fuzz.wire_targets import WIRE_TARGETS

TARGETS = (*WIRE_TARGETS, *FILE_TARGETS, *DATABASE_TARGETS)
FEW, MANY = 40, 1000
SECONDS = 10.0
"""For one input of at most 2 MB, on a machine that is busy with other things."""
MEBIBYTES = 200
"""That Python objects may take while one such input is read."""

each_target = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


def test_targets_have_names_of_their_own():
    assert len({target.name for target in TARGETS}) == len(TARGETS)


@each_target
def test_the_examples_are_taken(target):
    """Else a fuzzer would never get beyond the first check."""
    assert target.run(target.seeds[0])


@each_target
def test_what_has_broken_others_gets_a_documented_answer(target):
    for what, data in NASTY.items():
        started = time.process_time()
        target.run(data)
        assert time.process_time() - started < SECONDS, what


@pytest.mark.full
@each_target
def test_no_input_takes_much_memory(target):
    for what, data in NASTY.items():
        tracemalloc.start()
        try:
            target.run(data)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < MEBIBYTES * 2**20, what


@pytest.mark.parametrize(
    "count", [pytest.param(FEW, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.full)]
)
@each_target
def test_what_is_nearly_right_gets_a_documented_answer(target, count):
    @settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(data=inputs(target.seeds))
    def check(data):
        target.run(data)

    check()


@each_target
def test_every_beginning_of_an_example_gets_a_documented_answer(target):
    """As a link or a disk leaves it that was cut off."""
    for seed in target.seeds:
        step = max(1, len(seed) // 200)
        for length in range(0, len(seed), step):
            target.run(seed[:length])
