"""The measuring of updates: calls come at any moment of it, and none keeps the event loop to itself."""

import asyncio
from types import SimpleNamespace

import pytest

from adpfl_server.rounds.norms import UpdateNorms

MOMENTS = 12
"""Turns of the event loop around the end of a measurement."""


class Update:
    """An update whose digest is not asked for without end."""

    def __init__(self, digest="a" * 64):
        self._digest, self._asked = digest, 0

    @property
    def digest(self):
        self._asked += 1
        assert self._asked < 1000, "the event loop goes round and round in one call"
        return self._digest


class Readings:
    """A runner whose readings end when a test says so."""

    def __init__(self):
        self.store = SimpleNamespace(blobs=SimpleNamespace(get=None))
        self.under_way = []

    async def in_files(self, *_):
        self.under_way.append(asyncio.get_running_loop().create_future())
        return await self.under_way[-1]


async def turns(count):
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_a_call_at_any_moment_of_a_measurement_gets_its_norm(moment):
    async def measured():
        readings = Readings()
        norms = UpdateNorms(readings)
        first = asyncio.create_task(norms.of("hospital1", Update()))
        first_ended = asyncio.create_task(turns(3))
        await first_ended

        async def later():
            await turns(moment)
            return await norms.of("hospital1", Update())

        second = asyncio.create_task(later())
        await turns(MOMENTS // 2)
        readings.under_way[0].set_result(2.5)
        assert await asyncio.gather(first, second) == [2.5, 2.5]
        assert len(readings.under_way) == 1

    asyncio.run(measured())


def test_updates_of_one_site_are_measured_one_after_the_other():
    async def measured():
        readings = Readings()
        norms = UpdateNorms(readings)
        calls = [asyncio.create_task(norms.of("hospital1", Update(name * 64))) for name in "abc"]
        for norm in range(3):
            await turns(20)
            assert len(readings.under_way) == norm + 1
            readings.under_way[norm].set_result(float(norm))
        assert sorted(await asyncio.gather(*calls)) == [0.0, 1.0, 2.0]

    asyncio.run(measured())


def test_a_failure_is_told_to_its_calls_and_the_next_one_measures_again():
    async def measured():
        readings = Readings()
        norms = UpdateNorms(readings)
        calls = [asyncio.create_task(norms.of("hospital1", Update())) for _ in range(2)]
        await turns(5)
        readings.under_way[0].set_exception(OSError("unreadable"))
        assert [type(end) for end in await asyncio.gather(*calls, return_exceptions=True)] == [OSError] * 2
        again = asyncio.create_task(norms.of("hospital1", Update()))
        await turns(5)
        readings.under_way[1].set_result(1.0)
        assert await again == 1.0

    asyncio.run(measured())


def test_a_measurement_goes_on_without_the_call_that_asked_for_it():
    async def measured():
        readings = Readings()
        norms = UpdateNorms(readings)
        for _ in range(3):
            call = asyncio.create_task(norms.of("hospital1", Update()))
            await turns(5)
            call.cancel()
            await turns(5)
        readings.under_way[0].set_result(4.0)
        assert await norms.of("hospital1", Update()) == 4.0
        assert len(readings.under_way) == 1

    asyncio.run(measured())
