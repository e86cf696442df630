"""The tasks of a worker process: look at headers, decode, encode, check what is there.

A task is a method; its first argument is the number of the job. It returns what the network's
process must know, or raises Refused.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from compress.base.files import write_atomic
from compress.dicom import Reason, Refused, reading
from compress.dicom.headers import Header, examine
from compress.dicom.parsing import parse
from compress.dicom.reading import Image
from compress.dicom.rescale import HU
from compress.dicom.sources import Source
from compress.dicom.writing import Process, derive
from compress.imaging.arena import Arena
from compress.imaging.records import FileRow


class Desk:
    """What one worker has in front of it.

    Args:
        source: where the files come from.
    """

    arena: Arena
    """Set before the first image is decoded."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.images: dict[int, Image] = {}

    def scan(self, _number: int, names: Sequence[str]) -> list[Header]:
        """The headers of some files."""
        return [examine(self.source, name) for name in names]

    def digest(self, _number: int, name: str) -> str:
        """The SHA-256 of a file of the input.

        Raises:
            Refused: as `Source.read`.
        """
        return hashlib.sha256(self.source.read(name)).hexdigest()

    def verify(self, _number: int, target: Path, uid: str) -> str:
        """The SHA-256 of a result that is there already.

        Raises:
            Refused: DAMAGED where it is not the derived object that it is named after.
        """
        data = target.read_bytes()
        dataset = parse(data)
        expected = 2 * int(dataset.get("NumberOfFrames") or 1) * dataset.Rows * dataset.Columns
        if dataset.SOPInstanceUID != uid or len(dataset.PixelData) != expected + expected % 2:
            raise Refused(Reason.DAMAGED)
        return hashlib.sha256(data).hexdigest()

    def decode(
        self,
        number: int,
        name: str,
        sop: str,
        slot: int,
        shape: tuple[int, int, int],
        assume_hu: bool,
        around: Sequence[str] = (),
    ) -> FileRow:
        """Put an image's HU into a slot, and keep it; what the manifest says of its source.

        With `around`, the slot gets the slices of these files, `name` in the middle.

        Raises:
            Refused: as `reading.read`, SHAPE where the pixels are not those of the header, or
                DAMAGED where the file has become another image, as the result has its name from
                `sop`, the UID of the header.
        """
        image = reading.read(self.source.read(name), assume_hu=assume_hu)
        if str(image.dataset.get("SOPInstanceUID")) != sop:
            raise Refused(Reason.DAMAGED)
        if image.stored.shape != (1 if around else shape[0], *shape[1:]):
            raise Refused(Reason.SHAPE)
        view = self.arena.view(slot, shape)
        found: FileRow = {"source_sha256": image.sha256}
        if around:
            found["neighbours_repeated"] = self._beside(image.hu(0), around, view, assume_hu)
        else:
            for frame in range(shape[0]):
                view[frame] = image.hu(frame)
        self.images[number] = image
        return found

    def _beside(self, own: HU, around: Sequence[str], view: HU, assume_hu: bool) -> int:
        """Put a slice and those around it into `view`; how many repeat the one before.

        From the middle outwards: one that cannot be read is replaced by the one before it.
        """
        middle, repeated = len(around) // 2, 0
        view[middle] = own
        for step in (-1, 1):
            place = middle + step
            while 0 <= place < len(around):
                slice_ = None
                if around[place] != around[place - step]:
                    slice_ = self._slice(around[place], view.shape[1:], assume_hu)
                repeated += slice_ is None
                view[place] = view[place - step] if slice_ is None else slice_
                place += step
        return repeated

    def _slice(self, name: str, sides: tuple[int, ...], assume_hu: bool) -> HU | None:
        """The HU of a file; None where it cannot be used, which its own row says."""
        try:
            image = reading.read(self.source.read(name), assume_hu=assume_hu)
        except Exception:  # decoders of damaged files raise whatever they like
            return None
        return image.hu(0) if image.stored.shape == (1, *sides) else None

    def encode(self, number: int, slot: int, target: Path, process: Process) -> FileRow:
        """Write the derived object of a kept image out of what the network left in the slot.

        Its folder is not synced: the command does that once, before the manifest names the files.

        Raises:
            Refused: as `writing.derive`.
            OSError: the disk is full or the folder not writable; nothing is left behind.
        """
        image = self.images.pop(number)
        enhanced = list(self.arena.view(slot, image.stored.shape))  # begins with the slice itself
        derived = derive(image, enhanced, process, datetime.now())
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, derived.data, lasting=False)
        return {
            "output": target.name,
            "output_sha256": hashlib.sha256(derived.data).hexdigest(),
            "slices": len(enhanced),
            "clipped": derived.clipped,
            "copied": derived.copied,
            "padding": derived.padding,
            "padding_ignored": image.ignored,
            "unchanged": derived.unchanged,
        }
