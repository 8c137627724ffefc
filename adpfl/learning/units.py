"""A site's training units and the batches drawn from them.

Which units a step takes is the privacy engine's secret. What is drawn here, the images of a patient, their
crops and augmentation, follows the run's public seed and depends on nothing but that patient's own data, so
it needs no secrecy.
"""

import warnings
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from adpfl.data.case import Case
from adpfl.errors import DataError
from adpfl.federated.run_plan import RunPlan
from adpfl.learning.per_sample import UnitBatch
from adpfl.tasks.task import Sample, Task

CACHE_BYTES: Final = 1024 * 2**20
"""Default bound on the loaded samples of one run that are kept in memory."""


class TrainingUnits:
    """The units of privacy of one site, in a fixed order: patients, or cases where the unit is the record.

    Args:
        cases: the training cases; none held out.
        task: loads and augments them.
        plan: grid, unit, records per unit, augmentation and seed.
        cache_bytes: bound on the loaded samples that are kept in memory. The rest are read from disk and
            preprocessed anew each time, which for volumes can cost more than training; one warning says so.

    Raises:
        DataError: there are no cases.
    """

    def __init__(
        self, cases: Sequence[Case], *, task: Task, plan: RunPlan, cache_bytes: int = CACHE_BYTES
    ) -> None:
        if not cases:
            raise DataError(f"task {task.name}: no training cases; at least one is needed")
        by_unit: dict[str, list[Case]] = defaultdict(list)
        for case in sorted(cases, key=lambda case: case.case):
            by_unit[case.patient if plan.privacy.unit == "patient" else case.case].append(case)
        self._units = [by_unit[name] for name in sorted(by_unit)]
        self._task = task
        self._plan = plan
        self._records = min(plan.local.records_per_unit, max(len(unit) for unit in self._units))
        self._cache: dict[str, Sample] = {}
        self._cache_bytes = cache_bytes
        self._cache_room = cache_bytes
        self._warned = False

    def __len__(self) -> int:
        """Number of units: the public n of sampling and accounting."""
        return len(self._units)

    def positions_of(self, patients: Collection[str]) -> frozenset[int]:
        """Where the units of these patients stand, to be excluded: their places stay, the others' do too."""
        return frozenset(
            position for position, unit in enumerate(self._units) if unit[0].patient in set(patients)
        )

    @property
    def records_per_unit(self) -> int:
        """k: the plan's, or the most that any unit has where that is fewer."""
        return self._records

    def batch(self, indices: NDArray[np.int64], *, round_number: int, step: int, view: int = 0) -> UnitBatch:
        """Load, draw, crop, augment and pad the units' records; the same arguments give the same tensors.

        Args:
            indices: (B,) positions of units in 0 .. len - 1; may be empty.
            round_number: counts from 1.
            step: within the round, from 0.
            view: another view has the same records under another crop and augmentation; from 0.

        Raises:
            DataError: an image or mask cannot be read, or a crop has another shape than the plan's.
        """
        grid = self._plan.grid
        shape = (len(indices), self._records)
        images = torch.zeros((*shape, self._task.in_channels, *grid.size))
        masks = torch.zeros((*shape, *self._task.target_shape(grid)), dtype=torch.uint8)
        present = torch.zeros(shape, dtype=torch.bool)
        for row, index in enumerate(indices.tolist()):
            generator = _generator(self._plan.seed, round_number, step, index)
            drawn = self._draw(index, generator)
            if view > 0:
                generator = _generator(self._plan.seed, round_number, step, index, view)
            for column, case in enumerate(drawn):
                sample = self._task.crop(self._sample(case), grid, generator)
                self._check_shape(case, sample)
                if self._plan.local.augment:
                    sample = self._task.augment(sample, generator)
                images[row, column] = sample.image
                masks[row, column] = sample.mask
                present[row, column] = True
        return UnitBatch(images, masks, present)

    def _draw(self, index: int, generator: torch.Generator) -> list[Case]:
        cases = self._units[index]
        order = torch.randperm(len(cases), generator=generator)[: self._records]
        return [cases[position] for position in order.tolist()]

    def _sample(self, case: Case) -> Sample:
        kept = self._cache.get(case.case)
        if kept is not None:
            return kept
        sample = self._task.load(case, self._plan.grid)
        size = sample.image.nbytes + sample.mask.nbytes
        if size <= self._cache_room:
            self._cache[case.case] = sample
            self._cache_room -= size
        elif not self._warned:
            self._warned = True
            cases = sum(map(len, self._units))
            warnings.warn(
                f"task {self._task.name}: {len(self._cache)} of {cases} images fill the cache of "
                f"{self._cache_bytes >> 20} MiB; others are read from disk at every step that draws them",
                stacklevel=2,
            )
        return sample

    def _check_shape(self, case: Case, sample: Sample) -> None:
        grid = self._plan.grid
        for what, tensor, expected in (
            ("image", sample.image, (self._task.in_channels, *grid.size)),
            ("mask", sample.mask, self._task.target_shape(grid)),
        ):
            if tuple(tensor.shape) != expected:
                raise DataError(
                    f"task {self._task.name}, case {case.case}: {what} has shape {tuple(tensor.shape)}; "
                    f"must be {expected}"
                )


def _generator(*key: int) -> torch.Generator:
    """Independent for every (seed, round, step, unit), so that no draw depends on who else was sampled."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) >> 1)
