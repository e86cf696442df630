"""What became of every file: counted for people, listed for programs. No path, no patient."""

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from compress.base.errors import CompressError
from compress.dicom import Reason, Refused, short, told
from compress.dicom.headers import Header
from compress.imaging.records import Counts, FileRow

log = logging.getLogger(__name__)

NAME = "manifest.json"
"""The manifest of a whole input."""
NOTES = {
    "unchanged": "slices hold nothing but padding and background, and were copied",
    "neighbours_repeated": "slices beside others are beyond an end of the series, missing or "
    "unreadable: the one before was repeated",
    "padding_ignored": "pixels have a value that is declared to be padding, and are tissue",
}
"""Counts that are logged where they are not zero."""


def name(index: int, count: int) -> str:
    """The manifest of part `index`, from 1, of `count`."""
    return NAME if count == 1 else f"manifest-{index}-of-{count}.json"


def row(number: int, header: Header) -> FileRow:
    """What is known before anything is done; of files that are left aside all there is."""
    found: FileRow = {
        "file": number,
        "path_sha256": hashlib.sha256(_bytes(header.name)).hexdigest(),
        "series": short(header.series) if header.series else None,
        "status": "stopped",
        "reason": None,
    }
    if header.reason is not None:
        found |= {"status": "failed" if header.failed else "skipped", "reason": header.reason}
    return found


def outcome(result: FileRow | Refused, status: str = "enhanced") -> FileRow:
    """What is added when a job has ended; `status` is what was done to it."""
    if isinstance(result, Refused):
        return {"status": "failed", "reason": result.reason}
    return {"status": status, **result}


def counts(rows: Sequence[Mapping[str, Any]]) -> Counts:
    """Files by status, by reason those that failed or were skipped; what else occurred at all."""
    by_status = Counter(row["status"] for row in rows)
    reasons = Counter(str(row["reason"]) for row in rows if row["reason"])
    notes = {key: sum(row.get(key, 0) for row in rows) for key in NOTES}
    found = {
        "status": dict(sorted(by_status.items())),
        "reason": dict(sorted(reasons.items())),
        "slices": sum(row.get("slices", 0) for row in rows),
        **{key: count for key, count in notes.items() if count},
    }
    return cast("Counts", found)


def log_enhanced(counted: Counts, seconds: float, out: Path) -> None:
    """Log how many files there are of each status, the speed, and where results lie."""
    status = counted["status"]
    log.info(
        "%d files enhanced (%d slices, %.1f slices/s), %d there already, %d skipped, %d failed: %s",
        status.get("enhanced", 0), counted["slices"], counted["slices"] / max(seconds, 1e-9),
        status.get("existing", 0), status.get("skipped", 0), status.get("failed", 0),
        out,
    )  # fmt: skip


def refuse_failures(rows: Sequence[FileRow], name: str) -> None:
    """End with what failed, if anything did.

    Raises:
        CompressError: files failed; the manifest of this name says which.
    """
    if failed := [row for row in rows if row["status"] == "failed"]:
        reasons = listed(rows, "failed")
        raise CompressError(
            f"{len(failed)} of {len(rows)} files failed: {reasons}; {name} says which"
        )


def log_counts(rows: Sequence[FileRow], counted: Counts) -> None:
    """Log what else occurred, and what was skipped."""
    for key, words in NOTES.items():
        if count := counted.get(key):
            log.info("%d %s", count, words)
    if skipped := listed(rows, "skipped"):
        log.info("skipped: %s", skipped)


def listed(rows: Sequence[Mapping[str, Any]], status: str) -> str:
    """The reasons of one status as a list in words: 2 damaged (the file is damaged)."""
    return told(Counter(Reason(row["reason"]) for row in rows if row["status"] == status))


def _bytes(name: str) -> bytes:
    return name.encode(errors="surrogateescape")
