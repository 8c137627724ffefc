"""One case: an image on disk, the patient it belongs to, and its reference mask where there is one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PatientBasis = Literal["patient", "lesion", "image"]
"""What a case's `patient` tells apart: patients, or as a makeshift lesions or single images."""


@dataclass(frozen=True, slots=True)
class Case:
    """What a layout reader finds, before a pixel is kept in memory.

    Attributes:
        case: the image's identifier, unique within its data folder.
        patient: the patient it belongs to, the unit that splits and privacy go by. Where a layout knows no
            patients this is the lesion, and where it knows no lesions the case itself.
        image: the image file, or the folder that holds a case's channels.
        mask: the reference segmentation; None where only a prediction is wanted.
        source: where the layout says the case came from (an institution, a split); None where it does not
            say.
        patient_is: what `patient` tells apart. Where it is not a patient, splits keep only a lesion or an
            image together, and privacy protects no more than that.
        labels: the convention that the mask's labels follow, as "kits23" or "brats2021"; None where a mask
            holds foreground and background alone.
    """

    case: str
    patient: str
    image: Path
    mask: Path | None
    source: str | None = None
    patient_is: PatientBasis = "patient"
    labels: str | None = None
