"""Four imaginary clinics that photograph different patients with different instruments and habits."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

Range = tuple[float, float]
"""Least and greatest value of a uniform draw."""


@dataclass(frozen=True, slots=True)
class SiteProfile:
    """What sets one clinic's images apart. Lengths are fractions of the image's height unless said otherwise.

    Attributes:
        site: its letter; part of every case identifier.
        white_balance: gain of the red, green and blue channel.
        exposure: overall gain.
        vignette: loss of light in the corners, 0 to 1.
        black_field: probability that the tube's black edge shows.
        skin_melanin: optical density of the skin at 540 nm.
        skin_haemoglobin: the same for blood.
        lesion_melanin: what the lesion adds.
        lesion_haemoglobin: what the lesion adds.
        lesion_radius: mean radius.
        irregularity: strength of the outline's waves.
        edge_softness: width of the lesion's fading rim, as a fraction of its radius.
        texture: strength of the pigment network and globules.
        freckles: mean number of small spots that are not the lesion.
        hairs: mean number.
        hair_density: optical density of one hair.
        specular_spots: mean number of reflections.
        bubbles: mean number of bubbles in the gel.
        sticker: probability of a coloured marker at the frame's edge.
        ruler: probability of a printed scale.
        blur: standard deviation of the lens's blur.
        annotator_offset: how far outside the true border the annotator draws (negative: inside).
        jpeg_quality: of the written file.
    """

    site: str
    white_balance: tuple[float, float, float]
    exposure: float
    vignette: float
    black_field: float
    skin_melanin: Range
    skin_haemoglobin: Range
    lesion_melanin: Range
    lesion_haemoglobin: Range
    lesion_radius: Range
    irregularity: Range
    edge_softness: Range
    texture: float
    freckles: float
    hairs: float
    hair_density: float
    specular_spots: float
    bubbles: float
    sticker: float
    ruler: float
    blur: float
    annotator_offset: float
    jpeg_quality: int


_A = SiteProfile(
    site="A",
    white_balance=(1.04, 0.99, 0.94),
    exposure=1.0,
    vignette=0.15,
    black_field=0.0,
    skin_melanin=(0.10, 0.30),
    skin_haemoglobin=(0.15, 0.35),
    lesion_melanin=(0.7, 1.6),
    lesion_haemoglobin=(0.1, 0.35),
    lesion_radius=(0.10, 0.22),
    irregularity=(0.04, 0.12),
    edge_softness=(0.05, 0.15),
    texture=0.35,
    freckles=1.0,
    hairs=4.0,
    hair_density=0.7,
    specular_spots=3.0,
    bubbles=0.3,
    sticker=0.6,
    ruler=0.0,
    blur=0.003,
    annotator_offset=0.0,
    jpeg_quality=92,
)
_B = SiteProfile(
    site="B",
    white_balance=(0.90, 0.98, 1.12),
    exposure=1.05,
    vignette=0.35,
    black_field=0.8,
    skin_melanin=(0.03, 0.15),
    skin_haemoglobin=(0.08, 0.22),
    lesion_melanin=(0.35, 1.1),
    lesion_haemoglobin=(0.05, 0.35),
    lesion_radius=(0.22, 0.42),
    irregularity=(0.10, 0.20),
    edge_softness=(0.10, 0.30),
    texture=0.7,
    freckles=2.0,
    hairs=3.0,
    hair_density=1.2,
    specular_spots=6.0,
    bubbles=2.5,
    sticker=0.0,
    ruler=0.5,
    blur=0.003,
    annotator_offset=0.015,
    jpeg_quality=88,
)
_C = SiteProfile(
    site="C",
    white_balance=(1.10, 0.96, 0.86),
    exposure=0.86,
    vignette=0.25,
    black_field=0.0,
    skin_melanin=(0.35, 0.80),
    skin_haemoglobin=(0.15, 0.35),
    lesion_melanin=(0.35, 1.0),
    lesion_haemoglobin=(0.1, 0.5),
    lesion_radius=(0.12, 0.30),
    irregularity=(0.06, 0.15),
    edge_softness=(0.08, 0.20),
    texture=0.5,
    freckles=1.0,
    hairs=26.0,
    hair_density=1.6,
    specular_spots=8.0,
    bubbles=0.5,
    sticker=0.2,
    ruler=0.0,
    blur=0.002,
    annotator_offset=-0.012,
    jpeg_quality=85,
)
_D = SiteProfile(
    site="D",
    white_balance=(1.0, 0.95, 0.98),
    exposure=1.0,
    vignette=0.1,
    black_field=0.2,
    skin_melanin=(0.02, 0.12),
    skin_haemoglobin=(0.15, 0.40),
    lesion_melanin=(0.02, 0.22),
    lesion_haemoglobin=(0.25, 0.7),
    lesion_radius=(0.12, 0.34),
    irregularity=(0.06, 0.16),
    edge_softness=(0.12, 0.30),
    texture=0.4,
    freckles=5.0,
    hairs=5.0,
    hair_density=0.4,
    specular_spots=5.0,
    bubbles=1.5,
    sticker=0.1,
    ruler=0.2,
    blur=0.008,
    annotator_offset=0.005,
    jpeg_quality=75,
)

PROFILES: Mapping[str, SiteProfile] = MappingProxyType(
    {profile.site: profile for profile in (_A, _B, _C, _D)}
)
"""A: small dark naevi, warm light, coloured markers. B: large irregular lesions with a network, cold light,
black field. C: darker skin, dense hair, an annotator who draws tight. D: pale pink lesions among freckles,
soft focus."""
