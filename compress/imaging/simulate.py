"""compress simulate: the low-dose partners of a CT series, as pairs to train and to measure with.

    PAIRS/npy/{full,low}/patient-N/UID.npy      (H, W) int16 HU; --data PAIRS/npy
    PAIRS/dicom/{full,low}/patient-N/UID.dcm    the source, and a derived image; --data PAIRS/dicom

Noise is inserted as `lowdose` says, with a generator for each slice made of the seed and its UID:
the pairs depend neither on the order of work nor on the device. Enhanced CT gives npy only. A run
that was stopped therefore goes on where it was, by its manifest, which is there from the start.
"""

import io
import logging
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import Literal

import numpy as np

from compress import __version__
from compress.base import devices
from compress.base.errors import CompressError, Stopped, UsageError
from compress.base.files import digest, write_atomic, write_json
from compress.base.hu import HU_MIN
from compress.base.progress import track
from compress.base.signals import at_once, interruptible
from compress.data import Image as Pixels
from compress.data.fanbeam_torch import TorchScanner
from compress.data.lowdose import CPU, Exposure, Scanner, Slice, insert_noise
from compress.data.scanner import FanBeam
from compress.dicom import Reason, Refused, headers, parsing, reading, series, sources
from compress.dicom.headers import Header
from compress.dicom.spacing import spacing_of
from compress.dicom.writing import Process, derive
from compress.imaging import STOPPED_SIMULATION, going_on, manifest, output
from compress.imaging.records import FileRow, Simulated

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user asks for; see the command's help."""

    source: Path
    out: Path
    photons: float = 1e5
    """Photons per ray that leave the source."""
    electronic: float = math.sqrt(10)
    """Standard deviation of the electronic noise, in photons."""
    views: int = 720
    geometry: Literal["fan", "parallel"] = "fan"
    series: tuple[str, ...] = ()
    device: str | None = None
    seed: int = 0
    include_results: bool = False
    """Take what this command has written before, too."""

    def exposure(self) -> Exposure:
        """The physics."""
        fan = self.geometry == "fan"
        scanner = FanBeam(views=self.views) if fan else FanBeam.parallel(views=self.views)
        return Exposure(photons=self.photons, electronic=self.electronic, fan=scanner)


def run(options: Options) -> Simulated:
    """Simulate the chosen series; what was written to manifest.json.

    Raises:
        UsageError: input, series, device or output are not usable, or the output is that of
            another command; nothing was written.
        CompressError: some files failed; the pairs of all others are there.
        Stopped: a signal came; the same call goes on.
    """
    source = sources.open_source(options.source)
    output.check(options.out, source.path, "PAIRS")
    earlier = going_on.earlier(options.out)
    device = devices.choose(options.device)
    scanner: Scanner = CPU if device.type == "cpu" else TorchScanner(device)
    with parsing.silent(), interruptible("stopping") as stop:
        with at_once(stop, _stopped()):
            chosen = _chosen(options, source)
        return _Run(options, source, scanner, stop).through(chosen, earlier)


def _stopped() -> Stopped:
    return Stopped(STOPPED_SIMULATION)


def _chosen(options: Options, source: sources.Source) -> list[Header]:
    names = sources.names(source, options.out)
    found = [headers.examine(source, name) for name in track(names, "looking", len(names))]
    if not options.include_results:
        found = series.without_results(found, "simulate")
    series.render(series.find(found))
    chosen = series.choose(found, options.series, source.named)
    contested = series.contested(chosen)
    compared = track(contested, "comparing", len(contested))
    return series.without_duplicates(chosen, series.digests(source, compared))


def partners(
    image: reading.Image, name: str, options: Options, scanner: Scanner
) -> list[tuple[Pixels, Pixels]]:
    """Full and low dose of every frame, each (H, W) int16 HU.

    Args:
        image: at full dose.
        name: of the slice, which the noise depends on; frames add their number.
        options: the physics and the seed.
        scanner: what projects and reconstructs.

    Raises:
        Refused: SPACING.
    """
    pairs = []
    for frame in range(len(image.stored)):
        spacing = spacing_of(image.dataset, frame)
        hu = np.rint(image.hu(frame).clip(HU_MIN, np.iinfo(np.int16).max)).astype(np.int16)
        full = Slice(name=f"{name}-{frame}", patient="", spacing=spacing, image=hu)
        try:
            low = insert_noise(full, options.exposure(), options.seed, scanner)
        except ValueError as error:  # it reaches as far as the source
            raise Refused(Reason.SPACING) from error
        pairs.append((hu, low))
    return pairs


class _Run:
    """From the headers to the manifest."""

    def __init__(
        self, options: Options, source: sources.Source, scanner: Scanner, stop: Event
    ) -> None:
        self.options, self.source, self.scanner, self.stop = options, source, scanner, stop
        self.words = (
            f"{options.photons:g} photons per ray, electronic noise of {options.electronic:g} "
            f"photons, {options.views} views, {options.geometry} beam, seed {options.seed}"
        )
        self.process = Process(model=digest(self.words), precision="fp32", simulated=self.words)

    def through(self, chosen: Sequence[Header], earlier: Simulated | None) -> Simulated:
        """Every file of the chosen series that `earlier`, an earlier run's manifest, lacks."""
        rows = [manifest.row(number, header) for number, header in enumerate(chosen)]
        self._take_over(rows, chosen, earlier)
        todo = [number for number, row in enumerate(rows) if row["status"] == "stopped"]
        there = sum(row["status"] == "existing" for row in rows)
        patients = list(dict.fromkeys(h.patient for h in chosen if h.reason is None))
        self._write_manifest(rows)
        try:
            for number in track(todo, "simulating low dose", there + len(todo), before=there):
                if self.stop.is_set():
                    break
                header = chosen[number]
                folder = f"patient-{patients.index(header.patient) + 1}"
                with at_once(self.stop, _stopped()):
                    rows[number] |= self._outcome(header, folder)
        except Stopped:
            pass
        except BaseException:
            with suppress(UsageError):  # the disk may be full
                self._write_manifest(rows)  # so that the same command goes on
            raise
        return self._close(rows)

    def _take_over(
        self, rows: list[FileRow], chosen: Sequence[Header], earlier: Simulated | None
    ) -> None:
        """Mark what an earlier run of the same command has done."""
        if earlier is None:
            return
        done = going_on.done(self.options.out, earlier, self._content(rows))
        names = {number: chosen[number].name for number in done}
        with at_once(self.stop, _stopped()):
            looked = track(names.values(), "looking at sources", len(names))
            known = series.digests(self.source, looked)
        for number, row in done.items():
            if known.get(names[number]) != row["source_sha256"]:
                raise going_on.other(self.options.out)
            rows[number] |= {**row, "status": "existing"}

    def _outcome(self, header: Header, folder: str) -> FileRow:
        try:
            return manifest.outcome(self._pair(header, folder), "simulated")
        except Refused as error:
            return manifest.outcome(error)

    def _pair(self, header: Header, folder: str) -> FileRow:
        data = self.source.read(header.name)
        image = reading.read(data)
        pairs = partners(image, header.sop, self.options, self.scanner)
        name = self.process.sop(header.sop)
        for frame, (full, low) in enumerate(pairs):
            stem = name if len(pairs) == 1 else f"{name}-{frame:04d}"
            self._write(f"npy/full/{folder}/{stem}.npy", _npy(full))
            self._write(f"npy/low/{folder}/{stem}.npy", _npy(low))
        if len(pairs) == 1:
            hu = pairs[0][1].astype(np.float32)
            derived = derive(image, [hu], self.process, datetime.now())
            self._write(f"dicom/full/{folder}/{name}.dcm", data)
            self._write(f"dicom/low/{folder}/{name}.dcm", derived.data)
        return {"source_sha256": image.sha256, "output": name, "slices": len(pairs)}

    def _write(self, name: str, data: bytes) -> None:
        path = self.options.out / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, data)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> UsageError:
        return UsageError(f"PAIRS {self.options.out} cannot be written: {error.strerror}")

    def _content(self, rows: list[FileRow]) -> Simulated:
        return {
            "schema": 1,
            "version": __version__,
            "simulation": self.words,
            "counts": manifest.counts(rows),
            "files": rows,
        }

    def _write_manifest(self, rows: list[FileRow]) -> Simulated:
        content = self._content(rows)
        try:
            self.options.out.mkdir(parents=True, exist_ok=True)
            write_json(self.options.out / manifest.NAME, content)
        except OSError as error:
            raise self._unwritable(error) from error
        return content

    def _close(self, rows: list[FileRow]) -> Simulated:
        content = self._write_manifest(rows)
        counted, out = content["counts"], self.options.out
        pairs = counted["slices"]
        if not pairs:
            going_on.forget(out)
        if self.stop.is_set() and "stopped" in counted["status"]:
            raise _stopped()
        if pairs:
            kinds = [out / kind for kind in ("npy", "dicom") if (out / kind).is_dir()]
            log.info("%d pairs of slices: --data %s", pairs, " or ".join(map(str, kinds)))
        if failed := counted["status"].get("failed", 0):
            said = f"{failed} of {len(rows)} files failed: {manifest.listed(rows, 'failed')}"
            which = "manifest.json says which" if pairs else "no pair was made, and nothing written"
            raise CompressError(f"{said}; {which}")
        return content


def _npy(image: Pixels) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, image)
    return buffer.getvalue()
