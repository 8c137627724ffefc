"""How bright a tissue is in a magnetic resonance image: relaxation times and the sequence decide.

Sources: the signal equations of spin echo and inversion recovery with long repetition (Bernstein, King and
Zhou, Handbook of MRI Pulse Sequences, 2004, chapters 14.3 and 14.2), and the relaxivity law of contrast
agents, 1/T1 = 1/T1(0) + r1 C.
"""

from dataclasses import dataclass, replace

import numpy as np

WATER_T1_MS = 4000.0
"""T1 of free water at body temperature, in any field."""
RELAXIVITY = 4.5
"""r1 of a gadolinium agent in blood, per second and millimole per litre."""


@dataclass(frozen=True, slots=True)
class Tissue:
    """What the scanner sees of a tissue.

    Attributes:
        protons: density relative to water.
        t1_ms: longitudinal relaxation time at 1.5 tesla.
        t2_ms: transverse relaxation time.
        leak: how much contrast agent it takes up, as a share of a tumour's rim.
    """

    protons: float
    t1_ms: float
    t2_ms: float
    leak: float = 0.02


@dataclass(frozen=True, slots=True)
class Sequence:
    """A spin-echo sequence, with an inversion pulse before it where `inversion_ms` is positive.

    Attributes:
        repetition_ms: TR.
        echo_ms: TE.
        inversion_ms: TI; 0 for none.
    """

    repetition_ms: float
    echo_ms: float
    inversion_ms: float = 0.0


def in_field(tissue: Tissue, tesla: float) -> Tissue:
    """The tissue in another field: what relaxes faster than water does so less, as about its cube root.

    T2 hardly changes.
    """
    water = 1.0 / WATER_T1_MS
    rate = water + (1.0 / tissue.t1_ms - water) * (tesla / 1.5) ** -0.35
    return replace(tissue, t1_ms=1.0 / rate)


def with_contrast(tissue: Tissue, millimolar: float) -> Tissue:
    """The tissue after injection, when a tumour's rim holds this concentration."""
    rate = 1000.0 / tissue.t1_ms + RELAXIVITY * millimolar * tissue.leak
    return replace(tissue, t1_ms=1000.0 / rate)


def signal(tissue: Tissue, sequence: Sequence) -> float:
    """Magnitude in units of fully relaxed water at TE 0, in [0, 1]."""
    late = np.exp(-sequence.repetition_ms / tissue.t1_ms)
    recovered = 1.0 - late
    if sequence.inversion_ms > 0.0:
        recovered = 1.0 + late - 2.0 * np.exp(-sequence.inversion_ms / tissue.t1_ms)
    return float(tissue.protons * abs(recovered) * np.exp(-sequence.echo_ms / tissue.t2_ms))
