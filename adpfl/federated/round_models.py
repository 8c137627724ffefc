"""What a round makes: the next global model and, where the plan says so, the average of the models so far."""

from collections.abc import Callable
from dataclasses import dataclass

from adpfl.federated.aggregation import WeightedUpdate, aggregate
from adpfl.federated.averaging import average
from adpfl.federated.run_events import Aggregate, AggregationDone
from adpfl.wire.chunks import Manifest


@dataclass(frozen=True, slots=True)
class RoundModels:
    """The stored results of one round.

    Attributes:
        model: what the next round trains from.
        averaged: None where the plan averages nothing yet.
    """

    model: Manifest
    averaged: Manifest | None = None

    @property
    def manifests(self) -> tuple[Manifest, ...]:
        """Every object that must be kept."""
        return (self.model,) if self.averaged is None else (self.model, self.averaged)

    def done(self, round_number: int) -> AggregationDone:
        """What the coordinator is told when they are stored."""
        averaged = None if self.averaged is None else self.averaged.digest
        return AggregationDone(round_number, self.model.digest, averaged)


def needed_objects(action: Aggregate) -> tuple[str, ...]:
    """Digests of every model and update that `make_models` asks for."""
    averaged = () if action.average is None else (action.average.previous_digest,)
    updates = (part.update_digest for part in action.contributions)
    return tuple(dict.fromkeys((action.base_digest, *updates, *averaged)))


def make_models(
    action: Aggregate,
    *,
    manifest: Callable[[str], Manifest],
    read: Callable[[str], bytes],
    write: Callable[[bytes], str],
) -> RoundModels:
    """Do what the coordinator asks for; the same action on the same objects gives the same bytes.

    Args:
        action: the coordinator's.
        manifest: returns the manifest of each of `needed_objects`.
        read: returns a chunk by its digest, verified.
        write: stores a chunk and returns its digest; what it wrote can be read.

    Raises:
        ModelMismatchError: an update's tensors differ from the base model's.
        IntegrityError: a chunk has the wrong size or a value that is not finite.
    """
    updates = [
        WeightedUpdate(part.site, part.weight, manifest(part.update_digest)) for part in action.contributions
    ]
    model = aggregate(manifest(action.base_digest), updates, read=read, write=write)
    if action.average is None:
        return RoundModels(model)
    previous = manifest(action.average.previous_digest)
    return RoundModels(
        model, average(previous, model, share=action.average.newest_share, read=read, write=write)
    )
