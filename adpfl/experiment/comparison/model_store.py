"""Models and updates of one run in memory, under the digests by which the coordinator knows them."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from adpfl.errors import StateError
from adpfl.federated.round_models import make_models
from adpfl.federated.run_events import Aggregate, AggregationDone
from adpfl.wire.chunks import DEFAULT_CHUNK_SIZE, FLOAT32, Manifest, TensorSpec, iter_chunks, sha256_hex


class ModelStore:
    """What the aggregator keeps as chunks on its disk: newest model, average, the open round's updates."""

    def __init__(self) -> None:
        self._chunks: dict[str, bytes] = {}
        self._manifests: dict[str, Manifest] = {}

    def put(self, weights: Mapping[str, Tensor]) -> str:
        """Keep named float32 tensors, in the mapping's order; returns their digest.

        Raises:
            ModelMismatchError: a tensor is not float32.
        """
        arrays = {name: tensor.numpy() for name, tensor in weights.items()}
        manifest = Manifest(
            tensors=tuple(TensorSpec(name, tuple(array.shape)) for name, array in arrays.items()),
            chunk_size=DEFAULT_CHUNK_SIZE,
            chunk_digests=tuple(self._keep(chunk) for chunk in iter_chunks(arrays, DEFAULT_CHUNK_SIZE)),
        )
        self._manifests[manifest.digest] = manifest
        return manifest.digest

    def weights(self, digest: str) -> dict[str, Tensor]:
        """The tensors of this digest.

        Raises:
            StateError: there are none.
        """
        manifest = self._manifest(digest)
        payload = b"".join(self._chunks[chunk] for chunk in manifest.chunk_digests)
        flat = torch.from_numpy(np.frombuffer(payload, dtype=FLOAT32).copy())
        pieces = torch.split(flat, [tensor.elements for tensor in manifest.tensors])
        return {
            tensor.name: piece.view(tensor.shape)
            for tensor, piece in zip(manifest.tensors, pieces, strict=True)
        }

    def aggregate(self, action: Aggregate) -> AggregationDone:
        """Make the models that the coordinator asks for, and let go of everything else.

        Raises:
            IntegrityError: an update or the sum holds a value that is not finite.
        """
        made = make_models(action, manifest=self._manifest, read=self._chunks.__getitem__, write=self._keep)
        self._manifests = {manifest.digest: manifest for manifest in made.manifests}
        self._chunks = {
            digest: self._chunks[digest] for manifest in made.manifests for digest in manifest.chunk_digests
        }
        return made.done(action.round)

    def _keep(self, chunk: bytes) -> str:
        digest = sha256_hex(chunk)
        self._chunks[digest] = chunk
        return digest

    def _manifest(self, digest: str) -> Manifest:
        if digest not in self._manifests:
            raise StateError(f"model {digest[:12]} is not in the store")
        return self._manifests[digest]
