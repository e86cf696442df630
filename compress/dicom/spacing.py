"""The side of a pixel, from the header of a CT image."""

import math

from pydicom.dataset import Dataset

from compress.dicom import Reason, Refused


def spacing_of(dataset: Dataset, frame: int) -> float:
    """Side of a pixel in mm (PS3.3 sections C.7.6.2.1.1 and, for Enhanced CT, C.7.6.16.2.1).

    Raises:
        Refused: SPACING where it is missing or pixels are not square.
    """
    places = [dataset]
    for name, index in (
        ("PerFrameFunctionalGroupsSequence", frame),
        ("SharedFunctionalGroupsSequence", 0),
    ):
        groups = dataset.get(name) or []
        places += [g.PixelMeasuresSequence[0] for g in groups[index : index + 1]
                   if g.get("PixelMeasuresSequence")]  # fmt: skip
    values = next((p.PixelSpacing for p in places if p.get("PixelSpacing")), None)
    try:
        rows, columns = (float(value) for value in values or ())
    except (TypeError, ValueError) as error:
        raise Refused(Reason.SPACING) from error
    if not (0 < rows < 100 and math.isclose(rows, columns, rel_tol=1e-3)):
        raise Refused(Reason.SPACING)
    return rows
