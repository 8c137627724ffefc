"""What is sent is read once for all that fetch it together, and little of it is held, whoever reads it."""

import asyncio
import errno
from contextlib import aclosing, contextmanager

import pytest

from adpfl.wire import limits
from adpfl.wire.bulk import decode_fetch
from adpfl.wire.chunks import sha256_hex
from adpfl_server.storage.blobs import BlobFolder
from adpfl_server.transfer import sending
from adpfl_server.transfer.sending import READ_AHEAD, READ_AT_ONCE, Outbox
from adpfl_server.transfer.turns import TURNS, Patience, Turns

CHUNK_BYTES = limits.CHUNK_SIZE_MIN
KEPT = 16
"""Messages of this size that are kept here."""
LARGE_MODEL = 10 * KEPT
SLOW_READERS = 40


class Counted(bytes):
    """A message of which is known how many there are."""

    alive = most = 0

    def __new__(cls, data: bytes):
        cls.alive += 1
        cls.most = max(cls.most, cls.alive)
        return super().__new__(cls, data)

    def __del__(self):
        type(self).alive -= 1


class Files:
    """What an outbox needs of the runner: blobs, and readings that take as long as a test wants."""

    def __init__(self, folder):
        self.store = self
        self.blobs = BlobFolder(folder)
        self.read: list[str] = []
        self.reading = self.most_at_once = 0
        self.held: dict[str, asyncio.Event] = {}

    def put(self, count):
        """Chunks that all differ."""
        made = [number.to_bytes(4, "little") * (CHUNK_BYTES // 4) for number in range(1, count + 1)]
        for data in made:
            self.blobs.put(sha256_hex(data), data)
        return [sha256_hex(data) for data in made]

    async def settled(self, readings):
        """Wait until so many are under way, and nothing else is to happen."""
        for _ in range(100):
            await asyncio.sleep(0)
        assert self.reading >= readings

    async def in_files(self, function, digest):
        self.read.append(digest)
        self.reading += 1
        self.most_at_once = max(self.most_at_once, self.reading)
        try:
            if digest in self.held:
                await self.held[digest].wait()
            else:
                await asyncio.sleep(0)
            return function(digest)
        finally:
            self.reading -= 1


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr(sending, "KEPT_BYTES", KEPT * (CHUNK_BYTES + 64))
    monkeypatch.setattr(sending, "Patience", lambda: Patience(0.05))
    return Files(tmp_path)


@pytest.fixture
def counted(monkeypatch):
    """A kind of message of this test alone."""

    class Message(Counted):
        alive = most = 0

    whole = sending.encode_fetch
    monkeypatch.setattr(sending, "encode_fetch", lambda chunk: Message(whole(chunk)))
    return Message


async def fetch(outbox, digests, pause=None):
    """Read a whole stream; returns the digests of what came."""
    found = []
    async with aclosing(outbox.messages(digests)) as messages:
        async for message in messages:
            found.append(None if message is None else decode_fetch(message).digest)
            del message
            if pause is not None:
                await pause()
    return found


def test_streams_side_by_side_share_each_reading_and_get_their_own_order(files):
    digests = files.put(KEPT)
    backwards = digests[::-1]

    async def play():
        outbox = Outbox(files, Turns())
        together = await asyncio.gather(*(fetch(outbox, digests) for _ in range(10)))
        assert together == [digests] * 10
        assert sorted(files.read) == sorted(digests)
        assert await fetch(outbox, backwards) == backwards
        assert sorted(files.read) == sorted(digests)  # they are still kept

    asyncio.run(play())


def test_no_more_is_kept_than_is_let_however_much_was_sent(files, counted):
    digests = files.put(LARGE_MODEL)

    async def play():
        outbox = Outbox(files, Turns())
        await fetch(outbox, digests)
        assert counted.alive == KEPT
        assert counted.most <= KEPT + READ_AHEAD + 2
        files.read.clear()
        await fetch(outbox, digests[-KEPT:])
        assert files.read == []  # those that were sent last

    asyncio.run(play())


def test_readings_under_way_are_bounded_however_many_streams_read_ahead(files):
    digests = files.put(TURNS * (1 + READ_AHEAD))
    files.held = dict.fromkeys(digests, asyncio.Event())

    async def play():
        outbox = Outbox(files, Turns())
        streams = [digests[place:] for place in range(0, len(digests), 1 + READ_AHEAD)]
        reading = [asyncio.create_task(fetch(outbox, stream)) for stream in streams]
        await files.settled(TURNS)  # each stream's own is begun, whatever is read ahead
        assert READ_AHEAD < files.most_at_once < READ_AT_ONCE + TURNS
        files.held[digests[0]].set()
        assert await asyncio.gather(*reading) == streams

    asyncio.run(play())


def test_slow_readers_hold_a_message_each_and_nobody_waits_for_them(files, counted):
    """Each reads at a place of its own, so that no two could share what they hold."""
    digests = files.put(LARGE_MODEL)

    async def play():
        outbox, first = Outbox(files, Turns()), asyncio.Semaphore(0)
        over = asyncio.Event()

        async def read_one():
            first.release()
            await over.wait()

        step = len(digests) // SLOW_READERS
        slow = [
            asyncio.create_task(fetch(outbox, digests[number * step :], read_one))
            for number in range(SLOW_READERS)
        ]
        async with asyncio.timeout(10):
            for _ in slow:
                await first.acquire()
        counted.most = counted.alive
        assert await fetch(outbox, digests) == digests
        # the fast one's turn, what is kept, what a slow reader holds
        assert counted.most <= SLOW_READERS + KEPT + READ_AHEAD + 2
        assert counted.most > SLOW_READERS  # or nobody held anything, and this shows nothing
        over.set()
        assert [len(found) for found in await asyncio.gather(*slow)] == [
            len(digests) - number * step for number in range(SLOW_READERS)
        ]

    asyncio.run(play())


def test_what_cannot_be_read_is_told_to_the_stream_and_read_anew_for_the_next(files):
    digests = files.put(6)
    absent = digests[3]
    data = files.blobs.get(absent)
    files.blobs.drop(absent)

    async def play():
        outbox = Outbox(files, Turns())
        assert await fetch(outbox, digests) == [*digests[:3], None, *digests[4:]]
        files.blobs.put(absent, data)
        assert await fetch(outbox, digests) == digests

    asyncio.run(play())


@contextmanager
def refusing(files, *doomed):
    """A disk that refuses to read these meanwhile."""
    whole = files.blobs.get

    def refuse(digest):
        if digest in doomed:
            raise OSError(errno.ENXIO, "the disk refuses")
        return whole(digest)

    files.blobs.get = refuse
    yield
    files.blobs.get = whole


def test_a_disk_that_refuses_ends_the_stream_and_keeps_no_turn(files):
    digests = files.put(6)

    async def play():
        outbox = Outbox(files, Turns(1))
        with refusing(files, *digests), pytest.raises(OSError, match="the disk refuses"):
            await fetch(outbox, digests)
        await files.settled(0)
        assert await asyncio.wait_for(fetch(outbox, digests), 5.0) == digests

    asyncio.run(play())


def test_a_stream_that_is_cut_off_takes_nothing_from_one_that_waits_for_the_same(files):
    digests = files.put(1)
    files.held[digests[0]] = asyncio.Event()

    async def play():
        outbox = Outbox(files, Turns())
        cut, patient = (asyncio.create_task(fetch(outbox, digests)) for _ in range(2))
        await asyncio.sleep(0)
        cut.cancel()
        await asyncio.gather(cut, return_exceptions=True)
        files.held[digests[0]].set()
        assert await asyncio.wait_for(patient, 5.0) == digests
        assert files.read == digests

    asyncio.run(play())


def test_a_reading_that_fails_beside_one_that_fills_the_room_is_let_go_in_silence(files, counted):
    digests = files.put(KEPT + 2)
    fills, fails, *others = digests
    files.held[fails] = files.held[fills] = both = asyncio.Event()
    troubles = []

    async def play():
        asyncio.get_running_loop().set_exception_handler(lambda _, trouble: troubles.append(trouble))
        outbox = Outbox(files, Turns())
        first, failing = (asyncio.create_task(fetch(outbox, [digest])) for digest in (fills, fails))
        await asyncio.sleep(0)
        await fetch(outbox, others)
        again = asyncio.create_task(fetch(outbox, [fills]))  # now the one that fails is the oldest
        await asyncio.sleep(0)
        with refusing(files, fails):
            both.set()
            assert await first == await again == [fills]
            with pytest.raises(OSError, match="the disk refuses"):
                await failing
        assert counted.alive == KEPT

    asyncio.run(play())
    assert troubles == []
