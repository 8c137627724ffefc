"""What the ISIC and HAM10000 layouts share: images and masks in separate folders, joined by name."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from adpfl.data.images import IMAGE_SUFFIXES

MASK_SUFFIX = "_segmentation"
"""What follows the case in a mask's file name, before `.png`."""
_SUPERPIXEL_SUFFIX = "_superpixels"


def find_images(folders: Iterable[Path]) -> tuple[dict[str, Path], list[str]]:
    """Images by case, and a problem for each case that has two. ISIC's superpixel files are passed over."""
    return _by_case(
        (path.stem, path)
        for folder in folders
        for path in _visible(folder)
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.stem.endswith(_SUPERPIXEL_SUFFIX)
    )


def find_masks(folders: Iterable[Path]) -> tuple[dict[str, Path], list[str]]:
    """Masks by case, and a problem for each case that has two."""
    return _by_case(
        (path.stem.removesuffix(MASK_SUFFIX), path)
        for folder in folders
        for path in _visible(folder)
        if path.suffix.lower() == ".png" and path.stem.endswith(MASK_SUFFIX)
    )


def unpaired(images: Mapping[str, Path], masks: Mapping[str, Path]) -> list[str]:
    """A problem for each image without a mask and each mask without an image, ordered by case."""
    problems = [(case, f"{images[case].name} has no mask") for case in images.keys() - masks.keys()]
    problems += [(case, f"{masks[case].name} has no image") for case in masks.keys() - images.keys()]
    return [problem for _, problem in sorted(problems)]


def _visible(folder: Path) -> list[Path]:
    """Files in order, without the hidden ones that archive tools leave behind."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())


def _by_case(found: Iterable[tuple[str, Path]]) -> tuple[dict[str, Path], list[str]]:
    paths: dict[str, Path] = {}
    problems: list[str] = []
    for case, path in found:
        if case in paths:
            problems.append(f"{case} stands twice, as {paths[case].name} and {path.name}")
        else:
            paths[case] = path
    return paths, problems
