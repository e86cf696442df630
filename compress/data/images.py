"""One slice out of one file: npy, TIFF or DICOM.

*.npy           (H, W) HU
*.tif, *.tiff   HU after ImageJ's calibration (c0 and c1 in tag 270) where there is one
DICOM           any other file with the DICM mark, brought to HU by its RescaleSlope
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.base.errors import UsageError
from compress.base.filekind import wrong_kind
from compress.base.hu import HU_MIN
from compress.data import Image, units
from compress.data.listing import files

Values = NDArray[np.generic]


class PatientID(str):
    """What a DICOM header calls its patient: to tell patients apart, never to be shown."""


Content = tuple[Values, str | None]
"""HU of any number type, and the patient where the file says."""


def listed(folder: Path) -> Mapping[str, Path]:
    """The images below a folder by their name in it.

    Raises:
        UsageError: a folder in it cannot be read, or a link leads nowhere.
    """
    return {
        path.relative_to(folder).as_posix(): path
        for path in files(folder)
        if path.suffix.lower() in READERS or is_dicom(path)
    }


def read(path: Path) -> tuple[Image, str | None]:
    """A slice, (H, W) int16 HU, and its patient.

    Raises:
        UsageError: it is damaged, no single slice, or in another unit.
    """
    try:
        values, patient = READERS.get(path.suffix.lower(), _dicom)(path)
        return _image(values), patient
    except Exception as error:  # decoders of damaged files raise whatever they like
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UsageError(f"{path} is not usable: {wrong_kind(path) or reason}") from error


def spacing(path: Path) -> float | None:
    """Side of a pixel in mm by a DICOM header; None where the file does not say."""
    if path.suffix.lower() in READERS:
        return None
    from compress.dicom import Refused, parsing
    from compress.dicom.spacing import spacing_of

    with parsing.silent():
        try:
            return spacing_of(parsing.parse(path.read_bytes(), stop_before_pixels=True), 0)
        except Refused:
            return None


def is_dicom(path: Path) -> bool:
    """Whether a file has the DICM mark (PS3.10 section 7.1)."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _image(values: Values) -> Image:
    """Whole HU, padding raised to HU_MIN."""
    if values.ndim != 2:
        raise ValueError(f"it holds an array of shape {values.shape}, not one slice")
    if values.dtype.kind not in "iuf":
        raise ValueError(f"it holds values of type {values.dtype}, not numbers")
    if not values.size:
        raise ValueError("it holds no pixels")
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite")
    units.check(values)
    hu: Image = np.rint(values.clip(HU_MIN, np.iinfo(np.int16).max)).astype(np.int16)
    return hu


def _npy(path: Path) -> Content:
    return np.load(path, allow_pickle=False), None


def _tiff(path: Path) -> Content:
    """ImageJ writes c0=offset and c1=slope on lines of the image description, tag 270."""
    # Pillow reads compressed big-endian files, which ImageJ writes, with their bytes exchanged.
    import tifffile

    with tifffile.TiffFile(path) as file:
        if len(file.pages) != 1:
            raise ValueError(f"it holds {len(file.pages)} images, not one slice")
        values, description = file.asarray(), file.pages.first.description
    found = dict(re.findall(r"^(c[01])=\s*(\S+)", description, re.MULTILINE))
    return values * float(found.get("c1", 1)) + float(found.get("c0", 0)), None


def _dicom(path: Path) -> Content:
    from compress.dicom import parsing, reading

    with parsing.silent():
        image = reading.read(path.read_bytes())
    frames = [image.hu(frame) for frame in range(len(image.stored))]
    values = frames[0] if len(frames) == 1 else np.stack(frames)
    who = str(image.dataset.get("PatientID") or "")
    return values, PatientID(who) if who else None


READERS: Mapping[str, Callable[[Path], Content]] = {".npy": _npy, ".tif": _tiff, ".tiff": _tiff}
