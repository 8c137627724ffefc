"""Four imaginary hospitals that scan different brain tumours with different magnets and sequences."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from adpfl.data.synthetic.mr_signal import Sequence

Range = tuple[float, float]
"""Least and greatest value of a uniform draw."""


@dataclass(frozen=True, slots=True)
class MriProfile:
    """What sets one hospital's images and patients apart.

    Attributes:
        tesla: field strength.
        t1: sequence of the T1-weighted images, without and with contrast agent.
        t2: sequence of the T2-weighted image.
        flair: sequence of the fluid-suppressed image.
        dose_millimolar: contrast agent in an enhancing rim.
        gain: brightness of the file's numbers, in units of fully relaxed water.
        bias: strength of the coils' shading, as a standard deviation of the logarithm.
        noise: standard deviation in each of the two receiver channels, in units of fully relaxed water.
        slice_mm: thickness of the slices that were resampled to the common grid.
        blur_mm: standard deviation of the blur within a slice.
        misfit_mm: how badly the four images fit on each other.
        atrophy: widening of the sulci, 0 to 1.
        ventricles: size of the ventricles, 1 is a young person's.
        white_spots: burden of white spots that are not tumour, 0 to 1.
        whole_ml: volume of tumour and oedema.
        core: the tumour's share of it.
        rim_mm: thickness of the enhancing rim.
        rim_gaps: share of the rim that does not enhance.
        infiltration: how irregularly the tumour grows.
        annotator_offset_mm: how far outside the true border the annotator draws (negative: inside).
    """

    tesla: float
    t1: Sequence
    t2: Sequence
    flair: Sequence
    dose_millimolar: Range
    gain: float
    bias: float
    noise: float
    slice_mm: float
    blur_mm: float
    misfit_mm: float
    atrophy: Range
    ventricles: Range
    white_spots: Range
    whole_ml: Range
    core: Range
    rim_mm: Range
    rim_gaps: float
    infiltration: float
    annotator_offset_mm: float


_A = MriProfile(
    tesla=3.0,
    t1=Sequence(2000, 3, 900),
    t2=Sequence(4500, 95),
    flair=Sequence(9000, 110, 2500),
    dose_millimolar=(0.35, 0.6),
    gain=900.0,
    bias=0.08,
    noise=0.008,
    slice_mm=1.0,
    blur_mm=0.6,
    misfit_mm=0.3,
    atrophy=(0.1, 0.5),
    ventricles=(0.8, 1.3),
    white_spots=(0.0, 0.3),
    whole_ml=(50.0, 140.0),
    core=(0.35, 0.6),
    rim_mm=(5.0, 9.0),
    rim_gaps=0.1,
    infiltration=0.5,
    annotator_offset_mm=0.0,
)
_B = MriProfile(
    tesla=1.5,
    t1=Sequence(550, 14),
    t2=Sequence(3500, 85),
    flair=Sequence(8000, 120, 2100),
    dose_millimolar=(0.25, 0.45),
    gain=260.0,
    bias=0.15,
    noise=0.014,
    slice_mm=5.0,
    blur_mm=1.0,
    misfit_mm=0.8,
    atrophy=(0.2, 0.7),
    ventricles=(1.0, 1.6),
    white_spots=(0.2, 0.6),
    whole_ml=(70.0, 170.0),
    core=(0.3, 0.5),
    rim_mm=(4.0, 6.5),
    rim_gaps=0.25,
    infiltration=0.8,
    annotator_offset_mm=0.8,
)
_C = MriProfile(
    tesla=1.5,
    t1=Sequence(450, 10),
    t2=Sequence(6000, 120),
    flair=Sequence(6500, 95, 3300),
    dose_millimolar=(0.3, 0.6),
    gain=2500.0,
    bias=0.25,
    noise=0.010,
    slice_mm=3.0,
    blur_mm=0.8,
    misfit_mm=0.6,
    atrophy=(0.1, 0.5),
    ventricles=(0.7, 1.2),
    white_spots=(0.0, 0.3),
    whole_ml=(40.0, 100.0),
    core=(0.45, 0.7),
    rim_mm=(5.0, 9.0),
    rim_gaps=0.1,
    infiltration=0.3,
    annotator_offset_mm=-0.6,
)
_D = MriProfile(
    tesla=3.0,
    t1=Sequence(2300, 3, 1050),
    t2=Sequence(5500, 100),
    flair=Sequence(8000, 130, 2350),
    dose_millimolar=(0.12, 0.22),
    gain=120.0,
    bias=0.2,
    noise=0.012,
    slice_mm=1.0,
    blur_mm=0.9,
    misfit_mm=0.5,
    atrophy=(0.5, 1.0),
    ventricles=(1.4, 2.2),
    white_spots=(0.6, 1.0),
    whole_ml=(40.0, 120.0),
    core=(0.25, 0.5),
    rim_mm=(4.0, 7.0),
    rim_gaps=0.35,
    infiltration=0.7,
    annotator_offset_mm=0.4,
)

PROFILES: Mapping[str, MriProfile] = MappingProxyType({"A": _A, "B": _B, "C": _C, "D": _D})
"""A: high field, sharp, bright rims around dead cores. B: old magnet, thick slices, large ragged tumours.
C: fluid left bright in FLAIR, strong shading, small solid tumours. D: old patients with wide ventricles and
many white spots, little contrast agent."""
