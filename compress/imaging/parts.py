"""compress enhance on a cluster: parts of the input as tasks, then one manifest of all.

A part is what `--shard` does. What a part has written before its machine was lost stays: the part
that is begun again keeps it, as with `--skip-existing`.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from compress.base.errors import CompressError, Stopped, UsageError
from compress.base.files import read_json, write_json
from compress.base.words import listed
from compress.cluster import spread
from compress.cluster.task import Cluster, Task
from compress.dicom import Reason
from compress.imaging import manifest, output
from compress.imaging.command import Options
from compress.imaging.records import Enhanced, FileRow

log = logging.getLogger(__name__)

PARTS = 4
"""Parts of the input, where nothing is said."""


def run(options: Options, cluster: Cluster, parts: int | None = None) -> Enhanced:
    """Enhance the input in parts on a cluster; the manifest of all.

    Args:
        options: what to do; `shard` is of no use here.
        cluster: where.
        parts: how many; PARTS by default.

    Raises:
        UsageError: input, model, output or cluster are not usable.
        CompressError: some files failed; all others are done, the manifest says which.
        Stopped: a signal came; `--skip-existing` goes on.
    """
    started = time.monotonic()
    _check(options)
    count, logs = parts or PARTS, (options.out / "cluster").absolute()
    engine = spread.opened(cluster, logs, options.device)
    tasks = [_task(options, logs, index + 1, count) for index in range(count)]
    for index in range(count):  # an earlier run's, which a lost part would be taken to have written
        (options.out / manifest.name(index + 1, count)).unlink(missing_ok=True)
    failure = None
    try:
        spread.through(engine, tasks, str(options.out / "cluster"))
    except (UsageError, Stopped):
        raise
    except CompressError as error:  # files failed, which the manifest says, or a part did
        failure = error
    found = _merged(options.out, count, time.monotonic() - started)
    if failure is not None or found is None:
        lacking = f"a part has written no manifest; see its log in {options.out / 'cluster'}"
        raise failure or CompressError(lacking)
    return found


def _check(options: Options) -> None:
    """Refuse what every part would refuse, and what parts cannot know."""
    if options.existing == "overwrite":
        raise UsageError(
            f"--overwrite and --cluster exclude each other; empty {options.out} instead"
        )
    output.check(options.out, options.source)
    if options.existing == "refuse" and any(options.out.glob("manifest*.json")):
        raise UsageError(
            f"OUT {options.out} already holds results; give --skip-existing to keep them, "
            "or another folder"
        )


def _task(options: Options, logs: Path, index: int, count: int) -> Task:
    """One part: the same command with `--shard`, which keeps what is there."""
    words = ["enhance", str(options.source), "-m", str(options.model), "-o", str(options.out)]
    words += ["--shard", f"{index}/{count}", "--skip-existing"]
    words += [word for name in options.series for word in ("--series", name)]
    words += ["--batch", str(options.batch)] if options.batch else []
    words += ["--device", options.device] if options.device else []
    flags = {
        "--assume-hu": options.assume_hu,
        "--strip-private": options.strip_private,
        "--include-results": options.include_results,
    }
    return Task(
        name=f"part-{index}-of-{count}",
        words=(*words, *(flag for flag, given in flags.items() if given)),
        folder=Path.cwd(),
        logs=logs,
        settings=spread.settings(),
    )


def _merged(out: Path, count: int, seconds: float) -> Enhanced | None:
    """Write the manifest of all parts and say what became of the files; None where one is lacking.

    Raises:
        CompressError: some files failed.
    """
    whole = out / manifest.NAME
    paths = [out / manifest.name(index + 1, count) for index in range(count)]
    if not all(path.exists() for path in paths):
        return None
    found: Enhanced = joined([read_json(path) for path in paths], seconds)
    write_json(whole, found)
    manifest.log_counts(found["files"], found["counts"])
    manifest.log_enhanced(found["counts"], seconds, out)
    manifest.refuse_failures(found["files"], whole.name)
    return found


def joined(parts: Sequence[Enhanced], seconds: float) -> Enhanced:
    """The manifest of all parts: each file as the part that it belongs to has it.

    Args:
        parts: their manifests.
        seconds: that all took together.
    """
    rows = dict[str, FileRow]()
    for part in parts:
        for row in part["files"]:
            if row["reason"] != Reason.OTHER_SHARD or row["path_sha256"] not in rows:
                rows[row["path_sha256"]] = row
    files = [*rows.values()]
    return {
        **parts[0],
        "device": listed(dict.fromkeys(part["device"] for part in parts)),
        "shard": [1, 1],
        "counts": manifest.counts(files),
        "seconds": {"work": round(seconds, 4)},
        "files": files,
    }
