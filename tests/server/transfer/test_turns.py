"""Turns bound what is in memory, in the order asked for, and a slow peer keeps none."""

import asyncio

from adpfl_server.transfer.turns import LONGEST_PATIENCE_SECONDS, Patience, Turns


def test_no_more_turns_than_there_are_and_first_come_first_served():
    async def play():
        turns, order = Turns(2), []

        async def one(number):
            turn = await turns.take(Patience())
            order.append(number)
            await asyncio.sleep(0.01)
            turn.end()

        held = [await turns.take(Patience()), await turns.take(Patience())]
        tasks = [asyncio.create_task(one(number)) for number in range(5)]
        await asyncio.sleep(0.02)
        assert order == []
        for turn in held:
            turn.end()
            turn.end()  # a second time does nothing
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(play()) == [0, 1, 2, 3, 4]


def test_who_waits_long_for_its_peer_lends_its_turn_and_queues_again():
    async def play():
        turns, patience = Turns(1), Patience(0.04)
        slow = await turns.take(patience)
        slow.wait_for_peer()
        fast = await asyncio.wait_for(turns.take(Patience()), 1.0)
        assert patience.seconds < 0.04  # the next time it is waited for less
        again = asyncio.create_task(slow.go_on())
        await asyncio.sleep(0.05)
        assert not again.done()
        fast.end()
        await asyncio.wait_for(again, 1.0)
        slow.end()
        await asyncio.wait_for(turns.take(Patience()), 1.0)

    asyncio.run(play())


def test_a_stream_that_is_quick_again_is_waited_for_again():
    async def play():
        turns, patience = Turns(1), Patience(0.1)
        for _ in range(5):
            turn = await turns.take(patience)
            turn.wait_for_peer()
            await turn.go_on()
            turn.end()
        return patience.seconds

    assert asyncio.run(play()) == LONGEST_PATIENCE_SECONDS
