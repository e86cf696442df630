#!/usr/bin/env bash
# highdicom reads bits above BitsStored as part of the value until pixel_array was read once.
#
# A 12-bit CT slice lies in 16-bit words. DICOM says nothing of the 4 bits above, so a reader has to
# extend the sign over them, or clear an overlay of old times from them. get_frame, get_frames and
# get_volume do not: -1 HU becomes 4095, -1023 HU becomes 31745. So it is for uncompressed and for
# RLE files; the same slice in JPEG 2000 is right. Image.pixel_array is right as well, and once it
# was read, get_frame takes its values from there: one call gives two answers. With
# lazy_frame_retrieval=True pixel_array is wrong, too. highdicom's own ImageFileReader, pydicom and
# SimpleITK are right.
# It hurts whoever trains or evaluates a network on CT numbers that highdicom read: bone stands
# where soft tissue was.
#
# Versions: Python 3.11, highdicom 0.28.2, pydicom 3.0.2, SimpleITK 2.5.7, numpy 2.4.6,
# pylibjpeg 2.1.0, pylibjpeg-openjpeg 2.6.0. 2026-12-01.
# Output seen:
#   HU of the same pixel        signed     with an overlay
#   pydicom                         -1     -1023
#   SimpleITK                       -1     -1023
#   ImageFileReader                 -1     -1023
#   get_frame                     4095     31745
#   get_frames                    4095     31745
#   get_volume                    4095     31745
#   get_frame, RLE                4095     31745
#   get_frame, JPEG 2000            -1     -1023
#   lazy pixel_array              4095     31745
#   get_frame afterwards            -1     -1023
# Ends with status 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet highdicom==0.28.2 pydicom==3.0.2 SimpleITK==2.5.7 \
    numpy==2.4.6 pylibjpeg==2.1.0 pylibjpeg-openjpeg==2.6.0
cat >"$folder/bits.py" <<'PYTHON'
import copy
import sys
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import SimpleITK
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    generate_uid,
)

FOLDER = Path(sys.argv[1])


def slice_of(words, *, signed, intercept):
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.Modality = CTImageStorage, "CT"
    for name in ("SOPInstance", "StudyInstance", "SeriesInstance", "FrameOfReference"):
        setattr(image, f"{name}UID", generate_uid())
    image.Rows, image.Columns = words.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.PixelRepresentation = int(signed)
    image.RescaleSlope, image.RescaleIntercept = 1, intercept
    image.PixelSpacing, image.SliceThickness = [1, 1], 1
    image.ImagePositionPatient = [0, 0, 0]
    image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    image.add_new("PixelData", "OW", words.astype("<u2").tobytes())
    return image


def saved(image, syntax=None):
    image = copy.deepcopy(image)
    if syntax:
        image.compress(syntax, generate_instance_uid=False)
    path = FOLDER / f"{generate_uid()}.dcm"
    image.save_as(path, enforce_file_format=True)
    return path


def first(pixels):
    return int(np.ravel(pixels)[0])


def readings(image):
    plain, intercept = saved(image), int(image.RescaleIntercept)
    dataset = pydicom.dcmread(plain)
    yield "pydicom", first(apply_modality_lut(dataset.pixel_array, dataset))
    yield "SimpleITK", first(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(plain)))
    with highdicom.io.ImageFileReader(plain) as reader:
        yield "ImageFileReader", first(reader.read_frame(0)) + intercept
    yield "get_frame", first(highdicom.imread(plain).get_frame(1))
    yield "get_frames", first(highdicom.imread(plain).get_frames())
    yield "get_volume", first(highdicom.imread(plain).get_volume().array)
    yield "get_frame, RLE", first(highdicom.imread(saved(image, RLELossless)).get_frame(1))
    small = highdicom.imread(saved(image, JPEG2000Lossless))
    yield "get_frame, JPEG 2000", first(small.get_frame(1))
    lazy = highdicom.imread(plain, lazy_frame_retrieval=True)
    yield "lazy pixel_array", first(lazy.pixel_array) + intercept
    read = highdicom.imread(plain)
    assert first(read.pixel_array) == first(dataset.pixel_array)
    yield "get_frame afterwards", first(read.get_frame(1))


minus = np.full((64, 64), 0x0FFF)  # -1 in 12 bits
overlay = np.full((64, 64), 1 | 0x8000)  # 1, and an overlay in the highest bit
one = dict(readings(slice_of(minus, signed=True, intercept=0)))
other = dict(readings(slice_of(overlay, signed=False, intercept=-1024)))
print("HU of the same pixel        signed     with an overlay")
for name in one:
    print(f"{name:24}{one[name]:10}     {other[name]}")
wrong = ["get_frame", "get_frames", "get_volume", "get_frame, RLE", "lazy pixel_array"]
seen = all(one[name] == (4095 if name in wrong else -1) for name in one) and all(
    other[name] == (31745 if name in wrong else -1023) for name in other
)
sys.exit(not seen)
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/bits.py" "$folder" 2>/dev/null
