"""Pairs of low- and full-dose slices.

pairs.py     what they are: int16 HU
sources.py   where they come from: the options, and the source that a recipe names
demo.py      real chest CT of three patients (demo_volumes.py), fetched once (fetch.py)
phantom.py   procedural chest slices
folder.py    pairs on disk: DICOM, TIFF or npy
lowdose.py   low dose by noise insertion (scanner.py, fanbeam.py, fanbeam_torch.py)
realisations.py  the same slice with new noise, many times
mixing.py    fresh noise from a few of them
crops.py     which crops a training sees
loaders.py   how they get to the device
images.py    one slice out of one file
listing.py   the files below a folder, links followed
partners.py  which low-dose file belongs to which full-dose file
units.py     whether values are HU
volumes.py   the slices around each slice of a folder
"""

from compress.data.pairs import Data, Image, Pairs
from compress.data.sources import SOURCES, DataOptions, Unavailable, load

__all__ = ["SOURCES", "Data", "DataOptions", "Image", "Pairs", "Unavailable", "load"]
