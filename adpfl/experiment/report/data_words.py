"""What a reader must know of the images before believing a figure, in words."""

from adpfl.experiment.report.record import DataNote, PatientsAre

SYNTHETIC = (
    "Every image in this run is synthetic: a program drew it, and it shows no person. The figures show how "
    "the software works and say nothing clinical."
)
"""Stands near the top of every report and table about generated images."""

_REFERENCE_GENERATED = "made by the program that drew the image"
_REFERENCE_GIVEN = "the mask that came with the image"

_MAKESHIFT_UNITS: dict[PatientsAre, str] = {
    "lesions": ("no patient table: every lesion counts as its own patient; the protection is per lesion"),
    "images": "no patient table: every image counts as its own patient; the protection is per image",
    "some_images": (
        "the patient table is silent on some images: each of them counts as its own patient, and the "
        "protection there is per image"
    ),
}


def unit_words(note: DataNote) -> str | None:
    """What stands for a patient where patients are not known; None where they are."""
    return _MAKESHIFT_UNITS.get(note.patients_are)


def reference_words(note: DataNote) -> str:
    """Where the reference outlines come from, as an apposition."""
    return _REFERENCE_GENERATED if note.synthetic else _REFERENCE_GIVEN
