#!/usr/bin/env bash
# pydicom's lossless compress() and decompress() give the image a new SOP Instance UID by default.
#
# Not a pixel changes, and DICOM asks for a new UID after lossy compression only. But both methods
# have generate_instance_uid=True, so an archive that is decompressed file by file becomes copies
# that no report, segmentation or dose object refers to. pixel_array, which decompresses too, leaves
# the UID alone. generate_instance_uid=False keeps it.
#
# Versions: Python 3.11, pydicom 3.0.2, numpy 2.4.6. 2026-11-29.
# Output seen: "same pixels: True; UID kept by compress: False, decompress: False, pixel_array: True, generate_instance_uid=False: True"
# Ends with status 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pydicom==3.0.2 numpy==2.4.6
cat >"$folder/uid.py" <<'PYTHON'
import sys
from copy import deepcopy

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid

image = Dataset()
image.file_meta = FileMetaDataset()
image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
image.SOPClassUID = CTImageStorage
image.set_pixel_data(np.arange(4096, dtype=np.uint16).reshape(64, 64), "MONOCHROME2", 12)
image.SOPInstanceUID = generate_uid()

small = deepcopy(image)
small.compress(RLELossless)
large = deepcopy(small)
large.decompress()
read, same = deepcopy(small), deepcopy(small)
same.decompress(generate_instance_uid=False)
pixels = all(np.array_equal(image.pixel_array, d.pixel_array) for d in (small, large, read, same))
kept = [
    small.SOPInstanceUID == image.SOPInstanceUID,
    large.SOPInstanceUID == small.SOPInstanceUID,
    read.SOPInstanceUID == small.SOPInstanceUID,
    same.SOPInstanceUID == small.SOPInstanceUID,
]
print(
    f"same pixels: {pixels}; UID kept by compress: {kept[0]}, decompress: {kept[1]}, "
    f"pixel_array: {kept[2]}, generate_instance_uid=False: {kept[3]}"
)
sys.exit(not pixels or kept != [False, False, True, True])
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/uid.py"
