"""Parts are within the total, and earlier time is carried on."""

import time

import pytest

from adpfl.experiment.comparison.stopwatch import Stopwatch


def test_parts_and_total_grow_and_carry_on():
    watch = Stopwatch()
    watch.add({"training": 10.0, "total": 15.0})
    with watch.measure("training"):
        time.sleep(0.02)
    spent = watch.seconds()
    assert spent["training"] >= 10.02
    assert spent["total"] >= 15.02
    assert spent["total"] - spent["training"] == pytest.approx(5.0, abs=0.02)


def test_a_block_that_fails_counts_too():
    watch = Stopwatch()

    def fail() -> None:
        with watch.measure("training"):
            time.sleep(0.01)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert watch.seconds()["training"] >= 0.01
