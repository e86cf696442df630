"""compress enhance: CT series in, derived CT series out, and what became of each file.

The output has the folders of the input; a file is named after its SOP Instance UID, which follows
from the source's and from the model. A second run therefore finds what the first one did.
"""

import logging
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from threading import Event
from typing import TYPE_CHECKING, Literal

from compress import __version__
from compress.base.errors import CompressError, Stopped, UsageError
from compress.base.files import remove_partial, sync_folder, write_json
from compress.base.progress import meter
from compress.base.signals import at_once, interruptible
from compress.dicom import Reason, series, sources
from compress.dicom.beside import windows
from compress.dicom.headers import Header
from compress.dicom.writing import Process
from compress.imaging import STOPPED, manifest, output
from compress.imaging.arena import Arena
from compress.imaging.clock import Clock
from compress.imaging.records import Counts, Enhanced, FileRow
from compress.imaging.scan import Look, digests
from compress.imaging.stream import Job, Result, Stream
from compress.imaging.tasks import Desk
from compress.imaging.workers import TICK, Pool, processes

if TYPE_CHECKING:
    from compress.imaging.inference import Network

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user asks for; see the command's help."""

    source: Path
    model: Path
    out: Path
    series: tuple[str, ...] = ()
    batch: int | None = None
    device: str | None = None
    existing: Literal["refuse", "skip", "overwrite"] = "refuse"
    shard: tuple[int, int] = (1, 1)
    """Index from 1, and count."""
    assume_hu: bool = False
    strip_private: bool = False
    include_results: bool = False
    """Enhance what this command has enhanced before, too."""


def run(options: Options) -> Enhanced:
    """Enhance all CT images of the input; the manifest that was written.

    Raises:
        UsageError: input, model, series or output are not usable; nothing was written.
        CompressError: some files failed; all others are done, the manifest says which.
        Stopped: a signal came; `--skip-existing` goes on.
    """
    pool = None
    with interruptible("stopping") as stop:
        try:
            with at_once(stop, stopped()):
                clock = Clock()
                source = sources.open_source(options.source)
                output.check(options.out, source.path)
                names = sources.names(source, options.out)
                log.info("INPUT holds %d files", len(names))
                pool = Pool(Desk, (source,), processes())
                clock.lap("workers")
                headers, net = _beside(Look(pool, names), options, clock)
                chosen = _chosen(headers, options, pool, source.named)
                done = _Run(options, pool, net, chosen, stop, clock)
                clock.lap("choose")
            done.through()
            return done.close()
        finally:
            if pool is not None:
                pool.close()


def stopped() -> Stopped:
    """What a signal ends the command with."""
    return Stopped(STOPPED)


def _beside(look: Look, options: Options, clock: Clock) -> tuple[list[Header], "Network"]:
    """All headers and the network: the workers look while torch is imported and loads."""
    with ThreadPoolExecutor(1) as thread:
        looking = thread.submit(look.headers)
        try:
            from compress.imaging import inference

            clock.lap("torch")
            net = inference.load(options.model, device=options.device, batch=options.batch)
            clock.lap("load")
            while not looking.done():  # a signal that another thread is given ends no longer wait
                wait((looking,), TICK)
            headers = looking.result()
        except BaseException:
            look.stop()  # else the thread would look at the whole archive first
            raise
    clock.lap("scan")
    return headers, net


class _Run:
    """From the headers to the manifest."""

    def __init__(
        self,
        options: Options,
        pool: Pool,
        net: "Network",
        headers: Sequence[Header],
        stop: Event,
        clock: Clock,
    ) -> None:
        self.options, self.pool, self.net, self.stop = options, pool, net, stop
        self.clock = clock
        self.process = Process(
            model=net.model,
            precision=net.precision,
            assume_hu=options.assume_hu,
            strip_private=options.strip_private,
        )
        self.full, self.blocked = False, dict[Path, bool]()
        self.inside = dict[str, Path]()  # paths take longer to make than to look up
        self.around = windows(headers, net.neighbours) if net.neighbours else {}
        headers = [self._fitting(header) for header in headers]
        self.rows = [manifest.row(number, header) for number, header in enumerate(headers)]
        self.jobs = {
            number: Job(header, self._target(header), self.around.get(header.name, ()))
            for number, header in enumerate(headers)
            if header.reason is None
        }
        one_of_each = {job.target.parent: job.target for job in self.jobs.values()}.values()
        above = (output.above(target, options.out) for target in one_of_each)
        self.folders = set[Path]().union(*above)

    def through(self) -> None:
        """All files that are not there yet."""
        with at_once(self.stop, stopped()):
            self._meet_existing()
        numbers = list(self.jobs)
        if not numbers:
            self.clock.lap("prepare")
            return
        jobs = [self.jobs[number] for number in numbers]
        largest = 4 * max(math.prod(job.shape) for job in jobs)
        arena = Arena(2 * self.net.batch + self.pool.capacity, largest)
        self.pool.share(arena)
        with meter(sum(job.header.frames for job in jobs), "slices") as advance:

            def done(number: int, result: Result) -> None:
                self.rows[numbers[number]] |= manifest.outcome(result)
                advance(jobs[number].header.frames)

            args = (self.pool, self.net, arena, jobs, self.process, self.stop, done)
            stream = Stream(*args)
            self.clock.lap("prepare")
            stream.run()
            self.clock.seconds |= stream.seconds
        self.full = stream.full
        crashed = any(row["reason"] == Reason.CRASHED for row in self.rows)  # maybe as it wrote
        if self.stop.is_set() or self.full or crashed:
            self.pool.close()
            self._remove_partial()
        self.clock.lap("stream")

    def close(self) -> Enhanced:
        """Write the manifest and say what became of the files."""
        counted = manifest.counts(self.rows)
        self._sync()
        seconds = self.clock.whole()
        content: Enhanced = {
            "schema": 1,
            "version": __version__,
            "model": self.net.model,
            "precision": self.net.precision,
            "device": self.net.place,
            "shard": list(self.options.shard),
            "counts": counted,
            "seconds": {name: round(value, 4) for name, value in seconds.items()},
            "files": self.rows,
        }
        try:
            self.options.out.mkdir(parents=True, exist_ok=True)
            write_json(self.options.out / self._manifest, content)
        except OSError as error:
            if not self.full:
                raise UsageError(
                    f"OUT {self.options.out} cannot be written: {error.strerror}"
                ) from error
        self._say(counted, seconds["work"])
        return content

    def _sync(self) -> None:
        """Make the names of the results last, before the manifest tells of them."""
        for folder in self.folders:
            if folder.is_dir():
                sync_folder(folder)
        self.clock.lap("sync")

    @property
    def _manifest(self) -> str:
        return manifest.name(*self.options.shard)

    def _say(self, counted: Counts, seconds: float) -> None:
        status = counted["status"]
        manifest.log_counts(self.rows, counted)
        manifest.log_enhanced(counted, seconds, self.options.out)
        if self.full:
            there = status.get("enhanced", 0) + status.get("existing", 0)
            raise CompressError(
                f"the disk of OUT {self.options.out} is full: {there} of "
                f"{there + status.get('stopped', 0)} results are there; make space and run again "
                "with --skip-existing to go on"
            )
        if "stopped" in status:
            raise stopped()
        manifest.refuse_failures(self.rows, self._manifest)

    def _fitting(self, header: Header) -> Header:
        """The header, marked where the image is larger than the engine's slices or than memory."""
        if header.reason is None and 4 * header.pixels > 2 * sources.LARGEST:
            return replace(header, reason=Reason.TOO_LARGE, failed=True)
        size = self.net.size
        if header.reason is None and size and max(header.rows, header.columns) > size:
            return replace(header, reason=Reason.ENGINE_SIZE, failed=True)
        if header.reason is None and self.net.neighbours and header.name not in self.around:
            return replace(header, reason=Reason.NO_NEIGHBOURS, failed=True)
        if header.reason is None and self._blocked(self._folder(header)):
            return replace(header, reason=Reason.UNWRITABLE, failed=True)
        return header

    def _blocked(self, folder: Path) -> bool:
        if folder not in self.blocked:
            self.blocked[folder] = output.blocked(folder)
        return self.blocked[folder]

    def _folder(self, header: Header) -> Path:
        parent = header.name.rpartition("/")[0]
        if parent not in self.inside:
            self.inside[parent] = self.options.out / PurePosixPath(parent)
        return self.inside[parent]

    def _target(self, header: Header) -> Path:
        return self._folder(header) / f"{self.process.sop(header.sop)}.dcm"

    def _meet_existing(self) -> None:
        """Results that are there already: refuse to go on, keep them, or write them again."""
        there = {number: job for number, job in self.jobs.items() if job.target.exists()}
        if there and self.options.existing == "refuse":
            raise UsageError(
                f"OUT {self.options.out} already holds {len(there)} of these results; "
                "give --skip-existing to keep or --overwrite to replace them"
            )
        self._remove_partial()
        if self.options.existing != "skip":
            return
        with meter(len(there), "results") as advance:
            looks = {
                number: (job.target, self.process.sop(job.header.sop))
                for number, job in there.items()
            }
            for number, sha256 in self.pool.each("verify", looks):
                advance(1)
                if isinstance(sha256, str):
                    self._keep(number, sha256)

    def _keep(self, number: int, sha256: str) -> None:
        """Leave a result as it is; one that is damaged is written again like one missing."""
        job = self.jobs.pop(number)
        found: FileRow = {"status": "existing", "output": job.target.name, "output_sha256": sha256}
        self.rows[number] |= found

    def _remove_partial(self) -> None:
        """Remove what a killed run left behind of these very files; other shards' are theirs."""
        own = {self._manifest, *(job.target.name for job in self.jobs.values())}
        for folder in {self.options.out, *(job.target.parent for job in self.jobs.values())}:
            remove_partial(folder, own)


def _chosen(headers: list[Header], options: Options, pool: Pool, named: str) -> list[Header]:
    if not options.include_results:
        headers = series.without_results(headers, "enhance")
    series.render(series.find(headers))
    chosen = series.choose(headers, options.series, named)
    single = series.without_duplicates(chosen, digests(pool, series.contested(chosen)))
    return single if options.shard[1] == 1 else series.shard(single, *options.shard)
