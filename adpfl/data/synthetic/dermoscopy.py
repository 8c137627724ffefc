"""Generates dermoscopic photographs with masks: imaginary clinics for the demonstration and the tests.

Skin and lesion are pigment maps seen through the Beer-Lambert law (`skin`), then come hairs, stickers, rulers
and gel (`artifacts`), then the camera. The annotator draws a smoothed outline at the clinic's habitual
distance from the true border. Clinics differ in all of it (`dermoscopy_sites`), so that a network trained at
one does worse at another.

The same seed gives the same images with the same versions of NumPy, SciPy and Pillow.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from adpfl.data.case import Case
from adpfl.data.image_pairs import MASK_SUFFIX
from adpfl.data.images import write_mask
from adpfl.data.site_folder import IMAGES, MASKS, METADATA, staged_folder, write_metadata
from adpfl.data.synthetic.artifacts import Picture, add_gel, add_hairs, add_ruler, add_sticker
from adpfl.data.synthetic.dermoscopy_sites import PROFILES, SiteProfile
from adpfl.data.synthetic.fields import Field
from adpfl.data.synthetic.skin import Lesion, draw_lesion, lesion_depth, paint, reflect
from adpfl.errors import ConfigError

DEFAULT_SIZE = (192, 256)
"""(height, width) of a generated photograph."""
SECOND_IMAGE_SHARE = 0.2
"""Share of patients who were photographed twice."""
CASE_PREFIX = "ISIC_synthetic_"
"""Begins every generated case's identifier, so that its files can never be taken for a person's."""

_GAMMA = 1.0 / 2.2
_SENSOR_NOISE = 0.008


@dataclass(frozen=True, slots=True)
class Photograph:
    """One generated image.

    Attributes:
        image: uint8 (height, width, 3).
        mask: uint8 (height, width) in {0, 1}, as the clinic's annotator draws it.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]


def write_clinic(
    folder: Path, site: str, *, images: int, seed: int, size: tuple[int, int] = DEFAULT_SIZE
) -> list[Case]:
    """Write one clinic's data set in the layout of ISIC 2017, with a `metadata.csv` that names the patients.

    The folder appears whole or not at all.

    Args:
        folder: must not exist, or be empty.
        site: A, B, C or D; see `PROFILES`.
        images: how many photographs; about a sixth of them are second photographs of a patient.
        seed: another seed gives other patients.
        size: (height, width), each at least 32.

    Returns:
        The cases written, ordered by case.

    Raises:
        ConfigError: the site is unknown, or a number is too small.
        DataError: the folder is not empty or cannot be written.
    """
    if site not in PROFILES:
        raise ConfigError(f"synthetic site is {site!r}; must be one of {', '.join(PROFILES)}")
    if images < 1:
        raise ConfigError(f"the number of synthetic images is {images}; must be >= 1")
    if min(size) < 32:
        raise ConfigError(f"the size of synthetic images is {size}; each side must be >= 32")
    profile = PROFILES[site]
    cases: list[Case] = []
    with staged_folder(folder) as staging:
        (staging / IMAGES).mkdir()
        (staging / MASKS).mkdir()
        patient = 0
        while len(cases) < images:
            for photograph in _visits(profile, patient, seed, size)[: images - len(cases)]:
                name = f"{CASE_PREFIX}{site}{len(cases):05d}"
                image, mask = f"{IMAGES}/{name}.jpg", f"{MASKS}/{name}{MASK_SUFFIX}.png"
                Image.fromarray(photograph.image).save(staging / image, quality=profile.jpeg_quality)
                write_mask(photograph.mask, staging / mask)
                cases.append(
                    Case(name, f"{site}-{patient:05d}", folder / image, folder / mask, f"site-{site}")
                )
            patient += 1
        write_metadata(cases, staging / METADATA)
    return cases


def is_generated(case: Case) -> bool:
    """Whether a case came from `write_clinic`, also after its files were copied, linked or dealt out."""
    return case.case.startswith(CASE_PREFIX)


def photograph(
    profile: SiteProfile, lesion: Lesion, rng: np.random.Generator, size: tuple[int, int]
) -> Photograph:
    """One view of a lesion as this clinic takes and annotates it; pose and artifacts come from `rng`."""
    depth = lesion_depth(lesion, size, rng)
    picture = reflect(paint(profile, lesion, depth, rng))
    picture = add_ruler(add_hairs(picture, profile, rng), profile, rng)
    picture = add_gel(add_sticker(picture, profile, rng), profile, rng)
    return Photograph(_expose(picture, profile, rng), _annotate(depth, profile, rng))


def _visits(profile: SiteProfile, patient: int, seed: int, size: tuple[int, int]) -> list[Photograph]:
    """Each patient draws from a stream of their own: a longer data set begins with a shorter one's."""
    rng = np.random.default_rng([seed, ord(profile.site), patient])
    lesion = draw_lesion(profile, rng)
    visits = 2 if rng.uniform() < SECOND_IMAGE_SHARE else 1
    return [photograph(profile, lesion, rng, size) for _ in range(visits)]


def _expose(picture: Picture, profile: SiteProfile, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Lens, light and sensor: vignette, blur, white balance, gamma, noise."""
    height, width = picture.shape[:2]
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    corner = np.hypot((rows / height - 0.5) * 2.0, (columns / width - 0.5) * 2.0) / np.sqrt(2.0)
    light = 1.0 - profile.vignette * corner**2
    if rng.uniform() < profile.black_field:
        edge = rng.uniform(0.43, 0.49) * np.hypot(height, width)
        distance = np.hypot(rows - height / 2, columns - width / 2)
        light = light * np.clip((edge - distance) / (0.01 * height) + 0.5, 0.01, 1.0)
    sigma = profile.blur * height * rng.uniform(0.7, 1.3)
    blurred = ndimage.gaussian_filter(picture * light[..., None], (sigma, sigma, 0.0))
    gain = np.array(profile.white_balance) * profile.exposure * rng.uniform(0.93, 1.07)
    encoded = np.clip(blurred * gain * rng.uniform(0.97, 1.03, 3), 0.0, 1.0) ** _GAMMA
    noisy = encoded + _SENSOR_NOISE * rng.standard_normal(encoded.shape)
    image: NDArray[np.uint8] = np.clip(np.rint(noisy * 255.0), 0, 255).astype(np.uint8)
    return image


def _annotate(depth: Field, profile: SiteProfile, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The annotator's mask: a smooth line at the clinic's usual distance from the border; never empty."""
    height = depth.shape[0]
    inside = depth > 0.0
    signed = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
    outline = ndimage.gaussian_filter(signed, 0.012 * height)
    offset = (profile.annotator_offset + rng.normal(0.0, 0.004)) * height
    drawn = outline > -offset
    return (drawn if drawn.any() else inside).astype(np.uint8)
