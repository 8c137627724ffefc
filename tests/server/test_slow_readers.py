"""What a server in a process of its own holds for many sites that read slowly, each at another place."""

import re
import threading
from pathlib import Path

import numpy as np
import pytest

from adpfl.wire import transfers
from adpfl_server.transfer.sending import KEPT_BYTES
from adpfl_server.transfer.turns import TURNS

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]
CHUNK_BYTES = 2**20
CHUNKS = 24
READERS = 40
CHUNKS_A_READER = 3
"""The one that is sent, gRPC's copy of it, and the next one."""


def memory_of(process: int, kind: str) -> int:
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return 1024 * int(re.search(rf"^{kind}:\s+(\d+) kB$", status, re.MULTILINE)[1])


def test_many_slow_readers_take_a_few_chunks_each_and_not_the_model(consortium, serve, caller_at):
    values = np.random.default_rng(3).standard_normal((CHUNKS, CHUNK_BYTES // 4), dtype=np.float32)
    consortium.write_safetensors(consortium.root / "large.safetensors", {"weights": values})
    cohort = {"sites": ["slow", "fast"], "quorum": 2, "round_deadline_seconds": 600.0}
    server = serve(
        consortium.plan(cohort=cohort, initial_model="large.safetensors"),
        calls_at_once=2 * READERS,
        transfers_at_once=READERS,
    )
    slow, fast = (caller_at(site, f"localhost:{server.port}") for site in ("slow", "fast"))
    slow.enter("1")
    fast.enter("2")
    base = fast.next_task(wait_seconds=10).base_digest
    manifest, _ = fast.fetch(base)  # the memory that one reader needs, and that stays, counts for nobody
    digests = manifest.chunk_digests
    idle = memory_of(server.process.pid, "VmHWM")

    def read_slowly(place: int) -> None:
        wanted = digests[place:] + digests[:place]
        call = slow.stub.Fetch(transfers.FetchRequest("demo", base, wanted).to_wire(), timeout=60)
        for _ in range(3):
            read.append(len(next(call).data))
            everyone.wait(60)  # as slow as the slowest
        call.cancel()

    read: list[int] = []
    everyone = threading.Barrier(READERS)
    readers = [
        threading.Thread(target=read_slowly, args=(number % CHUNKS,), daemon=True)
        for number in range(READERS)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    assert len(read) == 3 * READERS
    held = memory_of(server.process.pid, "VmHWM") - idle
    assert held < READERS * CHUNKS_A_READER * CHUNK_BYTES + KEPT_BYTES + TURNS * CHUNK_BYTES
    assert held > READERS * CHUNK_BYTES // 2  # or they were not slow, and this shows nothing
    assert len(fast.fetch(base)[1]) == CHUNKS
