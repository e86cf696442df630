"""How an Enhanced CT says that it is derived: in its functional groups, frame by frame if need be.

Sections are those of PS3.3.
"""

import copy
from collections.abc import Sequence

from pydicom.dataset import Dataset

from compress.dicom.headers import valid_uid

CONCATENATION = ("ConcatenationUID", "SOPInstanceUIDOfConcatenationSource")
"""UIDs of an object that was split into several (section C.7.6.16.2.2.4)."""
DERIVATION = "DerivationImageSequence"


def check_concatenation(dataset: Dataset) -> None:
    """Refuse UIDs of a concatenation of which no new ones can be made.

    Raises:
        Refused: NO_UID.
    """
    for keyword in CONCATENATION:
        if keyword in dataset:
            valid_uid(dataset.get(keyword))


def derive_frames(dataset: Dataset, source: Dataset, derivation: Dataset) -> None:
    """Append a derivation to those of all frames (section C.7.6.16.2.6), and the evidence.

    It goes into the shared groups, unless frames have derivations of their own or the object is a
    part of a concatenation, whose shared groups must be the same in all parts while their sources
    differ.

    Args:
        dataset: of an Enhanced CT; its own UIDs are still those of the source.
        source: reference to the source, with the purpose.
        derivation: the item without its source.
    """
    shared, frames = dataset.SharedFunctionalGroupsSequence[0], _frames(dataset)
    earlier = list(shared.get(DERIVATION) or [])
    if "ConcatenationUID" not in dataset and not any(DERIVATION in groups for groups in frames):
        setattr(shared, DERIVATION, [*earlier, _item(derivation, source)])
    else:
        for number, groups in enumerate(frames, 1):
            reference = copy.deepcopy(source)
            reference.ReferencedFrameNumber = number
            own = list(groups.get(DERIVATION) or copy.deepcopy(earlier))
            setattr(groups, DERIVATION, [*own, _item(derivation, reference)])
        if earlier:
            del shared[DERIVATION]
    _add_evidence(dataset, source)


def _frames(dataset: Dataset) -> Sequence[Dataset]:
    frames: Sequence[Dataset] = dataset.PerFrameFunctionalGroupsSequence
    return frames


def _item(derivation: Dataset, source: Dataset) -> Dataset:
    item = copy.deepcopy(derivation)
    item.SourceImageSequence = [source]
    return item


def _add_evidence(dataset: Dataset, source: Dataset) -> None:
    """Section C.8.15.2: the source with the study and series that it lies in, among earlier ones.

    Args:
        dataset: its study and series are those of the source.
        source: reference to the source.
    """
    instance = Dataset()
    instance.ReferencedSOPClassUID = source.ReferencedSOPClassUID
    instance.ReferencedSOPInstanceUID = source.ReferencedSOPInstanceUID
    study_uid, series_uid = dataset.get("StudyInstanceUID"), dataset.SeriesInstanceUID
    studies = list(dataset.get("SourceImageEvidenceSequence") or [])
    study = next((item for item in studies if item.get("StudyInstanceUID") == study_uid), None)
    if study is None:
        study = Dataset()
        study.StudyInstanceUID = study_uid
        studies.append(study)
    known = list(study.get("ReferencedSeriesSequence") or [])
    series = next((item for item in known if item.get("SeriesInstanceUID") == series_uid), None)
    if series is None:
        series = Dataset()
        series.SeriesInstanceUID = series_uid
        known.append(series)
    series.ReferencedSOPSequence = [*(series.get("ReferencedSOPSequence") or []), instance]
    study.ReferencedSeriesSequence = known
    dataset.SourceImageEvidenceSequence = studies
