"""Work beside a stream: in order, bounded, finished when it ends, and honest about what failed."""

import threading

import pytest

from adpfl_client.link.overlap import overlapped


def test_results_come_in_the_order_of_the_parts():
    assert list(overlapped(lambda part: part * 10, range(5), ahead=2)) == [0, 10, 20, 30, 40]
    assert list(overlapped(str, [], ahead=2)) == []


def test_a_part_is_drawn_while_the_one_before_is_worked_on():
    drawn = threading.Event()

    def parts():
        yield 0
        drawn.set()
        yield 1

    def work(part):
        assert drawn.wait(10)
        return part

    assert list(overlapped(work, parts(), ahead=1)) == [0, 1]


def test_no_more_parts_are_drawn_than_are_allowed_ahead():
    drawn = []

    def parts():
        for part in range(10):
            drawn.append(part)
            yield part

    results = overlapped(str, parts(), ahead=3)
    assert drawn == []
    assert next(results) == "0"
    assert drawn == [0, 1, 2, 3]
    assert next(results) == "1"
    assert drawn == [0, 1, 2, 3, 4]


def test_parts_are_drawn_by_the_callers_thread_and_worked_on_by_another():
    drawing, working = set(), set()

    def parts():
        for part in range(4):
            drawing.add(threading.get_ident())
            yield part

    list(overlapped(lambda _: working.add(threading.get_ident()), parts(), ahead=1))
    assert drawing == {threading.get_ident()}
    assert threading.get_ident() not in working


def breaking(parts):
    yield from parts
    raise ConnectionResetError("the link broke")


def test_what_came_before_the_stream_broke_is_worked_on():
    done = []
    with pytest.raises(ConnectionResetError):
        list(overlapped(done.append, breaking(range(3)), ahead=5))
    assert done == [0, 1, 2]


def test_failed_work_is_raised_rather_than_the_broken_stream():
    def work(part):
        if part == 1:
            raise ValueError("part 1 is forged")

    with pytest.raises(ValueError, match="part 1 is forged"):
        list(overlapped(work, breaking(range(3)), ahead=5))


def test_the_first_failure_ends_the_drawing():
    drawn = []

    def parts():
        for part in range(100):
            drawn.append(part)
            yield part

    def work(part):
        raise ValueError(f"part {part}")

    with pytest.raises(ValueError, match="part 0"):
        list(overlapped(work, parts(), ahead=3))
    assert drawn == [0, 1, 2, 3]


def test_nothing_is_under_way_once_the_taker_has_gone():
    ended = []
    gate = threading.Event()

    def work(part):
        if part:
            assert gate.wait(10)
        ended.append(part)
        return part

    results = overlapped(work, range(9), ahead=2)
    assert next(results) == 0
    threading.Timer(0.1, gate.set).start()
    results.close()
    assert ended == [0, 1, 2]
