"""What a round makes: the next global model and, where the plan has them, an average and moments."""

from collections.abc import Callable
from dataclasses import dataclass

from adpfl.federated.aggregation import WeightedUpdate, aggregate
from adpfl.federated.averaging import average
from adpfl.federated.run_events import Aggregate, AggregationDone
from adpfl.federated.run_state import Moments
from adpfl.federated.server_optimizer import MomentStream
from adpfl.wire.chunks import Manifest


@dataclass(frozen=True, slots=True)
class RoundModels:
    """The stored results of one round.

    Attributes:
        model: what the next round trains from.
        averaged: None where the plan averages nothing yet.
        moments: first and second, of the server's optimizer; None where the plan has none.
    """

    model: Manifest
    averaged: Manifest | None = None
    moments: tuple[Manifest, Manifest] | None = None

    @property
    def manifests(self) -> tuple[Manifest, ...]:
        """Every object that must be kept."""
        averaged = () if self.averaged is None else (self.averaged,)
        return (self.model, *averaged, *(self.moments or ()))

    def done(self, round_number: int) -> AggregationDone:
        """What the coordinator is told when they are stored."""
        averaged = None if self.averaged is None else self.averaged.digest
        moments = None
        if self.moments is not None:
            first, second = self.moments
            moments = Moments(first_digest=first.digest, second_digest=second.digest)
        return AggregationDone(round_number, self.model.digest, averaged, moments)


def needed_objects(action: Aggregate) -> tuple[str, ...]:
    """Digests of every model, update and moment that `make_models` asks for."""
    averaged = () if action.average is None else (action.average.previous_digest,)
    updates = (part.update_digest for part in action.contributions)
    previous = None if action.optimize is None else action.optimize.previous
    moments = () if previous is None else (previous.first_digest, previous.second_digest)
    return tuple(dict.fromkeys((action.base_digest, *updates, *averaged, *moments)))


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
    stream = None
    if action.optimize is not None:
        known = action.optimize.previous
        moments = None if known is None else (manifest(known.first_digest), manifest(known.second_digest))
        stream = MomentStream(action.optimize.rule, updates[0].manifest, moments, read=read, write=write)
    model = aggregate(
        manifest(action.base_digest),
        updates,
        read=read,
        write=write,
        trimmed=action.trimmed,
        step=None if stream is None else stream.step,
    )
    averaged = None
    if action.average is not None:
        previous = manifest(action.average.previous_digest)
        averaged = average(previous, model, share=action.average.newest_share, read=read, write=write)
    return RoundModels(model, averaged, None if stream is None else stream.close())
