"""A payload that is being received: any order, any interruption, and the same bytes."""

import stat
from dataclasses import replace

import numpy as np
import pytest

from adpfl.errors import IntegrityError, ProtocolError
from adpfl.wire import limits
from adpfl.wire.chunks import iter_chunks, manifest_of_arrays, sha256_hex
from adpfl_client.rounds.partial_payload import PartialPayload

CHUNK = limits.CHUNK_SIZE_MIN


def arrays(seed=0, sizes=((300, 200), (7,), ())):
    generator = np.random.default_rng(seed)
    return {f"layer.{n}": generator.standard_normal(size).astype(np.float32) for n, size in enumerate(sizes)}


def payload_of(named):
    return b"".join(array.astype("<f4").tobytes() for array in named.values())


class TestPartialPayload:
    def chunks(self, named):
        return {sha256_hex(chunk): chunk for chunk in iter_chunks(named, CHUNK)}

    def test_chunks_in_any_order_make_the_payload(self, tmp_path):
        named = arrays()
        manifest, chunks = manifest_of_arrays(named, chunk_size=CHUNK), self.chunks(named)
        partial = PartialPayload(tmp_path / "p", manifest)
        assert partial.missing == tuple(manifest.indices_of)
        for digest in reversed(partial.missing):
            partial.write(digest, chunks[digest])
        assert partial.missing == ()
        assert (tmp_path / "p").read_bytes() == payload_of(named)

    def test_it_goes_on_with_what_is_really_on_disk(self, tmp_path):
        named = arrays()
        manifest, chunks = manifest_of_arrays(named, chunk_size=CHUNK), self.chunks(named)
        first, second, *_ = manifest.chunk_digests
        partial = PartialPayload(tmp_path / "p", manifest)
        partial.write(first, chunks[first])
        partial.write(second, chunks[second])
        with (tmp_path / "p").open("r+b") as file:  # a write that a power cut tore
            file.seek(CHUNK + 10)
            file.write(b"torn")
        again = PartialPayload(tmp_path / "p", manifest)
        assert first not in again.missing
        assert second in again.missing

    def test_a_file_of_another_size_is_begun_anew(self, tmp_path):
        (tmp_path / "p").write_bytes(b"something else")
        manifest = manifest_of_arrays(arrays(), chunk_size=CHUNK)
        assert PartialPayload(tmp_path / "p", manifest).missing == tuple(manifest.indices_of)

    def test_one_chunk_fills_all_its_places(self, tmp_path):
        named = {"w": np.full(3 * CHUNK // 4, 2.5, np.float32)}
        manifest, chunks = manifest_of_arrays(named, chunk_size=CHUNK), self.chunks(named)
        partial = PartialPayload(tmp_path / "p", manifest)
        ((digest, data),) = chunks.items()
        partial.write(digest, data)
        assert partial.missing == ()
        assert (tmp_path / "p").read_bytes() == payload_of(named)

    def test_what_was_not_missing_or_does_not_match_is_refused(self, tmp_path):
        named = arrays()
        manifest, chunks = manifest_of_arrays(named, chunk_size=CHUNK), self.chunks(named)
        partial = PartialPayload(tmp_path / "p", manifest)
        digest = partial.missing[0]
        with pytest.raises(IntegrityError):
            partial.write(digest, b"x" * CHUNK)
        assert digest in partial.missing
        partial.write(digest, chunks[digest])
        with pytest.raises(ProtocolError, match="not asked for"):
            partial.write(digest, chunks[digest])

    def test_it_stands_after_its_header_readable_by_the_owner_alone(self, tmp_path):
        named = arrays()
        manifest, chunks = manifest_of_arrays(named, chunk_size=CHUNK), self.chunks(named)
        partial = PartialPayload(tmp_path / "p", manifest, header=b"the header")
        for digest in partial.missing:
            partial.write(digest, chunks[digest])
        assert (tmp_path / "p").read_bytes() == b"the header" + payload_of(named)
        assert stat.S_IMODE((tmp_path / "p").stat().st_mode) == 0o600

    def test_what_came_stays_under_another_header_of_the_same_length(self, tmp_path):
        named = arrays()
        manifest, chunks = manifest_of_arrays(named, chunk_size=CHUNK), self.chunks(named)
        for digest in manifest.indices_of:
            PartialPayload(tmp_path / "p", manifest, header=b"round 1").write(digest, chunks[digest])
        assert PartialPayload(tmp_path / "p", manifest, header=b"round 2").missing == ()
        assert (tmp_path / "p").read_bytes() == b"round 2" + payload_of(named)
        longer = PartialPayload(tmp_path / "p", manifest, header=b"round 10")
        assert longer.missing == tuple(manifest.indices_of)

    def test_a_chunk_that_is_longer_than_its_place_is_refused(self, tmp_path):
        """It matches its digest; a hostile manifest names it where it would run over what stands there."""
        named = {"w": np.arange(CHUNK // 4 + 25, dtype=np.float32)}
        honest, chunk = manifest_of_arrays(named, chunk_size=CHUNK), b"x" * CHUNK
        manifest = replace(honest, chunk_digests=(honest.chunk_digests[0], sha256_hex(chunk)))
        partial = PartialPayload(tmp_path / "p", manifest)
        with pytest.raises(IntegrityError, match="room for 100"):
            partial.write(sha256_hex(chunk), chunk)
        assert sha256_hex(chunk) in partial.missing
        assert (tmp_path / "p").stat().st_size == manifest.payload_bytes

    def test_a_chunk_that_the_disk_refused_is_still_missing(self, tmp_path):
        named = arrays()
        manifest, chunks = manifest_of_arrays(named, chunk_size=CHUNK), self.chunks(named)
        partial = PartialPayload(tmp_path / "p", manifest)
        digest = partial.missing[0]
        (tmp_path / "p").rename(tmp_path / "q")
        with pytest.raises(FileNotFoundError):
            partial.write(digest, chunks[digest])
        (tmp_path / "q").rename(tmp_path / "p")
        partial.write(digest, chunks[digest])
        assert digest not in partial.missing
