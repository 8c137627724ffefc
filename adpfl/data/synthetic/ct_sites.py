"""Four imaginary hospitals that scan different kidneys in other contrast phases with other machines."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType

Range = tuple[float, float]
"""Least and greatest value of a uniform draw."""


@dataclass(frozen=True, slots=True)
class Phase:
    """Attenuation in Hounsfield units at the moment of the scan after the contrast agent."""

    aorta: float
    vein: float
    cortex: float
    medulla: float
    urine: float
    liver: float
    spleen: float


CORTICOMEDULLARY = Phase(aorta=270, vein=130, cortex=195, medulla=105, urine=25, liver=80, spleen=125)
NEPHROGRAPHIC = Phase(aorta=150, vein=150, cortex=165, medulla=158, urine=35, liver=112, spleen=118)
EARLY_ARTERIAL = Phase(aorta=330, vein=60, cortex=125, medulla=55, urine=12, liver=62, spleen=85)
EXCRETORY = Phase(aorta=105, vein=108, cortex=118, medulla=128, urine=420, liver=92, spleen=95)


@dataclass(frozen=True, slots=True)
class CtProfile:
    """What sets one hospital's scans and patients apart.

    Attributes:
        phase: when it scans.
        phase_spread: standard deviation of a patient's enhancement, as a share of the phase's.
        fat_mm: thickness of the fat under the skin.
        kidney_scale: size of the kidneys.
        tumors: mean number in a patient beyond the first.
        tumor_radius_mm: of a tumour.
        uptake: a tumour's enhancement as a share of the cortex's; above 0.8 it hides in the cortex.
        mottling_hu: strength of the texture inside a tumour.
        necrosis: probability that a tumour's middle is dead.
        exophytic: where a tumour's centre lies: 0 as deep as its radius, 1 on the kidney's surface.
        cysts: mean number of cysts in a patient.
        cyst_hu: attenuation of a cyst; 0 to 20 is water, above it is blood or protein.
        dilated_pelvis: probability that urine is dammed up in a kidney.
        slice_mm: thickness and distance of the slices; never less than the pixel.
        pixel: size of a pixel, as a share of what is asked for.
        blur_mm: standard deviation of the blur within a slice.
        noise_hu: standard deviation of the noise at the body's surface.
        grain_mm: how far the noise is correlated within a slice.
        offset_hu: error of the scanner's calibration.
        annotator_offset_mm: how far outside the true border the annotator draws (negative: inside).
    """

    phase: Phase
    phase_spread: float
    fat_mm: Range
    kidney_scale: Range
    tumors: float
    tumor_radius_mm: Range
    uptake: Range
    mottling_hu: float
    necrosis: float
    exophytic: Range
    cysts: float
    cyst_hu: Range
    dilated_pelvis: float
    slice_mm: float
    pixel: float
    blur_mm: float
    noise_hu: float
    grain_mm: float
    offset_hu: float
    annotator_offset_mm: float


_A = CtProfile(
    phase=CORTICOMEDULLARY,
    phase_spread=0.08,
    fat_mm=(8.0, 20.0),
    kidney_scale=(0.95, 1.1),
    tumors=0.2,
    tumor_radius_mm=(18.0, 34.0),
    uptake=(0.2, 0.42),
    mottling_hu=16.0,
    necrosis=0.5,
    exophytic=(0.3, 0.9),
    cysts=0.6,
    cyst_hu=(0.0, 15.0),
    dilated_pelvis=0.1,
    slice_mm=3.0,
    pixel=1.0,
    blur_mm=1.0,
    noise_hu=12.0,
    grain_mm=2.0,
    offset_hu=0.0,
    annotator_offset_mm=0.0,
)
_B = CtProfile(
    phase=NEPHROGRAPHIC,
    phase_spread=0.08,
    fat_mm=(15.0, 32.0),
    kidney_scale=(0.9, 1.05),
    tumors=0.2,
    tumor_radius_mm=(16.0, 30.0),
    uptake=(0.25, 0.45),
    mottling_hu=8.0,
    necrosis=0.1,
    exophytic=(0.5, 1.0),
    cysts=1.3,
    cyst_hu=(0.0, 20.0),
    dilated_pelvis=0.15,
    slice_mm=5.0,
    pixel=1.1,
    blur_mm=1.6,
    noise_hu=8.0,
    grain_mm=3.0,
    offset_hu=6.0,
    annotator_offset_mm=1.0,
)
_C = CtProfile(
    phase=EARLY_ARTERIAL,
    phase_spread=0.12,
    fat_mm=(20.0, 45.0),
    kidney_scale=(0.9, 1.1),
    tumors=0.3,
    tumor_radius_mm=(22.0, 42.0),
    uptake=(1.3, 1.9),
    mottling_hu=24.0,
    necrosis=0.85,
    exophytic=(0.2, 0.9),
    cysts=0.8,
    cyst_hu=(5.0, 25.0),
    dilated_pelvis=0.3,
    slice_mm=5.0,
    pixel=0.95,
    blur_mm=0.8,
    noise_hu=20.0,
    grain_mm=2.5,
    offset_hu=-8.0,
    annotator_offset_mm=-0.8,
)
_D = CtProfile(
    phase=EXCRETORY,
    phase_spread=0.1,
    fat_mm=(5.0, 18.0),
    kidney_scale=(0.85, 1.0),
    tumors=0.1,
    tumor_radius_mm=(16.0, 28.0),
    uptake=(0.25, 0.5),
    mottling_hu=10.0,
    necrosis=0.2,
    exophytic=(0.6, 1.2),
    cysts=1.2,
    cyst_hu=(5.0, 30.0),
    dilated_pelvis=0.4,
    slice_mm=2.5,
    pixel=1.0,
    blur_mm=1.2,
    noise_hu=18.0,
    grain_mm=2.5,
    offset_hu=3.0,
    annotator_offset_mm=0.5,
)

PROFILES: Mapping[str, CtProfile] = MappingProxyType({"A": _A, "B": _B, "C": _C, "D": _D})
"""A: corticomedullary phase, dark mottled tumours between bright cortex and darker medulla. B: nephrographic
phase, thick smooth slices, even tumours among many cysts. C: early and noisy scans, large tumours brighter
than the kidney and dead inside. D: excretory phase with glaring urine, faint tumours that hang outside."""


def blend(first: CtProfile, second: CtProfile, share: float) -> CtProfile:
    """A profile between two: every figure is `share` of the second's and the rest of the first's."""
    values: dict[str, object] = {}
    for field in fields(CtProfile):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if isinstance(one, Phase):
            values[field.name] = Phase(
                **{f.name: _mix(getattr(one, f.name), getattr(other, f.name), share) for f in fields(Phase)}
            )
        elif isinstance(one, tuple):
            values[field.name] = tuple(_mix(a, b, share) for a, b in zip(one, other, strict=True))
        else:
            values[field.name] = _mix(one, other, share)
    return CtProfile(**values)  # type: ignore[arg-type] # the fields are those of the two profiles


def _mix(first: float, second: float, share: float) -> float:
    return (1.0 - share) * first + share * second
