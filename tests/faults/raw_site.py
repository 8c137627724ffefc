"""A site's side of the wire with nothing between test and calls: it repeats what an agent never would."""

import dataclasses
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import grpc
import numpy as np

from adpfl.security.tls import CHANNEL_OPTIONS, channel_credentials
from adpfl.wire import messages, transfers
from adpfl.wire._generated.adpfl.v1 import federation_pb2_grpc as rpc
from adpfl.wire.chunks import FLOAT32, Manifest, iter_chunks, manifest_of_arrays, sha256_hex
from adpfl_client.link.enrollment import load_site_identity
from tests.faults.invariants import Arrays, arrays
from tests.faults.rig import RUN, TASK, Federation
from tests.faults.witness import SENT_FOLDER

SECONDS = 20.0


@dataclasses.dataclass(frozen=True)
class Update:
    """An update with its bytes."""

    manifest: Manifest
    chunks: dict[str, bytes]

    @classmethod
    def of(cls, values: Arrays, chunk_size: int) -> "Update":
        chunks = {sha256_hex(chunk): chunk for chunk in iter_chunks(values, chunk_size)}
        return cls(manifest_of_arrays(values, chunk_size=chunk_size), chunks)


class RawSite:
    """Calls with the certificate of an enrolled site."""

    def __init__(self, federation: Federation, site: str) -> None:
        self.site = site
        self._federation = federation
        self._state = federation.root / "state" / site
        identity = load_site_identity(self._state, site, now=datetime.now(UTC))
        self._channel = grpc.secure_channel(identity.address, channel_credentials(identity), CHANNEL_OPTIONS)
        self._stub: Any = rpc.FederationStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def join(self, patients: int = 5) -> messages.JoinResponse:
        request = messages.JoinRequest(
            site=self.site,
            instance_id="0" * 32,
            software_version="1",
            run=None,
            training_patients={TASK: patients},
        )
        return messages.JoinResponse.from_wire(self._stub.Join(request.to_wire(), timeout=SECONDS))

    def task(self, run: str = RUN) -> messages.NextTaskResponse:
        request = messages.NextTaskRequest(run, 1)
        return messages.NextTaskResponse.from_wire(self._stub.NextTask(request.to_wire(), timeout=SECONDS))

    def train_task(self) -> messages.NextTaskResponse:
        """Ask until there is a round to train."""
        while (task := self.task()).kind is not messages.TaskKind.TRAIN:
            assert task.kind is messages.TaskKind.WAIT
        return task

    def model(self, digest: str) -> tuple[Manifest, Arrays]:
        answer = self._stub.Have(transfers.HaveRequest(RUN, digest).to_wire(), timeout=SECONDS)
        manifest = transfers.HaveResponse.from_wire(answer).manifest
        asked = transfers.FetchRequest(RUN, digest, tuple(manifest.indices_of))
        found = {}
        for message in self._stub.Fetch(asked.to_wire(), timeout=SECONDS):
            chunk = transfers.Chunk.from_fetch(message)
            found[chunk.digest] = chunk.data
        return manifest, arrays(manifest, b"".join(found[name] for name in manifest.chunk_digests))

    def made_up_update(self, base: str, seed: int) -> Update:
        """Small numbers of the base model's shape, kept where the invariants look for a site's updates."""
        manifest, values = self.model(base)
        dice = np.random.default_rng(seed)
        invented = {
            name: (1e-3 * dice.standard_normal(value.shape)).astype(FLOAT32) for name, value in values.items()
        }
        update = Update.of(invented, manifest.chunk_size)
        folder = self._state / SENT_FOLDER / update.manifest.digest
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_bytes(update.manifest.canonical_json())
        (folder / "update.payload").write_bytes(
            b"".join(update.chunks[name] for name in update.manifest.chunk_digests)
        )
        return update

    def sent_update(self, digest: str) -> Update:
        """An update that this site's own agent has sent."""
        folder = self._state / SENT_FOLDER / digest
        manifest = Manifest.from_canonical_json((folder / "manifest.json").read_bytes())
        values = arrays(manifest, (folder / "update.payload").read_bytes())
        return Update.of(values, manifest.chunk_size)

    def offer(self, number: int, base: str, update: Update, run: str = RUN) -> tuple[str, ...]:
        request = transfers.OfferRequest(run, number, base, update.manifest)
        answer = self._stub.Offer(request.to_wire(), timeout=SECONDS)
        return transfers.OfferResponse.from_wire(answer).missing

    def push(
        self, number: int, update: Update, digests: tuple[str, ...] | None = None, run: str = RUN
    ) -> tuple[str, ...]:
        """Stream these chunks, or all of them."""

        def parts() -> Iterator[Any]:
            yield transfers.PushHeader(run, number, update.manifest.digest).to_wire()
            for name in update.manifest.chunk_digests if digests is None else digests:
                yield transfers.Chunk(name, update.chunks[name]).to_push()

        answer = self._stub.Push(parts(), timeout=SECONDS)
        return transfers.PushResponse.from_wire(answer).missing

    def commit(
        self, number: int, base: str, update: Update, run: str = RUN
    ) -> transfers.CommitUpdateResponse:
        request = transfers.CommitUpdateRequest(run, number, base, update.manifest.digest, "")
        answer = self._stub.CommitUpdate(request.to_wire(), timeout=SECONDS)
        return transfers.CommitUpdateResponse.from_wire(answer)

    def forget(self) -> None:
        """Remove what `made_up_update` kept."""
        shutil.rmtree(self._state / SENT_FOLDER, ignore_errors=True)
