"""Canaries: units whose presence an adversary would notice best, and the engine that releases them.

A canary is a unit whose gradient is a Dirac: one coordinate of its own, nothing elsewhere. Whether it is
present is a coin that the engine never sees. Present means that its rows hold the Dirac, absent that they are
zero: exactly the two neighbours of the zero-out relation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adpfl.errors import PrivacyError
from adpfl.kernels.keystream import KeystreamKey
from adpfl.kernels.lattice import NormOrder
from adpfl.kernels.ops import unit_norms
from adpfl.privacy import sampling
from adpfl.privacy.clipping import GradientChunks
from adpfl.privacy.engine import PrivacyEngine, ReleasedStep
from adpfl.privacy.plan import PrivacyPlan, UnsafeNonePrivacy

Indices = NDArray[np.int64]
Scores = NDArray[np.float64]

_CHUNK_ELEMENTS: Final = 1 << 23


@dataclass(frozen=True)
class Family:
    """Canaries that act alike.

    `steady` ones repeat their gradient in every step, `alternating` ones change its sign from step to step. A
    sum that keeps what it held in the step before grows with steady canaries; noise that is used again
    cancels out of the difference that alternating ones are scored by.
    """

    alternating: bool
    raw_norm: float
    """In clip norms; below 1 where a whole unit would be too plain to see to measure anything."""
    weight: int = 1
    """Share of the canaries, relative to the other families'."""

    @property
    def contribution(self) -> float:
        """The most that one canary may add to a step's sum, in clip norms."""
        return min(1.0, self.raw_norm)

    @property
    def name(self) -> str:
        """As reports call it."""
        pattern = "alternating" if self.alternating else "steady"
        return f"{pattern}, {self.raw_norm:.3g} C"

    def sign(self, step: int) -> float:
        """Of the gradient, and of the step's weight in the score."""
        return -1.0 if self.alternating and step % 2 else 1.0


@dataclass(frozen=True)
class Canaries:
    """A draw of canaries over distinct coordinates.

    Attributes:
        families: their kinds.
        family: int64 (m,), each canary's place in `families`.
        coordinates: int64 (m,), distinct.
        present: bool (m,), the secret coins.
        dimension: D.
    """

    families: tuple[Family, ...]
    family: Indices
    coordinates: Indices
    present: NDArray[np.bool_]
    dimension: int

    @classmethod
    def draw(
        cls, count: int, *, families: tuple[Family, ...], dimension: int, generator: np.random.Generator
    ) -> "Canaries":
        """Toss the coins and choose the coordinates.

        Args:
            count: m; dealt to the families by weight.
            families: at least one.
            dimension: D >= m.
            generator: of coins and coordinates; no noise comes from it.

        Raises:
            PrivacyError: there are more canaries than coordinates, or too few to say anything.
        """
        if not 100 <= count <= dimension:
            raise PrivacyError(f"canaries is {count}; must be 100 to {dimension}, one a coordinate at most")
        turn = np.repeat(np.arange(len(families)), [family.weight for family in families])
        return cls(
            families=families,
            family=np.resize(turn, count).astype(np.int64),
            coordinates=generator.permutation(dimension)[:count].astype(np.int64),
            present=generator.integers(0, 2, count).astype(np.bool_),
            dimension=dimension,
        )

    def __len__(self) -> int:
        return len(self.coordinates)

    def signs(self, step: int) -> Scores:
        """(m,): each canary's sign in this step."""
        return np.array([family.sign(step) for family in self.families])[self.family]

    def rows(self, chosen: Indices, *, step: int, clip_norm: float) -> Tensor:
        """Gradients of some canaries, float32 (len(chosen), D); rows of absent ones are zero."""
        raw_norms = np.array([family.raw_norm for family in self.families])[self.family]
        values = clip_norm * raw_norms * self.signs(step) * self.present
        dense = torch.zeros(len(chosen), self.dimension)
        dense[torch.arange(len(chosen)), torch.from_numpy(self.coordinates[chosen])] = torch.from_numpy(
            values[chosen].astype(np.float32)
        )
        return dense


class CanaryEngine(PrivacyEngine):
    """The engine as it is, with canaries among its units and an eye on what it releases.

    Callers see the engine of their own units: `sample` shows theirs alone and `release` takes theirs alone.
    Underneath, one engine of units and canaries together samples, clips, sums and adds noise. Nothing of that
    is overridden, so a defect in it is a defect here.
    """

    def __init__(
        self,
        plan: PrivacyPlan,
        *,
        unit_count: int,
        dimension: int,
        key: KeystreamKey,
        canaries: Canaries,
        clip_norm: float,
        shapes: Sequence[tuple[int, ...]] = (),
    ) -> None:
        """Join canaries to the units.

        Args:
            plan: as of a run.
            unit_count: the caller's units, without the canaries.
            dimension: D.
            key: fresh.
            canaries: of the same D.
            clip_norm: by which raw norms are stated; the plan's initial one.
            shapes: of the gradient's tensors, so that canaries arrive in the same form as units; one flat
                tensor by default.
        """
        self._own_units = unit_count
        super().__init__(plan, unit_count=unit_count + len(canaries), dimension=dimension, key=key)
        self._canaries = canaries
        self._raw_clip_norm = clip_norm
        self._order: NormOrder = 2
        if not isinstance(plan, UnsafeNonePrivacy) and plan.mechanism == "laplace_l1":
            self._order = 1
        self._shapes = tuple(shapes) or ((dimension,),)
        self._public_divisor = sampling.expected_units(plan.sampling, unit_count + len(canaries))
        self.scores: Scores = np.zeros(len(canaries))
        """(m,): what the adversary sees of each canary so far, summed over steps, in clip norms."""
        self.released_total = torch.zeros(dimension)
        """(D,): sum of the mean gradients released so far: all that the caller may have used."""
        self.steps = 0

    def sample(self, step: int) -> Indices:
        """Indices of the caller's units; the canaries of the same draw stay out of sight."""
        drawn = super().sample(step)
        return drawn[drawn < self._own_units]

    def release(self, step: int, gradients: GradientChunks) -> ReleasedStep:
        """Release the caller's units and the canaries as one batch, and score the canaries."""
        drawn = super().sample(step)
        chosen = drawn[drawn >= self._own_units] - self._own_units
        known = _KnownUnits(gradients, self._canaries.coordinates, order=self._order)
        released = super().release(step, _Joined(gradients, self, chosen, step))
        if released.clip_norm is None:
            raise PrivacyError("privacy.mode is none; there is no promise to audit")
        seen = released.mean_gradient.cpu().numpy()[self._canaries.coordinates].astype(np.float64)
        in_clip_norms = seen * self._public_divisor / released.clip_norm
        self.scores += self._canaries.signs(step) * (in_clip_norms - known.share_of(released.clip_norm))
        self.released_total += released.mean_gradient.cpu()
        self.steps += 1
        return released

    def canary_chunks(self, chosen: Indices, step: int) -> Iterator[list[Tensor]]:
        """Gradients of canaries, in chunks of bounded size and in the shapes of the units' tensors."""
        sizes = [int(np.prod(shape)) for shape in self._shapes]
        height = max(1, _CHUNK_ELEMENTS // self._canaries.dimension)
        for start in range(0, len(chosen), height):
            rows = self._canaries.rows(
                chosen[start : start + height], step=step, clip_norm=self._raw_clip_norm
            )
            pieces = torch.split(rows, sizes, dim=1)
            yield [
                piece.reshape(len(rows), *shape) for piece, shape in zip(pieces, self._shapes, strict=True)
            ]


class _Joined:
    """The caller's gradients, then the canaries', as often as the engine asks."""

    def __init__(self, gradients: GradientChunks, engine: CanaryEngine, chosen: Indices, step: int) -> None:
        self._gradients, self._engine, self._chosen, self._step = gradients, engine, chosen, step

    def __iter__(self) -> Iterator[Sequence[Tensor]]:
        yield from self._gradients
        yield from self._engine.canary_chunks(self._chosen, self._step)


class _KnownUnits:
    """What the caller's units add at the canaries' coordinates.

    The adversary of the guarantee knows every unit but one, so it takes the others' share out of what it
    sees. A wrong share only makes its guesses worse.
    """

    def __init__(self, gradients: GradientChunks, coordinates: Indices, *, order: NormOrder) -> None:
        self._width = len(coordinates)
        self._rows: list[tuple[Tensor, Tensor]] = []
        at = torch.from_numpy(coordinates)
        for chunk in gradients:
            flat = torch.cat([tensor.flatten(1) for tensor in chunk], dim=1)
            self._rows.append((flat[:, at].double(), unit_norms(chunk, order=order)))

    def share_of(self, clip_norm: float) -> Scores:
        """(m,): their sum, each clipped, in clip norms."""
        total = np.zeros(self._width)
        for rows, norms in self._rows:
            finite = torch.isfinite(norms)
            scaled = rows[finite] / norms[finite].clamp(min=clip_norm)[:, None]
            total += scaled.sum(dim=0).cpu().numpy()
        return total
